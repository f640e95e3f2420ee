"""Faults of reading configs and checkpoints."""

from __future__ import annotations

from tests.faults.switch import Fault

LOADING = "        for name, target in progress(dict(model.named_official_tensors()).items()):\n"
NEEDED = "        needed = [f.name for f in fields(cls) if f.default is f.default_factory]\n"
CONFIGS = "test_config:test_wrong_configs"


def fault(name: str, rows: str, words: str, module: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, module, ((old, new),), by)


def never_loaded(name: str, rows: str, words: str, condition: str, value: str, *by: str) -> Fault:
    skip = f"            if {condition}:\n                {value}\n                continue\n"
    return fault(name, rows, words, "model", LOADING, LOADING + skip, *by)


CONFIG = [
    fault(
        "config_head_dim_computed",
        "5",
        "head_dim is hidden / heads, whatever the file says",
        "config",
        NEEDED,
        '        taken["head_dim"] = values["hidden_size"] // values["num_attention_heads"]\n' + NEEDED,
        "logits_dense",
    ),
    fault(
        "config_head_dim_guessed",
        "5",
        "a missing head_dim becomes hidden / heads",
        "config",
        NEEDED,
        '        taken.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])\n'
        + NEEDED,
        CONFIGS,
    ),
    fault(
        "config_theta_guessed",
        "7",
        "a missing rope_theta becomes 10,000",
        "config",
        "    if theta is None:\n",
        "    theta = 10_000.0 if theta is None else theta\n    if theta is None:\n",
        CONFIGS,
    ),
    fault(
        "config_new_spelling_ignored",
        "7",
        "rope_theta inside rope_parameters is not seen",
        "config",
        '(new or {}).get("rope_theta", values.get("rope_theta"))',
        'values.get("rope_theta", 10_000.0)',
        "logits_dense",
    ),
    fault(
        "config_tie_guessed",
        "12",
        "a missing tie_word_embeddings becomes False",
        "config",
        NEEDED,
        '        taken.setdefault("tie_word_embeddings", False)\n' + NEEDED,
        CONFIGS,
    ),
    fault(
        "config_eps_guessed",
        "13",
        "a missing rms_norm_eps becomes the class default",
        "config",
        'needed += ["rms_norm_eps", "max_position_embeddings"]',
        'needed += ["max_position_embeddings"]',
        CONFIGS,
    ),
    fault(
        "config_norm_topk_prob_guessed",
        "15",
        "a missing norm_topk_prob becomes False",
        "config",
        NEEDED,
        '        if model_type == "qwen3_moe":\n            taken.setdefault("norm_topk_prob", False)\n'
        + NEEDED,
        CONFIGS,
    ),
    fault(
        "config_old_yarn_spelling_ignored",
        "35",
        "rope_scaling's `type` (before `rope_type`) is not seen",
        "config",
        'scaling.get("rope_type", scaling.get("type", "default"))',
        'scaling.get("rope_type", "default")',
        "test_config:test_both_spellings_are_the_same",
    ),
    fault(
        "config_sparse_step_off_by_one",
        "own",
        "decoder_sparse_step counts layers from 0",
        "config",
        "(layer + 1) % self.decoder_sparse_step",
        "layer % self.decoder_sparse_step",
        "logits_moe_every_second_layer",
    ),
    fault(
        "config_mlp_only_layers_ignored",
        "own",
        "every layer has experts",
        "config",
        "and layer not in self.mlp_only_layers",
        "",
        "logits_moe_mixed_layers",
    ),
]
CHECKPOINTS = [
    never_loaded(
        "qk_norms_never_loaded",
        "2, measured",
        "the gains of q_norm and k_norm stay 1",
        'name.endswith(("q_norm.weight", "k_norm.weight"))',
        "target.fill_(1)",
        "logits_dense",
    ),
    never_loaded(
        "final_norm_never_loaded",
        "measured",
        "the gains of the final norm stay 1",
        'name == "model.norm.weight"',
        "target.fill_(1)",
        "logits_dense",
    ),
    never_loaded(
        "embedding_copied_over_head",
        "12",
        "the file's lm_head is overwritten with the embedding",
        'name == "lm_head.weight"',
        "target.copy_(model.model.embed_tokens.weight)",
        "logits_dense",
    ),
    fault(
        "unused_tensors_skipped",
        "3, 22",
        "a tensor of an unknown name is dropped without a word",
        "checkpoint",
        "        if unused:\n",
        "        if False:\n",
        "every_tensor_is_used",
    ),
    fault(
        "packed_gate_and_up_exchanged",
        "22",
        "the first half of the packed rows is taken for up",
        "checkpoint",
        '["gate_proj", "up_proj"]',
        '["up_proj", "gate_proj"]',
        "packed_experts",
    ),
    fault(
        "packed_experts_transposed",
        "22",
        "one expert's packed rows are taken for columns",
        "checkpoint",
        "shape = (size // columns, columns)",
        "shape = (columns, size // columns)",
        "packed_experts",
    ),
    fault(
        "expert_gate_and_up_stacked_wrongly",
        "22",
        "official experts are stacked up first",
        "model",
        "gate, up = both.chunk(2)",
        "up, gate = both.chunk(2)",
        "logits_moe",
    ),
]
FAULTS = [*CONFIG, *CHECKPOINTS]
