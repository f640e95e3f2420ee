"""The fifth family: numbers in words, judged by num2words; pairs that training never sees; one number,
one split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from num2words import num2words

from qwen3_ref.tasks import make_numbers, numbers
from qwen3_ref.tasks.documents import maths_documents
from qwen3_ref.tasks.problems import (
    DIFFICULTIES,
    DIGITS,
    HELD_OUT_PAIRS,
    PAIRS,
    SPLITS,
    UNPAIRED,
    Problem,
    make_problems,
    next_line,
    right_steps,
    solve,
    split_of_number,
)
from qwen3_ref.train.corpus import reasoning_documents

# Written down by hand, not taken from a program.
HAND = {
    "en": {0: "zero", 80: "eighty", 101: "one hundred and one", 2300: "two thousand, three hundred"},
    "de": {1: "eins", 17: "siebzehn", 56: "sechsundfünfzig", 2025: "zweitausendfünfundzwanzig"},
    "fr": {71: "soixante et onze", 80: "quatre-vingts", 99: "quatre-vingt-dix-neuf", 1000: "mille"},
    "es": {22: "veintidós", 100: "cien", 105: "ciento cinco", 500: "quinientos", 9000: "nueve mil"},
    "ru": {40: "сорок", 90: "девяносто", 200: "двести", 2000: "две тысячи", 5001: "пять тысяч один"},
    "he": {2: "שתיים", 10: "עשר", 21: "עשרים ואחת", 200: "מאתיים", 2000: "אלפיים", 3000: "שלושת אלפים"},
    "ja": {0: "零", 10: "十", 21: "二十一", 100: "百", 365: "三百六十五", 9999: "九千九百九十九"},
    "ko": {0: "영", 10: "십", 21: "이십일", 100: "백", 365: "삼백육십오", 9999: "구천구백구십구"},
}


@pytest.mark.parametrize("language", numbers.LANGUAGES)
def test_every_number_is_what_num2words_says(language: str) -> None:
    """All 10,000, and the file is what the command makes."""
    words = [num2words(n, lang=language) for n in range(10_000)]
    assert [numbers.words(language, n) for n in range(10_000)] == words
    assert [numbers.number_of(language, word) for word in words] == list(range(10_000))
    assert make_numbers.forms(words) == numbers._tables()[language]


def test_the_command_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_numbers, "LANGUAGES", ("ko",))
    monkeypatch.setattr(make_numbers, "FILE", tmp_path / "numbers.json")
    assert make_numbers.main() == 0
    assert json.loads((tmp_path / "numbers.json").read_text("utf-8")) == {"ko": numbers._tables()["ko"]}


def test_the_file_has_one_list_a_line() -> None:
    """So that a difference shows which words have changed."""
    tables = numbers._tables()
    text = numbers.FILE.read_text(encoding="utf-8")
    assert text == make_numbers.written(tables) and json.loads(text) == tables
    assert len(text.splitlines()) == 2 + sum(2 + len(forms) for forms in tables.values())


def test_numbers_by_hand() -> None:
    assert set(HAND) == set(numbers.LANGUAGES)
    for language, table in HAND.items():
        assert {n: numbers.words(language, n) for n in table} == table


def test_a_number_is_its_parts() -> None:
    assert {n: numbers.values(n) for n in (0, 5021, 9900)} == {0: [0], 5021: [5000, 21], 9900: [9000, 900]}
    assert numbers.parts("en", 5021) == ["five thousand", " and twenty-one"]
    assert numbers.parts("es", 1101) == ["mil", " ciento", " uno"]
    assert numbers.parts("es", 1100) == ["mil", " cien"]
    for wrong in (-1, 10_000):
        with pytest.raises(ValueError, match=f"the number is {wrong}; it must be 0 to 9,999"):
            numbers.parts("en", wrong)
    with pytest.raises(LookupError):
        numbers.number_of("en", "one hundred one")


def test_words_that_are_not_made_of_parts_are_refused() -> None:
    words = [num2words(n, lang="en") for n in range(10_000)]
    words[4321] = "a lot"
    with pytest.raises(ValueError, match="for 'a lot'"):
        make_numbers.forms(words)


@pytest.mark.parametrize(
    ("prompt", "trace", "answer"),
    [
        ("translate digits de 7", "7=sieben", "sieben"),
        ("translate de digits sechsundfünfzig", "sechsundfünfzig=56", "56"),
        ("translate fr digits zéro", "zéro=0", "0"),
        (
            "translate es en ciento uno",
            "ciento=100\n uno=1\n100=one hundred\n1= and one",
            "one hundred and one",
        ),
        ("translate en es one hundred", "one hundred=100\n100=cien", "cien"),
        (
            "translate de ru fünftausendeinundzwanzig",
            "fünftausend=5000\neinundzwanzig=21\n5000=пять тысяч\n21= двадцать один",
            "пять тысяч двадцать один",
        ),
    ],
)
def test_translations_by_hand(prompt: str, trace: str, answer: str) -> None:
    found = solve("translation", 1, prompt)
    assert (found.trace, found.answer) == (trace, answer)


def test_a_longer_number_takes_more_steps() -> None:
    """On the average of each difficulty; digits into words need half of the steps of words into words."""
    assert DIFFICULTIES["translation"] == (1, 2, 3, 4)
    steps = []
    for level in (1, 3, 4):
        problems = make_problems("translation", "train", 200, level)
        lengths = [p.trace.count("\n") + 1 for p in problems if DIGITS not in p.prompt]
        steps.append(sum(lengths) / len(lengths))
        assert {len(str(_number(p))) for p in problems} == {level}
    assert steps[0] == 2 and steps[0] + 1 < steps[1] < steps[2] - 1


def _number(problem: Problem) -> int:
    _, source, _, said = problem.prompt.split(" ", 3)
    return int(said) if source == DIGITS else numbers.number_of(source, said)


def test_lines_are_taken_at_their_word() -> None:
    """A misread part is one slip; what follows from it is right."""
    problem = solve("translation", 2, "translate de fr einundzwanzig")
    assert right_steps(problem, "einundzwanzig=22\n22=vingt-deux") == [False, True]
    assert right_steps(problem, "einundzwanzig=21\n21=vingt-deux") == [True, False]
    assert right_steps(problem, "einundzwanzig=21\n21=vingt et un\n21=vingt et un") == [True, True, False]
    assert right_steps(problem, "21=vingt et un") == [False]
    with pytest.raises(ValueError, match="no step follows"):
        next_line("translation", problem.prompt, ["einundzwanzig=viel"])
    with pytest.raises(ValueError, match="no step follows"):
        next_line("translation", "translate de fr einundelfzig", [])


def test_a_number_has_one_split() -> None:
    """A test number is new in every pair, also in the documents of pre-training."""
    found = {s: {_number(p) for p in make_problems("translation", s, 400)} for s in SPLITS}
    assert not found["train"] & found["test"] and not found["train"] & found["validation"]
    assert not found["test"] & found["validation"]
    for split in SPLITS:
        assert all(split_of_number(n) == split for n in found[split])
        assert any(n < 10 for n in found[split]), f"{split} has no number of one digit"


def test_documents_say_train_numbers_alone() -> None:
    """Parts that follow others begin with a space or a comma, where the language has any."""
    found: list[int] = []
    for document in maths_documents(100_000):
        head, *lines = document.split("\n")
        if head.startswith("translate ") and not {*head.split()} & {"de", "ja", "ko"}:
            for line in lines:
                value, part = sorted(line.split("="), key=lambda side: not side.isdecimal())
                if part[0] in " ,":
                    found[-1] += int(value)
                else:
                    found.append(int(value))
    assert len(found) > 300 and {split_of_number(number) for number in found} == {"train"}


def test_held_out_pairs_are_never_drawn_in_training() -> None:
    assert len(numbers.LANGUAGES) >= 8 and len(PAIRS) + len(HELD_OUT_PAIRS) == 9 * 8
    assert sorted(code for pair in UNPAIRED for code in pair) == sorted(numbers.LANGUAGES)
    assert set(HELD_OUT_PAIRS) == set(UNPAIRED) | {(b, a) for a, b in UNPAIRED}
    for split in SPLITS:
        drawn = {tuple(p.prompt.split(" ")[1:3]) for p in make_problems("translation", split, 600)}
        assert drawn == set(PAIRS) and not drawn & set(HELD_OUT_PAIRS)
    documents = [d for d in reasoning_documents(200) if d.startswith("translate ")]
    assert len(documents) == 200
    assert not {tuple(d.split(" ")[1:3]) for d in documents} & set(HELD_OUT_PAIRS)
    asked = make_problems("translation", "test", 60, pairs=HELD_OUT_PAIRS)
    assert {tuple(p.prompt.split(" ")[1:3]) for p in asked} == set(HELD_OUT_PAIRS)
    with pytest.raises(ValueError, match="pairs is .*'xx'.*; they must be of digits, en, de"):
        make_problems("translation", "test", 1, pairs=[("en", "xx")])


def test_a_difficulty_without_problems_is_passed_over() -> None:
    """There are not many numbers of one digit; the others go on without them."""
    try:
        problems = make_problems("translation", "validation", 400)
    except ValueError as error:
        pytest.fail(str(error))
    by_level = [sum(p.difficulty == level for p in problems) for level in (1, 2, 3, 4)]
    assert by_level[0] == len(PAIRS) < by_level[1] <= by_level[2] and sum(by_level) == 400
    with pytest.raises(ValueError, match="no more than about 64 validation problems of difficulty 1"):
        make_problems("translation", "validation", 65, 1)
