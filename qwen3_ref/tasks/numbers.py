"""Numbers from 0 to 9,999 in words of eight languages, in the parts that the words are made of.

A number has up to three parts: its thousands, its hundreds, and the rest below a hundred. The words of
a part depend on whether another stands before or after it ("cien", "ciento uno"), and begin with what
separates them from the part before (" and twenty-one"), so that the parts written one after another
are the number. The table comes from the package num2words, see `make_numbers`.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

LANGUAGES = ("en", "de", "fr", "es", "ru", "he", "ja", "ko")
"""English, German, French, Spanish, Russian, Hebrew, Japanese, Korean: five scripts."""
LARGEST = 9999
FILE = Path(__file__).resolve().parent.parent / "data" / "numbers.json"

Forms = dict[str, list[str]]
"""The words of each part by where it stands; thousands and hundreds from 1 to 9, the rest from 0 to 99."""


@functools.cache
def _tables() -> dict[str, Forms]:
    found: dict[str, Forms] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def values(number: int) -> list[int]:
    """The parts of a number that are not zero, largest first: 5021 is 5000 and 21. Zero is one part."""
    parts = [number // 1000 * 1000, number // 100 % 10 * 100, number % 100]
    return [part for part in parts if part] or [0]


def spoken(forms: Forms, number: int) -> list[str]:
    """The words of each of `values(number)`."""
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    found = []
    if thousands:
        found.append(forms["thousands before" if hundreds or rest else "thousands"][thousands - 1])
    if hundreds and thousands:
        found.append(forms["hundreds between" if rest else "hundreds after"][hundreds - 1])
    elif hundreds:
        found.append(forms["hundreds before" if rest else "hundreds"][hundreds - 1])
    if rest or not number:
        place = "rest after hundreds" if hundreds else "rest after thousands" if thousands else "rest"
        found.append(forms[place][rest])
    return found


def join(forms: Forms, number: int) -> str:
    """The whole number in words."""
    return "".join(spoken(forms, number))


def parts(language: str, number: int) -> list[str]:
    """The words of each of `values(number)` in a language.

    Raises LookupError for an unknown language, ValueError for a number that is not 0 to 9,999.
    """
    if not 0 <= number <= LARGEST:
        raise ValueError(f"the number is {number}; it must be 0 to {LARGEST:,}.")
    return spoken(_tables()[language], number)


def words(language: str, number: int) -> str:
    """A number in words. Raises as `parts` does."""
    return "".join(parts(language, number))


@functools.cache
def _numbers(language: str) -> dict[str, int]:
    return {words(language, number): number for number in range(LARGEST + 1)}


def number_of(language: str, text: str) -> int:
    """The number that words stand for. Raises LookupError for an unknown language or other words."""
    return _numbers(language)[text]
