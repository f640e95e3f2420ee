"""What the training loop shows and tells on its way, and how text is gathered: by hand, to the letter."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_ref.model import Qwen3
from qwen3_ref.tasks import numbers
from qwen3_ref.tasks.problems import split_of_number
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import corpus as text
from qwen3_ref.train import loop
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.state import saved_step
from tests.helpers import hard_model


class Bar:
    """Notes what is shown instead of showing it."""

    def __init__(self) -> None:
        self.shown: list[tuple[Any, ...]] = []

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.shown.append(("closed",))

    def add_task(self, name: str, **fields: Any) -> str:
        self.shown.append((name, fields))
        return "the task"

    def update(self, task: str, **fields: Any) -> None:
        self.shown.append((task, fields))


def falling(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
    return 0.0 * model.model.norm.weight.sum() + 3.0 - step, {}


def test_what_the_bar_and_the_log_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A clock that goes on half a second each time it is read: at the start, twice in each step, and once
    after a save. Of 20 steps the first and every second one are told, after a resume its first too."""
    bar = Bar()
    clock = itertools.count()
    monkeypatch.setattr(loop, "progress_bar", lambda: bar)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 2)
    plan = Plan(steps=20, learning_rate=1e-3, save_every=100, log_every=7)
    with caplog.at_level(logging.INFO, logger=loop.__name__):
        train(hard_model(), plan, falling, tmp_path / "s1", stop_at=3)
        train(hard_model(), plan, falling, tmp_path / "s1", stop_at=5)
    assert bar.shown == [
        ("s1", {"total": 20, "completed": 0, "note": ""}),
        ("the task", {"completed": 1, "note": "loss 3.000, 2.0 steps/s"}),  # 1 in 0.5 s
        ("the task", {"completed": 2, "note": "loss 2.000, 1.3 steps/s"}),  # 2 in 1.5 s
        ("the task", {"completed": 3, "note": "loss 1.000, 1.2 steps/s"}),
        ("closed",),
        ("s1", {"total": 20, "completed": 3, "note": ""}),
        ("the task", {"completed": 4, "note": "loss 0.000, 2.0 steps/s"}),
        ("the task", {"completed": 5, "note": "loss -1.000, 1.3 steps/s"}),
        ("closed",),
    ]
    assert caplog.messages == [
        "s1: step 1 of 20, loss 3.000, 2.0 steps/s, 0:00:10 left",  # 19 at 2 a second
        "s1: step 2 of 20, loss 2.000, 1.3 steps/s, 0:00:14 left",
        "s1: step 4 of 20, loss 0.000, 2.0 steps/s, 0:00:08 left",
    ]
    lines = (tmp_path / "s1/log.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[:3] for line in lines] == [
        ["step", "loss", "rate"], ["3", "1", "6e-05"], ["5", "-1", "0.0001"]
    ]  # fmt: skip


def test_half_a_minute_is_the_most_that_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of ten seconds: more than 30 go by before a save, which is only between what belongs together."""
    saved: list[int] = []
    clock = itertools.count()
    real = loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda *given: (saved.append(given[2]), real(*given)))
    monkeypatch.setattr(time, "monotonic", lambda: 5.0 * next(clock))  # read twice a step
    train(hard_model(), Plan(steps=12, learning_rate=1e-3, save_every=100), falling, tmp_path / "1")
    # 4: at 40 s (the clock then says 45); 8: at 85 s; and the end
    assert saved == [4, 8, 12] and saved_step(tmp_path / "1") == 12
    saved.clear()
    clock = itertools.count()
    plan = Plan(steps=12, learning_rate=1e-3, save_every=100, together=3)
    monkeypatch.setattr(time, "monotonic", lambda: 20.0 * next(clock))
    train(hard_model(), plan, falling, tmp_path / "3")
    assert saved == [3, 6, 9, 12]


# -- text ----------------------------------------------------------------------------------------------


def lines_of(name: str, count: int) -> str:
    return "".join(f"{name}_{i} = {i}\n" for i in range(count))


FIRST = "This is a sentence that is more than long enough to be taken for a paragraph of prose."
SECOND = "Another one that is just as long, with a comma in it, and that ends as it should, too."


def test_text_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in the order of their hashed names; no tests, nothing huge, no short file, each paragraph once,
    and no more code than there is room for."""
    files = {
        "one/__init__.py": "",
        "one/a.py": f'"""{FIRST}\n\nToo short.\n\n{SECOND}"""\n' + lines_of("a", 40),
        "one/b.py": f'"""{FIRST}\n\n  {SECOND[:40]}\n    {SECOND[40:]}\n\n>>> {FIRST}"""\n' + "x = 1\n" * 33,
        "one/sub/tests/c.py": f'"""{FIRST[:-1]} and on."""\n' + lines_of("c", 40),
        "two/__init__.py": lines_of("d", 100),
        "two/edge.py": "y = 1\n" * 34,
        "two/big.py": f'"""Too big. {FIRST}{" " * 199_999}"""\n',
        "two/near.py": f'"""Nearly. {FIRST}"""'.ljust(199_998) + "\n",
    }
    for name, source in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    monkeypatch.setattr(text, "PACKAGES", ("two", "one"))
    monkeypatch.setattr(text, "_MEGABYTE", 500)
    origins = {
        name: ModuleSpec(name, None, origin=str(tmp_path / name / "__init__.py")) for name in ("one", "two")
    }
    monkeypatch.setattr(text, "find_spec", origins.get)
    order = sorted(files, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    prose = {
        "two/near.py": f"Nearly. {FIRST}",
        min("one/a.py", "one/b.py", key=order.index): f"{FIRST}\n\n{SECOND}",
    }
    code, room = list[str](), 1000
    for name in order:
        bare = files[name].split('"""')[-1].strip()
        if len(bare) > 200 and "/tests/" not in name and room > 0:
            code.append(bare[:room])
            room -= len(bare)
    assert text._installed() == {"code": code, "language": [prose[name] for name in order if name in prose]}
    assert len(code) >= 2 and room <= 0, "the example fills the room"
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(
        TrainingError, match="the package two, which comes with PyTorch, is missing; pip install two"
    ):
        text._installed()


@pytest.mark.parametrize(
    ("paragraph", "taken"),
    [("A" + "b" * 59 + ".", True), ("A" + "b" * 58 + ".", False), ("a" + "b" * 70 + ".", False)]
    + [("A" + "b" * 70, False)] + [(f"A{'b' * 40}{sign}{'c' * 40}.", False) for sign in ">`|_\\{}*=<[]"],
)  # fmt: skip
def test_what_is_prose(paragraph: str, taken: bool) -> None:
    assert list(text._paragraphs([paragraph])) == [paragraph] * taken


def test_how_much_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(text, "_installed", lambda: {"code": [], "language": []})
    for name in ("maths_documents", "reasoning_documents"):
        monkeypatch.setattr(text, name, lambda n, name=name: asked.append((name, n)) or [])
    with pytest.warns(UserWarning, match="the code and language and maths and reasoning text here is not"):
        text.gather(allow_other_text=True)
    assert asked == [("maths_documents", 5_000_000), ("reasoning_documents", 8000)]
    assert text.digest(["a", "bc"]) == hashlib.sha256(b"a\0bc\0").hexdigest()
    kept = [text.held_out(str(i)) for i in range(4000)]
    assert kept == [hashlib.sha256(str(i).encode()).digest()[0] % 20 == 0 for i in range(4000)]


def test_what_the_tokenizer_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 kB of each domain, cut within a document; then number words, those of test numbers not among
    them; then the template's words, without its marks."""
    given: list[Any] = []
    monkeypatch.setattr(Tokenizer, "train", lambda texts, size: given.append((list(texts), size)))
    corpus = {domain: [f"{domain[0]}" * 150_000, "b" * 60_000, "never"] for domain in text.DOMAINS}
    text.train_tokenizer(corpus | {"maths": ["m" * 200_000, "never"], "reasoning": ["few"]})
    ((sample, size),) = given
    assert size == 1280
    assert [(t[0], len(t)) for t in sample[:6]] == [
        ("c", 150_000), ("b", 50_000), ("l", 150_000), ("b", 50_000), ("m", 200_000), ("f", 3)
    ]  # fmt: skip
    said = [n for n in range(0, 10_000, 25) if split_of_number(n) == "train"]
    spoken = [f"{numbers.words(language, n)}\n" for n in said for language in numbers.LANGUAGES]
    words = sample[6 + len(spoken) :]
    assert sample[6 : 6 + len(spoken)] == spoken and 300 < len(said) < 370
    assert len(words) % 200 == 0 and words[: len(words) // 200] * 200 == words and words[-1] == "\n\n"
    once = "".join(words[: len(words) // 200])
    assert "1 /think /no_think" in once and '"name": "calculator"' in once and "user\n" in once
    assert "<" not in once.replace("<function-name>", "").replace("<args-json-object>", "")


def test_the_mix_of_retrieval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its problems are of the usual length, and an eighth of each of four longer ones."""
    asked: list[tuple[Any, ...]] = []

    def noted(use: str, family: str, count: int, run_seed: int, **options: Any) -> Any:
        asked.append((family, count, options))
        assert use == "pre-training" and run_seed == 0, "the same text in every run"
        return []

    monkeypatch.setattr(text, "problems", noted)
    assert text.reasoning_documents(84) == []
    assert asked == [
        ("arithmetic", 84, {}), ("counting", 84, {}), ("conversion", 84, {}), ("retrieval", 44, {}),
        *(("retrieval", 10, {"lines": n}) for n in (20, 28, 36, 44)), ("translation", 84, {}),
    ]  # fmt: skip


def test_targets_that_are_ignored_do_not_count() -> None:
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    half = torch.tensor([[1, loop.IGNORE, 3, loop.IGNORE]])
    want = -(logits.log_softmax(-1)[0, [0, 2], [1, 3]]).mean()
    torch.testing.assert_close(loop.cross_entropy(logits, half), want)
