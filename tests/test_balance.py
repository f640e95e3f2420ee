"""Balancing: losses and statistics by hand, and two ranks in two parts each against the whole batch."""

from __future__ import annotations

import csv
import json
import os
import socket
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwen3_ref.measure import balance_study
from qwen3_ref.model import Qwen3, Trace
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import loop
from qwen3_ref.train import run as run_module
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.loop import Plan
from qwen3_ref.train.recipes import balance, pretrain
from qwen3_ref.train.recipes.balance import GlobalShares, Weights, accumulate, balancing_loss
from qwen3_ref.train.state import STATE
from tests.helpers import tiny

SMALL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
}
STAGE = pretrain.Mix(16, 4, {"code": 0.5, "maths": 0.5}, Plan(steps=3, learning_rate=1e-3, log_every=1))
FIRM = 0.3
"""A coefficient that shows: the bounds below are thousands of times the rounding."""


def moe(**changes: Any) -> Qwen3:
    """Float64, with gates large enough that experts differ in what they like."""
    model = tiny(**(SMALL | changes)).double()
    for layer in model.model.layers:
        layer.mlp.gate.weight.data *= 10
    return model


def tasteful_rows() -> Tensor:
    """Eight rows (8, 17), each with words of its own, so that each has experts of its own."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(i * 100, i * 100 + 8, (17,), generator=generator) for i in range(8)])


def streams() -> pretrain.Streams:
    generator = torch.Generator().manual_seed(1)
    return {
        "code": torch.randint(0, 30, (700,), generator=generator),
        "maths": torch.randint(500, 530, (330,), generator=generator),
    }


def gradients(model: Qwen3) -> Tensor:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in found])


def logits_for(*chosen: tuple[int, ...], experts: int) -> Tensor:
    """Router logits (1, t, E) of tokens that are sure of their experts, the first one most."""
    logits = torch.zeros(1, len(chosen), experts, dtype=torch.float64)
    for token, picks in enumerate(chosen):
        for place, expert in enumerate(picks):
            logits[0, token, expert] = 40.0 - place * 1e-3
    return logits


# -- statistics --------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    """Three tokens, two experts each: {0, 1}, {2, 0}, {1, 0}; then with the first one padding."""
    layer = logits_for((0, 1), (2, 0), (1, 0), experts=3)
    other = logits_for((1, 2), (1, 2), (1, 2), experts=3)
    assert balance.count_picks([layer, other], 2).tolist() == [[3, 2, 1], [0, 3, 3]]
    assert balance.co_activation([layer], 2).tolist() == [[[3, 2, 1], [2, 2, 0], [1, 0, 1]]]
    mask = torch.tensor([[0, 1, 1]])
    assert balance.count_picks([layer, other], 2, mask).tolist() == [[2, 1, 1], [0, 2, 2]]
    assert balance.co_activation([layer], 2, mask).tolist() == [[[2, 1, 1], [1, 1, 0], [1, 0, 1]]]
    many = logits_for(*[(0,)] * 513, (1,), experts=2).bfloat16()
    assert balance.count_picks([many], 1).tolist() == [[513, 1]]


def test_imbalance_by_hand() -> None:
    """Counts 6, 2, 0, 0 (mean 2, deviations 4, 0, -2, -2) and an even layer; a count of exactly a tenth
    of the mean is alive, one below is dead."""
    counts = torch.tensor([[6, 2, 0, 0], [2, 2, 2, 2]])
    assert balance.imbalance(counts) == pytest.approx({"max_load": (3 + 1) / 2, "load_cv": 1.5**0.5 / 2})
    assert balance.dead_experts(counts) == 2
    assert balance.dead_experts(torch.tensor([[10, 190], [9, 191], [100, 100]])) == 1


def test_specialisation_by_hand() -> None:
    """Domains of 40 and 60 picks a layer. Expert 0 of the first layer has 30 and 10 of them: 3/4, 1/4
    against 2/5, 3/5 is a distance of 0.35; expert 1 has 10 and 50: 7/30. The second layer's one serves
    all, the other nobody."""
    counts = torch.tensor([[[30, 10], [40, 0]], [[10, 50], [60, 0]]])
    distance, mean = balance.specialisation(counts)
    want = torch.tensor([[0.35, 7 / 30], [0.0, torch.nan]]).double()
    torch.testing.assert_close(distance, want, equal_nan=True, atol=1e-7, rtol=0)
    assert mean == pytest.approx((40 * 0.35 + 60 * 7 / 30) / 200)
    each_its_own = torch.eye(4).mul(25)[:, None]  # four domains of equal size, four experts
    assert balance.specialisation(each_its_own)[1] == pytest.approx(1 - 1 / 4)


def test_domains_are_counted_on_equally_many_tokens() -> None:
    """330 tokens are 20 rows of 16, in batches of 16 and 4; the longer stream gives no more of its own."""
    model = moe()
    counts = balance.count_by_domain(model, streams(), context=16)
    assert counts.shape == (2, 2, 4) and counts.sum(-1).tolist() == [[640, 640], [640, 640]]
    for number, stream in enumerate(streams().values()):
        trace = Trace(attention=False)
        with torch.no_grad():
            model(stream[:320].view(20, 16), trace=trace)
        assert torch.equal(counts[number], balance.count_picks(trace.router_logits, 2))
    assert not torch.equal(counts[0], counts[1])
    assert balance.count_by_domain(model, streams(), context=16, tokens=40).sum() == 2 * 2 * 32 * 2
    with pytest.raises(ValueError, match="fewer than 512 tokens"):
        balance.count_by_domain(model, streams(), context=512)


# -- losses ------------------------------------------------------------------------------------------


def test_balancing_loss_by_hand() -> None:
    """Two rows, each sure of an expert of its own: each alone is collapsed (E = 2), together they are
    balanced (K = 1). Two layers of opposite tastes are both collapsed, though not when pooled."""
    first, second = logits_for((0,), (0,), experts=2), logits_for((1,), (1,), experts=2)
    both = torch.cat([first, second])
    assert float(balancing_loss([both], 1, micro_batches=2)) == pytest.approx(2)
    assert float(balancing_loss([both], 1)) == pytest.approx(1)
    assert float(balancing_loss([first, second], 1)) == pytest.approx(2)
    shares = torch.tensor([[0.25, 0.75], [0.5, 0.5]])  # sure of expert 0: 2 * 0.25; any share: 2 * 0.5
    assert float(balancing_loss([first, second], 1, shares=shares)) == pytest.approx((0.5 + 1) / 2)


def test_weights_by_hand() -> None:
    logits = [torch.tensor([[[1.0, 1.0, 2.0]]]).log()]  # logsumexp is log 4
    lm, uneven = torch.tensor(5.0), torch.tensor(2.0)
    assert float(Weights("none", 0.5).total(lm, uneven, logits)) == 5
    assert float(Weights("micro", 0.5).total(lm, uneven, logits)) == 6
    z = torch.tensor(4.0).log().square()
    torch.testing.assert_close(Weights("global", 0.5, z_loss=0.1).total(lm, uneven, logits), 6 + 0.1 * z)
    torch.testing.assert_close(Weights("none", 0.5, z_loss=0.1).total(lm, uneven, logits), 5 + 0.1 * z)


@pytest.mark.parametrize("balancing", get_args(balance.Balancing))
def test_one_pass_has_the_gradient_of_many(balancing: balance.Balancing) -> None:
    """balanced_loss slices one pass; accumulate runs each row by itself. And the rows are pretrain's."""
    model, tokenizer = moe(), None
    loss = balance.balanced_loss(STAGE, tokenizer, streams(), 0, balancing, 0.01, FIRM)  # type: ignore[arg-type]
    total, numbers = loss(model, 5)
    total.backward()
    one = gradients(model)
    rows = pretrain.make_rows(STAGE, tokenizer, streams(), seed=0, step=5)  # type: ignore[arg-type]
    mean = accumulate(model, rows.split(1), Weights(balancing, FIRM, 0.01))
    assert mean == pytest.approx(float(total.detach()), rel=1e-5)
    torch.testing.assert_close(gradients(model), one, atol=1e-7, rtol=1e-5)
    lm, _ = pretrain.next_token_loss(STAGE, tokenizer, streams(), 0)(model, 5)  # type: ignore[arg-type]
    assert numbers["lm_loss"] == pytest.approx(float(lm.detach())) and numbers["tokens"] == 64


def test_scopes_differ() -> None:
    """None, micro and global have other gradients, by much more than the bound above; micro-batches
    of all rows are the global batch."""
    found = {}
    for name in (*get_args(balance.Balancing), "all rows"):
        model, whole = moe(), name == "all rows"
        balancing = "micro" if whole else name
        loss = balance.balanced_loss(
            STAGE, None, streams(), 0, balancing, 0.0, FIRM, micro_batches=1 if whole else None
        )  # type: ignore[call-overload, arg-type]
        loss(model, 5)[0].backward()
        found[name] = gradients(model)
    assert torch.equal(found.pop("all rows"), found["global"])
    for a, b in (("none", "micro"), ("none", "global"), ("micro", "global")):
        assert (found[a] - found[b]).norm() > 0.01, (a, b)


def test_what_cannot_be_balanced_says_so() -> None:
    for parts in (3, 0, -1):
        with pytest.raises(ValueError, match=f"4 rows do not make {parts} equal micro-batches"):
            balance.balanced_loss(STAGE, None, streams(), 0, micro_batches=parts)  # type: ignore[arg-type]
    loss = balance.balanced_loss(STAGE, None, streams(), 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model is dense and has no experts"):
        loss(tiny(), 0)
    with pytest.raises(ValueError, match="nothing was counted"):
        GlobalShares().shares(2)
    with pytest.raises(ValueError, match="there is no balancing 'local'; there are none, micro, global"):
        Weights("local")  # type: ignore[arg-type]


def test_the_nano_moe_is_what_it_says() -> None:
    config = pretrain.moe_config()
    assert config.num_parameters() == 2_139_776 and config.num_active_parameters() == 763_520
    dense = pretrain.nano_config()
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size"):
        assert getattr(config, name) == getattr(dense, name)
    assert pretrain.moe_config(num_experts=8).num_experts == 8


# -- the global batch, in parts and on ranks ---------------------------------------------------------


@contextmanager
def another_rank(all_reduce: Callable[[Tensor], object]) -> Iterator[None]:
    """As if a second process took part, which adds what `all_reduce` says."""
    with (
        mock.patch.object(balance.dist, "is_initialized", lambda: True),
        mock.patch.object(balance.dist, "get_world_size", lambda: 2),
        mock.patch.object(balance.dist, "all_reduce", all_reduce),
    ):
        yield


def test_shares_over_parts_and_ranks_by_hand() -> None:
    """Two tokens choose 0 and 1, then 0 and 2; elsewhere three choose 2 and 0, 2 and 1, 2 and 1."""
    counted = GlobalShares()
    counted.add(torch.tensor([[1.0, 1.0, 0.0]]))
    counted.add(torch.tensor([[1.0, 0.0, 1.0]]))
    torch.testing.assert_close(counted.shares(2), torch.tensor([[1.0, 0.5, 0.5]]))
    with another_rank(lambda counts: counts.add_(torch.tensor([[1.0, 2.0, 3.0]]))):
        for _ in range(2):  # asking does not count
            torch.testing.assert_close(counted.shares(2), torch.tensor([[3.0, 3.0, 4.0]]) / 5)


def test_a_rank_with_the_same_rows_changes_nothing() -> None:
    """Means stay means: sums over two equal ranks are divided by two, counts and gradients alike."""
    rows, weights = tasteful_rows().split(4), Weights("global", FIRM)
    alone, together = moe(), moe()
    loss = accumulate(alone, rows, weights)
    with another_rank(lambda tensor: tensor.mul_(2)):
        assert accumulate(together, rows, weights) == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(gradients(together), gradients(alone), atol=1e-12, rtol=1e-9)


def test_counting_as_you_go() -> None:
    """Without the pass ahead, one part is exact, and has no gradient through its counts; of two parts
    the first knows its own counts only, and the second those of both."""
    whole, weights = tasteful_rows(), Weights("global", FIRM)
    exact, running = moe(), moe()
    accumulate(exact, [whole], weights)
    accumulate(running, [whole], weights, count_ahead=False)
    torch.testing.assert_close(gradients(running), gradients(exact), atol=1e-12, rtol=1e-9)
    parts = whole.split(4)
    accumulate(running, parts, weights, count_ahead=False)
    assert (gradients(running) - gradients(exact)).norm() > 1e-3
    want = torch.zeros(())
    counted = GlobalShares()
    for part in parts:
        trace = Trace(attention=False)
        lm = loop.cross_entropy(exact(part[:, :-1], trace=trace), part[:, 1:])
        counted.add(balance.count_picks(trace.router_logits, 2))
        shares = [counted.shares(2)[i] for i in range(2)]
        layers = [
            4 * (share * logits.softmax(-1).mean((0, 1))).sum()
            for share, logits in zip(shares, trace.router_logits, strict=True)
        ]
        want = want + (lm + FIRM * (layers[0] + layers[1]) / 2) / 2
    exact.zero_grad()
    want.backward()
    torch.testing.assert_close(gradients(running), gradients(exact), atol=1e-7, rtol=1e-5)


STEPS = 4


def steps_with(parts: list[Tensor], balancing: balance.Balancing) -> dict[str, Tensor]:
    """The weights after four steps of AdamW on the same parts."""
    model = moe()
    optimizer = loop.make_optimizer(model, Plan(steps=STEPS, learning_rate=1e-3))
    for _ in range(STEPS):
        accumulate(model, parts, Weights(balancing, FIRM))
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def train_as_rank(rank: int, folder: str) -> None:
    """One of two processes: half of the rows, in two parts."""
    torch.set_num_threads(1)
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a host's own name need not resolve
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=5))
    parts = list(tasteful_rows()[rank * 4 : rank * 4 + 4].split(2))
    for balancing in ("global", "micro"):
        save_file(steps_with(parts, balancing), f"{folder}/{balancing}-{rank}.safetensors")
    dist.barrier()
    os._exit(0)  # all is on disk; gloo's teardown aborts the process now and then (pytorch PR 179291)


def test_two_ranks_are_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    """Global-batch balancing does not see how the batch is cut; balancing each part does."""
    # A forked process need not import torch again, which takes longer than all the steps; macOS cannot.
    method = "fork" if sys.platform == "linux" else "spawn"
    torch.multiprocessing.start_processes(train_as_rank, (str(tmp_path),), nprocs=2, start_method=method)
    whole = steps_with([tasteful_rows()], "global")
    for balancing, low, high in (("global", 0.0, 1e-10), ("micro", 1e-3, 1.0)):
        first, second = (load_file(tmp_path / f"{balancing}-{rank}.safetensors") for rank in (0, 1))
        apart = max(float((first[name] - second[name]).abs().max()) for name in whole)
        assert apart == 0.0, f"{balancing}: the ranks' weights have drifted apart by {apart:.1e}"
        off = max(float((first[name] - whole[name]).abs().max()) for name in whole)
        assert low <= off < high, f"{balancing}: {off:.1e} from the whole batch on one rank"


# -- the study ---------------------------------------------------------------------------------------


def small_cell(folder: Path, name: str, seed: int = 0, **changes: Any) -> balance_study.Result:
    stage = replace(STAGE, **changes)
    config = tiny(**SMALL).config
    return balance_study.run_cell(
        folder / f"{name}-{seed}",
        name,
        seed,
        stage,
        config,
        None,  # type: ignore[arg-type]
        (streams(), streams()),
    )


def logged(folder: Path, column: str) -> list[float]:
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def test_cells_differ_in_balancing_alone(tmp_path: Path) -> None:
    """Same weights, same rows: the first step's loss is the same, the last weights are not."""
    plan = replace(STAGE.plan, learning_rate=1e-2)  # far enough that no two losses are rounded alike
    cells = {name: small_cell(tmp_path, name, plan=plan) for name in balance_study.VARIANTS}
    first = cells["none"]
    assert all(cell["before"] == first["before"] for cell in cells.values())
    losses = {name: logged(tmp_path / f"{name}-0", "lm_loss") for name in cells}
    assert all(len(loss) == 3 and loss[0] == losses["none"][0] for loss in losses.values())
    after = {name: cell["after"]["mean_loss"] for name, cell in cells.items()}
    assert len(set(after.values())) == len(after), after
    assert small_cell(tmp_path, "none", 1)["before"] != first["before"]
    counts = torch.tensor(first["after"]["counts"])
    assert counts.shape == (2, 2, 4) and counts.sum(-1).unique().tolist() == [320 * 2]
    assert first["after"]["specialisation"] == balance.specialisation(counts)[1]
    assert first["after"]["mean_loss"] == pytest.approx(statistics.mean(first["after"]["loss"].values()))
    assert not (tmp_path / "none-0" / STATE).exists()


def test_a_cell_with_a_result_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = small_cell(tmp_path, "global")
    monkeypatch.setattr(balance_study, "train", mock.Mock(side_effect=AssertionError("trained again")))
    assert small_cell(tmp_path, "global") == json.loads(json.dumps(result))
    with pytest.raises(balance_study.TrainingError, match="is of other settings"):
        small_cell(tmp_path, "global", context=8)


def test_summary_by_hand() -> None:
    """Two seeds: means, and standard deviations with n - 1."""

    def cell(a: float, b: float) -> balance_study.Result:
        def numbers(dead: float) -> dict[str, Any]:
            return {"loss": {"code": a}, "dead": dead, "counts": [[[1]]]}

        return {"before": numbers(0), "after": numbers(b)}

    table = balance_study.summarise({"x": [cell(1, 2), cell(3, 6)]})
    assert list(table) == ["before", "x"]
    assert table["x"] == {"loss code": (2, pytest.approx(2**0.5)), "dead": (4, pytest.approx(8**0.5))}
    assert table["before"]["dead"] == (0, 0)
    assert balance_study.summarise({"x": [cell(1, 2)]})["x"]["dead"] == (2, 0)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = {domain: [f"{domain} {i * i} of {i}\n" * 5 for i in range(80)] for domain in DOMAINS}
    monkeypatch.setattr(run_module, "gather", lambda allow_other_text: documents)
    Tokenizer.from_pretrained(find_nano("qwen3-nano-base")).save_pretrained(tmp_path / "tokenizer")
    config = tiny(**SMALL).config
    monkeypatch.setattr(pretrain, "moe_config", lambda: config)
    monkeypatch.setattr(balance_study, "MIX", replace(balance_study.MIX, context=32, rows=4))
    monkeypatch.setattr(balance_study, "HELD_OUT", 64)
    names = ("none", "global+z")
    monkeypatch.setattr(balance_study, "VARIANTS", {n: balance_study.VARIANTS[n] for n in names})
    arguments = ["--out", str(tmp_path), "--seeds", "3", "4", "--steps", "2"]
    assert balance_study.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("none, seed 3: ") and printed[4].split() == ["before", *names]
    study = json.loads((tmp_path / "study.json").read_text("utf-8"))
    assert study["seeds"] == [3, 4] and [len(study["cells"][name]) for name in names] == [2, 2]
    assert balance_study.main(arguments) == 0  # everything is there already
    assert capsys.readouterr().out.splitlines() == printed
    assert balance_study.main([*arguments[:-1], "3"]) == 1
    assert "error: " in (said := capsys.readouterr().err) and "other settings" in said


def test_the_shipped_study_and_what_the_lesson_says_of_it() -> None:
    """By seed, against their controls: dead experts, even loads, and where experts keep a taste."""
    study = json.loads(
        (Path(balance_study.__file__).parents[1] / "data/nano/measured/balancing.json").read_text("utf-8")
    )
    assert list(study["cells"]) == list(balance_study.VARIANTS) and study["seeds"] == [0, 1, 2]
    table = balance_study.summarise(study["cells"])
    for name, row in table.items():
        assert {k: tuple(v) for k, v in study["table"][name].items()} == {
            k: pytest.approx(v) for k, v in row.items()
        }
    for i in range(3):
        cell = {name: cells[i]["after"] for name, cells in study["cells"].items()}
        before = study["cells"]["none"][i]["before"]
        for name, found in cell.items():
            counts = torch.tensor(found["counts"])
            assert found["dead"] == balance.dead_experts(counts.sum(0))
            assert found["specialisation"] == pytest.approx(balance.specialisation(counts)[1])
            assert found["max_load"] == pytest.approx(balance.imbalance(counts.sum(0))["max_load"])
            settings = study["cells"][name][i]["settings"]
            assert settings["seed"] == i and settings["weights"] == asdict(balance_study.VARIANTS[name])
        assert cell["none"]["dead"] > 12 and cell["micro"]["dead"] == cell["global"]["dead"] == 0
        load = {name: found["max_load"] for name, found in cell.items()}
        assert load["global"] < 1.6 < 2.3 < load["micro-weak"] < load["none"]
        taste = {name: found["specialisation"] for name, found in cell.items()}
        assert taste["micro"] < before["specialisation"] < min(v for k, v in taste.items() if k != "micro")
