"""Configurations: every official one, the arithmetic to the byte, and each way to be wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    (DENSE, {"rope_scaling": {"rope_type": "yarn"}}, "factor is missing in rope_scaling"),
    (DENSE, {"rope_scaling": YARN | {"original_max_position_embeddings": 40960}}, "factor is missing"),
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
