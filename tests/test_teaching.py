"""TEACHING.md says what is true: its tables are those of the course, its answers are computed again."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from qwen3_ref import Tokenizer, encode_chat, numpy_ref, rope
from qwen3_ref.config import Qwen3Config
from qwen3_ref.course.students import exercises, notebooks
from qwen3_ref.decode.sampling import Sampling, probabilities
from qwen3_ref.facts import about
from qwen3_ref.measure.statistics import STUDENT, wilson
from tests.teaching import ROOT, TEACHING, expected, made, minutes

TEXT = TEACHING.read_text(encoding="utf-8")


def test_tables_are_those_of_the_course() -> None:
    assert made(TEXT) == TEXT, "run `python -m tests.teaching`"


def test_every_exercise_has_its_expected_wrong_answers() -> None:
    for path in notebooks():
        for e in exercises(path):
            found = expected(path.stem[3:], e.check)
            assert len(found) >= 2 and all(len(remark) >= 4 for remark in found), (path.name, e.check)


def test_minutes_are_read() -> None:
    assert minutes(ROOT / "notebooks" / "13_pretraining.ipynb") == ("40", "60")
    assert minutes(ROOT / "notebooks" / "06_mixture_of_experts.ipynb") == ("55", "45")


def test_the_plans_name_lessons_that_there_are() -> None:
    there = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    plans = TEXT[TEXT.index("## Six weeks") : TEXT.index("## Before the first day")]
    rows = [line for line in plans.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 6 + 12
    cells = [cell for row in rows for cell in row.split("|")[2:] if "exam" not in cell]
    named = set(re.findall(r"\b([0-2]\d)\b", " ".join(cells)))
    assert named - {"21"} <= there and {f"{n:02}" for n in range(21)} <= named


# -- the exam -------------------------------------------------------------------------------------

SMALL, EIGHT = Qwen3Config.named("Qwen3-0.6B"), Qwen3Config.named("Qwen3-8B")


def joined() -> int:
    text = list("aaaaaaa")
    for pair in (("a", "a"), ("aa", "aa")):
        new, i = [], 0
        while i < len(text):
            both = tuple(text[i : i + 2]) == pair
            new.append("".join(text[i : i + 2]) if both else text[i])
            i += 2 if both else 1
        text = new
    return len(text)


def norm() -> str:
    x = numpy_ref.rms_norm(np.array([3.0, 4.0, 0.0, 0.0]), np.ones(4), 0.0)
    assert np.allclose(x, numpy_ref.rms_norm(np.array([30.0, 40.0, 0.0, 0.0]), np.ones(4), 0.0))
    return f"({', '.join(f'{v:g}' for v in x.round(6))})"


def turned(query: int, key: int) -> str:
    q, k = (np.array([math.cos(0.5 * p), math.sin(0.5 * p)]) for p in (query, key))
    return f"{q @ k:.3f}"


def idle_pairs() -> int:
    waves = 2 * math.pi / rope.default_frequencies(128, 1e6)
    slow = np.flatnonzero(np.asarray(waves) > 32_768)
    assert slow[0] == 40
    return len(slow)


def order_of_norm() -> float:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(1, 1, 9, 128))
    tables = rope.cos_sin(np.arange(9)[None], np.asarray(rope.default_frequencies(128, 1e6)))
    cos, sin = (np.asarray(t) for t in tables[:2])

    def difference(gain: np.ndarray) -> float:  # type: ignore[type-arg]
        first = numpy_ref.rotate(numpy_ref.rms_norm(q, gain, 0.0), cos, sin)
        return float(np.abs(first - numpy_ref.rms_norm(numpy_ref.rotate(q, cos, sin), gain, 0.0)).max())

    assert difference(rng.normal(size=128)) > 0.1
    return round(difference(np.ones(128)), 9)


def kept() -> list[str]:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    p = probabilities(logits, Sampling(temperature=1.0, top_p=0.7))[0]
    assert p[2] == p[3] == 0
    return [f"{v:.3f}" for v in p[:2].tolist()]


def empty_thought() -> int:
    tokenizer = Tokenizer.official()
    messages = [{"role": "user", "content": "1"}]
    on, off = (encode_chat(tokenizer, messages, enable_thinking=mode) for mode in (True, False))
    assert off[: len(on)] == on
    assert tokenizer.decode(off[len(on) :]) == "<think>\n\n</think>\n\n"
    return len(off) - len(on)


def advantages(rewards: list[float]) -> str:
    r = np.array(rewards)
    return ", ".join(f"{v:+.0f}" for v in (r - r.mean()) / r.std())


def kl(p: tuple[float, ...], q: tuple[float, ...]) -> str:
    return f"{sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)):.3f}"


def over_seeds() -> list[str]:
    d = np.array([0.02, 0.05, 0.08])
    half = STUDENT[3] * d.std(ddof=1) / math.sqrt(3)
    return [f"{d.mean() - half:.3f}", f"{d.mean() + half:.3f}"]


def codes() -> list[str]:
    row = np.array([0.3, -0.6, 0.2])
    scale = np.abs(row).max() / 127
    return [", ".join(str(int(c)) for c in np.rint(row / scale)), f"{scale / 2:.4f}"]


def two_experts() -> list[str]:
    e = np.exp([2.0, 1.0])
    return [f"{v:.3f}" for v in e / e.sum()]


ANSWERS = {
    1: [str(joined())],
    2: [norm()],
    3: [turned(7, 4)],
    4: [str(idle_pairs())],
    5: [f"{EIGHT.kv_cache_bytes(length=32_768):,}"],
    6: [
        f"{32 / 8 * EIGHT.kv_cache_bytes(length=32_768) / 1e9:.1f}"
    ],
    7: [f"{SMALL.vocab_size * SMALL.hidden_size / SMALL.num_parameters():.0%}"],
    8: two_experts(),
    9: [f"{128 * (1 - (15 / 16) ** 16):.1f}"],
    10: [f"{2 * SMALL.num_parameters():,}"],
    11: [f"{order_of_norm():.0f}"],
    12: kept(),
    13: [f"{sum(0.8**n for n in range(5)):.2f}"],
    14: [f"{0.1 * math.log(4) + 1:.3f}"],
    15: [str(empty_thought())],
    16: [f"{100 * share:.1f}%" for share in wilson(0.9, 50)],
    17: [f"{math.log(1280):.2f}"],
    18: [f"{4 * (0.5 * 0.4 + 0.5 * 0.4):.1f}"],
    19: [advantages([1, 0, 0, 1])],
    20: [],
    21: [kl((0.5, 0.5), (0.9, 0.1)), kl((0.9, 0.1), (0.5, 0.5))],
    22: over_seeds(),
    23: codes(),
    24: [f"{100 / 20:.0f}"],
}


def test_the_exam_is_answered_as_computed() -> None:
    exam = TEXT[TEXT.index("<!-- exam -->") : TEXT.index("<!-- end -->", TEXT.index("<!-- exam -->"))]
    parts = re.split(r"^\*\*(\d+)\.\*\* ", exam, flags=re.MULTILINE)[1:]
    questions = dict(zip(map(int, parts[::2]), parts[1::2], strict=True))
    assert list(questions) == list(ANSWERS)
    for number, text in questions.items():
        question, answer = text.split("*Answer.* ")
        assert question.strip().endswith("?") and re.findall(r"\*\*(.+?)\*\*", answer) == ANSWERS[number], (
            number
        )


def test_what_the_exam_takes_for_granted() -> None:
    """Numbers that stand in questions and in the words around an answer."""
    assert (EIGHT.num_hidden_layers, EIGHT.num_key_value_heads, EIGHT.head_dim) == (36, 8, 128)
    assert EIGHT.num_attention_heads == 32 and round(EIGHT.weight_bytes() / 1e9, 1) == 16.4
    assert SMALL.num_parameters() == 596_049_920 and SMALL.vocab_size * SMALL.hidden_size == 155_582_464
    assert SMALL.tie_word_embeddings and (SMALL.vocab_size, SMALL.hidden_size) == (151_936, 1_024)
    assert turned(7, 4) == turned(1007, 1004)
    assert about()["yarn"]["factor"] == 4
    assert STUDENT[3] == pytest.approx(4.303)
