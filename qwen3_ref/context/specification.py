"""Dual Chunk Attention in NumPy: every relative position written out, one softmax, nothing merged.

Keys are not rotated at all: the distance at which a query sees a key is a matrix, and a score is the dot
product of the two vectors with the angle of that distance between them. With the matrix i - j it is the
attention of every other Qwen3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.config import Qwen3Config
from qwen3_ref.context.chunks import Chunks, logit_scale
from qwen3_ref.numpy_ref import Array, NumpyQwen3, softmax
from qwen3_ref.rope import Float64Array, cos_sin, default_frequencies


def relative_attention(
    q: Array,
    k: Array,
    v: Array,
    distance: NDArray[Any],
    inv_freq: Float64Array,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """Attention at stated distances. Query head i reads KV head i // (h / g).

    q (b, h, t, d); k, v (b, g, s, d), none of them rotated; distance (t, s), negative where a query may
    not look; inv_freq (d / 2,) -> output (b, h, t, d), weights (b, h, t, s). Logits are multiplied by
    `scale` and divided by the root of d.
    """
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    cos, sin = cos_sin(distance, inv_freq)  # (t, s, d/2)
    (q1, q2), (k1, k2) = np.split(q, 2, axis=-1), np.split(k, 2, axis=-1)
    # A pair (q1, q2) turned by an angle, times a pair (k1, k2): with the cosine what is alike counts ...
    alike = q1[:, :, :, None] * k1[:, :, None] + q2[:, :, :, None] * k2[:, :, None]
    across = q1[:, :, :, None] * k2[:, :, None] - q2[:, :, :, None] * k1[:, :, None]
    scores = (alike * cos + across * sin).sum(-1) * scale / np.sqrt(q.shape[-1])
    weights = softmax(np.where(distance >= 0, scores, -np.inf))
    return weights @ v, weights


class DualChunkNumpyQwen3(NumpyQwen3):
    """`NumpyQwen3` for a config with `dual_chunk_attention_config`: whole texts without padding or cache."""

    chunked = True

    def __init__(self, config: Qwen3Config, weights: Any) -> None:
        super().__init__(config, weights)
        settings = config.dual_chunk_attention_config
        if settings is None:
            raise ValueError("the config has no dual_chunk_attention_config; use NumpyQwen3.")
        self.chunks = Chunks(settings["chunk_size"], settings["local_size"])
        self.scale = logit_scale(
            settings.get("scale_length"), settings.get("original_max_position_embeddings")
        )

    def mix(self, q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, Array]:
        """Attention (b, h, t, d) and its weights, of vectors that have not been rotated.

        Raises ValueError for padding, or tokens of an earlier pass."""
        t = q.shape[2]
        if not (allowed == np.tri(t, dtype=bool)).all():
            raise ValueError("the specification reads whole texts; give one without padding or cache.")
        freq = default_frequencies(self.config.head_dim, self.config.rope_theta)
        return relative_attention(q, k, v, self.chunks.distances(t), freq, self.scale)
