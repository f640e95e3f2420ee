"""The configuration of a Qwen3 model, in the field names of the official config.json, and the
arithmetic that follows from it: parameters, bytes, FLOPs, KV cache.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from qwen3_ref import facts
from qwen3_ref.arrays import require_whole
from qwen3_ref.context.chunks import chunk_problem
from qwen3_ref.mrope import section_problem
from qwen3_ref.rope import AXES, BOUNDS, SETTINGS, rope_type, scaling_problem
from qwen3_ref.store.errors import one_line, quoted
from qwen3_ref.store.files import cut_off, read_json, write_atomically
from qwen3_ref.store.shipped import directory_of


class ConfigError(ValueError):
    """A configuration that is incomplete, impossible, or of a model that this is not."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


# What the official files may also hold, with the only value under which this model is the right one.
_FIXED: dict[str, Any] = {
    "attention_bias": False,
    "qkv_bias": False,
    "use_qk_norm": True,
    "use_sliding_window": False,
    "shared_expert_intermediate_size": 0,
    "hidden_act": "silu",
}
# The same for names of other families, which change what is computed when a file of ours holds them.
_FOREIGN: dict[str, Any] = {
    "mlp_bias": False,
    "is_causal": True,
    "use_bidirectional_attention": False,
    "partial_rotary_factor": 1,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "logit_scale": 1,
    "logits_scaling": 1,
    "embedding_multiplier": 1,
    "residual_multiplier": 1,
    "attention_multiplier": None,
    "n_shared_experts": 0,
    "num_shared_experts": 0,
    "first_k_dense_replace": 0,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1,
    "scoring_func": "softmax",
    "num_nextn_predict_layers": 0,
}
_ROPE_KEYS = ("rope_type", "rope_theta", *BOUNDS, "truncate", *AXES)
# Written as architectures by whoever saved the decoder without its head: the tensors are the same.
_HEADLESS = {"qwen3": "Qwen3Model", "qwen3_moe": "Qwen3MoeModel"}
_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
# Text parts of multimodal models, whose tensors are those of a text model.
_TEXT_PARTS = {
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen3_omni_moe_text": "qwen3_moe",
}  # fmt: skip
_MOE_FIELDS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "decoder_sparse_step",
)
_DTYPES = ("float32", "bfloat16", "float16", "float64")


_LARGEST = 2**31 - 1  # what any count may be; that of layers and experts, below
_CONFIG_BYTES = 4_000_000


def _whole(value: Any, least: int = 1, most: int = _LARGEST) -> bool:  # JSON's own: none of NumPy's
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e15


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


# Rules of the fields that have one: (whether a value is allowed, what is allowed in words).
_Rule = tuple[Callable[[Any], bool], str]
_COUNT: _Rule = _whole, "a whole number, at least 1 and below 2^31"
_LAYERS: _Rule = lambda v: _whole(v, 1, 1000), "a whole number, at least 1 and at most 1,000"
_EXPERTS: _Rule = lambda v: _whole(v, 1, 10_000), "a whole number, at least 1 and at most 10,000"
_WEIGHT: _Rule = lambda v: _number(v) and v >= 0, "a number, 0 or more"
_TRUTH: _Rule = _flag, "true or false"
_ID: _Rule = lambda v: v is None or _whole(v, 0), "a token id (a whole number) or null"
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_SIZES, _COUNT),
    "num_hidden_layers": _LAYERS,
    "rope_theta": (lambda v: _number(v) and v > 1, "a number above 1 and up to 1e15"),
    "rms_norm_eps": (lambda v: _number(v) and v > 0, "a number above 0"),
    **dict.fromkeys(("attention_dropout", "initializer_range", "router_aux_loss_coef"), _WEIGHT),
    **dict.fromkeys(("tie_word_embeddings", "output_router_logits"), _TRUTH),
    **dict.fromkeys(("bos_token_id", "eos_token_id"), _ID),
    "torch_dtype": (lambda v: v in _DTYPES, f"one of {', '.join(_DTYPES)}"),
    "mlp_only_layers": (
        lambda v: isinstance(v, (list, tuple)) and all(_whole(layer, 0) for layer in v),
        "a list of layer numbers from 0",
    ),
}
_MOE_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_MOE_FIELDS, _COUNT),
    "num_experts": _EXPERTS,
    "norm_topk_prob": _TRUTH,
}


@dataclass(frozen=True, kw_only=True)
class Qwen3Config:
    """A dense (`model_type="qwen3"`) or mixture-of-experts ("qwen3_moe") model.

    Fields without a default have no safe one: real ports shipped wrong models by guessing them.
    Raises ConfigError for an impossible shape.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    tie_word_embeddings: bool
    model_type: str = "qwen3"
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 40_960
    rope_scaling: Mapping[str, Any] | None = None
    dual_chunk_attention_config: Mapping[str, Any] | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    torch_dtype: str = "bfloat16"
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool | None = None
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001
    output_router_logits: bool = False

    def __post_init__(self) -> None:
        problem = _impossible(self)
        if problem:
            raise ConfigError(problem)

    # -- reading and writing ------------------------------------------------------------------

    @classmethod
    def named(cls, name: str) -> Qwen3Config:
        """The official configuration of a checkpoint such as "Qwen3-8B" (with or without "Qwen/").

        Of one that also sees or hears, such as "Qwen3-VL-8B-Instruct", its text backbone's: what the
        package cannot run of it, `facts.backbones()` says. Raises ConfigError for any other name.
        """
        if not isinstance(name, str):
            raise ConfigError(f"the name is {quoted(name)}; give a checkpoint's, such as 'Qwen3-8B'.")
        models = facts.official_models()
        short = name.removeprefix("Qwen/")
        if short in facts.backbones():
            source = f"the official config of {short}"
            return cls.from_text_part(facts.backbones()[short]["config"], source=source)
        if short not in models:
            hint = facts.suggestion(name)
            raise ConfigError(f"{quoted(name)} is not an official Qwen3 checkpoint; {hint}.")
        if models[short].get("config") is None:
            raise ConfigError(f"the weights of {short} were never published, nor its config.json.")
        return cls.from_dict(models[short]["config"], source=f"the official config of {short}")

    @classmethod
    def from_text_part(cls, values: Mapping[str, Any], *, source: str = "the text part") -> Qwen3Config:
        """From the text part of a multimodal config.json (`text_config`), with the tie_word_embeddings that
        stands beside it: the text model that it is. On text its three-fold positions (`mrope_section`) are
        equal, which makes them plain RoPE; with others the model takes them (`mrope.py`).

        Omni's file has "interleaved" for mrope_interleaved. Raises ConfigError as `from_dict`, and for
        another model_type.
        """
        model_type = values.get("model_type")
        if model_type not in _TEXT_PARTS:
            raise ConfigError(
                f"model_type in {source} is {quoted(model_type)}; known text parts are "
                f"{' and '.join(map(repr, _TEXT_PARTS))}."
            )
        scaling = dict(values.get("rope_scaling") or {})
        if "interleaved" in scaling:
            scaling["mrope_interleaved"] = scaling.pop("interleaved")
        plain = {**values, "model_type": _TEXT_PARTS[model_type], "rope_scaling": scaling or None}
        return cls.from_dict(plain, source=source)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Qwen3Config:
        """Read `config.json` in a directory. Raises ConfigError, naming the file and the field."""
        path = directory_of(directory) / "config.json"
        try:
            values = read_json(path, _CONFIG_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            otherwise = "give a directory that holds a checkpoint and its config.json"
            way_out = cut_off(path.parent) or facts.way_out(directory, otherwise)
            raise ConfigError(f"there is no {path}; {way_out}.") from None
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror}); check its kind and permissions."
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"{path} cannot be read as JSON ({error}); mend it, or fetch it again."
            ) from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds a {type(values).__name__}, not an object; fetch it again.")
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "the config") -> Qwen3Config:
        """From the contents of a config.json, in the old spelling (`rope_theta`, `rope_scaling`) or
        transformers 5's (`rope_parameters`). Nothing is guessed: a missing field is a ConfigError."""
        model_type = values.get("model_type")
        if isinstance(values.get("text_config"), Mapping):
            raise ConfigError(
                f"{source} is of a multimodal model, whose text part is in text_config; run it with "
                f"transformers, or save that part with its weights as a checkpoint of its own."
            )
        if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
            raise ConfigError(
                f"model_type in {source} is {quoted(model_type)}; "
                f"this package runs {' and '.join(map(repr, _ARCHITECTURES))}."
            )
        problem = _foreign(values)
        if problem:
            raise ConfigError(f"{problem[0]} in {source} {problem[1]}")
        known = {field.name for field in fields(cls)}
        taken = {k: v for k, v in values.items() if k in known}
        taken.update(_rope(values, source))
        taken["torch_dtype"] = values.get("torch_dtype") or values.get("dtype") or "bfloat16"
        ends = taken.get("eos_token_id")
        if isinstance(ends, list) and ends:
            wrong = [end for end in ends if not _whole(end, 0)]
            taken["eos_token_id"] = wrong[0] if wrong else ends[0]
        layers = values.get("mlp_only_layers")
        taken["mlp_only_layers"] = () if layers is None else layers
        if isinstance(layers, list):
            taken["mlp_only_layers"] = tuple(layers)
        if model_type == "qwen3_moe" and "num_experts" not in values and "num_local_experts" in values:
            taken["num_experts"] = values["num_local_experts"]  # how transformers 5 may spell it
        needed = [f.name for f in fields(cls) if f.default is f.default_factory]
        needed += ["rms_norm_eps", "max_position_embeddings"]
        needed += _MOE_FIELDS if model_type == "qwen3_moe" else ()
        for name in needed:
            if taken.get(name) is None:
                raise ConfigError(
                    f"{name} is missing in {source}; there is no safe default, "
                    f"so take it from the official config.json."
                )
        try:
            return cls(**taken)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of a config.json in the official spelling, for whatever reads the official
        files; that transformers 5 does is tested."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if not self.is_moe:
            moe_only = ("decoder_sparse_step", "mlp_only_layers", "router_aux_loss_coef")
            for name in (*_MOE_FIELDS, *moe_only, "output_router_logits"):
                del values[name]
        else:
            values["mlp_only_layers"] = list(self.mlp_only_layers)
        scaling = self.rope_scaling
        values["rope_scaling"] = None if scaling is None else dict(scaling)
        chunks = values.pop("dual_chunk_attention_config")
        extra: dict[str, Any] = {} if chunks is None else {"dual_chunk_attention_config": dict(chunks)}
        extra |= {
            "architectures": [_ARCHITECTURES[self.model_type]],
            "max_window_layers": self.num_hidden_layers,
            "sliding_window": None,
            "transformers_version": "4.51.0",  # the first that knows Qwen3, as the official files say
            "use_sliding_window": False,
            "use_cache": True,
        }
        return dict(sorted((values | extra).items()))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write a config.json, atomically. Raises OSError in one sentence."""
        write_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")

    # -- what follows from the fields ---------------------------------------------------------

    @property
    def is_moe(self) -> bool:
        """Whether feed-forward layers are mixtures of experts."""
        return self.model_type == "qwen3_moe"

    @property
    def context_length(self) -> int:
        """How many tokens a prompt and its reply may have together: `max_position_embeddings`, or with a
        rope_scaling `factor` times the length that it stretches, whatever `max_position_embeddings` says:
        that is what the model card's setting means. (A "llama3" config may promise more, as Llama 3.1's.)

        With Dual Chunk Attention it is `max_position_embeddings` too (1,010,000 in the official configs).
        But its logits have a scale, of one stated length: `scale_length` in the block, absent from the
        official ones, where the code takes each request's own. Unstated there is no scale, which is the
        official code's for texts of up to `original_max_position_embeddings`; so the context ends there."""
        if self.dual_chunk_attention_config is not None:
            chunks = self.dual_chunk_attention_config
            original = chunks.get("original_max_position_embeddings") or self.max_position_embeddings
            return min(self.max_position_embeddings, max(original, chunks.get("scale_length") or 0))
        scaling = {k: v for k, v in (self.rope_scaling or {}).items() if v is not None}
        original = scaling.get("original_max_position_embeddings", self.max_position_embeddings)
        stretched = int(original * scaling["factor"]) if "factor" in scaling else self.max_position_embeddings
        more = scaling.get("rope_type") == "llama3"
        return max(stretched, self.max_position_embeddings) if more else stretched

    @property
    def way_out_of_context(self) -> str:
        """What whoever has a longer text can change, for the end of a sentence."""
        if self.dual_chunk_attention_config is not None:
            return "state a larger scale_length in dual_chunk_attention_config"
        if self.rope_scaling is not None and rope_type(self.rope_scaling) != "default":
            return "raise factor in rope_scaling"
        return "stretch the context: qwen3_ref.context.stretch.for_length(config, length, original)"

    @property
    def num_token_ids(self) -> int:
        """Ids the tokenizer can produce. The official embedding has 151,936 rows for 151,669 ids;
        the other 267 are padding and no sampler may emit them."""
        return 151_669 if self.vocab_size == 151_936 else self.vocab_size

    def is_sparse_layer(self, layer: int) -> bool:
        """Whether this layer (from 0) has experts, by `mlp_only_layers` and `decoder_sparse_step`."""
        return (
            self.is_moe
            and layer not in self.mlp_only_layers
            and (layer + 1) % self.decoder_sparse_step == 0
        )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the official checkpoint; a tied `lm_head` is not one.

        All arithmetic and all loading start from this table.
        """
        D, d = self.hidden_size, self.head_dim
        q, kv = self.num_attention_heads * d, self.num_key_value_heads * d
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, D)}
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            shapes[f"{prefix}.self_attn.q_proj.weight"] = (q, D)
            shapes[f"{prefix}.self_attn.k_proj.weight"] = (kv, D)
            shapes[f"{prefix}.self_attn.v_proj.weight"] = (kv, D)
            shapes[f"{prefix}.self_attn.o_proj.weight"] = (D, q)
            shapes[f"{prefix}.self_attn.q_norm.weight"] = (d,)
            shapes[f"{prefix}.self_attn.k_norm.weight"] = (d,)
            mlps = {f"{prefix}.mlp": self.intermediate_size}
            if self.is_sparse_layer(layer):
                assert self.num_experts is not None and self.moe_intermediate_size is not None
                shapes[f"{prefix}.mlp.gate.weight"] = (self.num_experts, D)
                width = self.moe_intermediate_size
                mlps = {f"{prefix}.mlp.experts.{e}": width for e in range(self.num_experts)}
            for name, width in mlps.items():
                shapes[f"{name}.gate_proj.weight"] = (width, D)
                shapes[f"{name}.up_proj.weight"] = (width, D)
                shapes[f"{name}.down_proj.weight"] = (D, width)
            shapes[f"{prefix}.input_layernorm.weight"] = (D,)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (D,)
        shapes["model.norm.weight"] = (D,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, D)
        return shapes

    def num_parameters(self) -> int:
        """Distinct parameters: a tied embedding counts once."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def num_embedding_parameters(self) -> int:
        """Parameters of `embed_tokens` and, if untied, `lm_head`."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    def num_non_embedding_parameters(self) -> int:
        """Parameters without `embed_tokens` and `lm_head`: the report's and the model cards' figure."""
        return self.num_parameters() - self.num_embedding_parameters()

    def num_active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts it is not sent to.

        Both embedding matrices count, as in the "A3B" of Qwen3-30B-A3B (3.35 billion).
        """
        if not self.is_moe:
            return self.num_parameters()
        assert self.num_experts and self.num_experts_per_tok and self.moe_intermediate_size
        idle = self.num_experts - self.num_experts_per_tok
        sparse = sum(map(self.is_sparse_layer, range(self.num_hidden_layers)))
        return self.num_parameters() - sparse * idle * 3 * self.hidden_size * self.moe_intermediate_size

    def weight_bytes(self, bytes_per_value: int = 2, *, lm_head_stored: bool = False) -> int:
        """Bytes of all weights. `lm_head_stored` adds the copy of a tied head that some official
        files hold beside the embedding (Qwen3-0.6B and -1.7B do, -4B and all Base files do not).
        Raises ValueError for what is no whole number from 0, as the two below do."""
        bytes_per_value = require_whole("bytes_per_value", bytes_per_value, 0)
        copy = self.vocab_size * self.hidden_size if lm_head_stored and self.tie_word_embeddings else 0
        return bytes_per_value * (self.num_parameters() + copy)

    def kv_cache_bytes(self, length: int, batch: int = 1, bytes_per_value: int = 2) -> int:
        """Bytes of the keys and values of `length` tokens in each of `batch` rows."""
        length, batch = require_whole("length", length, 0), require_whole("batch", batch, 0)
        bytes_per_value = require_whole("bytes_per_value", bytes_per_value, 0)
        per_token = 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim
        return per_token * length * batch * bytes_per_value

    def flops_per_token(self, context_length: int = 0) -> int:
        """Floating-point operations to process one token that sees `context_length` tokens.

        Counted: two for each active weight of a matrix product (the embedding look-up is none, the
        head is one), and four for each channel of each query head and visible token (scores, then
        the mix of values). Not counted: norms, softmax, rotations, under 1% together.
        """
        context_length = require_whole("context_length", context_length, 0)
        vectors = sum(len(shape) == 1 and shape[0] for shape in self.tensor_shapes().values())
        lookup = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        products = self.num_active_parameters() - vectors - lookup
        heads = self.num_attention_heads * self.head_dim
        return 2 * products + 4 * self.num_hidden_layers * heads * context_length


def _foreign(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """(field, what is wrong with it) of a config.json that is of another architecture, or None."""
    for name, right in (_FIXED | _FOREIGN).items():
        if values.get(name) is not None and values[name] != right:
            words = "must be absent" if right is None else f"{right!r}"
            return name, (
                f"is {quoted(values[name])}, which is another architecture than Qwen3's text models "
                f"({words}); run it with transformers."
            )
    kind, classes = values["model_type"], values.get("architectures")
    if classes and classes not in ([_ARCHITECTURES[kind]], [_HEADLESS[kind]]):
        return "architectures", (
            f"is {quoted(classes)} and model_type is {kind!r}, whose class is {_ARCHITECTURES[kind]}; run "
            f"the model with transformers, or write {[_ARCHITECTURES[kind]]} if it is that language model."
        )
    kinds = values.get("layer_types")
    if kinds is not None:
        layers = values.get("num_hidden_layers")
        if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            return "layer_types", (
                f"is {quoted(kinds)}; every layer of Qwen3's text models has 'full_attention', so run this "
                f"one with transformers."
            )
        if len(kinds) != layers:
            return "layer_types", (
                f"names {len(kinds)} layers where num_hidden_layers is {quoted(layers)}; take both from the "
                f"official config.json."
            )
    if values.get("sliding_window") is not None and values.get("use_sliding_window") is not False:
        return "sliding_window", (
            f"is {quoted(values['sliding_window'])}; this model looks at the whole text, so set "
            f"use_sliding_window to false if the window was off in training, or run it with transformers."
        )
    ours = {field.name for field in fields(Qwen3Config)}
    known = {*ours, *_FIXED, *_FOREIGN, "rope_parameters"}
    for name, value in values.items():
        if value is None or name in known:
            continue
        if name in _ROPE_KEYS or name == "type" and value in tuple(SETTINGS):
            return name, "stands outside of rope_scaling, where nothing reads it; move it there."
        near = difflib.get_close_matches(name[:60], [*ours, "rope_parameters"], n=1, cutoff=0.85)
        if near and name not in ("pad_token_id", "sep_token_id"):
            return quoted(name), f"is no setting of this model; did you mean {near[0]}?"
        if any(word in name.lower() for word in ("rope", "rotary", "yarn")):
            return quoted(name), (
                "is no setting of this model, and what it says of the positions would be lost; give "
                "rope_theta and rope_scaling."
            )
    return None


def _rope(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` from either spelling, or from both if they do not contradict."""
    found: dict[str, Any] = {}
    where: dict[str, str] = {}
    for place in ("rope_parameters", "rope_scaling", ""):  # "": on top
        given = values.get(place) if place else {"rope_theta": values.get("rope_theta")}
        if not isinstance(given, Mapping | None):
            raise ConfigError(
                f"{place} in {source} is {quoted(given)}; it must be an object with a rope_type, or null."
            )
        for key, value in (given or {}).items():
            name = "rope_type" if key == "type" else key
            if value is None or name == "partial_rotary_factor" and value == 1:
                continue
            if name not in _ROPE_KEYS:
                raise ConfigError(f"{source}: {_unknown_rope_key(name, place)}")
            # transformers 5 writes rope_type "default" beside what a user adds in rope_scaling
            if name not in found or name == "rope_type" and found[name] == "default":
                found[name], where[name] = value, place
            elif found[name] != value and not (name == "rope_type" and value == "default"):
                raise ConfigError(
                    f"{source}: {name} is {quoted(found[name])} in {where[name]} and {quoted(value)} "
                    f"{'in ' + place if place else 'on top'}; keep the one that the model was trained with."
                )
    theta, kind = found.pop("rope_theta", None), found.get("rope_type", "default")
    if kind == "default" and (idle := [name for name in found if name not in ("rope_type", *AXES)]):
        raise ConfigError(
            f"{source}: {idle[0]} in {where[idle[0]]} does nothing without a rope_type such as 'yarn'; "
            f"give one, or remove it."
        )
    if theta is None:
        raise ConfigError(
            f"rope_theta is missing in {source}; there is no safe default (10,000 is wrong for every "
            f"official Qwen3), so take it from the official config.json."
        )
    if not found.keys().isdisjoint(AXES):
        return {"rope_theta": theta, "rope_scaling": {"rope_type": kind} | found}
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else found}


def _unknown_rope_key(name: str, place: str = "rope_scaling") -> str:
    near = difflib.get_close_matches(str(name)[:60], _ROPE_KEYS, n=1)
    hint = f"did you mean {near[0]}" if near else f"known: {', '.join(_ROPE_KEYS)}"
    return f"{quoted(name)} in {place} is no setting of RoPE; {hint}."


def _impossible(c: Qwen3Config) -> str | None:
    """Why a config cannot be, in one sentence, or None."""
    if c.model_type not in tuple(_ARCHITECTURES):
        return f"model_type is {quoted(c.model_type)}; it must be 'qwen3' or 'qwen3_moe'."
    for name in _MOE_FIELDS if c.is_moe else ():
        if getattr(c, name) is None:
            return f"{name} is missing; a 'qwen3_moe' model needs it and it has no safe default."
    for name, (allowed, words) in (_RULES | (_MOE_RULES if c.is_moe else {})).items():
        if not allowed(getattr(c, name)):
            return f"{name} is {quoted(getattr(c, name))}; it must be {words}."
    if c.num_attention_heads % c.num_key_value_heads:
        return (
            f"num_attention_heads {c.num_attention_heads} is not divisible by num_key_value_heads "
            f"{c.num_key_value_heads}; every KV head serves the same number of query heads."
        )
    if c.head_dim % 2:
        return f"head_dim is {c.head_dim}; it must be even, since RoPE turns channels in pairs."
    for name, right in _FIXED.items():
        if getattr(c, name, right) != right:
            return f"{name} is {quoted(getattr(c, name))}; Qwen3's text models have {right!r}."
    if c.rope_scaling is not None and (problem := _impossible_rope(c, c.rope_scaling)):
        return problem
    if c.dual_chunk_attention_config is not None:
        if problem := chunk_problem(c.dual_chunk_attention_config):
            return problem
        if c.rope_scaling is not None and c.rope_scaling.get("rope_type") != "default":
            return (
                "dual_chunk_attention_config and rope_scaling are both given, and no published code runs "
                "the two together; keep one, and make the other null."
            )
        stated = c.dual_chunk_attention_config.get("scale_length")
        if stated and stated > c.max_position_embeddings:
            return (
                f"scale_length in dual_chunk_attention_config is {stated:,}, more than "
                f"max_position_embeddings {c.max_position_embeddings:,}; raise that one, or state less."
            )
    beyond = [layer for layer in c.mlp_only_layers if layer >= c.num_hidden_layers]
    if beyond:
        return (
            f"mlp_only_layers names layer {beyond[0]} and the last of {c.num_hidden_layers} layers is "
            f"{c.num_hidden_layers - 1}; layers count from 0."
        )
    if problem := _too_large(c):
        return problem
    if not c.is_moe:
        given = [name for name in _MOE_FIELDS if getattr(c, name) is not None]
        return f"{given[0]} is set but model_type is 'qwen3'; use 'qwen3_moe'." if given else None
    assert c.num_experts is not None and c.num_experts_per_tok is not None
    if not 1 <= c.num_experts_per_tok <= c.num_experts:
        return (
            f"num_experts_per_tok is {c.num_experts_per_tok} but num_experts is {c.num_experts}; "
            f"a token can be sent to 1 to {c.num_experts} experts."
        )
    return None


def _impossible_rope(c: Qwen3Config, scaling: Any) -> str | None:
    """Why its rope_scaling cannot be, in one sentence, or None."""
    if not isinstance(scaling, Mapping):
        found = quoted(scaling)
        return f"rope_scaling is {found}; it must be an object with a rope_type, or null."
    kind = scaling.get("rope_type")
    if kind is None:
        return "rope_type is missing in rope_scaling; give one, such as 'yarn', or no rope_scaling."
    if unknown := [key for key in scaling if key not in _ROPE_KEYS]:
        return _unknown_rope_key(unknown[0])
    if scaling.get("rope_theta") not in (None, c.rope_theta):
        return f"rope_theta is {c.rope_theta} and another in rope_scaling; keep one of them."
    if problem := scaling_problem(scaling, c.max_position_embeddings):
        return problem
    section, interleaved = (scaling.get(name) for name in AXES)
    if section is None and interleaved is not None:
        return "mrope_interleaved in rope_scaling does nothing without mrope_section; give both, or neither."
    if section is not None:
        problem = section_problem(section, False if interleaved is None else interleaved, c.head_dim // 2)
        if problem:
            return problem
    original = scaling.get("original_max_position_embeddings")
    if original is not None and original > c.max_position_embeddings:
        return (
            f"original_max_position_embeddings in rope_scaling is {original:,} and the whole "
            f"max_position_embeddings {c.max_position_embeddings:,}; {kind!r} stretches a part of it or all, "
            f"so take both from the official config.json."
        )
    if c.context_length > _LARGEST:
        return f"factor in rope_scaling makes a context of {c.context_length:,}; give a smaller one."
    return None


def _too_large(c: Qwen3Config) -> str | None:
    """Why no machine holds such a model, in one sentence, or None."""
    widths = [c.vocab_size, c.intermediate_size, c.num_attention_heads * c.head_dim]
    if c.is_moe:
        assert c.num_experts is not None and c.moe_intermediate_size is not None
        widths.append(c.num_experts * c.moe_intermediate_size)
        if c.num_experts * c.num_hidden_layers > 65_536:
            return (
                f"num_experts {c.num_experts:,} in num_hidden_layers {c.num_hidden_layers:,} make more than "
                f"65,536 experts, five times those of the largest Qwen3; check both."
            )
    if c.hidden_size * max(widths) > 2**40:
        return (
            f"hidden_size is {c.hidden_size:,} beside a width of {max(widths):,}, a matrix of more than a "
            f"trillion weights; check the sizes."
        )
    return None
