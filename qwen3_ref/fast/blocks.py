"""The parts of a decoder block with fewer, larger operations, beneath the plain model's names.

At one token a step each operation of PyTorch costs a few microseconds whatever it does, and the plain
block has some fifty that compute or copy (lesson 20 counts them). Here q, k and v are one product, gate
and up another, the norms of all heads and their rotation are done at once, and what flows between products
is float32, so that nothing is cast back and forth. Numbers differ from the plain model's in rounding alone.

Shapes: b batch, t new tokens, s all tokens so far, h query heads, g KV heads, d head_dim, D hidden_size,
F intermediate_size, E num_experts, K num_experts_per_tok.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3_ref.fast.products import Plain, Precision, product_of

Make = Callable[[Tensor], nn.Module]
"""From a matrix (O, I) to the module that multiplies with it."""


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis in float32: gain (size,) or what broadcasts to x."""
    size = x.shape[-1]
    wide = x.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    return wide * squares.div_(size).add_(eps).rsqrt_() * gain


class Norm(nn.Module):
    """`model.RMSNorm`, whose result stays float32."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.gain, self.eps = norm.weight.detach(), norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size) float32."""
        return normed(x, self.gain, self.eps)


class Turn:
    """RoPE's tables as a whole head needs them, made once a pass and not once a layer."""

    def __init__(self) -> None:
        self._of: Tensor | None = None

    def tables(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin (b or 1, t, d/2) -> (b or 1, t, 1, 2, d/2): the same angle for both halves, and the
        sine with the sign that each half takes."""
        if self._of is not cos:
            self._of = cos
            self._cos = torch.stack([cos, cos], dim=-2).unsqueeze(2)
            self._sin = torch.stack([-sin, sin], dim=-2).unsqueeze(2)
        return self._cos, self._sin


class Attention(nn.Module):
    """`model.Attention` with one product for q, k and v, and one norm and rotation for all heads."""

    def __init__(self, plain: Any, make: Make, turn: Turn) -> None:
        super().__init__()
        self.layer, self.head_dim, self.attend, self.traced = (
            plain.layer, plain.head_dim, plain.attend, plain.traced,
        )  # fmt: skip
        self.turn, self.eps = turn, plain.q_norm.eps
        q, k, v = (module.weight.detach() for module in (plain.q_proj, plain.k_proj, plain.v_proj))
        self.heads, self.kv_heads = len(q) // self.head_dim, len(k) // self.head_dim
        self.qkv_proj = make(torch.cat([q, k, v]))
        self.o_proj = make(plain.o_proj.weight)
        self.dtype = q.dtype
        q_gain, k_gain = plain.q_norm.weight.detach(), plain.k_norm.weight.detach()
        gains = [q_gain.expand(self.heads, -1), k_gain.expand(self.kv_heads, -1)]
        self.gain = torch.cat(gains).float()  # (h + g, d)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Any, trace: Any
    ) -> Tensor:
        """(b, t, D) -> (b, t, D), as `model.Attention.forward`."""
        b, t, _ = x.shape
        h, g, d = self.heads, self.kv_heads, self.head_dim
        qkv = self.qkv_proj(x).view(b, t, h + 2 * g, d)
        qk = normed(qkv[:, :, : h + g], self.gain, self.eps).view(b, t, h + g, 2, d // 2)
        cos, sin = self.turn.tables(cos, sin)
        turned = (qk * cos).addcmul_(qk.flip(-2), sin).view(b, t, h + g, d)
        turned = turned.to(self.dtype).transpose(1, 2)  # (b, h + g, t, d)
        q, k, v = turned[:, :h], turned[:, h:], qkv[:, :, h + g :].transpose(1, 2).to(self.dtype)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (b, g, s, d)
        if trace is not None and trace.attention:
            out, weights = self.traced(q, k, v, mask)
            trace.attentions.append(weights)
        else:
            out = self.attend(q, k, v, mask)  # (b, h, t, d)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, h * d))


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`model.fused_attention`; a single query reads each KV head once for its whole group.

    q (b, h, 1, d) is looked at as (b, g, h/g, d): the heads of a group are rows that share k and v.
    """
    b, h, t, d = q.shape
    g = k.shape[1]
    if t == 1:
        q = q.reshape(b, g, h // g, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).view(b, h, 1, d)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=h != g)


class MLP(nn.Module):
    """`model.MLP` with gate and up as one product."""

    def __init__(self, make: Make, gate: Tensor, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.gate_up_proj = make(torch.cat([gate.detach(), up.detach()]))
        self.down_proj = make(down)

    def forward(self, x: Tensor, trace: Any = None) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate).mul_(up))


class Experts(nn.Module):
    """`model.Experts` with a module for each expert; a step reads those alone that are chosen."""

    def __init__(self, plain: Any, make: Make) -> None:
        super().__init__()
        gate, up = plain.gate_up_proj.chunk(2, dim=1)
        self.each = nn.ModuleList(MLP(make, *one) for one in zip(gate, up, plain.down_proj, strict=True))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """(n, D) -> (n, D); weights, experts (n, K)."""
        if len(x) == 1:  # nothing to sort
            y = torch.cat([self.each[e](x) for e in experts[0].tolist()])
            return weights.to(y.dtype) @ y
        order = experts.flatten().argsort(stable=True)
        counts = experts.flatten().bincount(minlength=len(self.each)).tolist()
        chosen = [e for e, n in enumerate(counts) if n]
        parts = x[order // experts.shape[1]].split([counts[e] for e in chosen])
        y = torch.cat([self.each[e](part) for e, part in zip(chosen, parts, strict=True)])  # (n K, D)
        picks = torch.empty_like(y).index_copy_(0, order, y).view(*experts.shape, -1)  # back in order
        return (weights.to(y.dtype)[:, None] @ picks)[:, 0]


def trim() -> None:
    """Give back to the system what is free between what is held: glibc keeps it, and after a model's worth of
    matrices, made in 16 bits and let go for 8, the holes are as large as half the model."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # other C libraries have no such function


class Quick:
    """Exchanges the parts of a `model.Qwen3`, one after the other as they are loaded."""

    def __init__(self, precision: Precision) -> None:
        self.make, self.turn = product_of(precision), Turn()

    def exchange(self, model: Any, name: str) -> None:
        """Exchange the part of this official name in place; what it was made of is let go."""
        last = name.rpartition(".")[2]
        part = model.get_submodule(name)
        part.requires_grad_(False)
        if hasattr(part, "self_attn"):
            self._block(part)
        elif last == "norm":
            model.model.norm = Norm(part)
        elif last == "lm_head" or model.config.tie_word_embeddings:
            model.lm_head = self.make(part.weight)
        trim()

    def _block(self, block: Any) -> None:
        if block.self_attn.attend.__name__ == "fused_attention":
            block.self_attn.attend = grouped_attention
        block.self_attn = Attention(block.self_attn, self.make, self.turn)
        if hasattr(block.mlp, "experts"):
            block.mlp.gate = Plain(block.mlp.gate.weight.float())  # small, and who works hangs on it
            block.mlp.experts = Experts(block.mlp.experts, self.make)
        else:
            mlp = block.mlp
            block.mlp = MLP(self.make, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
        block.input_layernorm = Norm(block.input_layernorm)
        block.post_attention_layernorm = Norm(block.post_attention_layernorm)
