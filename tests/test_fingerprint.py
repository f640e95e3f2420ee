"""Fingerprints tell apart whatever differs; names lead to what is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref import facts
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.store.checkpoint import open_checkpoint
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.store.shipped import NANO, directory_of, find_nano
from qwen3_ref.tokenizer import Tokenizer


@dataclass
class Settings:
    rate: float = 0.5


@dataclass
class Others:
    rate: float = 0.5


X = np.arange(6, dtype=np.float32).reshape(2, 3)
DIFFERENT: list[Any] = [
    1, 1.0, True, "1", b"1", [1], None, "None", [None], {}, [], "", 0, False, -0.0, 0.0, float("inf"),
    {"a": 1}, {"a": 2}, {"b": 1}, {1: 1}, {"a": {"a": 1}}, ["a", 1], ["ab", "c"], ["a", "bc"], ["abc"],
    [["a"], "b"], [["a", "b"]], [[1, 2], [3]], [[1], [2, 3]], Settings(), Others(), Settings(0.25),
    {"rate": 0.5}, X, X.T, X.reshape(3, 2), X.ravel(), X[::-1], X.astype("f8"), X.view("i4"),
    X.astype("f2"), [*X], X + np.float32(1e-7), {"w": X}, {"v": X}, {"w": X, "v": X}, np.zeros(0),
    torch.zeros(2).bfloat16(), torch.zeros(2).half(), np.float32(1), np.array([np.nan]),
    np.zeros((0, 2)), np.array([0.0, -0.0]),
]  # fmt: skip


def test_different_things_have_different_fingerprints() -> None:
    prints = [fingerprint(thing) for thing in DIFFERENT]
    assert len(set(prints)) == len(prints)
    assert fingerprint("a", "b") != fingerprint("b", "a") != fingerprint("ba") != fingerprint(["b", "a"])
    assert fingerprint() != fingerprint(None)


def test_equal_things_have_one() -> None:
    """Whatever library holds them, however they lie in memory, in whichever order a mapping was filled."""
    same = fingerprint(X)
    assert fingerprint(torch.from_numpy(X)) == same
    assert fingerprint(np.asfortranarray(X)) == fingerprint(X.astype(">f4")) == same
    assert fingerprint(torch.from_numpy(X).T) == fingerprint(X.T)
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": (2,), "a": 1})
    assert fingerprint(Settings()) == fingerprint(Settings(0.5))
    # by hand: the kinds, the lengths and the contents
    words = b"list 2:" + b"text 2:" + "é".encode() + b"whole 2:-7"
    assert fingerprint("é", -7) == hashlib.sha256(words).hexdigest()
    assert fingerprint(np.uint8([7])) == hashlib.sha256(b"list 1:array uint8 1 1:\x07").hexdigest()


def test_reordered_weights_differ() -> None:
    model = Qwen3.from_pretrained("qwen3-nano")
    before = fingerprint(model.state_dict())
    with torch.no_grad():
        weight = model.model.layers[0].mlp.down_proj.weight
        weight.copy_(weight.flip(0))  # every sum stays as it was
    assert fingerprint(model.state_dict()) != before


def test_what_cannot_be_hashed_is_refused() -> None:
    for thing in (object(), {1, 2}, Settings, np.array([object()]), [lambda: 0]):
        with pytest.raises(TypeError, match="has no fingerprint"):
            fingerprint(thing)


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("qwen3-8b", "Qwen3-8B"),
        ("QWEN/QWEN3-8B", "Qwen3-8B"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "Qwen3-8B"),
        ("HTTPS://HuggingFace.co/qwen/qwen3-8b/tree/main?x=1", "Qwen3-8B"),
        ("hf.co/Qwen/Qwen3-0.6B#files", "Qwen3-0.6B"),
        ("https://modelscope.cn/models/Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("unsloth/Qwen3-4B", "Qwen3-4B"),
        ("Qwen3 8B", "Qwen3-8B"),
        ("8B", "Qwen3-8B"),
        ("nano", "qwen3-nano"),
        ("NANO-MOE", "qwen3-nano-moe"),
        ("Qwen3-Nano", "qwen3-nano"),
        ("Qwen/qwen3-nano-base", "qwen3-nano-base"),
        ("https://huggingface.co/Qwen/qwen3-nano-student", "qwen3-nano-student"),
    ],
)
def test_a_name_in_another_spelling_means_one(wrong: str, right: str) -> None:
    assert facts.suggestion(wrong) == f"did you mean {right}"


@pytest.mark.parametrize("right", facts.known_names())
def test_a_slip_of_the_finger_leads_to_the_name(right: str) -> None:
    """Each letter left out or doubled; now and then that is another name."""
    for i in range(6, len(right)):
        for wrong in (right[:i] + right[i + 1 :], right[: i + 1] + right[i:]):
            hint = facts.suggestion(wrong.upper())
            assert hint.startswith("did you mean ")
            assert right in hint or wrong.upper() in map(str.upper, facts.known_names()), (wrong, hint)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("nanos", "did you mean qwen3-nano, qwen3-nano-base"),
        ("thinking", "did you mean Qwen3-4B-Thinking-2507"),
        ("qwen-72b", "did you mean Qwen3-32B, Qwen3-1.7B, Qwen3-8B"),
    ],
)
def test_a_name_half_alike_is_enough(wrong: str, hint: str) -> None:
    assert facts.suggestion(wrong) == hint


@pytest.mark.parametrize("path", ["./qwen3-nan", "/qwen3-nan", "~/qwen3-nan", "a/b/qwen3-nan", ""])
def test_a_path_is_no_name(path: str) -> None:
    assert facts.way_out(path, "look again") == "look again"


@pytest.mark.parametrize("name", ["qwen3-nan", "my/qwen3-nan", "qwen3-nan.", "qwen3-nan/"])
def test_a_name_is_looked_up(name: str) -> None:
    assert facts.way_out(name, "look again").startswith("did you mean qwen3-nano")


def test_the_list_of_what_is_known_holds_everything() -> None:
    known = facts.suggestion("zzz").removeprefix("known: ").split(", ")
    assert known == facts.known_names() and set(NANO) < set(known) and len(known) == 24 + 4
    for name in ("", "/", "?", "x" * 10**6, "/" * 10**5):
        assert facts.suggestion(name).startswith("known: ")


def test_a_nano_name_works_wherever_a_directory_does(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    where = find_nano("qwen3-nano")
    for read in (Qwen3Config.from_pretrained, lambda d: Tokenizer.from_pretrained(d).vocab):
        assert read("qwen3-nano") == read(where)
    assert open_checkpoint("qwen3-nano").names() == open_checkpoint(where).names()
    ids = np.array([[1, 2, 3]])
    one, other = (NumpyQwen3.from_pretrained(d)(ids) for d in ("qwen3-nano", where))
    assert np.array_equal(one, other)
    assert torch.equal(*(Qwen3.from_pretrained(d)(torch.tensor(ids)) for d in ("qwen3-nano", where)))
    (tmp_path / "qwen3-nano").mkdir()
    assert directory_of("qwen3-nano") == Path("qwen3-nano")
    for read in (Qwen3Config.from_pretrained, Tokenizer.from_pretrained, open_checkpoint):
        with pytest.raises((ConfigError, CheckpointError, ValueError), match="qwen3-nano"):
            read("qwen3-nano")


@pytest.mark.parametrize("name", ["qwen3-nan", "Qwen/Qwen3-8B", "qwen3-8b"])
def test_a_name_that_is_no_directory_gets_a_hint(name: str) -> None:
    for read in (Qwen3Config.from_pretrained, Tokenizer.from_pretrained):
        with pytest.raises(ValueError, match="there is no .*(did you mean [qQ]wen3-|find_official)"):
            read(name)
