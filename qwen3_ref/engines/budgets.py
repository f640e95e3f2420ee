"""What a thinking budget means: the same problems under the same budget, ours and elsewhere.

Three things differ and no interface says them: which ids count, what is forced when they are spent, and
what 0 does. They are read off the replies: a cut thought has the ids of the free one up to the cut, and from
there what was forced, up to the closing mark.

Sources of the ways: Qwen's documentation, "thinking budget" (two calls of `generate`); llama.cpp
`common/reasoning-budget.cpp`; vLLM 0.33 `v1/sample/thinking_budget_state.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.budget import Budget
from qwen3_ref.decode.generation import generate
from qwen3_ref.engines.peer import Peer
from qwen3_ref.engines.survey import Ours
from qwen3_ref.reply import END_THINK, THINK
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, Problem, is_correct, make_problems

BUDGETS = (0, 4, 8, 16, 32)
EACH = 4
"""Problems of each of the five families."""
MOST = 128
"""New ids of a reply, forced ones and a thought that goes on behind its end included."""
Way = Callable[[str, int | None], list[int] | None]
"""From a question and a budget (None: no limit) to the ids of the reply; None if the budget is refused."""


@dataclass(frozen=True)
class Cut:
    """A reply beside the free one. `thought`: its ids behind `<think>`, with the first closing mark. `same`:
    how many of them the free thought has too; all of them if it closed by itself. `answer`: what stands
    behind the last closing mark. `again`: closing marks behind the first: it had thought on."""

    thought: tuple[int, ...]
    same: int
    answer: tuple[int, ...]
    again: int

    @property
    def forced(self) -> tuple[int, ...]:
        """What was forced, as far as it can be seen: the model may have meant to say the beginning of it."""
        return self.thought[self.same :]


def taken_apart(reply: Sequence[int], free: Sequence[int], opening: int, closing: int) -> Cut | None:
    """None for a reply that opens no thought, or does not close it."""
    if not reply or reply[0] != opening or closing not in reply:
        return None
    thought, whole = reply[1 : list(reply).index(closing) + 1], free[1:]
    same = next((i for i, (a, b) in enumerate(zip(thought, whole, strict=False)) if a != b), len(thought))
    last = len(reply) - list(reply)[::-1].index(closing)
    return Cut(tuple(thought), same, tuple(reply[last:]), list(reply).count(closing) - 1)


def problems(each: int = EACH) -> list[Problem]:
    """Test problems, of every family as many."""
    return [p for family in FAMILIES for p in make_problems(family, "test", each, seed=TEST_SEED)]


def our_way(ours: Ours) -> Way:
    """`generate(thinking_budget=...)`: the profile's early-stop text is fed when the ids are spent."""

    def ask(question: str, budget: int | None) -> list[int]:
        prompt = encode_chat(ours.tokenizer, [{"role": "user", "content": question}])
        limit = Budget(budget, ours.profile.early_stop)
        how: dict[str, Any] = {"tokenizer": ours.tokenizer, "thinking_budget": limit}
        return list(generate(ours.model, [prompt], max_new_tokens=MOST, stop_ids=ours.ends, **how)[0])

    return ask


def two_calls(ours: Ours) -> Way:
    """The documented recipe: generate so many ids, append the early-stop text if there is no end of the
    thought among them, and generate again. A budget of 0 is no number of ids to generate."""

    def ask(question: str, budget: int | None) -> list[int] | None:
        if budget == 0:
            return None
        prompt = encode_chat(ours.tokenizer, [{"role": "user", "content": question}])
        most, how = MOST if budget is None else budget, {"stop_ids": ours.ends}
        first = list(generate(ours.model, [prompt], max_new_tokens=most, **how)[0])  # type: ignore[arg-type]
        if first[-1] in ours.ends or len(first) >= MOST:
            return first
        if ours.tokenizer.control_tokens[END_THINK] not in first:
            first += ours.tokenizer.encode(ours.profile.early_stop, allow_control_tokens=True)
        more = MOST - len(first)
        return [*first, *generate(ours.model, [prompt + first], max_new_tokens=more, **how)[0]]  # type: ignore[arg-type]

    return ask


def server(peer: Peer, message: str = "") -> Way:
    """A server's own budget, of the engine behind `peer`; `message`: what it is to say before the mark."""

    def ask(question: str, budget: int | None) -> list[int] | None:
        found: list[int] | None = peer.ask(
            "think", content=question, most=MOST, budget=budget, message=message
        )
        return found

    return ask


def measured(name: str, way: Way, ours: Ours, asked: Sequence[Problem]) -> list[dict[str, Any]]:
    """A row for each budget: how many thoughts were cut, after how many ids of the model's own (least, most),
    what was forced, how many thought on behind it, and how many answers are right.

    What is forced is the same in every reply of one way, and chance can only hide its beginning, so the
    longest text that is seen is taken for it."""
    opening, closing = (ours.tokenizer.control_tokens[mark] for mark in (THINK, END_THINK))
    free = [way(p.prompt, None) or [] for p in asked]
    found: dict[int | None, list[Cut | None] | None] = {}
    for budget in (*BUDGETS, None):
        replies = free if budget is None else [way(p.prompt, budget) for p in asked]
        found[budget] = None
        if all(reply is not None for reply in replies):
            pairs = zip(replies, free, strict=True)
            found[budget] = [taken_apart(reply or [], other, opening, closing) for reply, other in pairs]
    everything = [cut for cuts in found.values() if cuts for cut in cuts if cut]
    forced = max((cut.forced for cut in everything), key=len)
    rows: list[dict[str, Any]] = []
    for budget, cuts in found.items():
        row: dict[str, Any] = {"way": name, "budget": budget, "problems": len(asked)}
        if cuts is None:
            rows.append(row | {"refused": True})
            continue
        done = [cut for cut in cuts if cut and cut.forced]
        own = [len(cut.thought) - len(forced) for cut in done]
        right = [bool(cut) and _right(ours, p, cut.answer) for cut, p in zip(cuts, asked, strict=True) if cut]
        rows.append(row | {
            "cut": len(done),
            "own": [min(own), max(own)] if own else None,
            "forced": ours.tokenizer.decode(forced),
            "thought_on": sum(cut.again > 0 for cut in done),
            "right": sum(right),
        })  # fmt: skip
    return rows


def _right(ours: Ours, problem: Problem, answer: Sequence[int]) -> bool:
    ended = bool(answer) and answer[-1] in ours.ends
    return ended and is_correct(problem, ours.tokenizer.decode(answer[:-1]).strip("\n"))


def plain(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for a terminal."""
    lines = [f"{'way':<24} {'budget':>6} {'cut':>7} {'own ids':>8} {'right':>7} {'went on':>8}  forced"]
    for row in rows:
        budget = "none" if row["budget"] is None else row["budget"]
        if "refused" in row:
            lines.append(f"{row['way']:<24} {budget:>6} refused")
            continue
        own = "-" if row["own"] is None else "-".join(map(str, sorted(set(row["own"]))))
        forced = repr(row["forced"]) if row["cut"] else "-"
        lines.append(
            f"{row['way']:<24} {budget:>6} {row['cut']:>3}/{row['problems']:<3} {own:>8} {row['right']:>7} "
            f"{row['thought_on']:>8}  {forced}"
        )
    return "\n".join(lines) + "\n"
