"""Qwen3 as GGUF, for llama.cpp, and back: the keys and names of llama.cpp's own converter.

Sources: llama.cpp's `conversion/base.py` and `conversion/qwen.py` (what is written) and
`src/models/qwen3.cpp`, `qwen3moe.cpp` (what is read). In short: norms and routers in float32; experts
stacked, the expert's number on the slowest axis; no `output.weight` where the head is tied; q and k as they
are, since ggml turns the two halves of a head as the official code does; key_length given, for its default
of embedding_length / head_count is wrong for most Qwen3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.decode.profile import Profile
from qwen3_ref.engines.source import DTYPES, Source, as_stored, dump
from qwen3_ref.store.errors import CheckpointError, quoted
from qwen3_ref.store.gguf import GGUF, GGUFCheckpoint, Plan, library, open_gguf, write_gguf
from qwen3_ref.tokenizer import SPECIAL_TOKENS, Tokenizer, byte_to_unicode

ARCHITECTURES = {"qwen3": "qwen3", "qwen3_moe": "qwen3moe"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_A_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}
EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens."""
_SCALINGS = ("linear", "yarn")
_YARN = {"attention_factor": "attn_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow"}


def place_of(name: str) -> tuple[str, int | None]:
    """Where a tensor goes, by its official name: which of GGUF's, and for an expert its number."""
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem]}.weight", None
    layer, _, inner = stem.removeprefix("model.layers.").partition(".")
    if inner.startswith("mlp.experts."):
        number, _, part = inner.removeprefix("mlp.experts.").partition(".")
        return f"blk.{layer}.{EXPERTS[part]}.weight", int(number)
    return f"blk.{layer}.{IN_A_BLOCK[inner]}.weight", None


# -- writing -------------------------------------------------------------------------------------------


def write(source: Source, folder: Path, kind: str, *, head: str | None = None) -> Path:
    """Write NAME-KIND.gguf into a folder; returns its path.

    Every matrix is stored in `kind`, but for the head (a tied embedding too), which has the type `head`: if
    it is not given Q8_0 beside types of fewer bits, as llama.cpp's own quantiser has it where rows are no
    multiple of 256. Raises CheckpointError for what GGUF or llama.cpp has no place for, and as `write_gguf`
    does.
    """
    if problem := unsupported(source.config):
        raise CheckpointError(f"{problem} ({source.place}).")
    if source.tokenizer.ids[-1] >= source.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {source.place} has ids up to {source.tokenizer.ids[-1]:,}, and its embedding "
            f"{source.config.vocab_size:,} rows; take both from one checkpoint."
        )
    path = folder / f"{source.name}-{kind}.gguf"
    arch = ARCHITECTURES[source.config.model_type]
    write_gguf(path, arch, plans(source, kind, head), partial(_describe, source=source, kind=kind))
    return path


def unsupported(c: Qwen3Config) -> str | None:
    """Why a model cannot go into a GGUF file that llama.cpp computes as we do, or None."""
    scaling = (c.rope_scaling or {}).get("rope_type", "default")
    if scaling not in ("default", *_SCALINGS):
        return f"rope_type is {scaling!r}, and GGUF's qwen3 has 'linear' and 'yarn'"
    if c.dual_chunk_attention_config is not None:
        return "GGUF has no dual_chunk_attention_config; remove it, and the context ends where it begins"
    if c.is_moe and (c.mlp_only_layers or c.decoder_sparse_step != 1):
        return "mlp_only_layers or decoder_sparse_step leaves a layer dense, and qwen3moe has none"
    if c.is_moe and not c.norm_topk_prob:
        return "norm_topk_prob is false, and llama.cpp always makes the chosen experts' weights add up to 1"
    return None


def plans(source: Source, kind: str, head: str | None = None) -> list[Plan]:
    """What is written, in order: names, types, shapes, and where the values come from."""
    c = source.config
    head = head or ("q8_0" if kind.startswith(("q4", "q5")) else kind)
    found: list[Plan] = []
    stacks: dict[str, list[str]] = {}
    shapes = c.tensor_shapes()
    for name, shape in shapes.items():
        place, expert = place_of(name)
        if expert is None:
            found.append(Plan(place, _kind(c, place, shape, kind, head), shape, partial(source.matrix, name)))
        else:
            stacks.setdefault(place, []).append(name)
    for place, names in stacks.items():
        shape = (len(names), *shapes[names[0]])
        found.append(Plan(place, _kind(c, place, shape, kind, head), shape, partial(_stack, source, names)))
    for plan in found:
        _require_rows(c, plan)
    return found


def _stack(source: Source, names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A matrix of every expert, (E, out, in)."""
    return np.stack([source.matrix(name) for name in names], axis=0)


def _kind(c: Qwen3Config, place: str, shape: tuple[int, ...], kind: str, head: str) -> str:
    """The type that a tensor is stored in."""
    if len(shape) == 1 or place.endswith("ffn_gate_inp.weight"):
        return "F32"
    last = "token_embd.weight" if c.tie_word_embeddings else "output.weight"
    return (head if place == last else kind).upper()


def _require_rows(c: Qwen3Config, plan: Plan) -> None:
    """Raise CheckpointError, naming the dimension, for rows that do not divide into blocks."""
    gguf = library()
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[plan.kind]]
    if plan.shape[-1] % block == 0:
        return
    dimension = "hidden_size"
    if "attn_output" in plan.name:
        dimension = "num_attention_heads x head_dim"
    elif "ffn_down" in plan.name:
        dimension = "moe_intermediate_size" if c.is_moe else "intermediate_size"
    raise CheckpointError(
        f"{dimension} is {plan.shape[-1]}, the row length of {plan.name}, and {plan.kind} stores blocks of "
        f"{block}; export with --type f16 or bf16."
    )


def _describe(writer: Any, source: Source, kind: str) -> None:
    """The keys of llama.cpp's converter, in its order."""
    gguf = library()
    c, own = source.config, source.json("tokenizer_config.json")
    total, shared, experts, count = writer.get_total_parameter_count()
    writer.add_type(gguf.GGUFType.MODEL)
    sampling = source.json("generation_config.json")
    for key, add in (("top_k", writer.add_sampling_top_k), ("top_p", writer.add_sampling_top_p),
                     ("min_p", writer.add_sampling_min_p), ("temperature", writer.add_sampling_temp),
                     ("repetition_penalty", writer.add_sampling_penalty_repeat)):  # fmt: skip
        if sampling.get(key) is not None:
            add(sampling[key])
    writer.add_name(source.name)
    writer.add_size_label(gguf.size_label(total, shared, experts, count))
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    scaling = c.rope_scaling or {}
    if scaling.get("rope_type") in _SCALINGS:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        original = scaling.get("original_max_position_embeddings") or c.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
        for ours, theirs in _YARN.items():
            if scaling.get(ours) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{theirs}")(scaling[ours])
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    if c.is_moe:
        writer.add_expert_count(c.num_experts)
        writer.add_expert_used_count(c.num_experts_per_tok)
        writer.add_expert_feed_forward_length(c.moe_intermediate_size)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    names = {"f32": "ALL_F32"}
    writer.add_file_type(gguf.LlamaFileType[names.get(kind, f"MOSTLY_{kind.upper()}")])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")  # llama.cpp's name of the pattern that `tokenizer.PATTERN` is
    tokens, types = token_list(source.tokenizer, c.vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{_printable(a)} {_printable(b)}" for a, b in source.tokenizer.merges])
    for role, id_ in special_ids(source, own).items():
        getattr(writer, f"add_{role}_token_id")(id_)
    writer.add_add_bos_token(own.get("add_bos_token") is True)
    if source.template is not None:
        writer.add_chat_template(source.template)


def special_ids(source: Source, own: Mapping[str, Any]) -> dict[str, int]:
    """The ids that end a text, begin one and pad: what tokenizer_config.json says, else config.json."""
    found: dict[str, int] = {}
    fallback = {"bos": source.config.bos_token_id, "eos": source.config.eos_token_id, "pad": None}
    for role, id_ in fallback.items():
        token = own.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = source.tokenizer.control_tokens.get(token, id_) if isinstance(token, str) else id_
        if number is not None:
            found[role] = number
    return found


def _printable(token: bytes) -> str:
    return "".join(byte_to_unicode()[b] for b in token)


def token_list(tokenizer: Tokenizer, rows: int) -> tuple[list[str], list[int]]:
    """The text and the type of each row of the embedding: byte strings in GPT-2's printable letters, control
    tokens as they are, and "[PADn]" for a row without a text. llama.cpp finds a control token in a text only
    if its type says so: 3 where a file calls it special, or it looks so (<|...|>), else 4."""
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    for token, i in tokenizer.vocab.items():
        tokens[i], types[i] = _printable(token), NORMAL
    for text, i in tokenizer.control_tokens.items():
        looks = text.startswith("<|") and text.endswith("|>")
        tokens[i], types[i] = text, CONTROL if text in tokenizer.special or looks else USER_DEFINED
    return tokens, types


# -- reading -------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Source:
    """Open a GGUF file of a Qwen3 text model, ours or anyone's, as if it were a checkpoint directory.

    Raises CheckpointError as `open_gguf` does, and for another architecture, a missing key, a tensor that
    is missing, left over or of another shape; ConfigError for an impossible config; ValueError for a
    vocabulary that is not Qwen3's kind.
    """
    file = open_gguf(path)
    config = config_of(file)
    places = {name: place_of(name) for name in config.tensor_shapes()}
    _require_tensors(file, config, places)
    weights = GGUFCheckpoint(file, places)
    tokenizer = tokenizer_of(file)
    name = file.path.stem
    files = _files(file, config, tokenizer)
    with TemporaryDirectory() as folder:  # the profile of what would be written as a directory
        (place := Path(folder) / name).mkdir()
        for beside, content in files.items():
            (place / beside).write_bytes(content)
        profile = Profile.from_pretrained(place, tokenizer)
    source = Source(name, config, weights, tokenizer, profile, files, file.path)
    return replace(source, config=as_stored(config, source.type)) if source.type in DTYPES else source


def config_of(file: GGUF) -> Qwen3Config:
    """The config that a file's keys and tensors say. Raises CheckpointError and ConfigError."""
    keys, path = file.metadata, file.path
    arch = keys.get("general.architecture")
    types = {theirs: ours for ours, theirs in ARCHITECTURES.items()}
    if arch not in tuple(types):
        raise CheckpointError(
            f"general.architecture of {path} is {quoted(arch)}, and {' and '.join(types)} are read; run it "
            f"with llama.cpp."
        )

    def key(name: str, kind: type = int, *, absent: Any = None, why: str = "") -> Any:
        value = keys.get(f"{arch}.{name}", absent)
        if value is None:
            raise CheckpointError(f"{arch}.{name} is missing in {path}{why}; fetch the file again.")
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise CheckpointError(
                f"{arch}.{name} in {path} is {quoted(value)}, and it must be a {kind.__name__}; fetch the "
                f"file again."
            )
        return value

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path} has no token_embd.weight, the embedding; fetch the file again.")
    hidden, heads = key("embedding_length"), key("attention.head_count")
    default = hidden // heads if heads else 0
    without = f", and its default of {default} a head is another model's"
    head_dim = key("attention.key_length", why=without)
    if key("attention.value_length", absent=head_dim) != head_dim:
        raise CheckpointError(f"key_length and value_length of {path} differ, and Qwen3 has one head_dim.")
    values: dict[str, Any] = {
        "model_type": types[arch],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key("attention.head_count_kv"),
        "head_dim": head_dim,
        "rope_theta": key("rope.freq_base", float),
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon", float),
        "max_position_embeddings": key("context_length"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_scaling": _scaling(file, arch, key),
    }
    for role in ("bos", "eos"):
        values[f"{role}_token_id"] = keys.get(f"tokenizer.ggml.{role}_token_id")
    if arch == "qwen3moe":
        values |= {
            "num_experts": key("expert_count"),
            "num_experts_per_tok": key("expert_used_count"),
            "moe_intermediate_size": key("expert_feed_forward_length"),
            "norm_topk_prob": True,
        }
    return Qwen3Config.from_dict(values, source=str(path))


def _scaling(file: GGUF, arch: str, key: Any) -> dict[str, Any] | None:
    """rope_scaling, from the keys of one."""
    kind = file.metadata.get(f"{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in _SCALINGS:
        raise ConfigError(f"{arch}.rope.scaling.type in {file.path} is {quoted(kind)}; {_SCALINGS} are read.")
    found = {"rope_type": kind, "factor": key("rope.scaling.factor", float)}
    if kind == "yarn":
        found["original_max_position_embeddings"] = key("rope.scaling.original_context_length")
        for ours, theirs in _YARN.items():
            if (value := file.metadata.get(f"{arch}.rope.scaling.yarn_{theirs}")) is not None:
                found[ours] = value
    return found


def _require_tensors(
    file: GGUF, config: Qwen3Config, places: Mapping[str, tuple[str, int | None]]
) -> None:
    """Raise CheckpointError unless the file holds exactly the model's tensors, in their shapes."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, shape in config.tensor_shapes().items():
        place, expert = places[name]
        wanted[place] = shape if expert is None else (config.num_experts or 0, *shape)
    for place, shape in wanted.items():
        if place not in file.tensors:
            raise CheckpointError(f"{file.path} lacks {place}, which its keys ask for; fetch the file again.")
        if file.tensors[place].shape != shape:
            raise CheckpointError(
                f"{place} in {file.path} has shape {file.tensors[place].shape} where its keys ask for "
                f"{shape}; fetch the file again."
            )
    if unused := [name for name in file.tensors if name not in wanted]:
        raise CheckpointError(
            f"{file.path} holds {quoted(unused[0])}, which a Qwen3 text model has no place for; run it with "
            f"llama.cpp."
        )


def tokenizer_of(file: GGUF) -> Tokenizer:
    """The tokenizer of a file. Raises ValueError for another kind than Qwen3's, or a broken one."""
    keys, path = file.metadata, file.path
    model, pre = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.pre")
    if (model, pre) != ("gpt2", "qwen2"):
        raise ValueError(
            f"the tokenizer of {path} is {quoted(model)} with the pattern {quoted(pre)}, and Qwen3's is "
            f"'gpt2' with 'qwen2', so its ids would differ; run the file with llama.cpp."
        )
    tokens, types, merges = (
        keys.get(f"tokenizer.ggml.{key}", ()) for key in ("tokens", "token_type", "merges")
    )
    rows = file.tensors["token_embd.weight"].shape[0]
    lists = all(isinstance(values, list) for values in (tokens, types, merges))
    if not lists or not len(tokens) == len(types) == rows:
        raise ValueError(
            f"tokens, token_type and merges of {path} are not lists for the {rows:,} rows of the embedding; "
            f"fetch the file again."
        )
    names: dict[str, int] = {}
    added: dict[str, int] = {}
    for i, (token, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ == UNUSED:
            continue
        into = names if type_ == NORMAL else added
        if not isinstance(token, str) or not token or token in into:
            raise ValueError(f"token {i} of {path} is {quoted(token)}, empty or there twice; fetch it again.")
        if type_ not in (NORMAL, CONTROL, USER_DEFINED):
            raise ValueError(f"token {i} of {path} is of type {quoted(type_)}, which byte-level BPE has not.")
        into[token] = i
    return Tokenizer.from_tables(names, merges, added, SPECIAL_TOKENS, source=path)


def _files(file: GGUF, config: Qwen3Config, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The settings that a checkpoint directory has beside its weights, from a file's keys."""
    keys = file.metadata
    text = tokenizer.control_tokens.get("<|endoftext|>")
    ends = [i for i in tokenizer.stop_ids if i != config.eos_token_id]
    ends = ends if config.eos_token_id is None else [config.eos_token_id, *ends]
    base = config.eos_token_id == text
    sampling = {
        "temperature": keys.get("general.sampling.temp"),
        "top_k": keys.get("general.sampling.top_k"),
        "top_p": keys.get("general.sampling.top_p"),
    }
    settings: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    settings |= {"do_sample": True} if settings else {"do_sample": False} if base else {}
    if ends:
        settings["eos_token_id"] = ends[0] if base or len(ends) == 1 else ends
    template = keys.get("tokenizer.chat_template")
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if config.eos_token_id in tokenizer.control_tokens.values():
        own = json.loads(found["tokenizer_config.json"])
        own["eos_token"] = tokenizer.decode(ends[:1])
        found["tokenizer_config.json"] = dump(own).encode()
    found["generation_config.json"] = dump(settings).encode()
    if isinstance(template, str):
        found["chat_template.jinja"] = template.encode()
    return found
