"""The commands that measure, each run whole and small: what they ask, of what, and what comes of it.

Where the shipped file was made by the same command, its first numbers must come out again.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.measure import long_context, modes, qk_norm, quantization
from qwen3_ref.measure.statistics import STUDENT
from qwen3_ref.model import Qwen3
from qwen3_ref.store import shipped
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import run as run_module
from qwen3_ref.train.corpus import DOMAINS, VOCAB_SIZE, Corpus
from tests.helpers import harden, row, tiny, token_ids

SIZES = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "head_dim": 32}
"""A model whose matrices have groups of all the sizes that are measured."""


def shipped_result(name: str) -> Any:
    return json.loads(
        (shipped.find_nano("qwen3-nano").parent / "measured" / name).read_text(encoding="utf-8")
    )


# -- modes -----------------------------------------------------------------------------------------------


def test_modes_of_the_nano_are_the_shipped_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five problems, one a family; where they are among the 200, the marks are the same."""
    out = tmp_path / "modes.json"
    measure = modes.measure

    def watched(asker: modes.Asker, *rest: Any) -> Any:
        assert asker.model.dtype == torch.float64, "near-ties fall alike everywhere"
        return measure(asker, *rest)

    monkeypatch.setattr(modes, "measure", watched)
    assert modes.main(["--out", str(out), "--problems", "5"]) == 0
    shown = capsys.readouterr().out
    about = json.loads(out.read_text(encoding="utf-8"))
    want = shipped_result("modes.json")
    assert {key: about[key] for key in about if key not in ("groups", "problems")} == {
        key: want[key] for key in want if key not in ("groups", "problems")
    }
    assert about["problems"] == 5
    for group in ("one turn", "one turn, hard switch off"):
        for name, cell in about["groups"][group].items():
            assert cell == want["groups"][group][name][::40], name  # the first of each family
    for name, cell in about["groups"]["tools"].items():
        assert cell == want["groups"]["tools"][name][:5], name
    for group, cells in about["groups"].items():
        assert list(cells) == list(want["groups"][group])
        for name, cell in cells.items():
            assert f"{group:<26} {name:<38} {sum(cell):>4} of 5\n" in shown
    again = out.read_bytes()
    assert modes.main(["--out", str(out), "--problems", "5"]) == 0 and out.read_bytes() == again
    assert capsys.readouterr().out == shown


# -- long context ----------------------------------------------------------------------------------------


def test_long_context_in_small_is_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first list, the first problem of each family, the first look-ups with thoughts and without."""
    monkeypatch.setattr(long_context, "price", functools.partial(long_context.price, count=1))
    out, cells = tmp_path / "long.json", ["plain", "yarn", "dual-chunk, m"]
    command = ["--out", str(out), "--lists", "1", "--lengths", "512", "--methods", *cells]
    assert long_context.main(command) == 0
    found, want = json.loads(out.read_text(encoding="utf-8")), shipped_result("long_context.json")
    assert found["settings"] == want["settings"] | {"lists": 1}
    for cell in cells:
        assert found["price"][cell] == pytest.approx(want["price"][cell][:: long_context.PRICE], abs=2e-4)
        for part in ("right", "absent"):
            assert found["cells"][f"{cell}, 512"][part] == want["cells"][f"{cell}, 512"][part][:1]
    assert list(found["cells"]) == [f"{cell}, 512" for cell in cells]
    for mode, marks in found["thinking"]["512"].items():
        assert marks == want["thinking"]["512"][mode][:3], mode
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in said] == [
        *(f"price, {cell}" for cell in cells), "thinking, 512", *(f"cells, {cell}, 512" for cell in cells),
    ]  # fmt: skip
    for name in ("price", "thinking", "asked"):
        monkeypatch.setattr(long_context, name, lambda *_, **__: pytest.fail("measured again"))
    before = out.read_bytes()
    assert long_context.main(command) == 0 and out.read_bytes() == before
    assert long_context.main([*command[:3], "2"]) == 1
    assert "is of other settings" in capsys.readouterr().err

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(long_context, "measure", interrupted)
    assert long_context.main(command) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_cells_come_in_order_and_each_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is computed here: what is asked of which lists, and what is taken over from an equal cell."""
    read: list[Any] = []

    def asked(model: Qwen3, _: Tokenizer, found: list[int]) -> dict[str, int]:
        read.append((model.config.rope_theta, len(found)))
        return {"number": len(read)}

    monkeypatch.setattr(long_context, "asked", asked)
    monkeypatch.setattr(long_context, "price", lambda *_: [])
    monkeypatch.setattr(long_context, "thinking", lambda _, __, length, count: f"{length} {count}")
    monkeypatch.setattr(long_context, "lists", lambda _, length, count: [length] * count)
    cells = ["plain", "ntk", "dynamic", "dual-chunk"]
    found = long_context.measure(tmp_path / "x.json", 4, (4096, 1024, 512), cells)
    assert list(found["thinking"].items()) == [("512", "512 12"), ("1024", "1024 12")]
    numbers = {name: cell["number"] for name, cell in found["cells"].items()}
    assert numbers == {
        "plain, 4096": 1, "ntk, 4096": 2, "dynamic, 4096": 2, "dual-chunk, 4096": 3,
        "plain, 1024": 4, "ntk, 1024": 5, "dynamic, 1024": 4, "dual-chunk, 1024": 6,
        "plain, 512": 7, "ntk, 512": 8, "dynamic, 512": 7, "dual-chunk, 512": 9,
    }  # fmt: skip
    assert [count for _, count in read] == [4] * 9, "every list, by every method"


def test_each_cell_reads_by_its_own_method() -> None:
    config = tiny().config
    context = config.max_position_embeddings
    read = functools.partial(long_context.changed, config)
    assert read("plain", 4 * context) == replace(config, max_position_embeddings=4 * context)
    longest = {cell: read(cell, 4 * context) for cell in long_context.CELLS}
    for cell in ("plain", "ntk", "dynamic", "dual-chunk", "dual-chunk, m"):
        assert longest[cell].max_position_embeddings == 4 * context, cell
    types = {name: (c.rope_scaling or {}).get("rope_type") for name, c in longest.items()}
    assert types["yarn"] == types["yarn, m = 1"] == "yarn" and types["linear"] == "linear"
    assert longest["yarn"].rope_scaling["factor"] == 4
    assert longest["yarn, m = 1"].rope_scaling["attention_factor"] == 1
    # Dynamic NTK: the stretch that this length needs, none within the trained one.
    d = config.head_dim
    assert read("dynamic", context // 2).rope_theta == pytest.approx(config.rope_theta)
    assert read("dynamic", 2 * context).rope_theta == pytest.approx(config.rope_theta * 2 ** (d / (d - 2)))
    assert longest["ntk"].rope_theta == pytest.approx(config.rope_theta * 4 ** (d / (d - 2)))


# -- quantisation ----------------------------------------------------------------------------------------


def test_quantization_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, three points: what is drawn, what is asked, and each number by hand."""
    drawn: list[Any] = []
    real = quantization.some_problems

    def few(each: int, split: str, seed: int) -> Any:
        drawn.append((each, split, seed))
        return real(min(each, 2), split, seed)

    folder = shutil.copytree(shipped.find_nano("qwen3-nano"), tmp_path / "nano")
    model = tiny(**SIZES)
    harden(model)
    model.save_pretrained(folder)
    monkeypatch.setattr(quantization, "find_nano", lambda name: folder if name == "qwen3-nano" else None)
    monkeypatch.setattr(quantization, "some_problems", few)
    curve = quantization.curve  # judged below; here each of its points gets a number to be known by
    monkeypatch.setattr(
        quantization, "curve", lambda rows: [p | {"thinking_tokens": i} for i, p in enumerate(curve(rows))]
    )
    monkeypatch.setattr(quantization, "POINTS", ((16, "rtn"), (4, "gptq"), (2, "rtn")))
    monkeypatch.setattr(quantization, "BUDGETS", (0, 8, None))
    monkeypatch.setattr(quantization, "LONGEST", 12)
    out = tmp_path / "new" / "q.json"
    assert quantization.main(["--out", str(out), "--problems", "1"]) == 0
    assert drawn == [(1, "test", TEST_SEED), (40, "train", 1), (40, "test", TEST_SEED + 1)]
    result, shown = json.loads(out.read_text(encoding="utf-8")), capsys.readouterr().out
    model, tokenizer = Qwen3.from_pretrained(folder), Tokenizer.from_pretrained(folder)
    text, ours = quantization.worked(tokenizer, real(2, "test", TEST_SEED + 1))
    assert result["problems"] == 5 and result["loss_tokens"] == int(ours.sum())
    assert list(result["points"]) == ["16", "4 gptq", "2 rtn"]
    exact, fine, coarse = result["points"].values()
    assert exact["kl"] == 0 < fine["kl"] < coarse["kl"] and exact["agree"] == 1 > coarse["agree"]
    with torch.no_grad():
        log = model(text).log_softmax(-1)[:, :-1].gather(-1, text[:, 1:, None])[..., 0]
    assert exact["loss"] == pytest.approx(-float(log[ours[:, 1:]].mean()), abs=1e-4)
    # Of the rounded model's predictions, seen from those at 16 bits.
    rounded = quantization.round_model(model, quantization.Grid(2, 32), "rtn")[0]
    with torch.no_grad():
        p, q = (m(text)[:, :-1][ours[:, 1:]].double().log_softmax(-1) for m in (model, rounded))
    said = text[:, 1:][ours[:, 1:]]
    assert coarse["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)
    assert coarse["loss"] == pytest.approx(-float(q.gather(-1, said[:, None]).mean()), rel=1e-5)
    assert coarse["agree"] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()), abs=1e-9)
    for name, point in result["points"].items():
        log_file = tmp_path / "new/q.json.answers" / f"{name.replace(' ', '-')}.csv"
        answers = list(csv.DictReader(log_file.read_text(encoding="utf-8").splitlines()))
        assert len(answers) == 5 * 4 and {a["problem"] for a in answers} == {*"01234"}
        assert [(p["mode"], p["budget"]) for p in point["curve"]] == [
            ("thinking", 0), ("thinking", 8), ("thinking", None), ("non-thinking", None),
        ]  # fmt: skip
        right = [a["correct"] == "True" for a in answers if (a["mode"], a["budget"]) == ("thinking", "")]
        assert len(right) == 5 and set(point["against_16"]) <= {"accuracy", "closed_thoughts"}
        assert point["against_16"]["accuracy"]["mean"] == sum(right) / 5 - exact["curve"][2]["accuracy"]
        free = point["curve"][2]
        line = f"{name:<7} kl {point['kl']:.4f}  loss {point['loss']:.3f}  right {free['accuracy']:.3f}  "
        assert f"{line}thinking 2.0\n" in shown
        tokens = [p["tokens"] for p in point["curve"]]
        assert max(tokens) == 12 and min(tokens) > 0
    # Errors of rounding to the nearest, matrix by matrix, group by group.
    assert len(result["errors"]) == 4 * 4 * sum(map(quantization.is_rounded, model.config.tensor_shapes()))
    weights = dict(model.named_official_tensors())
    for one in (e for e in result["errors"][:16] if e["bits"] == 4 and e["group"] == 32):
        w = weights[one["name"]].double().numpy()
        part = w.reshape(len(w), -1, 32)
        low, high = np.minimum(part.min(-1), 0), np.maximum(part.max(-1), 0)
        assert one["error"] < np.sqrt(((high - low) ** 2).sum() * 32 / 12 / 15**2 / (w**2).sum()) * 1.6
    by = {(e["bits"], e["group"]): e["error"] for e in result["errors"][:16]}
    assert by[8, 16] < by[4, 16] < by[3, 16] < by[2, 16] and by[4, 16] < by[4, 64]
    # Answers that are there are not asked again.
    monkeypatch.setattr(quantization, "POINTS", ((16, "rtn"),))
    monkeypatch.setattr(quantization, "layer_errors", lambda *_: [])
    monkeypatch.setattr(quantization, "distance", lambda *_: {k: exact[k] for k in ("kl", "agree", "loss")})
    (kept,) = (tmp_path / "new/q.json.answers").glob("16.csv")
    before = kept.read_bytes()
    assert quantization.main(["--out", str(out), "--problems", "1"]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["points"] == {"16": exact}
    assert kept.read_bytes() == before
    capsys.readouterr()
    assert quantization.main(["--out", str(tmp_path), "--problems", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_worked_dialogues_mark_what_the_model_says() -> None:
    tokenizer = Tokenizer.from_pretrained("qwen3-nano")
    problems = quantization.some_problems(1, "train", 1)
    assert [p.family for p in problems] == list(FAMILIES)
    assert problems == [make_problems(family, "train", 1, seed=1)[0] for family in FAMILIES]
    rows, ours = quantization.worked(tokenizer, problems, 50)
    assert rows.shape == ours.shape and rows.shape[1] == 50
    flat, marks = rows.flatten().tolist(), ours.flatten().tolist()
    first = flat[: marks.index(True)]
    asked = tokenizer.decode(first)
    assert asked.endswith("<|im_start|>assistant\n") and problems[0].prompt in asked
    said = flat[len(first) : len(first) + marks[len(first) :].index(False)]
    want = f"<think>\n{problems[0].trace}\n</think>\n\n{problems[0].answer}<|im_end|>"
    assert tokenizer.decode(said) == want
    whole = [len(quantization.worked(tokenizer, problems, n)[0]) * n for n in (50, 1)]
    assert 0 <= whole[1] - whole[0] < 50, "only what fills no row is left out"


def test_a_curve_by_hand() -> None:
    rows = [
        row(0, True, budget=4, thinking_tokens=4, answer_tokens=2, thinking_ended="budget"),
        row(1, False, budget=4, thinking_tokens=3, answer_tokens=3, ended="length"),
        row(0, True, budget=None), row(1, True, budget=None),
        *(row(i, i > 0, mode="non-thinking", thinking_tokens=0) for i in range(2)),
    ]  # fmt: skip
    cut, free, plain = quantization.curve(rows)
    assert (cut["mode"], cut["budget"], cut["problems"], cut["accuracy"]) == ("thinking", 4, 2, 0.5)
    assert (cut["thinking_tokens"], cut["tokens"], cut["cut"], cut["endless"]) == (3.5, 6, 0.5, 0.5)
    assert cut["low"] < 0.5 < cut["high"]
    assert (free["budget"], free["accuracy"], free["tokens"], free["endless"]) == (None, 1, 13, 0)
    assert (plain["mode"], plain["tokens"], plain["accuracy"]) == ("non-thinking", 3, 0.5)


# -- QK-Norm ---------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> Callable[..., int]:
    """The command on small models, few steps and little text; its directory is tmp_path."""
    few = {domain: documents[:150] for domain, documents in corpus.items()}
    monkeypatch.setattr(run_module, "gather", lambda allow_other_text: few)
    monkeypatch.setattr(qk_norm, "small_config", lambda: tiny(**SIZES).config)
    monkeypatch.setattr(qk_norm, "MIX", replace(qk_norm.MIX, context=32, rows=2))
    monkeypatch.setattr(qk_norm, "HELD_OUT", 70)
    monkeypatch.setattr(qk_norm, "WEIGHT_BITS", (2,))
    return lambda *words: qk_norm.main(["--out", str(tmp_path), "--seeds", "3", "4", *words])


def test_key_numbers_by_hand() -> None:
    model = tiny(num_hidden_layers=1)
    text = token_ids(VOCAB_SIZE, (2, 40))
    found = qk_norm.key_numbers(model, {"a": text[0], "b": text[1]}, 24)
    cache = KVCache(model.config, 2, 24)
    with torch.no_grad():
        model(text[:, :24], cache=cache)
    keys = cache.keys.numpy()[0]  # (b, g, t, d)
    outliers, peaks = [], []
    for g in range(keys.shape[1]):
        channel = sorted(math.sqrt(np.mean(keys[:, g, :, i] ** 2)) for i in range(keys.shape[-1]))
        outliers.append(channel[-1] / channel[(len(channel) - 1) // 2])
    for vector in keys.reshape(-1, keys.shape[-1]):
        peaks.append(np.abs(vector).max() / math.sqrt(np.mean(vector**2)))
    assert found == pytest.approx({"outlier": np.mean(outliers), "peak": np.mean(peaks)}, rel=1e-4)


def test_the_loss_is_over_whole_rows_of_each_domain() -> None:
    model = tiny(num_hidden_layers=1)
    streams = {"a": token_ids(VOCAB_SIZE, (1, 2000), 1)[0], "b": token_ids(VOCAB_SIZE, (1, 90), 2)[0]}
    context, losses = 16, []
    for stream in streams.values():
        count = min(qk_norm.HELD_OUT, len(stream) - 1) // context
        with torch.no_grad():
            rows = stream[: count * context].view(-1, context)
            log = model(rows).log_softmax(-1).gather(-1, stream[1 : count * context + 1].view(-1, context, 1))
        losses.append(-float(log.mean()))
    assert qk_norm.loss_of(model, streams, context, None) == pytest.approx(sum(losses) / 2, abs=1e-5)


def test_qk_norm_in_small(
    study: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert study("--steps", "3") == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "qk_norm.json").read_text(encoding="utf-8"))
    assert result["seeds"] == [3, 4] and list(result["cells"]) == list(qk_norm.VARIANTS)
    assert result["parameters"] == qk_norm.small_config().num_parameters()
    for name, cells in result["cells"].items():
        for seed, cell in zip((3, 4), cells, strict=True):
            folder = tmp_path / f"{name}-{seed}"
            assert {p.name for p in folder.iterdir()} == {
                "log.csv", "result.json", "settings.json", "weights.safetensors",
            }, name  # fmt: skip
            assert json.loads((folder / "settings.json").read_text("utf-8")) == cell["settings"]
            assert (cell["settings"]["variant"], cell["settings"]["seed"]) == (name, seed)
            assert cell["settings"]["stage"]["plan"]["steps"] == 3
            assert set(cell["losses"]) == {"16 bits", "weights 2 bits", *qk_norm.CACHES}
            assert f"{name}, seed {seed}: {cell['losses']['16 bits']:.3f}" in shown
            rise = result["rises"][name]["weights 2 bits"][seed - 3]
            assert rise == cell["losses"]["weights 2 bits"] - cell["losses"]["16 bits"]
            for way, loss in cell["losses"].items():
                assert way == "16 bits" or loss != cell["losses"]["16 bits"], way
    assert result["controls"]["bigram"] < result["controls"]["unigram"] < math.log(VOCAB_SIZE) + 0.5
    for name in ("bias", "neither"):
        lines = shown.partition(f"rise of {name} above that of qk-norm:\n")[2].splitlines()
        for line, (way, n) in zip(lines, result["paired"][name].items(), strict=False):
            assert line == f"  {way:<16} {n['mean']:+.4f} ({n['low']:+.4f} to {n['high']:+.4f})"
    monkeypatch.setattr(qk_norm, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(qk_norm, "measured", lambda *_: pytest.fail("measured again"))
    before = (tmp_path / "qk_norm.json").read_bytes()
    assert study("--steps", "3") == 0 and (tmp_path / "qk_norm.json").read_bytes() == before
    capsys.readouterr()
    assert study("--steps", "4") == 1
    assert "qk-norm-3 is of other settings; choose another directory" in capsys.readouterr().err
    assert qk_norm.main(["--out", str(tmp_path), "--seeds", "3"]) == 1
    assert "1 seeds make no interval here; give 2 to 8" in capsys.readouterr().err


def test_students_quantiles() -> None:
    """As printed in tables, for one degree of freedom less than there are seeds."""
    t975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
    assert {n + 1: t for n, t in t975.items()} == STUDENT
    assert set(qk_norm.MIX.mixture) == set(DOMAINS) and sum(qk_norm.MIX.mixture.values()) == pytest.approx(1)

    def cell(base: float, rise: float) -> dict[str, Any]:
        return {"losses": {"16 bits": base, "x": base + rise}}

    cells = {"qk-norm": [cell(1, 0), cell(1, 0)], "bias": [cell(1, 1), cell(2, 3)]}
    found = qk_norm.paired(cells)["bias"]["x"]  # 1 and 3: mean 2, deviation sqrt(2)
    assert found["mean"] == pytest.approx(2)
    assert found["high"] - 2 == 2 - found["low"] == pytest.approx(12.706)
