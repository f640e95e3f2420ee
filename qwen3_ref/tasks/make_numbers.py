"""Make `data/numbers.json`, the number words of the translation family, from the package num2words.

`python -m qwen3_ref.tasks.make_numbers` writes the file. num2words is a development dependency: who
learns or asks needs the file alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.numbers import FILE, LANGUAGES, Forms, join


def common(words: list[str]) -> str:
    """What all words begin with, without a separator at its end."""
    return os.path.commonprefix(words).rstrip(" ,-")


def forms(words: list[str]) -> Forms:
    """The parts that the words of 0 to 9,999 are made of, each as it stands alone, or before or after
    another. A part begins with what separates it from the one before.

    Raises ValueError for a language whose words are not made of such parts.
    """

    def heads(step: int) -> list[str]:
        """The thousands' or hundreds' parts as they stand before others: "ciento" where alone it is
        "cien". That of 3 is what all its numbers begin with; the others leave what that one leaves."""
        longer = [words[3 * step + more] for more in range(1, step)]
        alone = words[3 * step]
        third = alone if all(word.startswith(alone) for word in longer) else common(longer)
        tail = words[3 * step + 21].removeprefix(third)
        return [words[n * step + 21].removesuffix(tail) for n in range(1, 10)]

    thousands, hundreds = heads(1000), heads(100)
    first, second = len(thousands[2]), len(hundreds[2])
    tail = words[321][second:]
    found: Forms = {
        "thousands": [words[1000 * n] for n in range(1, 10)],
        "thousands before": thousands,
        "hundreds": [words[100 * n] for n in range(1, 10)],
        "hundreds before": hundreds,
        "hundreds after": [words[3000 + 100 * n][first:] for n in range(1, 10)],
        "hundreds between": [words[3021 + 100 * n][first:].removesuffix(tail) for n in range(1, 10)],
        "rest": words[:100],
        "rest after thousands": ["", *(words[3000 + n][first:] for n in range(1, 100))],
        "rest after hundreds": ["", *(words[300 + n][second:] for n in range(1, 100))],
    }
    wrong = [n for n in range(10_000) if join(found, n) != words[n]]
    if wrong:
        raise ValueError(f"the parts give {join(found, wrong[0])!r} for {words[wrong[0]]!r}.")
    return found


def written(tables: Mapping[str, Forms]) -> str:
    """The file's text: JSON, one list a line."""
    blocks = []
    for code, found in tables.items():
        lines = [f'  "{where}": {json.dumps(words, ensure_ascii=False)}' for where, words in found.items()]
        blocks.append(f' "{code}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main() -> int:
    """Write the file."""
    from num2words import num2words

    tables = {code: forms([num2words(n, lang=code) for n in range(10_000)]) for code in LANGUAGES}
    write_atomically(FILE, written(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
