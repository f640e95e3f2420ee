"""Products with a weight matrix, each stored in its own way: y = x W^T for decoding and for prefill alike.

A decode step reads every weight once for one token, so its time is bytes over bandwidth; prefill uses each
weight for many tokens, so its time is arithmetic over what the processor can do. What is stored:

- **float32, float16, bfloat16**: the matrix as it is, in the blocks that oneDNN wants to read.
- **int8**: a whole number of -127 to 127 for each weight and one scale for each output channel,
  w' = q s_w. The activations are rounded too, each row (token) by its own scale, so that no token's numbers
  depend on its neighbours'; the sums are whole numbers and exact. (W8A8, dynamic.)
- **int4**: 0 to 15 for each weight, a scale and a minimum for each 32 inputs of a row, w' = (q - 8) s + m;
  activations stay bfloat16.

Shapes: O outputs, I inputs, m rows of activations. Sources: PyTorch's operators `mkldnn::_linear_pointwise`,
`onednn::qlinear_pointwise`, `aten::_weight_int4pack_mm_for_cpu`; int8 by rows as in LLM.int8()
(arXiv 2208.07339) section 2, without its outliers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3_ref.store.errors import quoted

Precision = Literal["float32", "float16", "bfloat16", "int8", "int4"]
GROUP = 32
"""Inputs that share a scale and a minimum in int4."""
_INT4_ROWS = 16  # the kernel wants outputs in multiples of so many
_ROWS = 4096  # converted in one go: a head of 151,936 rows needs no float32 copy of itself


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of activations, embedding and cache that goes with a precision of the weights."""
    found = {"float32": torch.float32, "float16": torch.float16}
    return found.get(precision, torch.bfloat16)


class Plain(nn.Module):
    """y = x W^T with W as it is, in the dtype it has."""

    def __init__(self, weight: Tensor) -> None:
        """weight (O, I)."""
        super().__init__()
        self.weight = weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        return F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)


class Packed(nn.Module):
    """y = x W^T with W in oneDNN's own blocks: the numbers are the matrix's, in another order."""

    def __init__(self, weight: Tensor) -> None:
        """weight (O, I), in the dtype of the activations to come."""
        super().__init__()
        self.dtype, self.nbytes = weight.dtype, weight.nbytes
        # An opaque tensor: neither a parameter nor a buffer, since it cannot be moved, cast or saved.
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.blocks, None, "none", [], "")
        return y.to(x.dtype)


class Int8(nn.Module):
    """y = x W^T with W in 8 bits by output channel and x in 8 bits by row; sums in 32-bit integers."""

    def __init__(self, weight: Tensor) -> None:
        """weight (O, I), any float."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self.nbytes = weight.numel() + 4 * self.shape[0]
        q, scales = torch.empty(self.shape, dtype=torch.int8), []
        for rows, part in zip(q.split(_ROWS), weight.detach().split(_ROWS), strict=True):
            w = part.float()
            scales.append(w.abs().amax(dim=1).clamp_min(1e-30) / 127)
            rows.copy_((w / scales[-1][:, None]).round())
        self.scale = torch.cat(scales)  # (O,)
        self.zero = torch.zeros(self.shape[0], dtype=torch.int64)
        self.blocks = torch.ops.onednn.qlinear_prepack(q, [1, self.shape[1]])

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        return self.product(*rounded(x), x.dtype)

    def product(self, q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Of activations that are whole numbers already: `rounded(x)`, which several matrices may share."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 0, self.blocks, self.scale, self.zero, None, 1.0, 0, dtype, "none", [], ""
        )
        return y.mul_(scale)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits: (..., I) -> whole numbers of -127 to 127 (..., I), and scales (..., 1) in float32."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min_(1e-30).div_(127)
    return (x / scale).round_().to(torch.int8), scale


class Int4(nn.Module):
    """y = x W^T with W in 4 bits by groups of 32 inputs, x in bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        """weight (O, I), any float."""
        super().__init__()
        self.shape = tuple(weight.shape)
        outputs, inputs = self.shape
        w = weight.detach().float().view(outputs, inputs // GROUP, GROUP)
        low, high = w.amin(dim=2), w.amax(dim=2)
        scale = ((high - low) / 15).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
        middle = (low + 8 * scale.float()).bfloat16()  # what code 8 stands for
        q = ((w - middle.float()[..., None]) / scale.float()[..., None] + 8).round().clamp(0, 15)
        more = -outputs % _INT4_ROWS
        codes = F.pad(q.view(outputs, inputs).to(torch.int32), (0, 0, 0, more))
        pair = F.pad(torch.stack([scale, middle], dim=-1), (0, 0, 0, 0, 0, more))
        self.grid = pair.transpose(0, 1).contiguous()  # (I / 32, O, 2)
        self.codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        self.nbytes = self.codes.nbytes + self.grid.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        rows = x.reshape(-1, self.shape[1]).bfloat16()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.codes, GROUP, self.grid)
        return y[:, : self.shape[0]].to(x.dtype).view(*x.shape[:-1], self.shape[0])


def product_of(precision: Precision) -> Callable[[Tensor], nn.Module]:
    """What makes a module of a matrix (O, I). Packing pays for bfloat16 alone (measured: `benchmarks`)."""
    kinds: dict[str, type[nn.Module]] = {"bfloat16": Packed, "int8": Int8, "int4": Int4}
    return kinds.get(precision, Plain)


def unavailable(precision: Precision, inputs: Iterable[int]) -> str | None:
    """Why there is no such product here for matrices with so many inputs, or None: it is tried."""
    for size in inputs:
        if precision == "int4" and size % GROUP:
            return f"int4 has groups of {GROUP} inputs, and this model has matrices of {size}"
        weight, x = torch.eye(32, size), torch.ones(1, size)
        try:
            got = product_of(precision)(weight.to(dtype_of(precision)))(x)
        except (RuntimeError, AttributeError) as error:
            return f"PyTorch has no {precision} product for this processor ({quoted(str(error))[:120]})"
        if not torch.allclose(got, F.linear(x, weight), atol=0.02):
            return f"PyTorch's {precision} product gives wrong numbers on this processor"
    return None
