"""Packed rows, borders, padding, and what ships of their comparison."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qwen3_ref
from qwen3_ref.measure import packing
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.model import Attention, Qwen3, fused_attention
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.loop import IGNORE
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.run import Run
from tests.helpers import tiny

KEPT = Path(qwen3_ref.__file__).parent / "data/nano/measured/packing.json"
END = 9
ROW = torch.tensor([[5, 6, END, 7, END, 5, 8, 4]])


def test_documents_and_places_by_hand() -> None:
    """The mark belongs to the document that it closes; what began before the row has no place."""
    assert packing.document_of(ROW, END).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert packing.places(ROW, END).tolist() == [[-1, -1, -1, 0, 1, 0, 1, 2]]
    assert packing.places(torch.tensor([[END, 3, END, END]]), END).tolist() == [[-1, 0, 1, 0]]


def test_stopped_is_each_document_alone() -> None:
    """In one row the logits of each document are what they are when it is read by itself, and the patch is
    gone afterwards, even after an error."""
    model = tiny().double()
    with torch.inference_mode():
        found = packing.stopped_logits(model, ROW, END)
        for a, b in ((0, 3), (3, 5), (5, 8)):
            assert torch.allclose(found[:, a:b], model(ROW[:, a:b]), atol=1e-9)
        assert not torch.allclose(found[:, 3:], model(ROW)[:, 3:], atol=1e-3), "across borders it differs"
    layers = [m for m in model.modules() if isinstance(m, Attention)]
    assert all(layer.attend is fused_attention for layer in layers)
    with pytest.raises(ValueError, match="vocabulary"):
        packing.stopped_logits(model, ROW + 10_000, END)
    assert all(layer.attend is fused_attention for layer in layers)


def test_pieces_and_padding_by_hand() -> None:
    """Every next token of a document is a target once; the first one and padding never."""
    stream = torch.tensor([1, 2, END, 3, 4, 5, 6, 7, 8, END])
    pieces = packing.make_pieces({"code": stream}, END, 4)["code"]
    assert [p.tolist() for p in pieces] == [[1, 2, END], [3, 4, 5, 6, 7], [7, 8, END]]
    inputs, targets = packing.padded(pieces[:2], 4)
    assert inputs.tolist() == [[1, 2, 0, 0], [3, 4, 5, 6]]
    assert targets.tolist() == [[2, END, IGNORE, IGNORE], [4, 5, 6, 7]]


def test_domains_get_their_share_of_the_tokens() -> None:
    """Of pieces with 2 and 8 targets the short ones are drawn four times as often, and by seed and step."""
    short, long = torch.arange(3), torch.arange(9)
    pieces = {"a": [short], "b": [long]}
    mix = replace(packing.MIX, mixture={"a": 0.5, "b": 0.5}, rows=10)
    shares = packing.token_shares(mix, pieces)
    assert shares["a"] == pytest.approx(4 * shares["b"])
    drawn = [p for step in range(200) for p in packing.draw_pieces(10, pieces, shares, 3, step)]
    assert sum(len(p) == 3 for p in drawn) / len(drawn) == pytest.approx(0.8, abs=0.03)
    again = packing.draw_pieces(10, pieces, shares, 3, 7)
    assert all(a is b for a, b in zip(drawn[70:80], again, strict=True))


def test_losses_by_place() -> None:
    """Sums and counts of a model that gives every token the same probability."""
    ids = torch.tensor([[1, 2, 3, 4]])
    place = torch.tensor([[-1, 0, 3, 40]])
    targets = torch.tensor([[2, 3, 4, IGNORE]])
    sums, counts = packing.by_place(lambda x: torch.zeros(*x.shape, 7), ids, targets, place)
    assert counts == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert sums == pytest.approx([n * math.log(7) for n in counts])


def test_mean_loss_by_hand() -> None:
    losses = [0.0, 2.0, 4.0, *[1.0] * 7]
    counts = [0, 1, 3, *[2] * 7]
    result: Any = {
        "losses": {"alone": dict.fromkeys(DOMAINS, losses)},
        "counts": {"alone": dict.fromkeys(DOMAINS, counts)},
    }
    assert packing.loss_at(result, "alone", 1, 2, ["code"]) == pytest.approx(14 / 4)
    assert packing.mean_loss(result, "alone") == pytest.approx((14 + 14) / 18)
    result["losses"]["alone"] = dict.fromkeys(DOMAINS, [3.0] * 10) | {"code": [1.0] * 10}
    result["counts"]["alone"] = dict.fromkeys(DOMAINS, [1] * 10) | {"code": [5] * 10}
    assert packing.mean_loss(result, "alone") == pytest.approx(2.5), "each domain counts alike"
    assert packing.loss_at(result, "alone") == pytest.approx((5 + 9) / 8), "and here each token"


@pytest.fixture
def small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a few tokens and a tiny model."""
    tok = Tokenizer.from_pretrained("qwen3-nano")
    end, draw = tok.control_tokens["<|endoftext|>"], torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 200, (n,), generator=draw) for n in (3, 40, 5, 2, 30, 4) * 3]
    stream = torch.cat([torch.cat([p, torch.tensor([end])]) for p in parts])
    run = Run(tmp_path)
    for name, value in (("tokenizer", tok), ("streams", (dict.fromkeys(DOMAINS, stream),) * 2)):
        run.__dict__[name] = value
    mix = replace(packing.MIX, context=16, rows=2, plan=replace(packing.MIX.plan, steps=2, warmup=1))
    monkeypatch.setattr(packing, "MIX", mix)
    monkeypatch.setattr(packing, "FEWER", 1)
    monkeypatch.setattr(packing, "small_config", lambda: tiny(vocab_size=tok.num_ids).config)
    monkeypatch.setattr(packing, "Run", lambda out, **_: run)
    return run


def test_what_an_arm_learns_from(small_run: Run) -> None:
    """Equal rows for `across` and `stopped`, half of them for `fewer`; `padded` has fewer real tokens."""
    model = Qwen3(packing.small_config())
    found = {arm: packing.arm_loss(arm, packing.MIX, small_run, 0)(model, 0) for arm in packing.ARMS}
    tokens = {arm: numbers["tokens"] for arm, (_, numbers) in found.items()}
    assert tokens["across"] == tokens["stopped"] == 32 and tokens["fewer"] == 16
    assert tokens["padded"] < 32
    assert all(loss.requires_grad for loss, _ in found.values())
    rows = pretrain.make_rows(packing.MIX, small_run.tokenizer, small_run.streams[0], 0, 0)
    end = small_run.tokenizer.control_tokens["<|endoftext|>"]
    by_hand = torch.nn.functional.cross_entropy(
        packing.stopped_logits(model, rows[:, :-1], end).flatten(0, 1), rows[:, 1:].flatten()
    )
    assert found["stopped"][0].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_the_command(
    small_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each arm leaves its result, which is read and not made again; wrong settings in one sentence."""
    arguments = ["--out", str(small_run.out), "--seeds", "0", "1", "--steps", "2"]
    assert packing.main(arguments) == 0
    study = json.loads((small_run.out / "packing.json").read_text(encoding="utf-8"))
    assert list(study["cells"]) == list(packing.ARMS) and list(study["costs"]) == list(packing.ARMS[1:])
    assert study["counts"]["alone"]["code"][0] == 0 < study["counts"]["behind the mark"]["code"][0]
    monkeypatch.setattr(packing, "train", None)  # not called again
    assert packing.main(arguments) == 0
    assert "fewer, seed 1: alone" in capsys.readouterr().out
    assert packing.main([*arguments[:-1], "3"]) == 1
    assert "is of other settings; choose another directory" in capsys.readouterr().err
    assert packing.main([*arguments[:3], "0"]) == 1
    assert "1 seeds make no interval here; give 2 to 8." in capsys.readouterr().err
    assert packing.main([*arguments[:-1], "0"]) == 1
    assert "--steps is 0; it must be at least 1." in capsys.readouterr().err


# -- what ships ------------------------------------------------------------------------------------


def whole(study: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The cells with the counts that they share."""
    return {
        arm: [{**cell, "counts": study["counts"]} for cell in cells] for arm, cells in study["cells"].items()
    }


def test_the_shipped_study_is_whole() -> None:
    """Every cell is there with the settings of the module, and the costs are those of the cells."""
    study = json.loads(KEPT.read_text(encoding="utf-8"))
    assert list(study["cells"]) == list(packing.ARMS) and len(study["seeds"]) >= 3
    for arm, cells in study["cells"].items():
        for seed, cell in zip(study["seeds"], cells, strict=True):
            settings = cell["settings"]
            assert (settings["arm"], settings["seed"]) == (arm, seed)
            assert settings["stage"]["plan"]["steps"] == packing.MIX.plan.steps
    found = packing.costs(whole(study))
    for arm, readings in study["costs"].items():
        for reading, what in readings.items():
            assert all(n == pytest.approx(found[arm][reading][name]) for name, n in what.items())


def test_what_the_lesson_says_of_it() -> None:
    """Each sentence with its control: what is claimed has an interval apart from 0, what is called a null
    result holds it."""
    study = json.loads(KEPT.read_text(encoding="utf-8"))
    cells, costs = whole(study), study["costs"]

    def less(arm: str, reading: str, other: str, other_reading: str) -> dict[str, float]:
        pairs = zip(cells[arm], cells[other], strict=True)
        return over_seeds(
            [packing.mean_loss(a, reading) - packing.mean_loss(b, other_reading) for a, b in pairs]
        )

    stopped = costs["stopped"]
    assert stopped["alone"]["first"]["high"] < -0.3, "read alone, first tokens are what it costs"
    assert stopped["alone"]["maths"]["high"] < 0 and stopped["alone"]["reasoning"]["high"] < 0
    assert stopped["packed"]["all"]["low"] > 0.2, "and a stopped model must not be read across"
    assert stopped["packed"]["first"]["low"] > 1
    for arm in ("padded", "fewer"):
        assert costs[arm]["alone"]["first"]["high"] < 0 < costs[arm]["alone"]["rest"]["mean"]
    nulls = [
        stopped["alone"]["all"], stopped["alone"]["code"], stopped["alone"]["language"],
        less("stopped", "packed, stopped", "across", "packed"),
        less("padded", "alone", "fewer", "alone"),
    ]  # fmt: skip
    assert all(n["low"] < 0 < n["high"] for n in nulls)
    spent = {arm: sum(cell["cpu_seconds"] for cell in found) for arm, found in cells.items()}
    assert spent["stopped"] < 1.15 * spent["across"]
