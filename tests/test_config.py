"""Configurations: every official one, the arithmetic to the byte, and each way to be wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from qwen3_ref import facts
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.rope import frequencies
from tests.helpers import CASES

OPEN = [name for name, model in facts.official_models().items() if model["config"]]
DENSE = facts.official_models()["Qwen3-0.6B"]["config"]
MOE = facts.official_models()["Qwen3-30B-A3B"]["config"]


def test_the_family_is_whole() -> None:
    assert len(OPEN) == 24
    for size in ("0.6B", "1.7B", "4B", "8B", "14B", "30B-A3B"):
        assert {f"Qwen3-{size}", f"Qwen3-{size}-Base"} <= set(OPEN)
    for size in ("4B", "30B-A3B", "235B-A22B"):
        assert {f"Qwen3-{size}-Instruct-2507", f"Qwen3-{size}-Thinking-2507"} <= set(OPEN)


@pytest.mark.parametrize("name", OPEN)
def test_official_bytes(name: str) -> None:
    """Our arithmetic against published sizes: parameters, tensors, shards, to the byte."""
    model, config = facts.official_models()[name], Qwen3Config.named(name)
    published = model["checkpoint"]
    stored = bool(published.get("lm_head_stored")) and config.tie_word_embeddings
    data = config.weight_bytes(2, lm_head_stored=stored)
    if "hub_api_params" in published:
        assert config.num_parameters() == published["hub_api_params"]
    if "tensors" in published:
        assert len(config.tensor_shapes()) + stored == published["tensors"]
    over = facts.about()["overstated_index"]
    total = facts.published_total_size(name)
    if total is not None:
        assert total - data == (over["bytes"] if name in over["models"] else 0)
    if "shard_data_bytes" in published:
        assert sum(published["shard_data_bytes"]) == data
    if "file_bytes" in published and "header_bytes" in published:
        assert published["file_bytes"] == data + published["header_bytes"] + 8
    if "shard_bytes" in published and "files_sum_bytes" in published:
        assert sum(published["shard_bytes"]) == published["files_sum_bytes"]
        headers = published["files_sum_bytes"] - data
        assert 0 < headers < 200 * published["tensors"]  # names, shapes and offsets, nothing else


def test_how_much_of_this_was_published() -> None:
    """How many checkpoints the test above really holds against a published byte size."""
    sizes = [n for n in OPEN if facts.published_total_size(n)]
    counts = [n for n in OPEN if "hub_api_params" in facts.official_models()[n]["checkpoint"]]
    assert len(sizes) == 16 and len(set(sizes) | set(counts)) == 21


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("Qwen3-30B-A3B", 3_353_032_704),
        ("Qwen3-235B-A22B", 22_190_763_520),
        ("Qwen3-Coder-480B-A35B-Instruct", 35_474_765_312),
        ("Qwen3-0.6B", 596_049_920),
    ],
)
def test_active_parameters(name: str, active: int) -> None:
    assert Qwen3Config.named(name).num_active_parameters() == active


def test_non_embedding_parameters() -> None:
    """The model cards' rounded figures (0.44B, 6.95B, 29.9B)."""
    assert Qwen3Config.named("Qwen3-0.6B").num_non_embedding_parameters() == 440_467_456
    assert Qwen3Config.named("Qwen3-8B").num_non_embedding_parameters() == 6_946_075_648
    assert Qwen3Config.named("Qwen3-30B-A3B").num_non_embedding_parameters() == 29_909_792_768


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("Qwen3-0.6B", 2689),
        ("Qwen3-1.7B", 2689),
        ("Qwen3-4B", 3457),
        ("Qwen3-8B", 3456),
        ("Qwen3-14B", 3841),
        ("Qwen3-32B", 6145),
        ("Qwen3-30B-A3B", 2305),
    ],
)
def test_kv_cache_against_published_memory(name: str, mebibytes: int) -> None:
    """The official speed benchmark's memory at input 30,720 less that at 6,144, in MB as printed."""
    ours = Qwen3Config.named(name).kv_cache_bytes(30_720 - 6_144) / 2**20
    assert abs(ours - mebibytes) <= 1
    assert Qwen3Config.named("Qwen3-8B").kv_cache_bytes(32_768) == 4_831_838_208


def test_flops_by_hand() -> None:
    """A config small enough for paper: one layer, D 8, F 12, 2 query and 1 KV heads of 4, V 10."""
    config = Qwen3Config(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
    products = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12 + 10 * 8
    assert config.flops_per_token() == 2 * products
    assert config.flops_per_token(100) == 2 * products + 4 * 2 * 4 * 100
    deep = replace(config, num_hidden_layers=3)
    assert deep.flops_per_token(100) - deep.flops_per_token() == 3 * 4 * 2 * 4 * 100
    assert config.num_parameters() == products + 8 + 8 + 8 + 4 + 4
    untied = Qwen3Config.from_dict(config.to_dict() | {"tie_word_embeddings": False})
    assert untied.flops_per_token() == config.flops_per_token()


@pytest.mark.parametrize("name", OPEN)
def test_round_trip_and_transformers(name: str, tmp_path: Path) -> None:
    """Our config.json is read back equal, and transformers makes the same tensors of it."""
    config = Qwen3Config.named(name)
    config.to_json(tmp_path / "config.json")
    assert Qwen3Config.from_pretrained(tmp_path) == config
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == config.model_type
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    for field in ("hidden_size", "head_dim", "num_key_value_heads", "tie_word_embeddings"):
        assert getattr(theirs, field) == getattr(config, field)
    if config.num_hidden_layers * (config.num_experts or 1) <= 6144:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(theirs)
        ours = sum(torch.Size(s).numel() for s in config.tensor_shapes().values())
        assert sum(p.numel() for p in model.parameters()) == ours == config.num_parameters()
        dense = {k: tuple(v.shape) for k, v in model.named_parameters() if ".experts." not in k}
        shapes = {k: s for k, s in config.tensor_shapes().items() if ".experts." not in k}
        assert dense == shapes


def test_both_spellings_are_the_same(tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters; the official files have rope_theta and rope_scaling."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    old = Qwen3Config.from_dict(DENSE | {"rope_scaling": yarn})
    older = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert Qwen3Config.from_dict(DENSE | {"rope_scaling": older}) == old
    transformers.Qwen3Config.from_dict(old.to_dict()).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert "rope_parameters" in written and "rope_theta" not in written
    new = Qwen3Config.from_pretrained(tmp_path)
    assert new.rope_theta == 1_000_000 and dict(new.rope_scaling or {}) == yarn


def test_either_name_of_the_dtype_is_read() -> None:
    """torch_dtype in the official files, dtype in those of transformers 5; null is absent."""
    values = {k: v for k, v in DENSE.items() if k not in ("dtype", "torch_dtype")}
    for given, want in (
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": None, "dtype": "float32"}, "float32"),
        ({}, "bfloat16"),
        ({"dtype": None}, "bfloat16"),
    ):
        assert Qwen3Config.from_dict(values | given).torch_dtype == want


def test_transformers_reads_all_tiny_cases(tmp_path: Path) -> None:
    for name, settings in CASES.items():
        kind = transformers.Qwen3MoeConfig if "num_experts" in settings else transformers.Qwen3Config
        theirs = kind(**settings)
        ours = Qwen3Config.from_dict(theirs.to_dict(), source=name)
        back = kind.from_dict(ours.to_dict())
        assert back.rope_parameters == theirs.rope_parameters, name


@pytest.mark.parametrize("name", OPEN)
def test_official_values_have_the_published_hash(name: str) -> None:
    """Where a config counts as verified, its values written out are the official file, byte for byte."""
    model = facts.official_models()[name]
    proof = model["config_proof"]
    if model["config_status"] != "verified":
        assert proof["status"] != "byte-exact"
        return
    text = json.dumps(model["config"], indent=2)
    hashes = {hashlib.sha256((text + end).encode()).hexdigest() for end in ("", "\n")}
    assert proof["sha256"] in hashes


FOUR = {"rope_type": "yarn", "original_max_position_embeddings": 32768, "factor": 4.0}
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 32768}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (DENSE, {"rope_theta": None}, "rope_theta is missing in .*no safe default"),
    (DENSE, {"head_dim": None}, "head_dim is missing in "),
    (DENSE, {"tie_word_embeddings": None}, "tie_word_embeddings is missing in "),
    (DENSE, {"rms_norm_eps": None}, "rms_norm_eps is missing in "),
    (MOE, {"norm_topk_prob": None}, "norm_topk_prob is missing in "),
    (DENSE, {"model_type": "qwen2"}, "model_type in .* is 'qwen2'"),
    (DENSE, {"model_type": None}, "model_type in .* is None"),
    (DENSE, {"num_key_value_heads": 7}, "num_attention_heads 16 is not divisible by .* 7"),
    (DENSE, {"head_dim": 127}, "head_dim is 127; it must be even"),
    (MOE, {"num_experts_per_tok": 129}, "num_experts_per_tok is 129 but num_experts is 128"),
    (DENSE, {"attention_bias": True}, "attention_bias in .* is True"),
    (DENSE, {"hidden_act": "gelu"}, "hidden_act in .* is 'gelu'"),
    (DENSE, {"use_sliding_window": True}, "use_sliding_window in .* is True"),
    (DENSE, {"hidden_size": 0}, "hidden_size is 0"),
    (DENSE, {"num_hidden_layers": "28"}, "num_hidden_layers is '28'"),
    (DENSE, {"rope_scaling": {"rope_type": "longrope"}}, "rope_type 'longrope'"),
    (DENSE, {"num_experts": 8}, "num_experts is set but model_type is 'qwen3'"),
    (DENSE, {"rope_theta": "1e6"}, "rope_theta is '1e6'; it must be a number above 1"),
    (DENSE, {"rope_theta": float("inf")}, "rope_theta is inf; it must be a number above 1"),
    (DENSE, {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; it must be a number above 0"),
    (MOE, {"num_experts": "128"}, "num_experts is '128'; it must be a whole number"),
    (MOE, {"num_experts": 4.0}, "num_experts is 4.0; it must be a whole number"),
    (MOE, {"moe_intermediate_size": 0}, "moe_intermediate_size is 0; it must be .*at least 1"),
    (MOE, {"moe_intermediate_size": -1}, "moe_intermediate_size is -1; it must be .*at least 1"),
    (MOE, {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'; it must be true or false"),
    (MOE, {"decoder_sparse_step": 0}, "decoder_sparse_step is 0; it must be .*at least 1"),
    (MOE, {"mlp_only_layers": 3}, "mlp_only_layers is 3; it must be a list of layer numbers"),
    (MOE, {"mlp_only_layers": ["3"]}, "mlp_only_layers is .*'3'.*; it must be a list of layer numbers"),
    (DENSE, {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; it must be true or false"),
    (DENSE, {"eos_token_id": []}, r"eos_token_id is \[\]; it must be a token id"),
    (DENSE, {"torch_dtype": "int4"}, "torch_dtype is 'int4'; it must be one of float32"),
    (DENSE, {"model_type": ["qwen3"]}, r"model_type in .* is \['qwen3'\]"),
    (DENSE, {"rope_scaling": "yarn"}, "rope_scaling in .* is 'yarn'; it must be an object"),
    (DENSE, {"rope_scaling": [1]}, r"rope_scaling in .* is \[1\]; it must be an object"),
    (DENSE, {"rope_parameters": ["yarn"]}, r"rope_parameters in .* is \['yarn'\]; it must be an object"),
    (DENSE, {"rope_scaling": YARN | {"factor": 0}}, "factor in rope_scaling is 0; .*at least 1"),
    (DENSE, {"rope_scaling": YARN | {"factor": -4.0}}, "factor in rope_scaling is -4.0; .*at least 1"),
    (DENSE, {"rope_scaling": YARN | {"factor": "4"}}, "factor in rope_scaling is '4'; .*a number"),
    (DENSE, {"rope_scaling": YARN | {"beta_fast": 0}}, "beta_fast in rope_scaling is 0; .*above 0"),
    (DENSE, {"rope_scaling": YARN | {"truncate": 1}}, "truncate in rope_scaling is 1; .*true or false"),
    (DENSE, {"rope_scaling": {"rope_type": "yarn"}}, "original_max_position_embeddings is missing"),
    (DENSE, {"rope_scaling": YARN | {"original_max_position_embeddings": 40960}}, "factor is missing"),
    # settings that passed and failed in the first forward pass
    (DENSE, {"rope_scaling": YARN | {"factor": 10**20}}, "factor in rope_scaling is 1000.*up to 1,000,000"),
    (DENSE, {"rope_scaling": YARN | {"factor": True}}, "factor in rope_scaling is True"),
    (DENSE, {"rope_scaling": FOUR | {"beta_fast": 5e-324}}, "beta_fast in rope_scaling is 5e-324"),
    (DENSE, {"rope_scaling": FOUR | {"beta_slow": 1e308}}, r"beta_slow in rope_scaling is 1e\+308"),
    (DENSE, {"rope_scaling": FOUR | {"beta_slow": 32}}, "is 32.0, which must be above beta_slow, 32"),
    (DENSE, {"rope_scaling": FOUR | {"mscale": 1e308}}, "mscale in rope_scaling is "),
    (DENSE, {"rope_scaling": FOUR | {"attention_factor": 1e-300}}, "attention_factor in rope_scaling is "),
    (DENSE, {"rope_scaling": YARN | {"factor": 1e6}}, "makes a context of 32,768,000,000"),
    (DENSE, {"rope_theta": 1e300}, "rope_theta is 1e.300; it must be a number above 1 and up to 1e15"),
    (DENSE, {"rope_theta": True}, "rope_theta is True"),
    # unknown and misspelt settings, odd places, contradictions
    (DENSE, {"rope_scaling": FOUR | {"beta_fst": 32}}, "'beta_fst' in rope_scaling .*mean beta_fast"),
    (DENSE, {"rope_scaling": FOUR | {"x": 1}}, "'x' in rope_scaling is no setting of RoPE; known: rope_type"),
    (DENSE, {"rope_parameters": {"full_attention": {}}}, "'full_attention' in rope_parameters"),
    (DENSE, {"rope_scaling": {"factor": 4.0}}, "factor in rope_scaling does nothing without a rope_type"),
    (DENSE, {"rope_parameters": FOUR, "rope_scaling": FOUR | {"factor": 8}}, "factor is 4.0 in .* and 8 in "),
    (DENSE, {"rope_parameters": {"rope_theta": 1e4}}, "is 10000.0 in rope_parameters and 1000000 on top"),
    (DENSE, {"rope_scaling": FOUR | {"type": "linear"}}, "rope_type is 'yarn' in rope_scaling and 'linear'"),
    (DENSE, {"factor": 4.0}, "factor in .* stands outside of rope_scaling"),
    (DENSE, {"original_max_position_embeddings": 32768}, "stands outside of rope_scaling"),
    (DENSE, {"rope_scalling": FOUR}, "'rope_scalling' in .* did you mean rope_scaling"),
    (DENSE, {"yarn_factor": 4.0}, "'yarn_factor' in .* what it says of the positions would be lost"),
    (DENSE, {"rotary_pct": 0.5}, "'rotary_pct' in "),
    (DENSE, {"partial_rotary_factor": 0.5}, "partial_rotary_factor in .* is 0.5, which is another"),
    (DENSE, {"rope_scaling": FOUR | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor' in rope_"),
    (MOE, {"norm_topk_probs": False}, "'norm_topk_probs' in .* did you mean norm_topk_prob"),
    # other architectures
    (DENSE, {"layer_types": ["full_attention"] * 27 + ["linear_attention"]}, "layer_types in .* 'full_att"),
    (DENSE, {"layer_types": ["full_attention"] * 27}, "layer_types in .* names 27 layers where .* is 28"),
    (DENSE, {"layer_types": "full_attention"}, "layer_types in .* is 'full_attention'; every layer"),
    (DENSE, {"sliding_window": 4096, "use_sliding_window": None}, "sliding_window in .* is 4096"),
    (MOE, {"n_shared_experts": 1}, "n_shared_experts in .* is 1, which is another"),
    (MOE, {"scoring_func": "sigmoid"}, "scoring_func in .* is 'sigmoid', which is another"),
    (DENSE, {"dual_chunk_attention_config": {}}, "chunk_size is missing in dual_chunk_attention_config"),
    (DENSE, {"architectures": ["Qwen3ForSequenceClassification"]}, "architectures in .* class is Qwen3ForC"),
    (DENSE, {"architectures": ["Qwen2ForCausalLM"]}, "architectures in .* run the model with transformers"),
    (DENSE, {"architectures": ["Qwen3MoeForCausalLM"]}, "architectures in .* model_type is 'qwen3', whose"),
    (MOE, {"architectures": ["Qwen3ForCausalLM"]}, "architectures in .* class is Qwen3MoeForCausalLM"),
    (DENSE, {"architectures": "Qwen3ForCausalLM"}, r"architectures in .* or write \['Qwen3ForCausalLM'\]"),
    (DENSE, {"rms_norm_epsilon": 1e-5}, "'rms_norm_epsilon' in .* did you mean rms_norm_eps"),
    (DENSE, {"num_key_values_head": 8}, "'num_key_values_head' in .* did you mean num_key_value_heads"),
    (
        DENSE,
        {"rope_scaling": FOUR | {"original_max_position_embeddings": 40_961}},
        "original_max_position_embeddings .* is 40,961 and .* 40,960; .* official config.json",
    ),
    # sizes, judged before anything is built
    (DENSE, {"num_hidden_layers": 1_000_000}, "num_hidden_layers is 1000000; .* at most 1,000"),
    (MOE, {"num_experts": 1_000_000}, "num_experts is 1000000; .* at most 10,000"),
    (MOE, {"num_experts": 10_000}, "num_experts 10,000 in num_hidden_layers 48 make more than 65,536"),
    (DENSE, {"hidden_size": 2**31 - 1}, "hidden_size is 2,147,483,647 beside a width of 151,936"),
    (DENSE, {"vocab_size": 2**31}, "vocab_size is 2147483648; .* below 2.31"),
    (DENSE, {"max_position_embeddings": 10**25}, "max_position_embeddings is 1000"),
    (DENSE, {"intermediate_size": 10**1000}, "a whole number of 1,001 digits"),
    (DENSE, {"mlp_only_layers": [28]}, "mlp_only_layers names layer 28 and the last of 28 layers is 27"),
    (MOE, {"mlp_only_layers": [48]}, "mlp_only_layers names layer 48 and the last of 48 layers is 47"),
    (DENSE, {"eos_token_id": [1, "2"]}, "eos_token_id is '2'; it must be a token id"),
    (DENSE, {"hidden_act": "x" * 5000}, "hidden_act in .* is 'xxx.*[.]{3}, which is another"),
    (DENSE, {"model_type": ["qwen3"] * 5000}, "model_type in .* is .*[.]{3}; this package"),
]


@pytest.mark.parametrize(("base", "change", "words"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_configs(
    base: dict[str, Any], change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    values = {k: v for k, v in (base | change).items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        Qwen3Config.from_pretrained(tmp_path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("field", [*Qwen3Config.__dataclass_fields__, *FOUR])
@pytest.mark.parametrize("number", [10**1000, -(10**1000), 10**5000, 1e300], ids=["a", "b", "c", "d"])
def test_numbers_that_no_float_holds(field: str, number: Any) -> None:
    """In any field, given as Python gives them, where no JSON reader has stopped them."""
    change = {"rope_scaling": FOUR | {field: number}} if field in FOUR else {field: number}
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dict(MOE | change)
    assert len(str(caught.value)) < 400


def test_no_official_or_saved_config_is_refused() -> None:
    """What transformers itself writes: all its keys at their defaults; and nulls are absent."""
    for name in OPEN:
        mine = Qwen3Config.named(name)
        kind = transformers.Qwen3MoeConfig if mine.is_moe else transformers.Qwen3Config
        values = kind.from_dict(mine.to_dict()).to_dict()
        assert Qwen3Config.from_dict(values) == replace(mine, torch_dtype=values["dtype"] or "bfloat16")
    given = DENSE | {"sliding_window": 4096, "use_sliding_window": False, "partial_rotary_factor": 1.0}
    given |= {"rope_parameters": {"rope_type": None, "factor": None}, "yarn_factor": None}
    assert Qwen3Config.from_dict(given) == Qwen3Config.named("Qwen3-0.6B")


@pytest.mark.parametrize("name", OPEN)
def test_the_official_settings_of_yarn_pass(name: str) -> None:
    """32,768 within 40,960 (or within as much, as in the base models), and all of 262,144 for a million."""
    config = Qwen3Config.named(name)
    for original in {32_768, config.max_position_embeddings}:
        scaling = FOUR | {"original_max_position_embeddings": original}
        assert replace(config, rope_scaling=scaling).context_length == 4 * original


def test_a_decoder_saved_without_its_head_passes() -> None:
    """And settings that are beside the point: how a file was quantised, when its tensors are plain."""
    for given in ({"architectures": ["Qwen3Model"]}, {"architectures": []}, {"quantization_config": {}}):
        assert Qwen3Config.from_dict(DENSE | given) == Qwen3Config.named("Qwen3-0.6B")


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("top", [True, False])
def test_yarn_beside_rope_parameters(place: str, top: bool) -> None:
    """A config saved by transformers 5, to which somebody adds rope_scaling as the model card says; and
    theta is found wherever it stands. transformers gives the same."""
    plain = {"rope_type": "default", "rope_theta": 1e6}
    other = "rope_scaling" if place == "rope_parameters" else "rope_parameters"
    values = {k: v for k, v in DENSE.items() if k not in ("rope_theta", "rope_scaling")}
    values |= {place: dict(FOUR), other: plain} | ({"rope_theta": 1e6} if top else {})
    mine = Qwen3Config.from_dict(values)
    assert (mine.rope_theta, dict(mine.rope_scaling or {})) == (1e6, FOUR)
    if place == "rope_scaling" and top:
        theirs = transformers.Qwen3Config.from_dict(values).rope_parameters
        assert theirs == FOUR | {"rope_theta": 1e6}
    inside = {k: v for k, v in DENSE.items() if k != "rope_theta"}
    inside["rope_scaling"] = FOUR | {"rope_theta": 5e6}
    assert Qwen3Config.from_dict(inside).rope_theta == 5e6
    assert transformers.Qwen3Config.from_dict(inside).rope_parameters["rope_theta"] == 5e6


def test_yarn_makes_room() -> None:
    """The model card's setting for 131,072 tokens leaves max_position_embeddings at 40,960."""
    config = Qwen3Config.named("Qwen3-8B")
    assert config.context_length == 40_960
    assert replace(config, rope_scaling=FOUR).context_length == 131_072
    assert replace(config, rope_scaling=FOUR | {"factor": 1.5}).context_length == 49_152
    lengths = replace(config, rope_scaling=YARN, max_position_embeddings=131_072)
    assert lengths.context_length == 131_072
    assert replace(config, rope_scaling={"rope_type": "linear", "factor": 2}).context_length == 81_920
    assert replace(config, rope_scaling={"rope_type": "default"}).context_length == 40_960


@pytest.mark.parametrize("extreme", [(1, 10**6), (1.0001, 10**6), (10**6, 1)])
def test_what_the_config_lets_pass_can_be_computed(extreme: tuple[float, float]) -> None:
    """The outermost settings of YaRN that pass give finite angles, as NumPy and Python compute them."""
    factor, original = extreme
    for theta in (1.0000000001, 1e4, 10**15):
        for more in ({}, {"beta_fast": 10**6, "beta_slow": 1e-6}, {"mscale": 10**6, "mscale_all_dim": 1e-6}):
            scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
            lengths = {"max_position_embeddings": max(40_960, int(original))}
            c = replace(
                Qwen3Config.named("Qwen3-0.6B"), rope_theta=theta, rope_scaling=scaling | more, **lengths
            )
            angles, scale = frequencies(c.head_dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings)
            assert np.isfinite(angles).all() and 0 < scale < 1e9


def test_a_factor_may_follow_from_the_lengths() -> None:
    given = DENSE | {"rope_scaling": YARN, "max_position_embeddings": 131_072}
    c = Qwen3Config.from_dict(given)
    implied = frequencies(c.head_dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings)
    explicit = frequencies(c.head_dim, c.rope_theta, YARN | {"factor": 4.0}, c.max_position_embeddings)
    assert (implied[0] == explicit[0]).all() and implied[1] == explicit[1]
    with pytest.raises(ValueError, match="factor in rope_scaling is 0; it must be a number, at least 1"):
        frequencies(c.head_dim, c.rope_theta, YARN | {"factor": 0}, c.max_position_embeddings)


def test_wrong_arguments_are_refused_as_in_a_file() -> None:
    config = Qwen3Config.named("Qwen3-0.6B")
    for change, words in (
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; it must be an object"),
        ({"model_type": ["qwen3"]}, "model_type is .*'qwen3'.*; it must be"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(config, **change)  # type: ignore[arg-type]


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no .*config.json"):
        Qwen3Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        Qwen3Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds a list"):
        Qwen3Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        Qwen3Config.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="there is no .*config.json"):
        Qwen3Config.from_pretrained(tmp_path / "config.json")
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read .*; check its kind and permissions") as caught:
        Qwen3Config.from_pretrained(tmp_path)
    assert "fetch" not in str(caught.value)


def test_wrong_names() -> None:
    with pytest.raises(ConfigError, match="did you mean Qwen3-8B"):
        Qwen3Config.named("qwen3-8b")
    with pytest.raises(ConfigError, match="did you mean Qwen3-Coder-30B-A3B-Instruct"):
        Qwen3Config.named("qwen/QWEN3-CODER-30B")
    with pytest.raises(ConfigError, match="never published"):
        Qwen3Config.named("Qwen3-32B-Base")
    with pytest.raises(ConfigError, match="known: Qwen3-0.6B, ") as caught:
        Qwen3Config.named("zzz")
    assert "32B-Base" not in str(caught.value) and "235B-A22B-Base" not in str(caught.value)
    assert Qwen3Config.named("Qwen/Qwen3-8B") == Qwen3Config.named("Qwen3-8B")


def test_every_fact_has_a_source_and_a_status() -> None:
    for name, model in facts.official_models().items():
        assert model["config_status"] in ("verified", "unverified"), name
        for part in ("generation_config", "checkpoint"):
            if model.get(part):
                assert model[part]["status"] in ("verified", "unverified"), name
                assert model[part]["source"] or model[part]["status"] == "unverified", name
    for golden in facts.goldens("Qwen3-0.6B-Base"):
        assert golden["source"] and golden["status"]


def test_counts_by_hand() -> None:
    """A batch costs as many times a row; idle experts are left out in sparse layers alone."""
    c = Qwen3Config.from_dict(MOE | {"num_hidden_layers": 4, "decoder_sparse_step": 2})
    assert c.kv_cache_bytes(10, 3) == 3 * c.kv_cache_bytes(10)
    assert c.kv_cache_bytes(10, 1, 4) == 2 * c.kv_cache_bytes(10, 1, 2)
    assert c.num_experts and c.num_experts_per_tok and c.moe_intermediate_size
    idle = (c.num_experts - c.num_experts_per_tok) * 3 * c.hidden_size * c.moe_intermediate_size
    assert [c.is_sparse_layer(i) for i in range(4)] == [False, True, False, True]
    assert c.num_active_parameters() == c.num_parameters() - 2 * idle


def test_a_dense_file_says_nothing_of_experts() -> None:
    """transformers' dense config would keep what it does not know."""
    written = Qwen3Config.from_dict(DENSE).to_dict()
    odd = ("decoder_sparse_step", "mlp_only_layers", "router_aux_loss_coef", "output_router_logits")
    for name in (*odd, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"):
        assert name not in written and name in Qwen3Config.from_dict(MOE).to_dict(), name
