"""A whole model in few bits: which matrices, by which method, and modules that multiply from the codes.

Rounded are the matrices of attention and feed-forward, experts each by itself. Never the routers, whose
small differences decide who works, nor the norms; embeddings and head only if stated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3_ref.model import MLP, Attention, Block, Qwen3
from qwen3_ref.moe import run_experts
from qwen3_ref.quantize.calibrated import awq, gptq, hessian
from qwen3_ref.quantize.rounding import Array, Grid, Quantized, pack, quantize

Method = Literal["rtn", "gptq", "awq"]
Table = dict[str, Quantized]
"""Quantised matrices by their official names."""


def is_rounded(name: str, embeddings: bool = False) -> bool:
    """Whether the tensor of this official name is rounded: a matrix, no router, no embedding, no head."""
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return embeddings
    return name.endswith("_proj.weight")


@torch.no_grad()
def round_model(
    model: Qwen3,
    grid: Grid,
    method: Method = "rtn",
    calibration: Tensor | None = None,
    embeddings: bool = False,
) -> tuple[Qwen3, Table]:
    """A copy of the model with rounded weights, as plain numbers, and their codes by official name.

    rtn: to the nearest. gptq, awq: with `calibration`, ids (b, t) of text that the model is for; layer by
    layer, inputs taken from what is rounded already. embeddings: embedding and head too, to the nearest.
    AWQ also changes the norms (and rows of up_proj) that it moves its scales into; its clip search is
    left out. Raises ValueError for another method, missing calibration, a mixture of experts with
    calibration, and as `quantize` does.
    """
    if method not in get_args(Method):
        raise ValueError(f"there is no method {method!r}; there are {', '.join(get_args(Method))}.")
    model, table = copy.deepcopy(model), Table()
    if method != "rtn":
        if calibration is None:
            raise ValueError(f"{method} needs calibration: ids of text that the model is for.")
        if model.config.is_moe:
            raise ValueError(f"{method} is written for dense models; take rtn for a mixture of experts.")
        for name, block in model.model.named_modules():
            if isinstance(block, Block):
                _calibrate(model, f"model.{name}", block, grid, method, calibration, table)
    for name, tensor in model.named_official_tensors():
        if is_rounded(name, embeddings) and name not in table:
            table[name] = quantize(_numbers(tensor), grid)
            tensor.copy_(torch.from_numpy(table[name].dequantized()))
    return model, table


def _numbers(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _parts(block: Block) -> Iterator[tuple[list[str], nn.Module]]:
    """The linears of a dense block that share an input, in the order of work, and the module before
    them that AWQ could move a scale into."""
    attention, mlp = block.self_attn, block.mlp
    assert isinstance(attention, Attention) and isinstance(mlp, MLP)
    yield [f"self_attn.{x}_proj" for x in "qkv"], block.input_layernorm
    yield ["self_attn.o_proj"], attention.v_proj
    yield ["mlp.gate_proj", "mlp.up_proj"], block.post_attention_layernorm
    yield ["mlp.down_proj"], mlp.up_proj


def _calibrate(
    model: Qwen3, prefix: str, block: Block, grid: Grid, method: Method, ids: Tensor, table: Table
) -> None:
    parts = [([block.get_submodule(name) for name in names], names, first) for names, first in _parts(block)]
    for linears, _, before in parts if method == "awq" else ():
        awq_fold(linears, before, inputs_of(model, linears[0], ids), grid)
    for linears, names, _ in parts:
        curvature = hessian(inputs_of(model, linears[0], ids)) if method == "gptq" else None
        for name, linear in zip(names, linears, strict=True):
            weight = linear.weight
            assert isinstance(weight, Tensor)
            w = _numbers(weight)
            found = quantize(w, grid) if curvature is None else gptq(w, curvature, grid)
            table[f"{prefix}.{name}.weight"] = found
            weight.copy_(torch.from_numpy(found.dequantized()))


@torch.no_grad()
def awq_fold(linears: list[nn.Module], before: nn.Module, x: Array, grid: Grid) -> Array:
    """Find AWQ's scale (I,) of linears with the inputs x (n, I) and move it in: their columns times s, the
    gains or rows of `before` divided by it. The model computes what it did.

    All ones, and nothing moved, where `before` has not one row for each input: o_proj under grouped-query
    attention, whose value heads are each read by several query heads. q_norm and k_norm swallow what q and
    k are scaled by, so no scale is ever moved into them.
    """
    weights = [linear.weight for linear in linears if isinstance(linear.weight, Tensor)]
    target = before.weight
    assert isinstance(target, Tensor)
    if len(target) != x.shape[1]:
        return np.ones(x.shape[1])
    s = awq([_numbers(weight) for weight in weights], x, grid)
    scale = torch.from_numpy(s).to(target)
    for weight in weights:
        weight.mul_(scale)
    target.div_(scale if target.dim() == 1 else scale[:, None])
    return s


@torch.no_grad()
def inputs_of(model: Qwen3, linear: nn.Module, ids: Tensor) -> Array:
    """What a linear inside the model is given for ids (b, t): (b t, I) in float64."""
    seen: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, -2)))
    try:
        for rows in ids.split(8):
            model(rows, logits_to_keep=1)
    finally:
        hook.remove()
    return _numbers(torch.cat(seen))


class Packed(nn.Module):
    """A matrix that lies in memory as packed codes and float16 scales; `dense(dtype)` makes numbers of it."""

    packed: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, found: Quantized) -> None:
        super().__init__()
        self.bits, self.shape = found.grid.bits, found.codes.shape
        self.register_buffer("packed", torch.from_numpy(pack(found.codes, self.bits)))
        self.register_buffer("scale", torch.from_numpy(found.scale).half())
        self.register_buffer("zero", torch.from_numpy(found.zero.astype(np.uint8)))

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points (a byte each, and packed in files)."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def dense(self, dtype: torch.dtype) -> Tensor:
        """(q - z) s in a dtype, (O, I)."""
        codes = _unpacked(self.packed, self.bits, self.shape[1])
        groups = codes.view(*self.scale.shape, -1).to(torch.float32) - self.zero[..., None].float()
        return (groups * self.scale[..., None].float()).flatten(1).to(dtype)


def _unpacked(packed: Tensor, bits: int, inputs: int) -> Tensor:
    """`rounding.unpack` in PyTorch."""
    if bits == 8:
        return packed
    one = (packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    one = one.flatten(-2)[:, : inputs * bits].unflatten(1, (inputs, bits))
    worth = 1 << torch.arange(bits, dtype=torch.uint8, device=packed.device)
    return (one * worth).sum(-1, dtype=torch.uint8)


class QuantizedLinear(nn.Module):
    """y = x W'^T with W' made from its codes for each call and then let go: small, not fast."""

    def __init__(self, found: Quantized) -> None:
        super().__init__()
        self.weight = Packed(found)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(x, self.weight.dense(x.dtype))


class QuantizedExperts(nn.Module):
    """`model.Experts` whose matrices lie in codes; only those of experts that are chosen are made."""

    def __init__(self, gate_up: list[list[Quantized]], down: list[Quantized]) -> None:
        """gate_up: E of [gate, up]; down: E."""
        super().__init__()
        self.gate_up_proj = nn.ModuleList(nn.ModuleList(map(Packed, pair)) for pair in gate_up)
        self.down_proj = nn.ModuleList(map(Packed, down))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """(n, D) -> (n, D); weights, experts (n, K)."""
        y = torch.zeros_like(x)
        for e in experts.unique().tolist():
            gate_up = torch.cat([part.dense(x.dtype) for part in self.gate_up_proj[e]])
            down = self.down_proj[e].dense(x.dtype)
            share = (weights * (experts == e)).sum(-1, keepdim=True)
            chosen = (experts == e).any(-1)
            one = torch.zeros_like(experts[chosen][:, :1])
            y[chosen] += run_experts(x[chosen], share[chosen], one, gate_up[None], down[None])
        return y


def packed_model(model: Qwen3, table: Table) -> Qwen3:
    """A copy of the model whose matrices in `table` lie in memory as codes. (An embedding in the table
    stays as rounded numbers.) It runs as the model does; to save it, save the model of `round_model`."""
    light = copy.deepcopy(model)
    for name, module in list(light.named_modules()):
        if isinstance(module, nn.Linear) and f"{name}.weight" in table:
            _replace(light, name, QuantizedLinear(table[f"{name}.weight"]))
        elif f"{name}.0.gate_proj.weight" in table:
            every = range(model.config.num_experts or 0)
            pairs = [[table[f"{name}.{e}.{x}_proj.weight"] for x in ("gate", "up")] for e in every]
            down = [table[f"{name}.{e}.down_proj.weight"] for e in every]
            _replace(light, name, QuantizedExperts(pairs, down))
    return light


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def table_bytes(table: Table | Iterable[Quantized]) -> float:
    """Bytes of quantised matrices as files keep them: codes, 16-bit scales, zero points of as many bits."""
    every = table.values() if isinstance(table, dict) else table
    return sum(q.codes.size * q.grid.bits_per_weight(q.codes.shape[1]) / 8 for q in every)
