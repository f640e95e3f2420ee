"""Official quantised layouts, read from checkpoints that are written here by packers of their own.

Packers know nothing of the reader: they place one code at a time with Python's whole numbers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwen3_ref.config import Qwen3Config
from qwen3_ref.engines.export import open_source
from qwen3_ref.engines.gguf import place_of, plans
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.store.quantized import e4m3, from_awq, from_fp8, from_gptq, open_weights
from tests.helpers import harden, token_ids

Parts = dict[str, torch.Tensor]
Make = Callable[[torch.Tensor], tuple[Parts, torch.Tensor]]
SIZES: dict[str, Any] = dict(
    vocab_size=160, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, rope_theta=1e4, tie_word_embeddings=False, max_position_embeddings=64,
)  # fmt: skip
DENSE = Qwen3Config(**SIZES)
MOE = Qwen3Config(
    **SIZES, model_type="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
    norm_topk_prob=True,
)  # fmt: skip
IDS = token_ids(160, (2, 20))


def words(codes: list[list[int]], bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Rows of codes as rows of int32: code k of a word stands in its place number `order`[k] (k)."""
    each = 32 // bits
    rows = []
    for row in codes:
        out = []
        for start in range(0, len(row), each):
            word = 0
            for k, code in enumerate(row[start : start + each]):
                word += int(code) << (bits * (order[k] if order else k))
            out.append(word - 2**32 if word >= 2**31 else word)
        rows.append(out)
    return torch.tensor(rows, dtype=torch.int32)


def rounded(w: torch.Tensor, bits: int, group: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some codes (O, I), zeros (O, G) and float16 scales (O, G) for weights in these groups (I)."""
    groups = int(group.max()) + 1
    codes, zeros = np.zeros(w.shape, int), np.zeros((len(w), groups), int)
    scales = np.zeros((len(w), groups), np.float16)
    for o in range(len(w)):
        for g in range(groups):
            mine = (group == g).numpy()
            part = w[o].numpy()[mine]
            scale = np.float16(max((max(part.max(), 0) - min(part.min(), 0)) / (2**bits - 1), 1e-4))
            zero = min(2**bits - 1, round(-min(part.min(), 0) / float(scale)))
            scales[o, g], zeros[o, g] = scale, zero
            codes[o, mine] = np.clip(np.rint(part / float(scale)) + zero, 0, 2**bits - 1)
    return codes, zeros, scales


def numbers(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group: torch.Tensor) -> torch.Tensor:
    """(q - z) s, each with its own group's z and s."""
    g = group.numpy()
    return torch.from_numpy((codes - zeros[:, g]).astype(np.float32) * scales[:, g].astype(np.float32))


def gptq_parts(bits: int, version: int, act_order: bool) -> Make:
    def make(w: torch.Tensor) -> tuple[Parts, torch.Tensor]:
        group = torch.arange(w.shape[1]) // 16
        if act_order:
            group = group[torch.randperm(len(group), generator=torch.Generator().manual_seed(0))]
        codes, zeros, scales = rounded(w, bits, group)
        stored = (zeros - (version == 1)) % 2**bits
        parts = {
            "qweight": words(codes.tolist(), bits).T.contiguous(),
            "qzeros": words(stored.T.tolist(), bits),
            "scales": torch.from_numpy(scales.T.copy()),
            "g_idx": group.to(torch.int32),
        }
        return parts, numbers(codes, zeros, scales, group)

    return make


def awq_parts(w: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    """Column k of eight goes to the nibble at which 0 2 4 6 1 3 5 7 names it."""
    place = tuple([0, 2, 4, 6, 1, 3, 5, 7].index(k) for k in range(8))
    group = torch.arange(w.shape[1]) // 16
    codes, zeros, scales = rounded(w, 4, group)
    parts = {
        "qweight": words(codes.T.tolist(), 4, place),
        "qzeros": words(zeros.T.tolist(), 4, place),
        "scales": torch.from_numpy(scales.T.copy()),
    }
    return parts, numbers(codes, zeros, scales, group)


BLOCK = (24, 20)  # no multiple of any size here, so last blocks are partial


def fp8_parts(w: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    rows, columns = -(-w.shape[0] // BLOCK[0]), -(-w.shape[1] // BLOCK[1])
    scale = torch.zeros(rows, columns)
    codes, out = torch.zeros(w.shape, dtype=torch.float8_e4m3fn), torch.zeros_like(w)
    for r in range(rows):
        for c in range(columns):
            here = slice(r * BLOCK[0], (r + 1) * BLOCK[0]), slice(c * BLOCK[1], (c + 1) * BLOCK[1])
            scale[r, c] = w[here].abs().max() / 448
            codes[here] = (w[here] / scale[r, c]).to(torch.float8_e4m3fn)
            out[here] = codes[here].float() * scale[r, c]
    return {"weight": codes, "weight_scale_inv": scale}, out


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(BLOCK)}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}
LAYOUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "fp8": (FP8, fp8_parts),
    "gptq": (GPTQ, gptq_parts(4, 1, False)),
    "gptq_2": (GPTQ | {"bits": 2}, gptq_parts(2, 1, False)),
    "gptq_8": (GPTQ | {"bits": 8}, gptq_parts(8, 1, False)),
    "gptq_act_order": (GPTQ | {"desc_act": True}, gptq_parts(4, 1, True)),
    "gptq_v2": (GPTQ | {"checkpoint_format": "gptq_v2"}, gptq_parts(4, 2, False)),
    "awq": (AWQ, awq_parts),
}


@functools.cache
def packed(moe: bool, layout: str) -> tuple[Parts, Qwen3]:
    """The tensors of a checkpoint in a layout, and a model of the numbers that they stand for."""
    model = Qwen3(MOE if moe else DENSE)
    harden(model)
    tensors: Parts = {}
    for name, tensor in model.named_official_tensors():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor.clone()
            continue
        parts, value = LAYOUTS[layout][1](tensor.clone())
        tensors |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
        tensor.copy_(value)
    return tensors, model


def written(
    folder: Path, config: Qwen3Config, layout: str, change: Callable[[Parts], None] | None = None,
    **settings: Any,
) -> Qwen3:  # fmt: skip
    """Write a checkpoint in a layout; returns a model of the numbers that it stands for."""
    whole, model = packed(config is MOE, layout)
    tensors = dict(whole)
    if change:
        change(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_dict() | {"quantization_config": LAYOUTS[layout][0] | settings}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return model


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("layout", [*LAYOUTS])
def test_a_layout_reads_as_its_numbers(layout: str, config: Qwen3Config, tmp_path: Path) -> None:
    want = written(tmp_path, config, layout)
    found = Qwen3.from_pretrained(tmp_path)
    for (name, a), (_, b) in zip(found.named_official_tensors(), want.named_official_tensors(), strict=True):
        assert torch.equal(a, b), name
    with torch.no_grad():
        logits = want(IDS)
        assert torch.equal(found(IDS), logits)
    in_numpy = NumpyQwen3.from_pretrained(tmp_path)(IDS.numpy())
    np.testing.assert_allclose(in_numpy, logits.numpy(), atol=2e-3, rtol=1e-3)


def test_fp8_is_what_transformers_reads() -> None:
    """Its own dequantiser, on the same bytes and scales."""
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    parts, _ = fp8_parts(torch.randn(100, 70, generator=torch.Generator().manual_seed(0)))
    codes, scale = parts["weight"], parts["weight_scale_inv"]
    want = _dequantize_fp8_weight(codes, scale, list(BLOCK), torch.float32)
    found = from_fp8(codes.view(torch.uint8).numpy(), scale.numpy(), BLOCK)
    assert scale.shape == (5, 4) and found.dtype == np.float32
    np.testing.assert_array_equal(found, want.numpy())


def test_every_byte_of_float8() -> None:
    want = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(e4m3(), want)


def test_words_by_hand() -> None:
    """Columns 0 to 7 holding 0 to 7: GPTQ 0x76543210, AWQ 0x75316420. A zero of 8 is stored as 7."""
    scales = np.ones((1, 8), np.float16)
    word = np.array([[0x75316420]], np.int32)
    columns = from_awq(word, np.zeros((1, 1), np.int32), scales)
    assert columns[:, 0].tolist() == [*range(8)] and columns.dtype == np.float32
    column, zeros = np.array([[0x76543210]], np.int32), np.array([[0x77777777]], np.int32)
    one = from_gptq(
        np.repeat(column, 8, 1), zeros, scales, np.zeros(8, np.int32), bits=4, stored_less_one=True
    )
    assert one[3].tolist() == [*range(-8, 0)] and one.dtype == np.float32
    high = np.full((1, 8), -1, np.int32)  # all codes 15, the sign bit among them
    top = from_gptq(high, np.full((1, 1), -1, np.int32), scales, bits=4, stored_less_one=True)
    assert (top == 15).all()  # and all bits set is a zero point of 0, less one


def test_a_tied_model_and_one_in_shards(tmp_path: Path) -> None:
    """A plain head beside a tied embedding is still compared; sizes are those of the file."""
    written(tmp_path, DENSE, "awq")
    found = open_weights(tmp_path)
    assert found.total_bytes() < DENSE.num_parameters() * 3 and not found.not_finite()
    assert set(found.names()) == set(DENSE.tensor_shapes())
    assert found.dtype("model.layers.0.mlp.up_proj.weight") == "F32"


UP = "model.layers.1.mlp.up_proj"


def without(name: str) -> Callable[[Parts], None]:
    def change(tensors: Parts) -> None:
        del tensors[name]

    return change


def other(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Parts], None]:
    def change(tensors: Parts) -> None:
        tensors[name] = make(tensors[name]).contiguous()

    return change


def more(tensors: Parts) -> None:
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(64)


@pytest.mark.parametrize(
    ("layout", "change", "says"),
    [
        ("fp8", without(f"{UP}.weight_scale_inv"), "up_proj.weight .* has no weight_scale_inv beside it"),
        ("fp8", without(f"{UP}.weight"), "weight_scale_inv and no model.layers.1.mlp.up_proj.weight"),
        ("fp8", other(f"{UP}.weight_scale_inv", lambda x: x[:1]), "the parts of model.layers.1.mlp.up_proj"),
        ("fp8", other(f"{UP}.weight", lambda x: x.float()), "the parts of model.layers.1.mlp.up_proj"),
        ("gptq", without(f"{UP}.qzeros"), "up_proj.scales and no model.layers.1.mlp.up_proj.qzeros"),
        ("gptq", without(f"{UP}.scales"), "up_proj.* has no scales beside it"),
        ("gptq", other(f"{UP}.g_idx", lambda x: x + 9), "g_idx names group 10 of 2"),
        ("gptq", other(f"{UP}.qzeros", lambda x: x[:, :1]), "the parts of model.layers.1.mlp.up_proj"),
        ("awq", other(f"{UP}.scales", lambda x: x[:1]), "the parts of model.layers.1.mlp.up_proj"),
        ("awq", more, "up_proj.bias that this model has no place for"),
    ],
)  # fmt: skip
def test_a_part_that_is_missing_or_does_not_fit(
    layout: str, change: Callable[[Parts], None], says: str, tmp_path: Path
) -> None:
    written(tmp_path, DENSE, layout, change)
    with pytest.raises(CheckpointError, match=says):
        Qwen3.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("layout", "settings", "says"),
    [
        ("awq", dict(quant_method="hqq"), "quant_method is 'hqq'; those that can be read are fp8, gptq, awq"),
        ("awq", dict(quant_method=None), "quant_method is None"),
        ("awq", dict(version="gemv"), "version is 'gemv'; it must be 'gemm' here"),
        ("awq", dict(bits=3), "bits is 3; it must be 4 here"),
        ("awq", dict(zero_point=False), "zero_point is False; it must be True"),
        ("gptq", dict(bits=3), "bits is 3"),
        ("gptq", dict(bits=1), "bits is 1"),
        ("gptq", dict(checkpoint_format="marlin"), "checkpoint_format is 'marlin'"),
        ("fp8", dict(fmt="e5m2"), "fmt is 'e5m2'; it must be 'e4m3'"),
        ("fp8", dict(weight_block_size=None), r"weight_block_size is None; the official files have blocks"),
        ("fp8", dict(weight_block_size=[128]), r"weight_block_size is \[128\]; the official"),
        ("fp8", dict(weight_block_size=[20, 0]), r"weight_block_size is \[20, 0\]; the official"),
        ("fp8", dict(weight_block_size=[0, 20]), r"weight_block_size is \[0, 20\]; the official"),
        ("fp8", dict(weight_block_size=["24", 20]), r"weight_block_size is \['24', 20\]; the official"),
        ("fp8", dict(weight_block_size=[1, 1]), "the parts of model.layers"),  # blocks, though not these
        ("gptq", dict(group_size=32), "the parts of model.layers"),
    ],
)  # fmt: skip
def test_settings_that_are_not_read(layout: str, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    written(tmp_path, DENSE, layout, **settings)
    with pytest.raises(CheckpointError, match=says):
        Qwen3.from_pretrained(tmp_path)


@pytest.mark.parametrize("layout", ["awq", "gptq"])
def test_a_short_last_group_needs_its_inputs_named(layout: str, tmp_path: Path) -> None:
    """Two groups of 16 inputs, as many as 20 and 12 would be: without g_idx nobody could tell."""

    def unnamed(tensors: Parts) -> None:
        for name in [name for name in tensors if name.endswith(".g_idx")]:
            del tensors[name]

    model = written(tmp_path / "even", DENSE, layout, unnamed)
    found = dict(Qwen3.from_pretrained(tmp_path / "even").named_official_tensors())
    assert all(torch.equal(found[name], tensor) for name, tensor in model.named_official_tensors())
    written(tmp_path / "short", DENSE, layout, unnamed, group_size=20)
    with pytest.raises(CheckpointError, match="do not fit each other or quantization_config"):
        Qwen3.from_pretrained(tmp_path / "short")


def test_codes_without_their_settings_are_refused(tmp_path: Path) -> None:
    written(tmp_path, DENSE, "fp8")
    DENSE.to_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="fetch the unquantised checkpoint"):
        Qwen3.from_pretrained(tmp_path)
    for wrong in ("fp8", 8):
        values = DENSE.to_dict() | {"quantization_config": wrong}
        (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises(CheckpointError, match="it must be an object with a quant_method"):
            Qwen3.from_pretrained(tmp_path)


@pytest.mark.parametrize("layout", ["fp8", "gptq", "awq"])
@pytest.mark.parametrize("moe", [False, True])
def test_they_go_into_gguf(layout: str, moe: bool, tmp_path: Path) -> None:
    """What an export writes is the numbers that their codes stand for."""
    config = MOE if moe else DENSE
    model = written(tmp_path, config, layout)
    nano = open_source("qwen3-nano")
    source = replace(nano, config=config, weights=open_weights(tmp_path))
    planned = {plan.name: plan for plan in plans(source, "f32")}
    for name, tensor in model.named_official_tensors():
        place, expert = place_of(name)
        values = planned[place].values()
        assert np.array_equal(values if expert is None else values[expert], tensor.numpy()), name
