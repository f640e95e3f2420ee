"""Rule-based rewards: what they give, and that the tricks a model could find are not paid for."""

from __future__ import annotations

import csv
import math
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_ref.chat import encode_chat, render_chat
from qwen3_ref.model import Qwen3
from qwen3_ref.tasks.calculator import CalculatorError, calculate, run_tool
from qwen3_ref.tasks.problems import make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.queries import Sample, read_sample
from qwen3_ref.train.recipes import general_rl
from qwen3_ref.train.recipes.general_rl import (
    ENOUGH,
    LENGTH_ALONE,
    PARTS,
    Limits,
    _question,
    asked_to_think,
    format_reward,
    length_reward,
    limited,
    make_tasks,
    many_turns,
    mode_reward,
    single_turn,
    tool_call,
    tool_reward,
)
from tests.helpers import SMALL_GRPO as SMALL
from tests.helpers import TINY, TOKENIZER, ids_of

GOOD = "<think>\n12+34=46\n</think>\n\n46<|im_end|>"
PLAIN = "<think>\n\n</think>\n\n46<|im_end|>"


def sample(text: str) -> Sample:
    """A reply in which the marks are control tokens."""
    return read_sample(TOKENIZER, ids_of(text))


def typed(text: str) -> Sample:
    """The same characters spelled out, with a real end."""
    return read_sample(TOKENIZER, TOKENIZER.encode(text) + ids_of("<|im_end|>"))


# -- the calculator ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("07+08", 15),
        ("100", 100),
        ("0.5+00.25", 0.75),
        ("1.05*100", 105.0),
        ("-7//2", -4),
        ("-7%100", 93),
        ("(12-34)%100", 78),
        ("2**10", 1024),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("2**3**2", 512),
        ("7/2", 3.5),
        ("0**0", 1),
        ("--1", 1),
        (" 1 + 1 ", 2),
        ("1**999999999999", 1),
        ("10**12", 10**12),
    ],
)
def test_calculator(expression: str, value: float) -> None:
    got = calculate(expression)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("9**9**9**9", "larger than 1,000,000,000,000"),
        ("2**40", "larger than"),
        ("10**12+1", "larger than"),
        ("0-10**6*10**7", "larger than"),
        ("9" * 50, "larger than"),
        ("0.1**-99999999", "larger than"),
        ("(0-8)**0.5", "not a real number"),
        ("1/0", "divides by zero"),
        ("1%0", "divides by zero"),
        ("0**-1", "divides by zero"),
        ("1+" * 60 + "1", "121 characters"),
        ("(" * 99, "is not a calculation"),
        ("", "is not a calculation"),
        ("()", "is not a calculation"),
        ("1 1", "is not a calculation"),
        ("(1)(2)", "is not a calculation"),
        ("1++", "is not a calculation"),
        ("__import__('os').system('true')", "holds more than numbers"),
        ("1e999", "holds more than numbers"),
        ("2j", "holds more than numbers"),
        ("1_0", "holds more than numbers"),
        ("1,2", "holds more than numbers"),
        ("[1][0]", "holds more than numbers"),
        ("1<2", "holds more than numbers"),
        ("1\n+1", "holds more than numbers"),
        ("\u0661+1", "holds more than numbers"),
    ],
)
def test_calculator_refuses(expression: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(CalculatorError, match=words):
        calculate(expression)
    assert time.monotonic() - start < 1


def test_run_tool() -> None:
    assert run_tool({"name": "calculator", "arguments": {"expression": "(37+45)%100"}}) == "82"
    assert run_tool({"name": "calculator", "arguments": {"expression": "1/3"}}) == "0.3333333333"
    for bad in (
        {"name": "shell", "arguments": {"expression": "1"}},
        {"name": "calculator", "arguments": {"expression": 1}},
        {"name": "calculator", "arguments": {}},
        {"name": "calculator", "arguments": {"expression": "1", "more": "2"}},
        {"name": "calculator", "arguments": "1"},
        {"name": "calculator", "arguments": {"expression": "1/0"}},
    ):
        assert run_tool(bad).startswith("error")


# -- rewards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [GOOD, PLAIN])
def test_format_pays_the_two_right_forms(text: str) -> None:
    assert format_reward(sample(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "46<|im_end|>",
        "<think>\n1\n</think>\n\n<|im_end|>",  # an empty answer
        "<think>\n1\n</think>\n\n \n<|im_end|>",
        "<think>\n1\n</think>\n\n46",  # cut off
        "<think>\n1\n</think>\n\n46<|endoftext|>",
        "<think>\n1 46<|im_end|>",
        "1\n</think>\n\n46<|im_end|>",
        "<think>1</think><think>2</think>46<|im_end|>",  # two blocks
        "<think>1<think>2</think>46<|im_end|>",
        "<think>1</think>2</think>46<|im_end|>",
        "46<think>\n1\n</think>\n\n46<|im_end|>",
        "<think>\n1\n</think>\n\n<|im_start|>46<|im_end|>",
        "<think>\n1\n</think>\n\n<tool_call>46</tool_call><|im_end|>",
        "<|im_end|>",
        "",
    ],
)
def test_format_pays_nothing_else(text: str) -> None:
    assert format_reward(sample(text)) == 0


def test_typed_marks_are_not_paid() -> None:
    assert format_reward(typed(GOOD.removesuffix("<|im_end|>"))) == 0
    assert mode_reward(typed(GOOD.removesuffix("<|im_end|>")), True) == 0
    inner = TOKENIZER.encode("\n\n46</think> <think>2</think>")
    second = read_sample(TOKENIZER, [*ids_of("<think>\n1\n</think>"), *inner, *ids_of("<|im_end|>")])
    assert second.well_formed and format_reward(second) == 0, "a second block, in letters"


def test_mode() -> None:
    assert [mode_reward(sample(GOOD), thinking) for thinking in (True, False)] == [1, 0]
    assert [mode_reward(sample(PLAIN), thinking) for thinking in (True, False)] == [0, 1]
    assert mode_reward(sample("<think> \n \n</think>46<|im_end|>"), True) == 0, "white space is no thought"
    assert mode_reward(sample("46<|im_end|>"), False) == 0, "the empty block shows the mode"
    said = "<think>\n/no_think\n</think>\n\n/no_think 46<|im_end|>"
    assert mode_reward(sample(said), False) == 0, "talk of a flag obeys nothing"


def test_length_by_hand() -> None:
    reply = sample(GOOD)
    n = reply.thought_tokens
    assert n == len(TOKENIZER.encode("\n12+34=46\n"))
    assert length_reward(reply, n) == 1
    assert length_reward(reply, n + 5) == 1
    assert length_reward(reply, n - 1) == pytest.approx(2 - n / (n - 1))
    assert length_reward(reply, n // 2) == 0
    assert length_reward(sample(PLAIN), 5) == 0, "no thought is not a short thought"
    assert length_reward(sample("<think>\n12+34=46"), 99) == 0


def test_a_limit_is_paid_with_a_right_answer() -> None:
    """The solver's 11 tokens: limits of 11 and 8 by hand, with the right answer and a wrong one. A thought
    that leaves a step out, and is wrong, earns less than the whole one however short it is."""
    (problem,) = make_problems("arithmetic", "train", 1, 2)
    whole = f"<think>\n{problem.trace}\n</think>\n\n{problem.answer}<|im_end|>"
    hasty = f"<think>\n{problem.trace[0]}\n</think>\n\nx<|im_end|>"
    own = len(TOKENIZER.encode(f"\n{problem.trace}\n"))
    less = round(own * 0.75)
    for limit, kept in ((own, 1.0), (less, 2 - own / less)):
        for alone in (False, True):
            score = limited(problem, limit, alone=alone).query(TOKENIZER).score
            assert score(sample(whole))[0] == pytest.approx((3 + kept) / 4)
            assert score(sample(whole))[1]["length"] == pytest.approx(kept)
            assert score(sample(hasty))[0] == (0.75 if alone else 0.5)
            assert score(sample(hasty))[1]["correct"] == 0


def test_no_limit_that_is_trained_on_is_too_small() -> None:
    """The solver's own thought keeps every limit; of the old ones a third could not be kept. Only limits
    differ between the two."""
    asked: dict[Limits, list[str]] = {}
    kept: dict[Limits, list[float]] = {}
    for limits in (ENOUGH, LENGTH_ALONE):
        for task in make_tasks(TOKENIZER, 40, run_seed=5, limits=limits)[2::4]:
            said, _, rest = task.messages[-1]["content"].partition(" think at most ")
            limit = int(rest.removesuffix(" tokens"))
            own = len(TOKENIZER.encode(f"\n{task.ideal['reasoning_content']}\n"))
            asked.setdefault(limits, []).append(said)
            kept.setdefault(limits, []).append(own <= limit)
            assert round(own * limits.times[0]) <= limit <= round(own * limits.times[-1])
    assert asked[ENOUGH] == asked[LENGTH_ALONE] and len(asked[ENOUGH]) == 40
    assert all(kept[ENOUGH]) and 0.5 < sum(kept[LENGTH_ALONE]) / 40 < 0.85
    assert LENGTH_ALONE.alone and not ENOUGH.alone


CALL = (
    "<think>\n\n</think>\n\n<tool_call>\n"
    '{{"name": "calculator", "arguments": {{"expression": "{}"}}}}\n</tool_call><|im_end|>'
)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (CALL.format("(37+45-12)%100"), 1.0),
        (CALL.format("(45+37-12) % 100"), 1.0),
        (CALL.format("(37-12+45)%100"), 1.0),
        (CALL.format("37+45-12"), 0.5),  # not mod 100, though the value is the same
        (CALL.format("(37+45+12)%100"), 0.5),
        (CALL.format("70"), 0.5),  # the answer itself, worked out elsewhere
        (CALL.format("70+0"), 0.5),
        (CALL.format("(37+45-12"), 0.0),
        (CALL.format("9**9**9"), 0.0),
        (CALL.format("__import__('os')"), 0.0),
        (CALL.format("(37+45-12)%100").replace("calculator", "shell"), 0.0),
        (CALL.format("(37+45-12)%100").replace("<|im_end|>", "70<|im_end|>"), 0.0),
        (CALL.format("(37+45-12)%100").replace("<|im_end|>", ""), 0.0),
        (CALL.format("(37+45-12)%100").replace("</tool_call>", ""), 0.0),
        (CALL.format("(37+45-12)%100").replace('"}}', '"}'), 0.0),
        (CALL.format("(37+45-12)%100").replace("<|im_end|>", CALL.format("1+1")), 0.0),  # two calls
        ("<think>\n\n</think>\n\n70<|im_end|>", 0.0),
        ("<tool_call></tool_call><|im_end|>", 0.0),
    ],
)
def test_tool(text: str, reward: float) -> None:
    assert tool_reward(sample(text), "(37+45-12)%100") == reward


def test_a_typed_call_is_not_paid() -> None:
    text = CALL.format("(37+45-12)%100").removesuffix("<|im_end|>")
    assert tool_reward(typed(text), "(37+45-12)%100") == 0
    real, end = "<tool_call>1</tool_call>", ids_of("<|im_end|>")
    inner = TOKENIZER.encode(text.partition("</think>\n\n")[2])
    both = read_sample(TOKENIZER, ids_of(f"<think>\n\n</think>\n\n{real}") + inner + end)
    assert tool_reward(both, "(37+45-12)%100") == 0


@pytest.mark.parametrize(
    ("turns", "thinking"),
    [
        (["a"], True),
        (["a /no_think"], False),
        (["/no_think a"], False),
        (["a /no_think", "b"], False),
        (["a /no_think", "b /think", "c"], True),
        (["a /think /no_think"], False),
        (['a "/no_think"'], True),
        (["what does `/no_think` do?"], True),
        (["a /no_thinking", "see /no_think, please"], True),
        (["a\n/no_think\n"], False),
        (["http://x/no_think"], True),
    ],
)
def test_the_last_flag_holds_and_a_quoted_one_is_none(turns: list[str], thinking: bool) -> None:
    messages = [{"role": "user", "content": text} for text in turns]
    assert asked_to_think(messages) is thinking


def test_who_may_give_a_flag() -> None:
    assert not asked_to_think([{"role": "system", "content": "/no_think"}, {"role": "user", "content": "b"}])
    said = [{"role": "user", "content": "a /think"}, {"role": "assistant", "content": "/no_think"}]
    assert asked_to_think([*said, {"role": "user", "content": "b"}])


# -- tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_ideal_reply_earns_everything_and_the_other_mode_does_not(seed: int) -> None:
    tasks = make_tasks(TOKENIZER, 6, run_seed=seed)
    assert len(tasks) == 24
    for task in tasks:
        prompt = encode_chat(TOKENIZER, task.messages, tools=task.tools)
        told = [*task.messages, task.ideal]
        whole = encode_chat(TOKENIZER, told, tools=task.tools, add_generation_prompt=False)
        query = task.query(TOKENIZER)
        assert list(query.prompt) == prompt == whole[: len(prompt)]
        reply = whole[len(prompt) : len(whole) - len(TOKENIZER.encode("\n"))]
        reward, parts = query.score(read_sample(TOKENIZER, reply))
        assert tuple(parts) == PARTS
        asked = {name: value for name, value in parts.items() if not math.isnan(value)}
        assert set(asked.values()) == {1.0}
        nothing, parts = query.score(sample("<|im_end|>"))
        assert nothing == 0


def test_disobeying_does_not_pay() -> None:
    """Thinking finds the answer that a guess misses, so /no_think is only obeyed if it is not paid."""
    problem = make_problems("arithmetic", "train", 1, 3)[0]
    history = [{"role": "user", "content": "1 /no_think"}, {"role": "assistant", "content": "1"}]
    score = _question(problem, history, "").query(TOKENIZER).score
    thought = sample(f"<think>\n{problem.trace}\n</think>\n\n{problem.answer}<|im_end|>")
    guess = sample("<think>\n\n</think>\n\nx<|im_end|>")
    assert score(thought)[0] == pytest.approx(1 / 3) and score(guess)[0] == pytest.approx(2 / 3)


def test_kinds_of_tasks() -> None:
    problem, *earlier = make_problems("arithmetic", "train", 4, 2)
    rng = random.Random(0)
    flags = {single_turn(problem, rng).messages[0]["content"].removeprefix(problem.prompt) for _ in range(30)}
    assert flags == {"", " /think", " /no_think"}
    task = many_turns(problem, earlier, rng)
    assert [m["role"] for m in task.messages] == ["user", "assistant"] * 3 + ["user"]
    assert (task.ideal["reasoning_content"] != "") is asked_to_think(task.messages)
    for _ in range(20):
        said = [m["content"] for m in many_turns(problem, earlier, rng, switched=True).messages]
        assert said[-1] == problem.prompt
        assert any(" /think" in text for text in said) and any(" /no_think" in text for text in said)
    with pytest.raises(ValueError, match="1 earlier turns cannot disagree; give at least two"):
        many_turns(problem, earlier[:1], rng, switched=True)
    assert "think at most 7 tokens" in limited(problem, 7).messages[0]["content"]
    text = render_chat(tool_call(problem).messages, tools=tool_call(problem).tools)
    assert '"name": "calculator"' in text
    with pytest.raises(ValueError, match="counting has no expression"):
        tool_call(make_problems("counting", "train", 1)[0])
    again = make_tasks(TOKENIZER, 5, run_seed=1)
    assert make_tasks(TOKENIZER, 5, run_seed=1)[3].messages == again[3].messages


def test_tasks_of_the_splits_share_no_question() -> None:
    asked = []
    for split in ("train", "validation"):
        tasks = make_tasks(TOKENIZER, 20, run_seed=1, split=split)
        asked.append({re.split(" /| think at", task.messages[-1]["content"])[0] for task in tasks})
    assert len(asked[0]) == 80
    assert not asked[0] & asked[1]


def test_a_mixed_run(tmp_path: Path) -> None:
    """The shared loop logs every part, those of kinds that a step did not ask for as NaN."""
    model = Qwen3(replace(TINY, max_position_embeddings=2048))
    settings = replace(SMALL, steps=2, prompts=4, group=2, held_out_every=2)
    asked = []

    def few(tokenizer: Tokenizer, per_kind: int, **options: Any) -> list[general_rl.Task]:
        asked.append((per_kind, options))
        return make_tasks(tokenizer, 2, **options)  # as many as are asked for take seconds to draw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(general_rl, "make_tasks", few)
        general_rl.train_on_tasks(model, TOKENIZER, tmp_path, settings, per_kind=2, run_seed=3)
    common = {"run_seed": 3, "limits": ENOUGH}
    assert asked == [(2, common | {"switched": True}), (32, common | {"split": "validation"})]
    with (tmp_path / "log.csv").open(encoding="utf-8", newline="") as file:
        log = list(csv.DictReader(file))
    assert len(log) == 2
    assert {"reward", *PARTS} <= set(log[0])
