"""Qwen3 in PyTorch: one implementation for dense and mixture-of-experts, training and inference.

Parameter names are the official checkpoint's. Experts are stacked in memory, under the names that
transformers 5 gives the stacked tensors.

Whatever does the work can be exchanged for something faster that is called alike: any `nn.Linear`,
`Experts`, `Attention.attend` (q, k, v, mask -> output), `Qwen3.head`, and the cache.

Shapes: b batch, t new tokens (queries), s all tokens so far (keys), h query heads, g KV heads,
d head_dim, D hidden_size, F intermediate_size, E num_experts, K num_experts_per_tok, V vocab_size.

Source: Qwen3 technical report (arXiv 2505.09388) section 2; transformers 5
`models/qwen3/modeling_qwen3.py` and `models/qwen3_moe/modeling_qwen3_moe.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from qwen3_ref.arrays import at_least_float32, require_ids, require_whole
from qwen3_ref.cache import KVCache, require_device, require_dtype
from qwen3_ref.config import Qwen3Config
from qwen3_ref.context.dual_chunk import DualChunkAttention
from qwen3_ref.fast.blocks import Quick
from qwen3_ref.fast.choose import Choice, choose
from qwen3_ref.fast.products import Precision, dtype_of
from qwen3_ref.moe import route, run_experts
from qwen3_ref.mrope import config_axes
from qwen3_ref.rope import Float64Array, frequencies, rope_type
from qwen3_ref.store.checkpoint import write_checkpoint
from qwen3_ref.store.errors import quoted
from qwen3_ref.store.progress import progress
from qwen3_ref.store.quantized import open_weights


@dataclass
class Trace:
    """What happened inside one forward pass, for pictures and debugging. Pass an empty one in.

    With `attention=True` the eager path runs, since the fused one never forms the weights.
    """

    attention: bool = True
    hidden_states: list[Tensor] = field(default_factory=list)
    """L + 1 of (b, t, D): the input of each block, then the output of the final norm."""
    attentions: list[Tensor] = field(default_factory=list)
    """L of (b, h, t, s): each query's weights over the keys."""
    router_logits: list[Tensor] = field(default_factory=list)
    """One (b, t, E) for each MoE layer."""
    expert_ids: list[Tensor] = field(default_factory=list)
    """One (b, t, K) for each MoE layer, best first."""
    expert_weights: list[Tensor] = field(default_factory=list)
    """One (b, t, K) for each MoE layer."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis; the mean square is taken in at least float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size), in the dtype of x. The order of casts is the official one."""
        wide = at_least_float32(x)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE, half-split: channel j turns with channel j + d/2.

    x (b, heads, t, d); cos, sin (b or 1, t, d/2) -> (b, heads, t, d), in the dtype of x.
    """
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # the same angle for every head
    out = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return out.to(x.dtype)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Grouped-query attention, spelled out: query head i reads KV head i // (h / g).

    q (b, h, t, d); k, v (b, g, s, d); mask (b or 1, 1, t, s), True where a query may look
    -> output (b, h, t, d), weights (b, h, t, s).
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (b, h, s, d)
    scores = at_least_float32(q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # (b, h, t, s)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1).to(q.dtype)
    return weights @ v, weights


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same by PyTorch's kernel, which forms no weights: -> output (b, h, t, d).

    Without a mask, t queries see s = t keys causally, and a single one sees all s.
    """
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


class Attention(nn.Module):
    """Grouped-query attention with QK-Norm."""

    def __init__(self, config: Qwen3Config, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = fused_attention
        self.traced: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = eager_attention
        q_size = config.num_attention_heads * config.head_dim  # not hidden_size: head_dim is its own
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        trace: Trace | None,
    ) -> Tensor:
        """(b, t, D) -> (b, t, D). `mask` (b or 1, 1, t, s), or None for plain causal attention."""
        b, t, _ = x.shape

        def heads(projected: Tensor) -> Tensor:  # (b, t, n d) -> (b, n, t, d)
            return projected.view(b, t, -1, self.head_dim).transpose(1, 2)

        # q (b, h, t, d); k, v (b, g, t, d)
        q = rotate(self.q_norm(heads(self.q_proj(x))), cos, sin)
        k = rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)
        v = heads(self.v_proj(x))
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (b, g, s, d)
        if trace is not None and trace.attention:
            assert mask is not None  # the decoder has made one for the trace
            out, weights = self.traced(q, k, v, mask)
            trace.attentions.append(weights)
        else:
            out = self.attend(q, k, v, mask)  # (b, h, t, d)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))  # h d -> D


class MLP(nn.Module):
    """SwiGLU feed-forward: down(silu(gate x) * up x), no biases."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        D, F_ = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(D, F_, bias=False)
        self.up_proj = nn.Linear(D, F_, bias=False)
        self.down_proj = nn.Linear(F_, D, bias=False)

    def forward(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """(b, t, D) -> (b, t, D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # (b, t, F) inside


class Experts(nn.Module):
    """All experts of a layer, stacked: gate_up_proj (E, 2F, D), gate rows first; down_proj (E, D, F)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        assert config.num_experts and config.moe_intermediate_size  # the config has checked
        E, D, F_ = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F_, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F_))

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """(n, D) -> (n, D), the tokens in a row; weights, experts (n, K), as `route` gives them."""
        return run_experts(x, weights, experts, self.gate_up_proj, self.down_proj)


class SparseMoe(nn.Module):
    """Mixture of experts: each token is the weighted sum of its K experts' SwiGLU outputs."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        assert config.num_experts and config.num_experts_per_tok and config.norm_topk_prob is not None
        self.top_k, self.normalize = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Experts(config)

    def forward(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """(b, t, D) -> (b, t, D)."""
        logits = self.gate(x)  # (b, t, E)
        weights, experts = route(logits, self.top_k, self.normalize)  # (b, t, K)
        if trace is not None:
            trace.router_logits.append(logits)
            trace.expert_ids.append(experts)
            trace.expert_weights.append(weights)
        y = self.experts(x.flatten(0, 1), weights.flatten(0, 1), experts.flatten(0, 1))  # (b t, D)
        return y.view_as(x)


class Block(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: Qwen3Config, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = SparseMoe(config) if config.is_sparse_layer(layer) else MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        trace: Trace | None,
    ) -> Tensor:
        """(b, t, D) -> (b, t, D)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, trace)
        return x + self.mlp(self.post_attention_layernorm(x), trace)


class Decoder(nn.Module):
    """Embedding, blocks and final norm: everything whose official name starts with `model.`."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        # Derived, and YaRN judged, once. In NumPy and no buffer: neither .to(dtype) nor "meta" alters it.
        self.inv_freq, self.rope_factor = frequencies(
            config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings
        )
        self.dynamic = rope_type(config.rope_scaling or {}) == "dynamic"
        self.axes = config_axes(config.rope_scaling)
        # Made from a tensor, since drawing one on the meta device imports 800 modules (74 MB, 0.7 s).
        empty = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(empty, freeze=False)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.chunk_length: int | None = None
        """Dual Chunk Attention: after how many tokens positions begin again; None without it."""
        if config.dual_chunk_attention_config is not None:
            chunked = DualChunkAttention.of(config.dual_chunk_attention_config, self._turn)
            self.chunk_length = chunked.chunks.length
            for module in self.modules():
                if isinstance(module, Attention):
                    module.attend, module.traced = chunked.attend, chunked.traced

    def _frequencies(self, real: Tensor, cached: bool) -> Float64Array:
        """Dynamic NTK's, of the length that these texts have; real (b, s).

        Keys and values of a shorter text cannot serve a longer one: with other frequencies every layer's
        input would have been another. So nothing is cached where the length changes them."""
        c, lengths = self.config, sorted(set(real.sum(dim=1).tolist()))
        if lengths[-1] <= c.max_position_embeddings:
            return self.inv_freq
        if cached or len(lengths) > 1:
            reason = "a KV cache holds what shorter texts gave" if cached else "these rows differ in length"
            raise ValueError(
                f"rope_type 'dynamic' turns a text of {lengths[-1]:,} tokens unlike a shorter one, and "
                f"{reason}; fix one length for all: context.stretch.stretched(config, 'ntk', factor)."
            )
        return frequencies(
            c.head_dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings, lengths[-1]
        )[0]

    def _require_positions(self, position_ids: Tensor, input_ids: Tensor) -> None:
        shape, (b, t) = tuple(position_ids.shape), input_ids.shape
        if self.chunk_length is not None or self.dynamic:
            raise ValueError(
                "position_ids are given, and this config's RoPE (dual_chunk_attention_config or rope_type "
                "'dynamic') goes by counted tokens; leave them out."
            )
        if shape not in ((b, t), (3, b, t)):
            raise ValueError(
                f"position_ids have shape {shape} and the new tokens {(b, t)}; give {(b, t)}, or {(3, b, t)} "
                f"of time, height and width."
            )
        if len(shape) == 3 and self.axes is None:
            raise ValueError(
                "position_ids have three axes and the config's rope_scaling has no mrope_section, which says "
                "which pair turns by which; give one, such as [24, 20, 20] for 64 pairs."
            )
        if position_ids.is_complex() or position_ids.dtype == torch.bool or not position_ids.isfinite().all():
            raise ValueError(f"position_ids are {position_ids.dtype}; they must be finite numbers.")

    def _turn(self, x: Tensor, steps: Tensor) -> Tensor:
        """Queries (b, h, t, d) as they are so many positions (t,) farther on."""
        return rotate(x, *rope_tables(steps[None], self.inv_freq, 1.0, at_least_float32(x).dtype))

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Output of the final norm, (b, t, D); arguments and errors as in `Qwen3.forward`."""
        weight, start = self.embed_tokens.weight, 0
        given = dict[str, object](
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids
        )
        _require_tensors(given, weight.device)
        require_ids(input_ids, attention_mask, self.config.vocab_size)
        if position_ids is not None:
            self._require_positions(position_ids, input_ids)
        if cache is not None and not hasattr(cache, "require_fit"):
            raise ValueError(f"cache is a {type(cache).__name__}; give a KVCache of the model's config.")
        if not isinstance(trace, Trace | None):
            raise ValueError(f"trace is a {type(trace).__name__}; give an empty Trace().")
        real = torch.ones_like(input_ids, dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask.to(torch.bool)
        if cache is not None:
            cache.require_fit(self.config, weight)
            start, real = cache.length, cache.begin(input_ids, real, position_ids is not None)
        alike = bool(real.all())
        if alike:
            real = real[:1]  # without padding one row's positions and mask are those of all
        # A lone block without padding needs no mask (causal), nor does one token that sees it all.
        plain = alike and (start == 0 or input_ids.shape[1] == 1)
        traced = trace is not None and trace.attention
        mask = None if plain and not traced else causal_mask(real, start)[:, None]  # (b or 1, 1, t, s)

        x = self.embed_tokens(input_ids.long())  # (b, t, D); embedding takes no 8- or 16-bit ids
        positions = token_positions(real, start) if position_ids is None else position_ids
        if self.chunk_length is not None:
            positions = positions % self.chunk_length
        inv_freq = self._frequencies(real, cache is not None) if self.dynamic else self.inv_freq
        cos, sin = rope_tables(positions, inv_freq, self.rope_factor, at_least_float32(x).dtype, self.axes)
        for block in self.layers:
            if trace is not None:
                trace.hidden_states.append(x)
            x = block(x, cos, sin, mask, cache, trace)
        if cache is not None:
            cache.commit()
        x = self.norm(x)
        if trace is not None:
            trace.hidden_states.append(x)
        return x


class Qwen3(nn.Module):
    """The language model. `Qwen3(config)` has random weights; `Qwen3.from_pretrained(dir)` official ones."""

    def __init__(
        self,
        config: Qwen3Config,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Random weights as the official code initialises them: normal with std
        `initializer_range`, norm gains 1. `generator` (a CPU generator; seed 0 if absent) decides
        them, whatever the device. Raises ValueError for a dtype that is no float, a device that is not
        here, or a config that is none."""
        super().__init__()
        _require_config(config)
        require_dtype(dtype)
        device = require_device(device)
        self.config = config
        self.choice: Choice | None = None
        """What the model was made quicker with, and why, if it was."""
        with torch.device("meta"):
            self.model = Decoder(config)
            if not config.tie_word_embeddings:
                self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.to(dtype)
        if device.type != "meta":
            self.to_empty(device=device)
            self.reset_parameters(generator or torch.Generator().manual_seed(0))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the KV cache and the logits."""
        return self.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are, and ids have to be."""
        return self.model.embed_tokens.weight.device

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights again, in the order of `named_parameters()`."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * self.config.initializer_range)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | PathLike[str],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        *,
        precision: Precision | Literal["auto"] | None = None,
    ) -> Qwen3:
        """Load a checkpoint directory, official or transformers 5's packed layout, one tensor at a time;
        FP8, GPTQ and AWQ files (`store.quantized`) become plain weights. In `dtype`, float32 if absent.

        precision: in place of `dtype`, for inference alone, and quicker. Weights are stored for their
        products in float32, float16, bfloat16, int8 or int4 (`fast.products`), block by block as they are
        read; embedding and cache are float32, float16 or else bfloat16, and logits float32. "auto" tries
        which is fastest here and keeps float32's greedy ids; `model.choice` says what, and why.

        Raises ConfigError or CheckpointError, naming the file and the tensor; ValueError for a dtype
        that is no float, a device that is not here, or a precision that it cannot serve.
        """
        device = require_device(device)
        if precision is not None and dtype is not None:
            raise ValueError("dtype and precision are both given, and a precision has its own; give one.")
        config = Qwen3Config.from_pretrained(directory)
        checkpoint = open_weights(directory)
        checkpoint.require(config.tensor_shapes())
        choice, quick = None, None
        if precision is not None:
            nano = partial(cls.from_pretrained, "qwen3-nano")
            choice = choose(precision, config, device, lambda tried: nano(precision=tried))
            dtype, quick = dtype_of(choice.precision), Quick(choice.precision)
        model = cls(config, device="meta", dtype=torch.float32 if dtype is None else dtype)
        model.choice = choice
        for name, part in progress(model.parts()):
            part.to_empty(device=device)
            for tensor, target in _official(part, f"{name}."):
                flat = target.view(-1)
                for block, values in checkpoint.blocks(tensor):
                    source = torch.from_numpy(values)
                    if checkpoint.dtype(tensor) == "BF16":
                        source = source.view(torch.bfloat16)
                    flat[block].copy_(source)
            if quick is not None and device.type == "cpu":
                quick.exchange(model, name)
        return model

    def parts(self) -> list[tuple[str, nn.Module]]:
        """(official name, module) from the embedding to the head: what is loaded in one go."""
        blocks = [(f"model.layers.{i}", block) for i, block in enumerate(self.model.layers)]
        found = [("model.embed_tokens", self.model.embed_tokens), *blocks, ("model.norm", self.model.norm)]
        return found if self.config.tie_word_embeddings else [*found, ("lm_head", self.lm_head)]

    def save_pretrained(
        self,
        directory: str | PathLike[str],
        *,
        max_shard_bytes: int = 5 * 10**9,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write config.json and safetensors in the official layout, which transformers loads too.

        In `dtype` (the model's own if None); several shards if it exceeds `max_shard_bytes`. Memory
        beyond the model: one shard if a dtype or device is changed. Raises CheckpointError, and
        leaves what the directory held as it was, if it cannot be written; ValueError for a dtype that
        is no float, a size of shards that is none, or a model without values.
        """
        if self.device.type == "meta":
            raise ValueError(
                "the model is on the device meta, where weights have shapes and no values to be saved; "
                "make it on another, or load it with Qwen3.from_pretrained."
            )
        tensors = dict(self.named_official_tensors())
        if len(tensors) < len(self.config.tensor_shapes()):
            raise ValueError(
                "some weights of the model lie in codes, which have no official names; save the model "
                "that it was packed from."
            )
        dtype = self.dtype if dtype is None else dtype
        require_dtype(dtype)
        config = replace(self.config, torch_dtype=str(dtype).removeprefix("torch."))

        def write(names: list[str], file: Path) -> None:
            shard = {name: tensors[name].to("cpu", dtype).contiguous() for name in names}
            save_file(shard, file, metadata={"format": "pt"})  # transformers insists on "format"

        sizes = {name: tensor.numel() * dtype.itemsize for name, tensor in tensors.items()}
        write_checkpoint(directory, sizes, config.to_json, write, max_shard_bytes)

    def named_official_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(official name, tensor) of every weight; stacked experts one by one. The tensors are views."""
        return _official(self)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        trace: Trace | None = None,
        logits_to_keep: int | None = None,
    ) -> Tensor:
        """Logits (b, t, V) of input_ids (b, t), each predicting the token after it.

        attention_mask (b, t): 1 or True for a token, 0 or False for padding, of the *new* tokens only.
        A token's logits are what they are without the padding, wherever that stands; a pad's own logits
        mean nothing, so pad on the left where the last position counts.
        position_ids: where the new tokens stand, if not where they count: (b, t), or (3, b, t) of time,
        height and width for a config with an mrope_section (`mrope.py` makes them). They say nothing of
        who may look where: that is the order of the tokens. With a cache, give them in every call.
        cache: appended to; call again with the next tokens alone, one or many.
        trace: filled with hidden states, attention weights and routing.
        logits_to_keep: only the last so many positions get logits (the head is large).
        Raises ValueError for ids outside the vocabulary, a wrong shape, type or device, a cache that is
        full or of another model, logits_to_keep below 1, or logits to keep at the end of right padding.
        """
        if logits_to_keep is not None:
            logits_to_keep = require_whole("logits_to_keep", logits_to_keep, 1, ", or None for all")
            _require_kept(logits_to_keep, attention_mask)
        x = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache, trace=trace
        )
        if logits_to_keep is not None:
            x = x[:, -logits_to_keep:]
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        """Logits (b, t, V) of the final norm's output (b, t, D); a tied head is the embedding again, unless
        `fast` has stored it a second time, for the product."""
        if self.config.tie_word_embeddings and not hasattr(self, "lm_head"):
            return F.linear(x, self.model.embed_tokens.weight)
        return self.lm_head(x)


@torch.no_grad()
def _official(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """`named_official_tensors` of a part of the model, whose own name and a point are `prefix`."""
    for name, parameter in module.named_parameters():
        stem, _, last = f"{prefix}{name}".rpartition(".")
        if last == "gate_up_proj":
            for e, both in enumerate(parameter.detach()):
                gate, up = both.chunk(2)
                yield f"{stem}.{e}.gate_proj.weight", gate
                yield f"{stem}.{e}.up_proj.weight", up
        elif last == "down_proj":
            for e, down in enumerate(parameter.detach()):
                yield f"{stem}.{e}.down_proj.weight", down
        else:
            yield f"{prefix}{name}", parameter.detach()


def _require_config(config: object) -> None:
    if not isinstance(config, Qwen3Config):
        way_out = "Qwen3Config.from_dict makes one of a config.json's contents"
        if isinstance(config, (str, PathLike)):
            way_out = f"to load a checkpoint, use Qwen3.from_pretrained({quoted(config)})"
        raise ValueError(f"config is {quoted(config)}, which is no Qwen3Config; {way_out}.")


def _require_tensors(given: dict[str, object], device: torch.device) -> None:
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}; make it a tensor: torch.tensor({name}).")
        if isinstance(value, Tensor) and value.device != device:
            raise ValueError(
                f"{name} is on {value.device} and the model on {device}; move it with .to(model.device)."
            )


def _require_kept(logits_to_keep: int, attention_mask: Tensor | None) -> None:
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 and attention_mask.shape[1] > 1:
        real = attention_mask.to(torch.bool)
        if bool((real.any(dim=1) & ~real[:, -logits_to_keep:].any(dim=1)).any()):
            raise ValueError(
                "attention_mask ends in padding, and all logits to keep of a row would be those of pads; put "
                "the padding on the left."
            )


def token_positions(real: Tensor, start: int) -> Tensor:
    """Positions (b, t) of the columns from `start` on; real (b, s): which columns are tokens.

    A token's position is the number of tokens before it, so padding shifts nothing.
    """
    return (real.cumsum(dim=1) - 1).clamp_min(0)[:, start:]


def causal_mask(real: Tensor, start: int) -> Tensor:
    """Where the columns from `start` on may look, (b, t, s); real (b, s): which columns are tokens.

    A query sees real columns up to its own. Padding sees itself alone, which keeps its softmax finite;
    nobody looks at the result.
    """
    column = torch.arange(real.shape[1], device=real.device)
    query, key = column[start:, None], column[None, :]
    return (real[:, None, :] & (key <= query)) | (key == query)


def rope_tables(
    positions: Tensor,
    inv_freq: Float64Array,
    factor: float,
    dtype: torch.dtype,
    axes: NDArray[np.int64] | None = None,
) -> tuple[Tensor, Tensor]:
    """`rope.cos_sin` as tensors: cos and sin (b, t, d/2) of positions (b, t), times YaRN's factor; or
    `mrope.mrope_cos_sin` of positions (3, b, t), of which pair j turns by that of its own axis, axes[j].

    Angles are formed in float64 and rounded once, at the end: position 30,000 times a float32
    frequency is already off by 0.002 radians. (MPS has no float64 and uses float32.)
    """
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    turns = torch.as_tensor(inv_freq, dtype=wide, device=positions.device)
    turned_by = positions[..., None] if positions.dim() == 2 else positions[axes].movedim(0, -1)
    angles = turned_by.to(wide) * turns  # (b, t, d/2)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)
