"""The specification: Qwen3, dense and mixture-of-experts, in NumPy.

Every function's body is the formula; the dtype of the inputs is the dtype of the arithmetic, so
float64 gives the numbers that everything else is held against. No torch here.

Shapes: b batch, t new tokens (queries), s all tokens so far (keys), h query heads, g KV heads,
d head_dim, D hidden_size, F intermediate_size, E num_experts, K num_experts_per_tok, V vocab_size.

Source: Qwen3 technical report (arXiv 2505.09388) section 2; transformers 5
`models/qwen3/modeling_qwen3.py` and `models/qwen3_moe/modeling_qwen3_moe.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qwen3_ref.arrays import require_ids
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.rope import cos_sin, frequencies
from qwen3_ref.store.progress import progress
from qwen3_ref.store.quantized import open_weights

Array = NDArray[Any]


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    """Divide each vector by its root mean square, then scale each channel.

    x (..., n), gain (n,) -> (..., n). eps stands inside the root.
    """
    return gain * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps))


def softmax(x: Array) -> Array:
    """exp(x) / sum exp(x) over the last axis; the maximum is taken off first so nothing overflows."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    """x times the sigmoid of x. Written with tanh, which cannot overflow as exp(-x) can."""
    return x * (0.5 * (1.0 + np.tanh(0.5 * x)))


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    """down(silu(gate x) * up x), no biases. x (..., D); gate, up (F, D); down (D, F) -> (..., D)."""
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """RoPE, half-split: channel j turns with channel j + d/2.

    x (b, heads, t, d); cos, sin (b, t, d/2) -> (b, heads, t, d).
    """
    first, second = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]  # the same angle for every head
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention(q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, Array]:
    """Grouped-query attention: query head i reads KV head i // (h / g).

    q (b, h, t, d); k, v (b, g, s, d); allowed (b, t, s), True where a query may look
    -> output (b, h, t, d), weights (b, h, t, s).
    """
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)
    weights = softmax(np.where(allowed[:, None], scores, -np.inf))
    return weights @ v, weights


def route(logits: Array, top_k: int, normalize: bool) -> tuple[Array, Array]:
    """The router: softmax over all experts, keep the top_k, and (if normalize) make them sum to 1.

    logits (..., E) -> weights (..., K), experts (..., K), best first.
    """
    probabilities = softmax(logits)
    experts = np.argsort(-probabilities, axis=-1, kind="stable")[..., :top_k]
    weights = np.take_along_axis(probabilities, experts, axis=-1)
    return (weights / weights.sum(axis=-1, keepdims=True) if normalize else weights), experts


@dataclass
class NumpyCache:
    """Keys and values of every layer so far, and which columns are real tokens (not left padding)."""

    keys: list[Array] = field(default_factory=list)  # per layer (b, g, s, d), normalised and rotated
    values: list[Array] = field(default_factory=list)  # per layer (b, g, s, d)
    real: Array | None = None  # (b, s) bool

    @property
    def length(self) -> int:
        """Columns in use, padding included."""
        return 0 if self.real is None else int(self.real.shape[1])

    def append(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Add the new keys and values of one layer behind the `length` that count; returns all of them."""
        if layer == len(self.keys):
            self.keys.append(k)
            self.values.append(v)
        else:
            self.keys[layer] = np.concatenate([self.keys[layer][:, :, : self.length], k], axis=2)
            self.values[layer] = np.concatenate([self.values[layer][:, :, : self.length], v], axis=2)
        return self.keys[layer], self.values[layer]


class NumpyQwen3:
    """The whole model. `weights` maps official checkpoint names to arrays; their dtype is used."""

    chunked = False
    """Whether it is the one of configs with `dual_chunk_attention_config`."""

    def __init__(self, config: Qwen3Config, weights: Mapping[str, Array]) -> None:
        if config.dual_chunk_attention_config is not None and not self.chunked:
            raise ConfigError(
                "the config has a dual_chunk_attention_config; use DualChunkNumpyQwen3 of "
                "qwen3_ref.context.specification, or Qwen3."
            )
        self.config = config
        self.weights = weights

    @classmethod
    def from_pretrained(
        cls, directory: str | PathLike[str], dtype: DTypeLike = np.float64
    ) -> NumpyQwen3:
        """Load a checkpoint directory. Raises ConfigError or CheckpointError, naming file and tensor."""
        config = Qwen3Config.from_pretrained(directory)
        checkpoint = open_weights(directory)
        shapes = config.tensor_shapes()
        checkpoint.require(shapes)
        return cls(config, {name: checkpoint.read(name, dtype) for name in progress(shapes)})

    def __call__(
        self,
        input_ids: Any,
        *,
        attention_mask: Any = None,
        cache: NumpyCache | None = None,
        trace: Any = None,
    ) -> Array:
        """Logits (b, t, V) of input_ids (b, t).

        attention_mask (b, t) is 0 at padding. `cache` is appended to. `trace`, any object with
        the lists of `qwen3_ref.model.Trace`, is filled with what happened inside.
        Raises ValueError for ids outside the vocabulary, or a wrong shape or type.
        """
        ids = np.asarray(input_ids)
        mask = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(attention_mask)
        require_ids(ids, mask, self.config.vocab_size)
        cache = NumpyCache() if cache is None else cache
        start, real = cache.length, mask.astype(bool)
        real = real if cache.real is None else np.concatenate([cache.real, real], axis=1)
        positions, allowed = positions_and_mask(real, start)

        x = self.weights["model.embed_tokens.weight"][ids]  # (b, t, D)
        c = self.config
        inv_freq, factor = frequencies(
            c.head_dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings, int(positions.max()) + 1
        )
        positions = positions * (not self.chunked)  # where distances are written out, nothing is turned
        cos, sin = (a.astype(x.dtype) for a in cos_sin(positions, inv_freq, factor))  # (b, t, d/2)
        for layer in range(c.num_hidden_layers):
            if trace is not None:
                trace.hidden_states.append(x)
            x = self.block(layer, x, cos, sin, allowed, cache, trace)
        cache.real = real  # only now: a pass that fails on the way leaves the cache as it was
        x = rms_norm(x, self.weights["model.norm.weight"], c.rms_norm_eps)
        if trace is not None:
            trace.hidden_states.append(x)
        tied = c.tie_word_embeddings
        return x @ self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    def block(
        self,
        layer: int,
        x: Array,
        cos: Array,
        sin: Array,
        allowed: Array,
        cache: NumpyCache,
        trace: Any = None,
    ) -> Array:
        """One decoder layer: x + attention(norm(x)), then x + feed_forward(norm(x)). (b, t, D) both."""

        def w(name: str) -> Array:
            return self.weights[f"model.layers.{layer}.{name}.weight"]

        c, (b, t, _) = self.config, x.shape
        h = rms_norm(x, w("input_layernorm"), c.rms_norm_eps)

        def heads(name: str) -> Array:  # (b, t, D) -> (b, heads, t, d)
            return (h @ w(f"self_attn.{name}").T).reshape(b, t, -1, c.head_dim).swapaxes(1, 2)

        # QK-Norm: over head_dim, before the rotation; one gain vector for all heads.
        q = rotate(rms_norm(heads("q_proj"), w("self_attn.q_norm"), c.rms_norm_eps), cos, sin)
        k = rotate(rms_norm(heads("k_proj"), w("self_attn.k_norm"), c.rms_norm_eps), cos, sin)
        keys, values = cache.append(layer, k, heads("v_proj"))
        mixed, weights = self.mix(q, keys, values, allowed)
        x = x + mixed.swapaxes(1, 2).reshape(b, t, -1) @ w("self_attn.o_proj").T
        if trace is not None:
            trace.attentions.append(weights)

        h = rms_norm(x, w("post_attention_layernorm"), c.rms_norm_eps)
        if c.is_sparse_layer(layer):
            return x + self.experts(layer, h, trace)
        return x + swiglu(h, w("mlp.gate_proj"), w("mlp.up_proj"), w("mlp.down_proj"))

    def mix(self, q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, Array]:
        """`attention`, unless a model has another."""
        return attention(q, k, v, allowed)

    def experts(self, layer: int, h: Array, trace: Any = None) -> Array:
        """Mixture of experts: sum over a token's K experts of weight * swiglu. (b, t, D) both."""
        c, prefix = self.config, f"model.layers.{layer}.mlp"
        assert c.num_experts_per_tok is not None and c.norm_topk_prob is not None
        logits = h @ self.weights[f"{prefix}.gate.weight"].T  # (b, t, E)
        weights, experts = route(logits, c.num_experts_per_tok, c.norm_topk_prob)
        y = np.zeros_like(h)
        for e in np.unique(experts):
            *tokens, slot = np.nonzero(experts == e)  # which (b, t) chose expert e, and as which pick
            names = (f"{prefix}.experts.{e}.{part}_proj.weight" for part in ("gate", "up", "down"))
            out = swiglu(h[tuple(tokens)], *(self.weights[name] for name in names))
            y[tuple(tokens)] += weights[(*tokens, slot)][:, None] * out
        if trace is not None:
            trace.router_logits.append(logits)
            trace.expert_ids.append(experts)
            trace.expert_weights.append(weights)
        return y


def positions_and_mask(real: Array, start: int) -> tuple[Array, Array]:
    """Positions (b, t) and the mask allowed (b, t, s) of the columns from `start` on.

    real (b, s): which columns are tokens. A token's position is the number of tokens before it, so
    left padding shifts nothing; a query sees real columns up to its own. Padding sees itself alone,
    which keeps its softmax finite; nobody looks at the result.
    """
    s = real.shape[1]
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)[:, start:]
    query, key = np.arange(start, s)[:, None], np.arange(s)[None, :]
    return positions, (real[:, None, :] & (key <= query)) | (key == query)
