"""Problems written out as documents, for pre-training and for pictures of what a model knows."""

from __future__ import annotations

import random

from qwen3_ref.tasks import numbers
from qwen3_ref.tasks.problems import DIGITS, Problem, split_of_number


def maths_documents(size: int) -> list[str]:
    """Generated mathematics, `size` characters, eight lines or questions a document: most are the
    single steps that problems are made of (sums, differences, products, look-ups, number words)."""
    rng = random.Random("maths")  # hashed by SHA-512: the same everywhere

    def below(n: int) -> int:
        return int(rng.random() * n)

    def line(kind: int) -> str:
        a, b = below(100), below(100)
        if kind < 5:
            return f"{a:02}+{b:02}={(a + b) % 100:02}"
        if kind < 10:
            return f"{a:02}-{b:02}={(a - b) % 100:02}"
        if kind < 13:
            factor, more = below(3) + 2, below(10)
            return f"{a:02}*{factor}+{more}={(a * factor + more) % 100:02}"
        if kind == 13:
            return f"{a} {'<' if a < b else '>' if a > b else '='} {b}"
        numbers = [below(100) for _ in range(5)]
        return f"sort {' '.join(map(str, numbers))}: {' '.join(map(str, sorted(numbers)))}"

    documents: list[str] = []
    while size > 0:
        kind = below(25)
        if kind < 15:
            documents.append("\n".join(line(kind) for _ in range(8)))
        elif kind < 20:
            documents.append(look_up_document(rng, 2 + int(rng.random() ** 2 * 15), 8))
        else:
            documents.append(word_document(rng, 5))
        size -= len(documents[-1])
    return documents


def look_up_document(rng: random.Random, lines: int, questions: int) -> str:
    """A list of lines key=number or, as often, key=other key, and as many questions about it, each
    followed up to a number: half of them need one step, a quarter two, and so on."""
    keys = [f"{letter}{digit}" for letter in "abcdefghijklmnopqrstuvwxyz" for digit in range(10)]
    followed: list[list[str]] = []  # for each key the lines from it to its number
    for _ in range(lines):
        key = keys.pop(int(rng.random() * len(keys)))
        if followed and rng.random() < 0.5:
            rest = followed[int(rng.random() * len(followed))]
            followed.append([f"{key}={rest[0][:2]}", *rest])
        else:
            followed.append([f"{key}={int(rng.random() * 100):02}"])
    order = sorted(range(lines), key=lambda _: rng.random())
    asked = [followed[int(rng.random() * lines)] for _ in range(questions)]
    text = [f"find {steps[0][:2]}\n" + "\n".join(steps) + f"\nanswer {steps[-1][3:]}" for steps in asked]
    return "\n".join([*(followed[i][0] for i in order), *text])


def word_document(rng: random.Random, count: int) -> str:
    """What the parts of `count` numbers mean in one language, or how it says them: steps of translations
    from or into digits. No number of the test or validation split is among them."""
    language = numbers.LANGUAGES[int(rng.random() * len(numbers.LANGUAGES))]
    hears = rng.random() < 0.5
    lines = [f"translate {language} {DIGITS}" if hears else f"translate {DIGITS} {language}"]
    while count:
        number = int(rng.random() * 10 ** (1 + int(rng.random() * 4)))
        if split_of_number(number) == "train":
            count -= 1
            said = zip(numbers.parts(language, number), numbers.values(number), strict=True)
            lines += [f"{part}={value}" if hears else f"{value}={part}" for part, value in said]
    return "\n".join(lines)


def solved(problem: Problem) -> str:
    """A solved problem as a pre-training document."""
    return f"{problem.prompt}\n{problem.trace}\nanswer {problem.answer}"
