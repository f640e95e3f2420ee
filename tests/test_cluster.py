"""The calculator of clusters: by hand, against autograd, and against what the ranks of gloo hold and send."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from qwen3_ref import Qwen3, cluster, memory
from qwen3_ref.cluster import Mesh
from qwen3_ref.commands.line import main
from qwen3_ref.config import Qwen3Config

GB = 1e9
NAMED = Qwen3Config.named
BIG, SMALL = NAMED("Qwen3-235B-A22B"), NAMED("Qwen3-0.6B")
H100 = memory.card("H100")


def moved(config: Qwen3Config, mesh: Mesh, tokens: int = 1, **how: Any) -> dict[str, int]:
    """Bytes of a rank by purpose."""
    return {t.what: t.bytes for t in cluster.traffic(config, mesh, tokens, **how)}


# -- by hand -------------------------------------------------------------------------------------------


def test_the_largest_by_hand() -> None:
    """235B: 470.2 GB in bf16, 58.8 on each of eight, and 96.6% of it experts."""
    assert memory.weight_bytes(BIG) / GB == pytest.approx(470.2, abs=0.05)
    assert memory.weight_bytes(BIG) / 8 / GB == pytest.approx(58.8, abs=0.05)
    experts, of_block = cluster.parameters(BIG)["experts"]
    assert experts == 94 * 128 * 3 * 4096 * 1536 and of_block == experts // 94
    assert experts / BIG.num_parameters() == pytest.approx(0.966, abs=0.0005)
    rest, mine, _, _ = cluster.local(BIG, Mesh(ep=8))
    assert mine == experts // 8 and rest == BIG.num_parameters() - experts


def test_kinds_of_tensors_are_all_of_them() -> None:
    for name in ("Qwen3-0.6B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"):
        c = NAMED(name)
        assert sum(all_of for all_of, _ in cluster.parameters(c).values()) == c.num_parameters()
        assert sum(cluster.local(c, Mesh())[:2]) == c.num_parameters()
    found = cluster.parameters(SMALL)
    assert found["whole"][1] == 2 * 1024 + 2 * 128 and found["vocabulary"][1] == 0
    assert found["heads"][1] == 2 * 1024 * 2048 == 2 * found["kv"][1]


def test_ddp_and_fsdp_by_hand() -> None:
    """0.6B on two ranks, 16 bits all through: 1.19 GB for an all-reduce of the gradients; FSDP gathers twice
    and sums once, 1.79 GB, of which embedding and final norm, which stay gathered, come off."""
    n = SMALL.num_parameters()
    ddp = moved(SMALL, Mesh(dp=2), reduce="bf16")
    assert ddp == {"gradients of copies": 2 * n} and 2 * n / GB == pytest.approx(1.19, abs=0.005)
    fsdp = moved(SMALL, Mesh(fsdp=2), reduce="bf16")
    root = (151_936 + 1) * 1024
    assert fsdp == {"weights, forward": n, "weights, backward": n - root, "gradients": n}
    assert (sum(fsdp.values()) + root) / GB == pytest.approx(1.79, abs=0.005)


def test_experts_by_all_to_all_by_hand() -> None:
    """30B-A3B: a token goes to eight experts and comes back, 64 KiB a layer if all were on other ranks; the
    gradients make the same way; of two ranks a half stays at home."""
    c = NAMED("Qwen3-30B-A3B")
    each = 2 * 8 * 2048 * 2
    assert each == 64 * 1024
    assert moved(c, Mesh(ep=2))["tokens to experts and back"] == 48 * each * 2 // 2
    again = moved(c, Mesh(ep=4), 10, checkpointing=True)["tokens to experts and back"]
    assert again == 48 * each * 3 * 10 * 3 // 4


def test_tensor_parallel_by_hand() -> None:
    """Four all-reduces a block of a token's 2,048 bytes, and one at each end: of two ranks, each once."""
    assert moved(SMALL, Mesh(tp=2)) == {
        "heads and columns": 28 * 4 * 2048, "embedding and head": 2 * 2048,
    }  # fmt: skip
    assert moved(SMALL, Mesh(tp=4), 3)["heads and columns"] == 28 * 4 * 3 * 2048 * 3 // 2
    assert moved(SMALL, Mesh(tp=2), checkpointing=True)["heads and columns"] == 28 * 6 * 2048


@pytest.mark.parametrize(
    ("collective", "ranks", "share"),
    [("all-gather", 4, 0.75), ("reduce-scatter", 4, 0.75), ("all-to-all", 2, 0.5), ("all-reduce", 4, 1.5),
     ("all-reduce", 1, 0)],
)  # fmt: skip
def test_a_ring(collective: str, ranks: int, share: float) -> None:
    assert cluster.sent(collective, 1000, ranks) == 1000 * share


def test_who_holds_what() -> None:
    """Of 0.6B in training: 16 bytes a weight, sliced by FSDP, cut by tp, doubled by copies."""
    n = SMALL.num_parameters()
    alone = cluster.held(SMALL, Mesh(), 1, precision="fp32")
    assert (alone.weights, alone.gradients, alone.optimizer, alone.gathered) == (4 * n, 4 * n, 8 * n, 0)
    assert cluster.held(SMALL, Mesh(dp=4), 1, precision="fp32") == alone
    sliced = cluster.held(SMALL, Mesh(fsdp=4), 1, precision="fp32")
    assert sliced.weights == n and sliced.optimizer == 2 * n
    norms = 28 * (2 * 1024 + 2 * 128) + 1024
    cut = cluster.held(SMALL, Mesh(tp=2), 1)
    assert cut.weights == 4 * ((n - norms) // 2 + norms)
    block = (n - 151_937 * 1024) // 28
    gathered = 2 * 2 * 151_937 * 1024 + 10 * block
    assert cluster.held(SMALL, Mesh(fsdp=2), 1).gathered == gathered
    assert cluster.held(SMALL, Mesh(dp=2), 1).gathered == gathered  # in 16 bits, if not sliced


def test_kv_heads_are_copied_where_tp_is_more() -> None:
    """235B has four: cut by four ranks, and whole on each of eight, which add their gradients up; or, to
    serve, one on each."""
    kv = 94 * 2 * 4 * 128 * 4096
    assert cluster.parameters(BIG)["kv"][0] == kv
    for tp, mine, one in ((2, kv // 2, kv // 2), (4, kv // 4, kv // 4), (8, kv, kv // 4)):
        others = cluster.local(replace(BIG, num_key_value_heads=64), Mesh(tp=tp))[0] - 16 * kv // tp
        assert cluster.local(BIG, Mesh(tp=tp))[0] == others + mine
        assert cluster.local(BIG, Mesh(tp=tp), one_kv_head=True)[0] == others + one
    assert "gradients of KV heads" not in moved(BIG, Mesh(tp=4))
    assert moved(BIG, Mesh(tp=8))["gradients of KV heads"] == 2 * kv * 2 * 7 // 8


def test_experts_have_slices_and_copies_of_their_own() -> None:
    """Everything else is sliced over fsdp x ep; experts over fsdp, and whole over ep."""
    c = NAMED("Qwen3-30B-A3B")
    experts = cluster.parameters(c)["experts"][0]
    rest = c.num_parameters() - experts
    assert cluster.held(c, Mesh(dp=2, fsdp=4, ep=2), 1).weights == 4 * (rest // 8 + experts // 8)
    assert cluster.held(c, Mesh(dp=2, ep=4), 1).weights == 4 * (rest + experts // 4)
    found = {t.what: t.group for t in cluster.traffic(c, Mesh(dp=2, fsdp=4, ep=2), 1)}
    assert found["weights, forward"] == found["gradients"] == 8
    assert found["experts, forward"] == found["experts' gradients"] == 4
    assert found["gradients of copies"] == found["experts' gradients of copies"] == 2
    found = {t.what: t.group for t in cluster.traffic(c, Mesh(dp=2, ep=4), 1)}
    averaged = {"gradients of copies": 8, "experts' gradients of copies": 2}
    assert found == {"tokens to experts and back": 4, **averaged}


def test_links_of_groups_beyond_a_machine() -> None:
    """tp lies innermost, then ep, fsdp and dp."""
    far = {t.what: t.far for t in cluster.traffic(BIG, Mesh(fsdp=2, ep=4, tp=8), 1)}
    assert not far["heads and columns"] and far["tokens to experts and back"] and far["experts, forward"]
    near = cluster.traffic(BIG, Mesh(dp=2, ep=4, tp=2), 1)
    assert {t.what: t.far for t in near}["tokens to experts and back"] is False
    assert {t.what: t.far for t in near}["experts' gradients of copies"] is True


# -- against autograd ----------------------------------------------------------------------------------


def kept(config: Qwen3Config, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that the backward pass keeps of the blocks of a model: storages, each once, no parameters."""
    model = Qwen3(config).to(dtype)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(x)  # so that no address is used twice
        return x

    ids = torch.randint(config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = model.model(ids)
    assert out.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("moe", [False, True])
def test_activations_are_what_autograd_keeps(moe: bool, dtype: torch.dtype) -> None:
    """Two more layers keep what the formula says of two, within a thousandth."""
    more = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "norm_topk_prob": True}
    c = Qwen3Config(
        vocab_size=64, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, head_dim=32, rope_theta=1e4, tie_word_embeddings=True,
        model_type="qwen3_moe" if moe else "qwen3", **(more if moe else {}),
    )  # fmt: skip
    tokens = 256
    counted = kept(replace(c, num_hidden_layers=4), tokens, dtype) - kept(c, tokens, dtype)
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    assert counted == pytest.approx(2 * tokens * cluster.block_activations(c, Mesh(), name), rel=0.001)


# -- against ranks ------------------------------------------------------------------------------------
# What `course.ranks.train` counted on gloo with four rows of 32 tokens in float64: bytes of weights that a
# rank keeps, and those that it sends in a step. (Lesson 21 counts some of them anew each time.)
COUNTED: dict[str, tuple[str, int, dict[str, int]]] = {
    "dp=2": ("", 9_188_352, {"all-reduce": 9_188_352}),
    "fsdp=4": ("", 2_297_088, {"all-gather": 12_798_720, "reduce-scatter": 6_891_264}),
    "fsdp=2,tp=2": (
        "", 2_300_416, {"all-gather": 4_272_640, "all-reduce": 1_179_648, "reduce-scatter": 2_300_416}
    ),
    "tp=4": ("", 3_093_504, {"all-reduce": 5_111_808}),  # of two KV heads
    "fsdp=2,ep=2": ("-moe", 4_279_552, {"all-gather": 12_110_592, "reduce-scatter": 6_547_200}),
    "ep=2,tp=2": ("-moe", 5_452_800, {"all-reduce": 3_486_720}),
}  # fmt: skip


@pytest.mark.parametrize("sizes", COUNTED)
def test_what_ranks_kept_and_sent(sizes: str) -> None:
    """To the byte; the all-to-all within a fifteenth, since rows go where routers send them."""
    kind, weights, counted = COUNTED[sizes]
    c, mesh = Qwen3Config.from_pretrained(f"qwen3-nano{kind}"), Mesh.of(sizes)
    assert 2 * cluster.held(c, mesh, 32, precision="fp32").weights == weights
    found = dict.fromkeys(counted, 0) | {"all-to-all": 0}
    for t in cluster.traffic(c, mesh, 32, rows=4 // mesh.data, precision="fp32"):
        found[t.collective] = found.get(t.collective, 0) + 2 * t.bytes
    rows = found.pop("all-to-all")
    assert found == counted
    assert rows == 0 or abs({"fsdp=2,ep=2": 512_000, "ep=2,tp=2": 1_116_160}[sizes] / rows - 1) < 1 / 15


# -- plans ---------------------------------------------------------------------------------------------


def test_meshes_are_all_products_within_a_machine() -> None:
    found = [*cluster.meshes(12, True)]
    assert all(m.ranks == 12 and m.tp <= 8 for m in found) and len(set(found)) == len(found)
    by_hand = sum(
        1 for dp in range(1, 13) for fsdp in range(1, 13) for ep in range(1, 13) for tp in range(1, 9)
        if dp * fsdp * ep * tp == 12
    )  # fmt: skip
    assert len(found) == by_hand
    assert all(m.ep == 1 for m in cluster.meshes(12, False))


def test_the_largest_on_64_cards() -> None:
    """It fits with experts split, not as slices alone; each reason is a sentence with both sizes."""
    fit, unfit = cluster.plans(BIG, 64, 4096, H100)
    assert fit and all(p.held is not None and p.held.total <= 0.9 * 80e9 for p in fit)
    assert [p.speed for p in fit] == sorted((p.speed for p in fit), reverse=True)
    assert "fsdp=64" in [str(p.mesh) for p in unfit] and all(p.mesh.ep * p.mesh.tp > 1 for p in fit)
    assert all(p.reason and p.reason.endswith(".") for p in unfit)
    assert len(fit) + len(unfit) == len([*cluster.meshes(64, True)])


def test_checkpointing_only_where_it_is_needed() -> None:
    c = NAMED("Qwen3-8B")
    assert not cluster.plan(c, Mesh(fsdp=8), 4096, H100).checkpointing
    again = cluster.plan(c, Mesh(fsdp=8), 16_384, H100)
    assert again.checkpointing and again.reason is None
    without = cluster.plan(c, Mesh(fsdp=8), 16_384, H100, checkpointing=False)
    assert without.reason is not None and "are activations." in without.reason


def test_seconds_by_hand() -> None:
    """8B on eight cards: three forward passes of a row over 989 TFLOP/s, and what FSDP sends over NVLink."""
    c = NAMED("Qwen3-8B")
    found = cluster.seconds(c, Mesh(fsdp=8), 4096, H100)
    assert found is not None
    flops = 4096 * c.flops_per_token(0) + 4 * 36 * 32 * 128 * 4096 * 4097 // 2
    assert found[0] == pytest.approx(3 * flops / 989e12)
    assert found[1] == pytest.approx(sum(moved(c, Mesh(fsdp=8), 4096).values()) / 450e9) and found[2] == 0
    assert cluster.seconds(c, Mesh(fsdp=8), 4096, memory.card("MI300X")) is None
    assert cluster.forward_flops(c, 3) == sum(c.flops_per_token(n) for n in (1, 2, 3))


def test_serving_the_largest() -> None:
    """Six 80 GB cards: 64 heads do not divide by 6, whatever fits. On eight: bf16 with KV heads twice, FP8
    with whole experts, since a rank's 192 channels would cut its blocks of 128."""
    six = {way.cards: way.reason or "" for way in cluster.serving(BIG, 6, 32_768, H100)}
    assert six[6] == "num_attention_heads is 64, which tp=6 does not divide; heads stay whole."
    (bf16,) = [w for w in cluster.serving(BIG, 8, 32_768, H100) if w.cards == 8]
    assert bf16.reason is None and 58.8 < bf16.weights / GB < 59.0
    assert bf16.cache == memory.kv_bytes(BIG, 32_768) * 2 // 8
    fp8 = {way.cards: way for way in cluster.serving(BIG, 8, 32_768, H100, "fp8")}
    assert fp8[8].whole_experts and not fp8[4].whole_experts and fp8[4].reason is None
    assert BIG.moe_intermediate_size == 1536 and 1536 // 8 == 192
    assert fp8[8].weights < 0.52 * bf16.weights
    (int4,) = [w for w in cluster.serving(BIG, 2, 32_768, H100, "int4-g128") if w.cards == 2]
    assert int4.reason is None and int4.texts == 3
    dense = {way.cards: way.reason for way in cluster.serving(NAMED("Qwen3-32B"), 8, 100, H100, "fp8")}
    assert dense[8] is None or "blocks of 128" in dense[8]


# -- what is misused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mesh.of("dp=2,fdsp=2"), "'fdsp' is no size of a mesh; did you mean fsdp"),
        (lambda: Mesh.of("dp=2,dp=2"), "dp stands twice"),
        (lambda: Mesh.of("dp=0"), "dp is '0' in the mesh"),
        (lambda: Mesh.of("dp"), "dp is '' in the mesh"),
        (lambda: Mesh(tp=0), "tp is 0; it must be a whole number"),
        (lambda: cluster.held(SMALL, Mesh(tp=3), 1), "num_attention_heads is 16, which tp=3 does not divide"),
        (lambda: cluster.held(SMALL, Mesh(ep=2), 1), "this model has none; use fsdp or dp"),
        (lambda: cluster.traffic(BIG, Mesh(ep=3), 1), "num_experts is 128, which ep=3 does not divide"),
        (lambda: cluster.held(SMALL, Mesh(), 1, precision="fp16"), "the precision is 'fp16'"),
        (lambda: cluster.traffic(SMALL, Mesh(), 1, reduce="int8"), "the precision is 'int8'"),
        (lambda: cluster.sent("gather", 1, 2), "'gather' is no collective; did you mean all-gather"),
        (lambda: cluster.held(SMALL, Mesh(), 0), "tokens is 0"),
        (lambda: cluster.cluster("64xH10"), "'H10' is no card that is known here; did you mean h100"),
        (lambda: cluster.cluster("0xH100"), "0 cards cannot be planned"),
        (lambda: cluster.cluster("many cards here"), "names no cards; give how many of which, as in 64xH100"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        make()
    assert says in str(error.value)


def test_kv_heads_that_tp_cuts() -> None:
    three = replace(SMALL, num_attention_heads=12, num_key_value_heads=3, vocab_size=1200)
    assert cluster.problem(three, Mesh(tp=3)) is None
    found = cluster.problem(three, Mesh(tp=4))
    assert found == "num_key_value_heads is 3 and tp=4; one must divide the other, since heads stay whole."


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "Qwen3-235B-A22B", "--gpus", "64xH100", "--tokens", "4096"]) == 0
    shown = capsys.readouterr().out
    assert "What does not fit:" in shown and "fsdp=2,ep=16,tp=2" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert main(["plan", "Qwen3-235B-A22B", "--gpus", "64xH100", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    best = record["fits"][0]
    assert best["mesh"] == {"dp": 1, "fsdp": 2, "ep": 16, "tp": 2} and best["checkpointing"]
    assert set(best["sent"]) == {"all-reduce", "all-to-all", "all-gather", "reduce-scatter"}
    assert best["held"]["total"] <= record["usable_bytes"] == 72 * 10**9
    assert main(["plan", "Qwen3-235B-A22B", "--gpus", "6xH100"]) == 0
    shown = capsys.readouterr().out
    assert "No mesh of these cards fits." in shown and "64 x H100 would do, as fsdp=2,ep=16,tp=2" in shown
    assert "num_attention_heads is 64, which tp=6 does not divide" in " ".join(shown.split())
    assert main(["plan", "Qwen3-235B-A22B", "--gpus", "8xH100", "--serve", "--tokens", "32768"]) == 0
    shown = capsys.readouterr().out
    assert "int4-g128" in shown and "8e" in shown and max(map(len, shown.splitlines())) <= 80
    assert main(["plan", "qwen3-nano", "--gpus", "2xRTX-4090", "--mesh", "dp=2", "--tokens", "256"]) == 0
    assert "dp=2" in capsys.readouterr().out
