"""General RL (report section 4.4): rule-based rewards for what a user notices besides the right answer.

- format: exactly one think block, then an answer, then the end of the turn
- mode: `/think` and `/no_think` in several turns; the last one is to be obeyed (the report's ThinkFollow)
- length: a limit on the tokens of a thought, stated in the question, and kept with a right answer
- tools: a call that can be read, and whose calculation really gives the result that was asked for

Each reward is a pure function of the reply. Queries of the four kinds are mixed and trained on by
`grpo.train_on_rewards`: there is no second loop.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from qwen3_ref.chat import Json, Message, encode_chat
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import parse_reply
from qwen3_ref.tasks.calculator import BARE, run_tool
from qwen3_ref.tasks.problems import FAMILIES, Problem, is_correct, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.queries import END, Query, Sample
from qwen3_ref.train.recipes import grpo
from qwen3_ref.train.recipes.grpo import Grpo
from qwen3_ref.train.seeds import problems, seed

STEPS = 60
"""Of the nano run; the report gives no number."""
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")


# -- rewards, each a function of the reply alone -------------------------------------------------------


def format_reward(sample: Sample) -> float:
    """1 for exactly one think block (it may be empty), at the beginning, an answer that is not blank,
    and the end of the turn; no other control token. Typed-out marks are no block, and spoil an answer."""
    typed = re.search(r"</?think>|<\|im_", (sample.thought or "") + sample.answer)
    return float(sample.well_formed and bool(sample.answer.strip()) and not typed)


def mode_reward(sample: Sample, thinking: bool) -> float:
    """1 if there is a thought exactly if there should be one; a block of white space is none.

    Without the block that shows the mode there is nothing to judge, so the reward is 0.
    """
    return float(sample.thought is not None and bool(sample.thought.strip()) == thinking)


def length_reward(sample: Sample, limit: int) -> float:
    """1 for a finished thought of at most `limit` tokens, falling to 0 at twice as many, so that a reply
    over the limit can see which way is shorter. A reply without a thought earns nothing."""
    if not mode_reward(sample, True):
        return 0.0
    return min(1.0, max(0.0, 2.0 - sample.thought_tokens / limit))


def tool_reward(sample: Sample, expression: str) -> float:
    """1 for one call, between the tool_call control tokens and with nothing after it, that really works
    out `expression`; half of it if it can be read and run but works out something else.

    Really: it is run, its value must be the right one, and its numbers the same ones. A call of the
    answer itself, found by thinking, is no calculation.
    """
    marks = [mark for mark in sample.marks if mark not in ("<think>", "</think>")]
    reply = parse_reply(sample.answer, enable_thinking=False)
    if marks != ["<tool_call>", "</tool_call>", END] or reply.problems or len(reply.tool_calls) != 1:
        return 0.0
    (call,) = reply.tool_calls
    returned = run_tool(call)
    if returned.startswith("error"):
        return 0.0
    numbers = [sorted(map(float, _NUMBER.findall(e))) for e in (call["arguments"]["expression"], expression)]
    right = {"name": "calculator", "arguments": {"expression": expression}}
    return 1.0 if returned == run_tool(right) and numbers[0] == numbers[1] else 0.5


def asked_to_think(messages: Sequence[Message]) -> bool:
    """The mode that a conversation asks for: the last flag in it, thinking if there is none.

    A flag is a word of its own in a user's or the system's turn. A quoted one ("/no_think") is talked
    about, not given, and an assistant cannot give itself orders.
    """
    said = " ".join(m["content"] for m in messages if m["role"] in ("user", "system"))
    flags = re.findall(r"(?<!\S)/(?:no_)?think(?!\S)", said)
    return not flags or flags[-1] == "/think"


# -- queries -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Limits on thoughts: as many times the length of the solver's own, one of them drawn for a question.
    alone: a limit that is kept is worth as much with a wrong answer as with a right one."""

    times: tuple[float, ...] = (1.0, 1.5, 2.0)
    alone: bool = False


ENOUGH = Limits()
"""What is trained on. Each line of the solver's thought is a step that the answer takes, so a smaller
limit can only be kept by leaving steps out. A model that is paid for that loses elsewhere: general RL did
so, and conversions without a limit fell from 94% to 85%. So no limit is too small, and keeping it is paid
with a right answer only. A limit in words is a wish: where it is too small, a right answer that takes
longer is worth more than a wrong one in time. What must not be passed is a thinking budget, and that
cuts."""
LENGTH_ALONE = Limits((0.75, 1.0, 1.5), alone=True)
"""As it was, to see the price: a third of the limits is too small, and a short thought is paid for itself."""
Rewards = Mapping[str, Callable[[Sample], float]]
PARTS = ("format", "mode", "correct", "length", "tool")


@dataclass(frozen=True)
class Task:
    """A conversation up to the user's last turn, the rewards of what follows, and a reply that earns
    all of them (for supervised examples)."""

    messages: list[Message]
    rewards: Rewards
    ideal: Message
    tools: tuple[Json, ...] = ()

    def query(self, tokenizer: Tokenizer) -> Query:
        """The reward is the mean of its parts, which are logged by name; NaN is a part not asked for."""

        def score(sample: Sample) -> tuple[float, Mapping[str, float]]:
            parts = {name: reward(sample) for name, reward in self.rewards.items()}
            return fmean(parts.values()), {name: parts.get(name, math.nan) for name in PARTS}

        return Query(tuple(encode_chat(tokenizer, self.messages, tools=self.tools)), score)


def _question(problem: Problem, history: Sequence[Message], said: str, more: Rewards | None = None) -> Task:
    messages = [*history, {"role": "user", "content": problem.prompt + said}]
    thinking = asked_to_think(messages)
    rewards = {
        "format": format_reward,
        "mode": lambda sample: mode_reward(sample, thinking),
        # A right answer in the wrong mode earns nothing: thinking is right so much more often that a
        # thought against /no_think would otherwise pay about as well as obeying.
        "correct": lambda sample: mode_reward(sample, thinking) * is_correct(problem, sample.answer),
    }
    thought = problem.trace if thinking else ""
    ideal = {"role": "assistant", "reasoning_content": thought, "content": problem.answer}
    return Task(messages, {**rewards, **(more or {})}, ideal)


def single_turn(problem: Problem, rng: random.Random) -> Task:
    """A question with a flag, or with none."""
    return _question(problem, [], _flag(rng))


def many_turns(
    problem: Problem, earlier: Sequence[Problem], rng: random.Random, *, switched: bool = False
) -> Task:
    """ThinkFollow: a question after others, each with a random flag or none; the last flag holds.

    switched: the flags are drawn until the last turn has none and the earlier ones disagree, which are
    the conversations that are got wrong. Raises ValueError if there are too few earlier turns for that.
    """
    if switched and len(earlier) < 2:
        raise ValueError(f"{len(earlier)} earlier turns cannot disagree; give at least two.")
    flags = [_flag(rng) for _ in range(len(earlier) + 1)]
    while switched and (flags[-1] or len({*flags}) < 3):
        flags = [_flag(rng) for _ in flags]
    history: list[Message] = []
    for other, flag in zip(earlier, flags, strict=False):
        history += [
            {"role": "user", "content": other.prompt + flag},
            {"role": "assistant", "content": other.answer},
        ]
    return _question(problem, history, flags[-1])


def limited(problem: Problem, limit: int, *, alone: bool = False) -> Task:
    """A question with a limit on the tokens of the thought. alone: see `Limits`."""

    def length(sample: Sample) -> float:
        return length_reward(sample, limit) * (alone or is_correct(problem, sample.answer))

    return _question(problem, [], f" think at most {limit} tokens", {"length": length})


def tool_call(problem: Problem) -> Task:
    """An arithmetic problem for the calculator. Only the call is asked for and judged.

    Raises ValueError for a problem of another family.
    """
    if problem.family != "arithmetic":
        raise ValueError(f"{problem.family} has no expression to calculate; give an arithmetic problem.")
    expression = f"({problem.prompt.removesuffix(' mod 100')})%100"
    call = {"name": "calculator", "arguments": {"expression": expression}}
    messages = [{"role": "user", "content": f"calculate {problem.prompt} /no_think"}]
    rewards = {
        "mode": lambda sample: mode_reward(sample, False),
        "tool": lambda sample: tool_reward(sample, expression),
    }
    ideal = {"role": "assistant", "reasoning_content": "", "content": "", "tool_calls": [call]}
    return Task(messages, rewards, ideal, (BARE,))


def make_tasks(
    tokenizer: Tokenizer,
    per_kind: int,
    *,
    run_seed: int,
    split: str = "train",
    switched: bool = False,
    limits: Limits = ENOUGH,
) -> list[Task]:
    """The four kinds in equal numbers, in turn: single_turn, many_turns, limited, tool_call.

    switched: so is every conversation of many turns that has two earlier ones or more; for training, not
    for measuring. limits: other ones change no question but in its limit.
    """
    rng = random.Random(seed(run_seed, "general RL: tasks"))
    each = -(-3 * per_kind // len(FAMILIES))

    def draw(family: str, count: int) -> list[Problem]:
        if split == "test":
            return make_problems(family, split, count, seed=seed(run_seed, "general RL: problems"))
        return problems("general RL" if split == "train" else split, family, count, run_seed)

    sums = draw("arithmetic", each + per_kind)[each:]
    pool = [p for row in zip(*(draw(f, each) for f in FAMILIES), strict=True) for p in row]
    short = [p for p in pool if len(p.prompt) < 120]
    tasks: list[Task] = []
    for i in range(per_kind):
        single, turned, cut = pool[3 * i : 3 * i + 3]
        earlier = [_pick(short, rng) for _ in range(1 + int(rng.random() * 3))]
        own = len(tokenizer.encode(f"\n{cut.trace}\n"))
        tasks += [
            single_turn(single, rng),
            many_turns(turned, earlier, rng, switched=switched and len(earlier) > 1),
            limited(cut, round(own * _pick(limits.times, rng)), alone=limits.alone),
            tool_call(sums[i]),
        ]
    return tasks


def train_on_tasks(
    model: Qwen3,
    tokenizer: Tokenizer,
    directory: Path,
    settings: Grpo,
    *,
    per_kind: int = 500,
    run_seed: int = 0,
    limits: Limits = ENOUGH,
) -> None:
    """`grpo.train_on_rewards` on tasks of all kinds; the held-out ones are of the validation split."""
    tasks = make_tasks(tokenizer, per_kind, run_seed=run_seed, switched=True, limits=limits)
    queries = [task.query(tokenizer) for task in tasks]
    others = make_tasks(tokenizer, 32, run_seed=run_seed, split="validation", limits=limits)
    held_out = [task.query(tokenizer) for task in others]
    number = seed(run_seed, "general RL: replies")
    grpo.train_on_rewards(model, tokenizer, queries, directory, settings, seed=number, held_out=held_out)


def _pick(items: Sequence[Any], rng: random.Random) -> Any:
    return items[int(rng.random() * len(items))]  # `random()` is what Python promises never to change


def _flag(rng: random.Random) -> str:
    return str(_pick((" /think", " /no_think", ""), rng))
