"""Which switches a model obeys, and what it does with a tool: counts for lesson 11, each with a control.

`python -m qwen3_ref.measure.modes --out FILE` asks the same test problems in every cell, greedily and in
float64, so that near-ties are decided alike everywhere. A cell that the file holds is not asked again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from qwen3_ref.arrays import require_whole
from qwen3_ref.chat import Json, Message, encode_chat
from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.profile import Profile
from qwen3_ref.decode.tools import run_call
from qwen3_ref.model import Qwen3
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.reply import Reply, parse_reply
from qwen3_ref.store.files import read_json, write_atomically
from qwen3_ref.store.shipped import local_directory
from qwen3_ref.tasks.calculator import BARE, CALCULATOR_TOOL
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, Problem, is_correct, make_problems
from qwen3_ref.tokenizer import Tokenizer

ONE_TURN = {
    "no flag": "",
    "/think": " /think",
    "/no_think": " /no_think",
    "control: the word hello": " hello",
    "control: /banana": " /banana",
    "control: /no_thing": " /no_thing",
    'control: "/no_think" in quotes': ' "/no_think"',
}
"""What is written behind a question, by its name."""
HARD = ("no flag", "/think", "/no_think")
"""Those that are also tried with enable_thinking=False."""
TURNS = (
    ("/think", "/no_think"),
    ("/no_think", "/think"),
    ("/think", ""),
    ("/no_think", ""),
    ("/no_think", "/think", ""),
    ("/think", "/no_think", ""),
)
"""Flags of the turns of a conversation, the last one's last."""

PROSE = "It was a long day and the road went on by the river until we came to the old town.".split()
CONTROL = "control: by thinking, a system turn as long"
"""The cell of sums asked behind a system turn that offers nothing."""


class Asker:
    """A checkpoint that answers many conversations greedily."""

    def __init__(self, model: Qwen3, tokenizer: Tokenizer, profile: Profile, batch_size: int = 100) -> None:
        self.model, self.tokenizer, self.profile, self.batch_size = model, tokenizer, profile, batch_size

    def replies(
        self,
        talks: Sequence[Sequence[Message]],
        room: int,
        *,
        thinking: bool = True,
        tools: list[Json] | None = None,
    ) -> list[Reply]:
        """One reply of at most `room` tokens to each conversation, taken apart."""
        options: Json = {"tools": tools, "template": self.profile.template}
        tok = self.tokenizer
        drawn = generate(
            self.model,
            [encode_chat(tok, talk, enable_thinking=thinking, **options) for talk in talks],
            max_new_tokens=room,
            stop_ids=self.profile.stop_ids,
            tokenizer=tok,
            batch_size=self.batch_size,
        )
        return [parse_reply(list(i), tokenizer=tok, enable_thinking=thinking, **options) for i in drawn]

    def thinks(self, talks: Sequence[Sequence[Message]], *, thinking: bool = True) -> list[bool]:
        """Which replies think: their think block holds more than white space. Four tokens tell."""
        found = self.replies(talks, 4, thinking=thinking)
        return [bool((reply.reasoning or "").strip()) for reply in found]


def problems_of(count: int) -> list[Problem]:
    """`count` test problems of difficulty 2, a fifth of each family: a multiple of five."""
    each = count // len(FAMILIES)
    return [p for f in FAMILIES for p in make_problems(f, "test", each, difficulty=2, seed=TEST_SEED)]


def conversations(count: int, flags: Sequence[str]) -> list[list[Message]]:
    """The problems of `problems_of`, each as the last of several turns with these flags ("" for none);
    earlier turns are easier problems and their right answers."""
    each = count // len(FAMILIES)
    easy = [p for f in FAMILIES for p in make_problems(f, "test", 2 * each, difficulty=1, seed=TEST_SEED)]
    talks = []
    for i, last in enumerate(problems_of(count)):
        asked = [easy[(i + count * j) % len(easy)] for j in range(len(flags) - 1)]
        talk: list[Message] = []
        for problem, flag in zip([*asked, last], flags, strict=True):
            talk.append({"role": "user", "content": f"{problem.prompt} {flag}".rstrip()})
            talk.append({"role": "assistant", "content": problem.answer})
        talks.append(talk[:-1])
    return talks


def tool_cells(asker: Asker, count: int) -> dict[str, list[bool]]:
    """Arithmetic with a calculator: what each step of a call does, and what the offer alone costs."""
    sums, tools = make_problems("arithmetic", "test", count, seed=TEST_SEED), [BARE]
    asked: list[list[Message]] = [
        [{"role": "user", "content": f"calculate {problem.prompt} /no_think"}] for problem in sums
    ]
    plain: list[list[Message]] = [[{"role": "user", "content": problem.prompt}] for problem in sums]
    first = asker.replies(asked, 60, tools=tools)
    results = [run_call([CALCULATOR_TOOL], r.tool_calls[0]) if r.tool_calls else "" for r in first]
    again = [
        [*talk, reply.message(), {"role": "tool", "content": result}]
        for talk, reply, result in zip(asked, first, results, strict=True)
    ]

    def right(replies: Sequence[Reply]) -> list[bool]:
        return [is_correct(problem, reply.content) for problem, reply in zip(sums, replies, strict=True)]

    return {
        "a call that can be read": [bool(reply.tool_calls) for reply in first],
        "a call with the right result": [_same(r, p.answer) for r, p in zip(results, sums, strict=True)],
        "the right answer after the result": right(asker.replies(again, 24, tools=tools)),
        "control: a call, with no tool offered": [bool(r.tool_calls) for r in asker.replies(asked, 60)],
        "right by thinking, no tool offered": right(asker.replies(plain, 110)),
        "right by thinking, the tool offered": right(asker.replies(plain, 110, tools=tools)),
    }


def behind_prose(asker: Asker, count: int) -> list[bool]:
    """Which of the sums of `tool_cells` are answered right by thinking behind a system turn as long as that
    of the tool, which offers none."""
    sums = make_problems("arithmetic", "test", count, seed=TEST_SEED)
    talks = [as_long(asker, [{"role": "user", "content": p.prompt}], [BARE]) for p in sums]
    return [is_correct(p, r.content) for p, r in zip(sums, asker.replies(talks, 110), strict=True)]


def as_long(asker: Asker, talk: Sequence[Message], tools: list[Json]) -> list[Message]:
    """The conversation behind a system turn of prose, a word longer at most than the turn that offers the
    tools: what a long system turn costs, whatever it says."""
    room = len(encode_chat(asker.tokenizer, talk, tools=tools, template=asker.profile.template))
    words: list[str] = []
    while True:
        words.append(PROSE[len(words) % len(PROSE)])
        found: list[Message] = [{"role": "system", "content": " ".join(words)}, *talk]
        if len(encode_chat(asker.tokenizer, found, template=asker.profile.template)) >= room:
            return found


def _same(result: str, answer: str) -> bool:
    """Whether they are one whole number: an answer may be "07" where a calculator says 7."""
    return result.removeprefix("-").isdecimal() and int(result) == int(answer)


def measure(asker: Asker, count: int, kept: Json, save: Callable[[Json], None]) -> Json:
    """All cells: name of the group -> name of the cell -> a boolean for each problem. `kept` are those
    that there are already; save is called with all after each new one."""
    groups: Json = {"one turn": {}, "one turn, hard switch off": {}, "several turns": {}, "tools": {}}
    for group in groups:
        groups[group] |= kept.get(group, {})

    def cell(group: str, name: str, asked: Callable[[], list[bool]]) -> None:
        if name not in groups[group]:
            groups[group][name] = asked()
            save(groups)

    for name, word in ONE_TURN.items():
        talks = [[{"role": "user", "content": problem.prompt + word}] for problem in problems_of(count)]
        cell("one turn", name, lambda talks=talks: asker.thinks(talks))  # type: ignore[misc]
        if name in HARD:
            off = lambda talks=talks: asker.thinks(talks, thinking=False)  # noqa: E731
            cell("one turn, hard switch off", name, off)
    for flags in TURNS:
        name = ", then ".join(flag or "nothing" for flag in flags)
        cell("several turns", name, lambda f=flags: asker.thinks(conversations(count, f)))  # type: ignore[misc]
    if len(groups["tools"]) < 6:
        groups["tools"] = tool_cells(asker, count)
        save(groups)
    cell("tools", CONTROL, lambda: behind_prose(asker, count))
    return groups


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m qwen3_ref.measure.modes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file of the result")
    parser.add_argument("--model", default="qwen3-nano", help="a nano, or an official name (qwen3-nano)")
    parser.add_argument("--problems", type=int, default=200, help="a cell, a multiple of five (200)")
    options = parser.parse_args(argv)
    try:
        count = require_whole("--problems", options.problems, 5)
        if count % len(FAMILIES):
            raise ValueError(f"--problems is {count}; give a multiple of five, one part for each family.")
        about: Json = {"model": options.model, "problems": count, "difficulty": 2, "seed": TEST_SEED}
        before: Any = read_json(options.out, 10**7) if options.out.exists() else {**about, "groups": {}}
        if {key: before.get(key) for key in about} != about:
            raise ValueError(f"{options.out} was measured otherwise; give another --out.")
        folder = local_directory(options.model) or find_official(options.model)
        if folder is None:
            raise ValueError(f"{options.model} is not on this machine; see `python -m qwen3_ref fetch`.")
        tokenizer = Tokenizer.from_pretrained(folder)
        model = Qwen3.from_pretrained(folder, dtype=torch.float64)
        asker = Asker(model, tokenizer, Profile.from_pretrained(folder, tokenizer))

        def save(groups: Json) -> None:
            rows = {g: {n: [int(v) for v in c] for n, c in cells.items()} for g, cells in groups.items()}
            write_atomically(options.out, json.dumps({**about, "groups": rows}) + "\n")

        groups = measure(asker, count, before["groups"], save)
        save(groups)
        for group, cells in groups.items():
            for name, values in cells.items():
                print(f"{group:<26} {name:<38} {sum(values):>4} of {len(values)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
