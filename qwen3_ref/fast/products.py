"""Products with a weight matrix, each stored in its own way: y = x W^T for decoding and for prefill alike.

A decode step reads every weight once for one token, so its time is bytes over bandwidth; prefill uses each
weight for many tokens, so its time is arithmetic over what the processor can do. What is stored:

- **float32, float16, bfloat16**: the matrix as it is.
- **int8**: a whole number of -127 to 127 for each weight and one scale for each output channel,
  w' = q s_w. The activations are rounded too, to 8 bits between plus and minus their largest, each row
  (token) by its own, so that no token's numbers depend on its neighbours'; the sums are whole numbers and
  exact. (W8A8, dynamic.)
- **int4**: 0 to 15 for each weight, a scale s and a middle m for each 32 inputs of a row, w' = (q - 8) s + m;
  activations stay bfloat16.

Shapes: O outputs, I inputs. Sources: PyTorch's operators
`quantized::linear_with_input_q_dq_qweight_dq_output_fp32` (FBGEMM's kernel on x86) and
`aten::_weight_int4pack_mm_for_cpu`; int8 by rows and channels as in LLM.int8() (arXiv 2208.07339) section
3.1, without its outliers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3_ref.store.errors import quoted

Precision = Literal["float32", "float16", "bfloat16", "int8", "int4"]
GROUP = 32
"""Inputs that share a scale and a middle in int4."""
_INT4_ROWS = 16  # the kernel wants outputs in multiples of so many
_ROWS = 1024  # converted in one go: no matrix needs a float32 copy of itself


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
        self.vector = weight.dtype == torch.bfloat16  # a kernel of its own, quicker for one row

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        rows = x.to(self.weight.dtype)
        if self.vector and rows.numel() == rows.shape[-1]:
            return torch.mv(self.weight, rows.view(-1)).to(x.dtype).view(*x.shape[:-1], -1)
        return F.linear(rows, self.weight).to(x.dtype)


class Int8(nn.Module):
    """y = x W^T with W in 8 bits by output channel and x in 8 bits by row; sums in 32-bit integers.

    The kernel takes one scale for all the rows it is given. So each row is divided by its own largest value
    first, and the scale is that of numbers from -1 to 1, whoever the neighbours are. Codes of activations are
    unsigned: 128 stands for 0.
    """

    reduced: bool | None = None  # whether activations get 7 bits, found out once

    def __init__(self, weight: Tensor) -> None:
        """weight (O, I), any float."""
        super().__init__()
        self.shape = tuple(weight.shape)
        q = torch.empty(self.shape, dtype=torch.int8)
        scale = torch.empty(self.shape[0])
        for rows in torch.arange(self.shape[0]).split(_ROWS):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            w = weight.detach()[part].float()
            scale[part] = w.abs().amax(dim=1).clamp_min(1e-30) / 127
            q[part] = (w / scale[part, None]).round()
        self.nbytes = q.nbytes + scale.nbytes
        if Int8.reduced is None:
            Int8.reduced = _saturates()
        self.packed = _packed(q, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        largest = x.abs().amax(dim=-1, keepdim=True).float().clamp_min_(1e-30)
        y = _multiplied(x / largest, self.packed, 63 if Int8.reduced else 127)
        return y.mul_(largest).to(x.dtype)


def _multiplied(x: Tensor, packed: Any, steps: int) -> Tensor:
    """The product with x (..., I) from -1 to 1, rounded to so many steps on either side of 0."""
    y: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x, 1 / steps, steps + 1, packed
    )
    return y


def _packed(q: Tensor, scale: Tensor) -> Any:
    """Whole numbers (O, I) and scales (O,) as the kernel wants them."""
    with warnings.catch_warnings():  # quantized tensors are to go one day; the kernel has no other entrance
        warnings.simplefilter("ignore")
        zero = torch.zeros(len(scale), dtype=torch.int64)
        matrix = torch._make_per_channel_quantized_tensor(q, scale, zero, 0)
        return torch.ops.quantized.linear_prepack(matrix, None)


def _saturates() -> bool:
    """Whether the processor adds pairs of products in 16 bits (x86 without VNNI), where 2 * 255 * 127 does
    not fit; with activations of 7 bits they do."""
    packed = _packed(torch.full((16, 64), 127, dtype=torch.int8), torch.ones(16))
    return not torch.allclose(_multiplied(torch.ones(1, 64), packed, 127), torch.tensor(64 * 127.0))


class Int4(nn.Module):
    """y = x W^T with W in 4 bits by groups of 32 inputs, x in bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        """weight (O, I), any float."""
        super().__init__()
        self.shape = tuple(weight.shape)
        outputs = self.shape[0] + -self.shape[0] % _INT4_ROWS
        self.codes = torch.empty(outputs, self.shape[1] // 2, dtype=torch.uint8)
        grid = torch.empty(outputs, self.shape[1] // GROUP, 2, dtype=torch.bfloat16)
        for i, part in enumerate(weight.detach().split(_ROWS)):
            codes, its_grid = self._codes(part)
            self.codes[i * _ROWS :][: len(codes)], grid[i * _ROWS :][: len(codes)] = codes, its_grid
        self.grid = grid.transpose(0, 1).contiguous()  # (I / 32, O, 2)
        self.nbytes = self.codes.nbytes + self.grid.nbytes

    @staticmethod
    def _codes(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (o, I) as the kernel's codes and as scale and middle of each group (o, I / 32, 2)."""
        w = weight.float().unflatten(1, (-1, GROUP))
        low, high = w.amin(dim=2), w.amax(dim=2)
        scale = ((high - low) / 15).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
        middle = (low + 8 * scale.float()).bfloat16()  # what code 8 stands for
        q = ((w - middle.float()[..., None]) / scale.float()[..., None] + 8).round().clamp(0, 15)
        more = -len(w) % _INT4_ROWS
        codes = F.pad(q.flatten(1).to(torch.int32), (0, 0, 0, more))
        grid = F.pad(torch.stack([scale, middle], dim=-1), (0, 0, 0, 0, 0, more))
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1), grid

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), in the dtype of x."""
        rows = x.reshape(-1, self.shape[1]).bfloat16()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.codes, GROUP, self.grid)
        return y[:, : self.shape[0]].to(x.dtype).view(*x.shape[:-1], self.shape[0])


def product_of(precision: Precision) -> Callable[[Tensor], nn.Module]:
    """What makes a module of a matrix (O, I)."""
    kinds: dict[str, type[nn.Module]] = {"int8": Int8, "int4": Int4}
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
