"""Dual Chunk Attention in PyTorch: three attentions, each at distances that training has seen, merged.

It takes the place of `Attention.attend` in a model whose config has `dual_chunk_attention_config`.
Queries and keys arrive rotated to their place in their own chunk (i mod s), so the KV cache is the
ordinary one and a key is never touched again; for the other two parts a query is turned further.

Shapes: b batch, t new tokens (queries), s all tokens so far (keys), h query heads, g KV heads, d head_dim.

Source: as `qwen3_ref.context.chunks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qwen3_ref.arrays import at_least_float32
from qwen3_ref.context.chunks import Chunks, logit_scale

Turn = Callable[[Tensor, Tensor], Tensor]


class DualChunkAttention:
    """Attention with the positions of `chunks`, logits multiplied by `scale`.

    turn: rotates x (b, h, t, d) onwards by so many positions (t,), as RoPE does.
    most: the longest text that the scale is right for; None for any. See `Qwen3Config.context_length`.
    """

    def __init__(self, chunks: Chunks, turn: Turn, scale: float = 1.0, most: int | None = None) -> None:
        self.chunks, self.turn, self.scale, self.most = chunks, turn, scale, most

    @classmethod
    def of(cls, settings: Mapping[str, Any], turn: Turn) -> DualChunkAttention:
        """That of a `dual_chunk_attention_config`, in the variant of the official code."""
        original, stated = settings.get("original_max_position_embeddings"), settings.get("scale_length")
        chunks = Chunks(settings["chunk_size"], settings["local_size"])
        most = max(original, stated or 0) if original else None
        return cls(chunks, turn, logit_scale(stated, original), most)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q (b, h, t, d); k, v (b, g, s, d); mask as the decoder makes it -> output (b, h, t, d).

        Raises ValueError for a text longer than `most`."""
        return self._rows(q, k, v, mask, False)[0]

    def traced(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same with the weights (b, h, t, s): those of the three parts, times each part's share."""
        return self._rows(q, k, v, mask, True)

    def _rows(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, traced: bool
    ) -> tuple[Tensor, Tensor]:
        s = k.shape[2]
        if self.most is not None and s > self.most:
            raise ValueError(
                f"the text has {s:,} tokens and the logit scale of dual_chunk_attention_config is that of up "
                f"to {self.most:,}; state the length of your texts in it as scale_length."
            )
        if mask is None or mask.shape[0] == 1:  # no padding: a token's column is its position
            return self._text(q, k, v, traced)
        out, weights = torch.zeros_like(q), q.new_zeros(*q.shape[:3], s if traced else 0)
        # The last query's row of the mask says which columns are tokens. (It sees itself, be it a pad.)
        for row, real in enumerate(mask[:, 0, -1]):
            keys, queries = real.nonzero()[:, 0], real[s - q.shape[2] :].nonzero()[:, 0]
            one = slice(row, row + 1)
            found, w = self._text(q[one, :, queries], k[one, :, keys], v[one, :, keys], traced)
            out[row, :, queries] = found[0]
            if traced:
                weights[row, :, queries[:, None], keys[None, :]] = w[0]
        return out, weights

    def _text(self, q: Tensor, k: Tensor, v: Tensor, traced: bool) -> tuple[Tensor, Tensor]:
        """Texts without padding, chunk by chunk of the queries; the last t of s tokens are queries."""
        (t, s), length = (q.shape[2], k.shape[2]), self.chunks.length
        place = torch.arange(s - t, s, device=q.device) % length  # in its own chunk
        near = (length + place).clamp_max(self.chunks.farthest) - place  # how much farther to turn
        q_successive, q_inter = self.turn(q, near), self.turn(q, self.chunks.inter - place)
        out, weights = torch.empty_like(q), q.new_zeros(*q.shape[:3], s if traced else 0)
        for n in range((s - t) // length, (s - 1) // length + 1):
            border, before = n * length, max(n - 1, 0) * length
            stop = min(border + length, s)
            own = slice(max(border - (s - t), 0), stop - (s - t))  # of the queries
            parts = [(q, border, stop), (q_successive, before, border), (q_inter, 0, before)]
            parts = [part for part in parts if part[1] < part[2]]
            found = [self._part(x[:, :, own], k[:, :, i:j], v[:, :, i:j], x is q) for x, i, j in parts]
            share = torch.stack([lse for _, lse, _ in found]).softmax(0).to(q.dtype)  # (parts, b, h, t, 1)
            out[:, :, own] = sum(p * part[0] for p, part in zip(share, found, strict=True))
            for p, (_, i, j), (_, _, w) in zip(share, parts, found, strict=True) if traced else ():
                weights[:, :, own, i:j] = p * w
        return out, weights

    def _part(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One attention: output (b, h, t, d), log of the sum (b, h, t, 1), weights (b, h, t, s)."""
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = at_least_float32(q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 * self.scale)
        if causal:  # the last queries are the last keys
            t, s = scores.shape[-2:]
            later = torch.ones(t, s, dtype=torch.bool, device=q.device).triu(s - t + 1)
            scores = scores.masked_fill(later, float("-inf"))
        lse = scores.logsumexp(-1, keepdim=True)
        weights = (scores - lse).exp().to(q.dtype)
        return weights @ v, lse, weights
