"""The thinking budget, on a scripted model whose every id is known beforehand.

The model keeps the ids it was fed in the KV cache it is given and speaks from what it finds there,
so a forced id that did not go through the cache, or a row that lost its cache, changes the reply.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.decode.budget import EARLY_STOP, NANO_EARLY_STOP, Budget
from qwen3_ref.decode.generation import Generated, Row, generate, stream
from qwen3_ref.measure.accuracy import chat_prompt
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.problems import TEST_SEED, is_correct, make_problems
from qwen3_ref.tokenizer import Tokenizer

TOK = Tokenizer.train(["a small text"], 290)
OPEN, CLOSE, END = (TOK.control_tokens[t] for t in ("<think>", "</think>", "<|im_end|>"))
PROMPT = TOK.encode("<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", allow_control_tokens=True)
STOP_TEXT = "stop\n</think>\n\n"
STOP = TOK.encode(STOP_TEXT, allow_control_tokens=True)
THOUGHT = TOK.encode("0123456789")
ANSWER = TOK.encode("xy")
assert len(THOUGHT) == 10 and len(ANSWER) == 2


class Scripted:
    """Thinks `THOUGHT[:n]`, where n is the id the prompt starts with, then answers `ANSWER`."""

    def __init__(self, context: int = 200) -> None:
        self.config: Any = SimpleNamespace(
            context_length=context, vocab_size=TOK.num_ids, num_token_ids=TOK.num_ids,
            num_hidden_layers=1, num_key_value_heads=1, head_dim=1, way_out_of_context="wait",
        )  # fmt: skip
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.computed = 0

    def __call__(
        self, ids: torch.Tensor, attention_mask: torch.Tensor, cache: KVCache, logits_to_keep: int
    ) -> torch.Tensor:
        self.computed += ids.numel()
        seen = cache.begin(ids, attention_mask.bool())
        heard, _ = cache.append(0, ids[:, None, :, None].float(), ids[:, None, :, None].float())
        cache.commit()
        logits = torch.zeros(len(ids), 1, TOK.num_ids)
        for row, (said, real) in enumerate(zip(heard[:, 0, :, 0], seen, strict=True)):
            logits[row, 0, self.next(said[real].long().tolist())] = 9.0
        return logits

    def next(self, said: list[int]) -> int:
        wanted, turn = said[0], said[last_turn(said) :]
        if OPEN not in turn:
            return OPEN
        if CLOSE not in turn:
            inside = len(turn) - turn.index(OPEN) - 1
            return THOUGHT[inside] if inside < wanted else CLOSE
        after = turn[turn.index(CLOSE) + 1 :]
        spoken = len(after) - len(STOP[STOP.index(CLOSE) + 1 :]) * (STOP[0] in turn)
        return [*ANSWER, END][min(max(spoken, 0), len(ANSWER))]


def last_turn(said: list[int]) -> int:
    """Where the last assistant turn starts."""
    start = TOK.control_tokens["<|im_start|>"]
    return len(said) - said[::-1].index(start) + len(TOK.encode("assistant\n"))


def run(
    *thoughts: int, budget: Any = None, extra: list[int] | None = None, **options: Any
) -> list[Generated]:
    """Replies to prompts whose models want to think for so many ids."""
    options = {"max_new_tokens": 100, "stop_ids": {END}, "tokenizer": TOK} | options
    prompts = [[n, *PROMPT, *(extra or [])] for n in thoughts]
    model: Any = options.pop("model", None) or Scripted()
    return generate(model, prompts, thinking_budget=Budget(budget, STOP_TEXT), **options)


def test_official_text_is_24_ids() -> None:
    """The comment in the official documentation's budget example says so."""
    assert len(Tokenizer.official().encode(EARLY_STOP, allow_control_tokens=True)) == 24


@pytest.mark.parametrize(
    ("wanted", "budget", "inside", "why"),
    [
        (5, None, THOUGHT[:5], "closed"),  # no budget: counted, not cut
        (5, 99, THOUGHT[:5], "closed"),
        (5, 5, THOUGHT[:5], "closed"),  # exactly reached: it closes by itself
        (5, 4, THOUGHT[:4], "budget"),
        (5, 1, THOUGHT[:1], "budget"),
        (5, 0, [], "budget"),
        (0, 0, [], "closed"),  # an empty thought fits into a budget of 0
    ],
)
def test_where_a_thought_is_cut(wanted: int, budget: int | None, inside: list[int], why: str) -> None:
    (reply,) = run(wanted, budget=budget)
    forced = STOP if why == "budget" else []
    tail = [] if why == "budget" else [CLOSE]
    assert reply == [OPEN, *inside, *forced, *tail, *ANSWER, END]
    assert (reply.thinking_ended, reply.ended) == (why, "stop")
    assert reply.thinking_tokens == len(inside) and reply.forced_tokens == len(forced)
    assert reply.reasoning == inside + (forced[: forced.index(CLOSE)] if forced else [])
    assert reply.answer == (forced[forced.index(CLOSE) + 1 :] if forced else []) + ANSWER


def test_rows_of_one_batch_are_cut_at_different_times() -> None:
    wants = [9, 0, 3, 5, 4, 7]
    together = run(*wants, budget=4)
    cut = [r.thinking_ended == "budget" for r in together]
    assert cut == [want > 4 for want in wants]
    for want, reply in zip(wants, together, strict=True):
        assert reply == run(want, budget=4)[0]
    assert run(*wants, budget=4, batch_size=2) == together


def test_finished_rows_are_not_computed() -> None:
    """One long reply beside three short ones costs little more than the long one alone."""
    alone, beside = Scripted(), Scripted()
    (long,) = run(10, model=alone)
    replies = run(0, 0, 0, 10, model=beside)
    assert replies[3] == long
    short = sum(len(r) for r in replies[:3])
    assert beside.computed - alone.computed <= 3 * len([0, *PROMPT]) + short + len(replies[0])


def test_the_template_opened_the_thought() -> None:
    """Thinking-2507 ends the prompt with <think> and a line end: counting starts with the reply."""
    opened = TOK.encode("<think>", allow_control_tokens=True)
    (reply,) = run(5, budget=2, extra=opened)
    assert reply == [*THOUGHT[:2], *STOP, *ANSWER, END] and reply.thinking_tokens == 2


def test_non_thinking_mode_is_not_cut() -> None:
    closed = TOK.encode("<think>\n\n</think>\n\n", allow_control_tokens=True)
    (reply,) = run(5, budget=0, extra=closed)
    assert reply.thinking_ended is None and reply.forced_tokens == reply.thinking_tokens == 0
    assert reply.answer == reply[:-1] and reply.reasoning == []


def test_several_turns() -> None:
    """An earlier turn's thought does not count, whether the template kept it or not."""
    first = run(5, budget=3)[0]
    second_turn = [*first, *PROMPT]
    (reply,) = run(5, budget=3, extra=second_turn)
    assert reply == first and reply.thinking_tokens == 3


@pytest.mark.parametrize(
    ("room", "ended", "thinking"),
    [(3, "length", "length"), (6, "length", "budget"), (100, "stop", "budget")],
)
def test_less_room_than_budget(room: int, ended: str, thinking: str) -> None:
    """max_new_tokens may come inside the thought, inside the forced text, or never."""
    budget = 2 if room > 3 else 50
    (reply,) = run(9, budget=budget, max_new_tokens=room)
    assert (reply.ended, len(reply) <= room) == (ended, True)
    assert reply.thinking_ended == ("length" if reply.reasoning and CLOSE not in reply else thinking)
    (reply,) = run(9, budget=50, model=Scripted(context=len(PROMPT) + 5))
    assert len(reply) == 4 and reply.thinking_ended == reply.ended == "length"


def test_stream_is_the_same_reply() -> None:
    model: Any = Scripted()
    for budget in (0, 3, None):
        streamed = stream(
            model, [7, *PROMPT], max_new_tokens=100, stop_ids={END},
            thinking_budget=Budget(budget, STOP_TEXT), tokenizer=TOK,
        )  # fmt: skip
        assert list(streamed) == run(7, budget=budget)[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(budget=-1), "thinking_budget is -1; it must be a whole number"),
        (dict(budget=2.5), "thinking_budget is 2.5"),
        (dict(budget=True), "thinking_budget is True"),
        (dict(budget=3, tokenizer=None), "needs the tokenizer"),
        (dict(budget=3, tokenizer=Tokenizer.train(["a"], 260, ["<|im_end|>"])), "has no <think>"),
        (dict(budget=3, model=Scripted(context=5)), r"prompt 0 has \d+ tokens and the model's context is 5"),
    ],
)
def test_bad_requests(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(5, **options)


def test_early_stop_must_close() -> None:
    with pytest.raises(ValueError, match="early_stop is 'enough'; it must close the thought"):
        generate(Scripted(), [[1]], max_new_tokens=1, thinking_budget=Budget(1, "enough"), tokenizer=TOK)  # type: ignore[arg-type]


# -- what is recorded -------------------------------------------------------------------------------------


def row(budget: Any = None, prompt: list[int] | None = None, room: int = 99, stop: Any = (END,)) -> Row:
    ids = Budget(budget, STOP_TEXT).on(TOK)
    return Row(0, [*PROMPT, *(prompt or [])], torch.Generator(), room, ids, stop)


def fed(machine: Row, *ids: int) -> Generated:
    for token in ids:
        machine.take(token)
    return machine.reply


def test_the_places_of_forced_ids() -> None:
    for want, budget in ((5, 3), (5, 0), (5, None), (3, 3)):
        (reply,) = run(want, budget=budget)
        assert [reply[i] for i in reply.forced] == (STOP if reply.thinking_ended == "budget" else [])
        assert all(b == a + 1 for a, b in itertools.pairwise(reply.forced))
        assert reply.forced_tokens == len(reply.forced)
        own = [token for i, token in enumerate(reply) if i not in set(reply.forced)]
        assert reply.thinking_tokens == sum(token in THOUGHT for token in own)


def test_thinking_on_behind_the_mark_is_recorded() -> None:
    """The nano at a budget of 0: cut, then it thinks on as if nothing were, and closes a second time."""
    machine = row(budget=0)
    reply = fed(machine, OPEN, THOUGHT[0], *STOP[1:], *THOUGHT[:3], CLOSE, *ANSWER, END)
    after = STOP[STOP.index(CLOSE) + 1 :]
    assert reply == [OPEN, *STOP, *THOUGHT[:3], CLOSE, *ANSWER, END] and reply.ended == "stop"
    assert (reply.thinking_ended, reply.thinking_tokens) == ("budget", 0)
    assert reply.second_thought == [*after, *THOUGHT[:3], CLOSE]
    assert reply.answer == [*reply.second_thought, *ANSWER], "strict: nothing is taken away"
    assert reply.answer[len(reply.second_thought) :] == ANSWER, "lenient"
    reply = fed(row(), OPEN, *THOUGHT[:2], CLOSE, THOUGHT[2], CLOSE, THOUGHT[3], CLOSE, *ANSWER, END)
    assert reply.second_thought == [THOUGHT[2], CLOSE, THOUGHT[3], CLOSE] and reply.thinking_ended == "closed"
    reply = fed(row(prompt=[OPEN, CLOSE]), THOUGHT[0], CLOSE, *ANSWER, END)  # non-thinking mode
    assert reply.second_thought == [THOUGHT[0], CLOSE] and reply.thinking_ended is None


def test_the_nano_thinks_on_behind_a_cut() -> None:
    """At a budget of 0, of these eight some; what they say behind the second mark is the answer."""
    tok, model = Tokenizer.from_pretrained("qwen3-nano"), Qwen3.from_pretrained("qwen3-nano")
    problems = make_problems("arithmetic", "test", 8, difficulty=2, seed=TEST_SEED)
    replies = generate(
        model, [chat_prompt(tok, problem, "thinking") for problem in problems], max_new_tokens=96,
        stop_ids=tok.stop_ids, tokenizer=tok, thinking_budget=Budget(0, NANO_EARLY_STOP),
    )  # fmt: skip
    on = [(problem, reply) for problem, reply in zip(problems, replies, strict=True) if reply.second_thought]
    assert on and all(reply.second_thought[-1] == tok.control_tokens["</think>"] for _, reply in on)
    strict = [is_correct(problem, tok.decode(reply.answer).strip()) for problem, reply in on]
    rest = [(problem, reply.answer[len(reply.second_thought) :]) for problem, reply in on]
    lenient = [is_correct(problem, tok.decode(ids).strip()) for problem, ids in rest]
    assert not any(strict) and any(lenient)


def test_a_well_formed_reply_has_no_second_thought() -> None:
    for budget in (None, 3, 0):
        assert run(5, budget=budget)[0].second_thought == []
    again = fed(row(), OPEN, THOUGHT[0], CLOSE, ANSWER[0], OPEN, THOUGHT[1], CLOSE, ANSWER[1], END)
    assert again.second_thought == [] and again.reasoning == THOUGHT[:2] and again.answer == ANSWER
    assert again.thinking_tokens == 2, "thoughts that are opened count, wherever they stand"


def test_thoughts_that_are_opened_again_share_the_budget() -> None:
    machine = row(budget=2)
    reply = fed(machine, OPEN, *THOUGHT[:2], CLOSE, OPEN, THOUGHT[2], *STOP[1:], *ANSWER, END)
    assert reply == [OPEN, *THOUGHT[:2], CLOSE, OPEN, *STOP, *ANSWER, END]
    assert (reply.thinking_tokens, reply.thinking_ended) == (2, "budget")


def test_a_mark_in_a_tool_call_opens_no_thought() -> None:
    call, end_call = TOK.control_tokens["<tool_call>"], TOK.control_tokens["</tool_call>"]
    reply = fed(row(budget=1), call, OPEN, *THOUGHT[:3], CLOSE, end_call, END)
    assert reply.answer == [call, OPEN, *THOUGHT[:3], CLOSE, end_call] and reply.forced == []
    assert reply.second_thought == [] and reply.thinking_ended is None


def test_only_the_last_turn_says_whether_a_thought_is_open() -> None:
    """An earlier turn that was cut off inside its thought opens none in this one."""
    cut = [*PROMPT, OPEN, THOUGHT[0], END]
    (reply,) = (fed(Row(0, [*cut, *PROMPT], torch.Generator(), 9, Budget(0).on(TOK), {END}), *ANSWER, END),)
    assert reply == [*ANSWER, END] and reply.answer == ANSWER
    bare = Row(0, [1, OPEN], torch.Generator(), 9, Budget(5).on(TOK), {END})  # no turns at all
    assert fed(bare, THOUGHT[0], CLOSE).reasoning == THOUGHT[:1]


def test_a_stop_id_in_the_early_stop_ends_nothing() -> None:
    machine = row(budget=0, stop=(END, STOP[0]))
    reply = fed(machine, OPEN, THOUGHT[0], *STOP[1:], *ANSWER, END)
    assert reply == [OPEN, *STOP, *ANSWER, END] and reply.ended == "stop"


# -- the budget itself ------------------------------------------------------------------------------------


def test_a_number_is_a_budget_with_the_official_text() -> None:
    assert Budget.of(7) == Budget(7) == Budget(7, EARLY_STOP, "<think>", "</think>")
    assert Budget.of(None).tokens is None and Budget.of(budget := Budget(1, "</think>")) is budget
    options: Any = {"max_new_tokens": 20, "stop_ids": END, "tokenizer": TOK}
    plain: Any = Scripted()
    number = generate(plain, [[5, *PROMPT]], thinking_budget=2, **options)[0]
    official = TOK.encode(EARLY_STOP, allow_control_tokens=True)
    assert number == [OPEN, *THOUGHT[:2], *official[:17]] and number.forced_tokens == 17
    assert number == generate(plain, [[5, *PROMPT]], thinking_budget=Budget(2), **options)[0]


def test_marks_of_another_name() -> None:
    tok = Tokenizer.train(["a small text"], 270, ["<|im_end|>", "<why>", "</why>"])
    marks = Budget(1, "</why>", "<why>", "</why>").on(tok)
    assert marks is not None and Budget().on(tok) is None
    opening, closing = tok.control_tokens["<why>"], tok.control_tokens["</why>"]
    machine = Row(0, [1], torch.Generator(), 99, marks, ())
    assert fed(machine, opening, 5, 6, 7) == [opening, 5, closing, 7]
    assert (machine.reply.reasoning, machine.reply.answer) == ([5], [7])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(tokens=1.0), "thinking_budget is 1.0; it must be a whole number"),
        (dict(tokens="5"), "thinking_budget is '5'; it"),
        (dict(tokens=-(10**400)), "thinking_budget is -a whole number of more than 300 digits"),
        (dict(early_stop=None), "early_stop is of type NoneType; give a string"),
        (dict(opening=5), "opening is of type int"),
    ],
)
def test_bad_budgets(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Budget(**fields)


def test_an_early_stop_closes_once_and_opens_nothing() -> None:
    for text in ("</think></think>", "<think>a</think>", ""):
        with pytest.raises(ValueError, match="must close the thought with one </think>, and open"):
            Budget(1, text).on(TOK)
        assert Budget(None, text).on(TOK) is not None, "nothing is cut"


# -- rows that take the places of those that have ended ---------------------------------------------------


LENGTHS = [9, 0, 1, 0, 10, 2, 0, 3, 1, 0, 4, 0]


@pytest.mark.parametrize("places", [1, 2, 3, 4, 5, 11, 12, 50])
def test_rows_come_and_go_and_each_says_what_it_says_alone(places: int) -> None:
    """Prompts of uneven length, thoughts of uneven length, a budget that cuts the longest."""
    prompts = [[n, *[n] * (n % 3), *PROMPT] for n in LENGTHS]
    options: dict[str, Any] = dict(max_new_tokens=60, stop_ids={END}, tokenizer=TOK)
    budget = Budget(8, STOP_TEXT)
    want = [generate(Scripted(), [p], thinking_budget=budget, **options)[0] for p in prompts]  # type: ignore[arg-type]
    heard: list[list[int]] = [[] for _ in prompts]
    got = generate(
        Scripted(), prompts, thinking_budget=budget, batch_size=places,  # type: ignore[arg-type]
        on_token=lambda row, token: heard[row].append(token), **options,
    )  # fmt: skip
    assert got == want == heard
    assert [reply.thinking_ended for reply in got] == [reply.thinking_ended for reply in want]


def test_places_are_filled_again_in_groups() -> None:
    """No pass has more rows than places; newcomers are prefilled together; and there are fewer passes than
    when each batch waits for its longest reply."""
    passes: list[tuple[int, int]] = []

    class Watched(Scripted):
        def __call__(self, ids: torch.Tensor, **options: Any) -> torch.Tensor:  # type: ignore[override]
            passes.append(tuple(ids.shape))  # type: ignore[arg-type]
            return super().__call__(ids, **options)

    prompts = [[n, *PROMPT] for n in LENGTHS * 2]
    options: dict[str, Any] = dict(max_new_tokens=60, stop_ids={END}, tokenizer=TOK)
    generate(Watched(), prompts, batch_size=4, **options)  # type: ignore[arg-type]
    together, passes = len(passes), []
    for first in range(0, len(prompts), 4):
        generate(Watched(), prompts[first : first + 4], **options)  # type: ignore[arg-type]
    assert together < len(passes)
    passes = []
    generate(Watched(), prompts, batch_size=4, **options)  # type: ignore[arg-type]
    begun = [rows for rows, width in passes if width > 1]
    assert sum(begun) == len(prompts) and begun[0] == 4
    assert all(rows >= 2 for rows in begun[:-1]), "at least half of the places at once"
    assert max(rows for rows, _ in passes) == 4
