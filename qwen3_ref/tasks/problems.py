"""Verifiable problems with a difficulty dial, a solver that writes its steps, and verifiers.

Five families; a difficulty, 1 to 6, is the number of steps that depend on one another (in `counting`, of
pairs of items; in `translation`, 1 to 4, of digits), so each is easy step by step and hard at a glance:

- `arithmetic`: a chain of two-digit additions and subtractions, modulo 100
- `counting`: how often does each of three letters occur in a labelled list
- `conversion`: a quantity in units that convert by factors 2 to 4, down to the smallest, modulo 100
- `retrieval`: follow key=value lines, in any order, from a key to the number at the end; `lines` sets
  how long the context is
- `translation`: a number from 0 to 9,999 from words or digits of one language to another's, part by
  part: first what each part of the words means, then how the other language says it

The trace has one step a line, and each line is worked out from the prompt and the lines before it
by `next_line`, which is the solver and the judge of traces at once.

reasoning-gym has no step-by-step traces and would bring ten more packages, so it is not used.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen3_ref.tasks import numbers

DIFFICULTIES: dict[str, tuple[int, ...]] = {
    "arithmetic": (1, 2, 3, 4, 5, 6),
    "counting": (1, 2, 3, 4, 5, 6),
    "conversion": (1, 2, 3, 4, 5, 6),
    "retrieval": (1, 2, 3, 4, 5, 6),
    "translation": (1, 2, 3, 4),
}
FAMILIES = tuple(DIFFICULTIES)
SPLITS = ("train", "validation", "test")
TEST_SEED = 2025
"""Draws the test problems that published numbers rest on; the recipes were tuned on the validation split."""
DIGITS = "digits"
"""What a translation's prompt calls a number that is not in words."""
UNPAIRED = (("de", "ja"), ("en", "ko"), ("es", "he"), ("fr", "ru"))
"""Languages that training never pairs, neither way: whether a model that knows each from others can
translate between them is measured, with `pairs=HELD_OUT_PAIRS`. Each language is in one."""
HELD_OUT_PAIRS = (*UNPAIRED, *((b, a) for a, b in UNPAIRED))
PAIRS = tuple(
    (a, b)
    for a in (DIGITS, *numbers.LANGUAGES)
    for b in (DIGITS, *numbers.LANGUAGES)
    if a != b and (a, b) not in HELD_OUT_PAIRS
)
"""From which language into which: all that is drawn, unless `pairs` says otherwise."""
EVERY_BYTE = range(256)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_KEYS = [f"{letter}{digit}" for letter in _LETTERS for digit in range(10)]
_TRIES = 10_000  # draws in a row that bring nothing new, after which there is nothing new


@dataclass(frozen=True)
class Problem:
    """A question as the user puts it, the solver's steps (one a line) and the answer."""

    family: str
    difficulty: int
    prompt: str
    trace: str
    answer: str


def make_problems(
    family: str,
    split: str,
    count: int,
    difficulty: int | None = None,
    seed: int = 0,
    *,
    lines: int | None = None,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    share: range = EVERY_BYTE,
) -> list[Problem]:
    """`count` different problems of one family and split, the same on every machine.

    difficulty: one of DIFFICULTIES[family]; None takes them in turn, and goes on without one that has no
    more problems. lines: for `retrieval`, how many key=value lines the context has (difficulty + 12 if
    None). pairs: for `translation`, from which language into which. share: only problems whose `place`
    is in it; shares that do not meet have no problem in common, whatever the seeds.
    A problem belongs to the split that the hash of its prompt names, so no seed can bring it into
    another one; in `translation` the hash of its number: in another language it is the same problem.
    Raises ValueError for an unknown name, a bad number, or more problems than exist.
    """
    require_names(family, split)
    levels = DIFFICULTIES[family]
    if difficulty is not None and difficulty not in levels:
        raise ValueError(
            f"difficulty is {difficulty!r}; for {family} it must be 1 to {levels[-1]}, or None for all "
            f"in turn."
        )
    if count < 0:
        raise ValueError(f"count is {count}; it must be 0 or more.")
    if lines is not None and (family != "retrieval" or not levels[-1] < lines <= 260):
        raise ValueError(
            f"lines is {lines} for {family}; it must be 7 to 260, and only `retrieval` has lines."
        )
    if set(pairs) - {*PAIRS, *HELD_OUT_PAIRS} or not pairs:
        raise ValueError(f"pairs is {pairs!r}; they must be of {DIGITS}, {', '.join(numbers.LANGUAGES)}.")
    rng = random.Random(f"{family} {split} {difficulty} {lines} {seed}")  # hashed by SHA-512
    found: dict[str, Problem] = {}
    turn = [difficulty] if difficulty else list(levels)
    misses = 0
    while len(found) < count:
        level = turn[0]
        if family == "translation":
            prompt = _translation(rng, level, pairs)
        else:
            prompt = _PROMPTS[family](rng, level) if lines is None else _retrieval(rng, level, lines)
        if prompt in found or _split(family, prompt) != split or place(prompt) not in share:
            misses += 1
            if misses > _TRIES:
                turn, misses = turn[1:], 0
                if not turn:
                    raise ValueError(
                        f"{family} has no more than about {len(found)} {split} problems of difficulty "
                        f"{level}, and {count} were asked for."
                    )
            continue
        misses = 0
        found[prompt] = solve(family, level, prompt)
        turn = [*turn[1:], level]
    return list(found.values())


def require_names(family: str, split: str = "test") -> None:
    """Raise ValueError for a family or split that does not exist, naming those that do."""
    if family not in FAMILIES:
        raise ValueError(f"there is no task family {family!r}; there are {', '.join(FAMILIES)}.")
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(SPLITS)}.")


def split_of(prompt: str) -> str:
    """80% train, 5% validation, 15% test, by the SHA-256 of the prompt."""
    share = hashlib.sha256(prompt.encode()).digest()[0] % 20
    return "train" if share < 16 else "validation" if share < 17 else "test"


def place(prompt: str) -> int:
    """A byte of the prompt's SHA-256, 0 to 255, that the split does not depend on."""
    return hashlib.sha256(prompt.encode()).digest()[1]


def split_of_number(number: int) -> str:
    """The split of a number's translations, by the same hash. (The word before it is such that each
    split has one of the ten numbers of one digit.)"""
    return split_of(f"number: {number}")


def solve(family: str, difficulty: int, prompt: str) -> Problem:
    """The problem with its steps and answer worked out."""
    lines: list[str] = []
    while (line := next_line(family, prompt, lines)) is not None:
        lines.append(line)
    return Problem(family, difficulty, prompt, "\n".join(lines), _answer(family, prompt, lines))


def next_line(family: str, prompt: str, lines: Sequence[str]) -> str | None:
    """The step that follows `lines`, taking what they state at its word; None when all is worked out.

    Raises ValueError if an earlier line cannot be read.
    """
    require_names(family)
    try:
        return _STEPS[family](prompt, lines)
    except (LookupError, ValueError):
        raise ValueError(f"no step follows {lines[-1:]} in {prompt!r}.") from None


def right_steps(problem: Problem, trace: str) -> list[bool]:
    """Re-execute a trace: for each line, whether it is the step that follows from the lines before it.

    A wrong line does not make the later ones wrong: they are held against what it says. A line after
    one that cannot be read, or after the last step, is wrong.
    """
    lines = trace.split("\n") if trace else []
    right: list[bool] = []
    for i, line in enumerate(lines):
        try:
            right.append(line == next_line(problem.family, problem.prompt, lines[:i]))
        except ValueError:
            right.append(False)
    return right


def is_correct(problem: Problem, answer: str) -> bool:
    """Whether an answer is right, white space at its ends aside."""
    return answer.strip() == problem.answer


# -- the families: how a prompt is drawn, and the step that follows ------------------------------


def _below(rng: random.Random, n: int) -> int:
    """A number below n, from `random()`: the one draw that Python promises never to change."""
    return int(rng.random() * n)


def _draw(rng: random.Random, items: Sequence[str], n: int) -> list[str]:
    """n different items in random order."""
    left = list(items)
    for i in range(n):
        j = i + _below(rng, len(left) - i)
        left[i], left[j] = left[j], left[i]
    return left[:n]


def _arithmetic(rng: random.Random, level: int) -> str:
    terms = [f"{_below(rng, 100):02}" for _ in range(level + 1)]
    return terms[0] + "".join("+-"[_below(rng, 2)] + term for term in terms[1:]) + " mod 100"


def _arithmetic_step(prompt: str, lines: Sequence[str]) -> str | None:
    first, *rest = re.findall(r"[+-]?\d\d", prompt.split()[0])
    if len(lines) == len(rest):
        return None
    term = rest[len(lines)]
    value = _last_number(lines[-1]) if lines else int(first)
    return f"{value:02}{term}={(value + int(term)) % 100:02}"


def _counting(rng: random.Random, level: int) -> str:
    kinds = sorted(_draw(rng, "opqrstuvwxyz", 3))
    labels = _LETTERS[: 2 + 2 * level]
    items = " ".join(f"{label}={kinds[_below(rng, 3)]}" for label in labels)
    return f"{items} count {' '.join(kinds)}"


def _counting_step(prompt: str, lines: Sequence[str]) -> str | None:
    items = re.findall(r"\w=\w", prompt)
    if len(lines) == len(items):
        return None
    item = items[len(lines)]
    before = [line for line in lines if line[1:3] == item[1:]]
    return f"{item}{int(before[-1][3:]) + 1 if before else 1}"


def _conversion(rng: random.Random, level: int) -> str:
    start = _below(rng, 26 - level)
    units = _LETTERS[start : start + level + 1]
    amounts = " ".join(f"{_below(rng, 9) + (unit == units[0])}{unit}" for unit in units)
    rates = " ".join(f"{a}={_below(rng, 3) + 2}{b}" for a, b in zip(units, units[1:], strict=False))
    return f"{rates} convert {amounts}"


def _conversion_step(prompt: str, lines: Sequence[str]) -> str | None:
    rates, amounts = (text.split() for text in prompt.split(" convert "))
    if len(lines) == len(rates):
        return None
    value = _last_number(lines[-1]) if lines else int(amounts[0][0])
    factor, unit = rates[len(lines)][2], rates[len(lines)][3]  # as in "a=3b"
    more = amounts[len(lines) + 1][0]
    return f"{unit}{value:02}*{factor}+{more}={(value * int(factor) + int(more)) % 100:02}"


def _retrieval(rng: random.Random, level: int, lines: int | None = None) -> str:
    total = level + 12 if lines is None else lines
    keys = _draw(rng, _KEYS, total)
    ask, pairs, length = keys[0], list[str](), level
    while keys:  # chains: the one asked for, then others of random lengths, which end in numbers too
        chain, keys = keys[:length], keys[length:]
        targets = [*chain[1:], f"{_below(rng, 100):02}"]
        pairs += [f"{key}={target}" for key, target in zip(chain, targets, strict=True)]
        length = 1 + _below(rng, 3)
    return "\n".join([*_draw(rng, pairs, total), f"find {ask}"])


def _retrieval_step(prompt: str, lines: Sequence[str]) -> str | None:
    *pairs, question = prompt.split("\n")
    target = lines[-1].split("=")[1] if lines else question.removeprefix("find ")
    if target.isdigit():
        return None
    return f"{target}={dict(pair.split('=') for pair in pairs)[target]}"


def _translation(rng: random.Random, level: int, pairs: Sequence[tuple[str, str]]) -> str:
    source, target = pairs[_below(rng, len(pairs))]
    least = 10 ** (level - 1) if level > 1 else 0
    number = least + _below(rng, 10**level - least)
    said = str(number) if source == DIGITS else numbers.words(source, number)
    return f"translate {source} {target} {said}"


def _number(prompt: str) -> int:
    _, source, _, said = prompt.split(" ", 3)
    return int(said) if source == DIGITS else numbers.number_of(source, said)


def _translation_step(prompt: str, lines: Sequence[str]) -> str | None:
    _, source, target, _ = prompt.split(" ", 3)
    number = _number(prompt)
    heard = [] if source == DIGITS else numbers.parts(source, number)
    if len(lines) < len(heard):  # what each part of the words means
        return f"{heard[len(lines)]}={numbers.values(number)[len(lines)]}"
    if target == DIGITS:
        return None
    if heard:  # from here on the number is what the lines say
        number = sum(_last_number(line) for line in lines[: len(heard)])
    done, parts = len(lines) - len(heard), numbers.values(number)
    if done == len(parts):
        return None
    return f"{parts[done]}={numbers.parts(target, number)[done]}"


def _split(family: str, prompt: str) -> str:
    return split_of_number(_number(prompt)) if family == "translation" else split_of(prompt)


def _answer(family: str, prompt: str, lines: Sequence[str]) -> str:
    """What the finished steps say."""
    if family == "translation":
        _, source, target, _ = prompt.split(" ", 3)
        heard = 0 if source == DIGITS else len(numbers.values(_number(prompt)))
        if target == DIGITS:
            return str(sum(map(_last_number, lines)))
        return "".join(line.split("=")[1] for line in lines[heard:])
    if family != "counting":
        return lines[-1][-2:]
    counts = Counter(line[2] for line in lines)
    return " ".join(f"{kind}{counts[kind]}" for kind in prompt.split(" count ")[1].split())


def _last_number(line: str) -> int:
    return int(line.split("=")[1])


_PROMPTS: dict[str, Callable[[random.Random, int], str]] = {
    "arithmetic": _arithmetic,
    "counting": _counting,
    "conversion": _conversion,
    "retrieval": _retrieval,
}
_STEPS: dict[str, Callable[[str, Sequence[str]], str | None]] = {
    "arithmetic": _arithmetic_step,
    "counting": _counting_step,
    "conversion": _conversion_step,
    "retrieval": _retrieval_step,
    "translation": _translation_step,
}
