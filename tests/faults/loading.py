"""Faults of reading configs and checkpoints."""

from __future__ import annotations

from tests.faults.switch import Fault

LOADING = "            for tensor, target in _official(part, f\"{name}.\"):\n"
NEEDED = "        needed = [f.name for f in fields(cls) if f.default is f.default_factory]\n"
CONFIGS = "test_config:test_wrong_configs"


def loading(condition: str, value: str) -> str:
    """The loop that loads, with one kind of tensor passed over."""
    return LOADING + f"                if {condition}:\n                    {value}\n                    continue\n"


CONFIG = [
    Fault(
        name="config_head_dim_computed",
        rows="5",
        words="head_dim is hidden / heads, whatever the file says",
        module="config",
        right=NEEDED,
        wrong='        taken["head_dim"] = values["hidden_size"] // values["num_attention_heads"]\n' + NEEDED,
        by=("logits_dense",),
    ),
    Fault(
        name="config_head_dim_guessed",
        rows="5",
        words="a missing head_dim becomes hidden / heads",
        module="config",
        right=NEEDED,
        wrong='        taken.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])\n'
        + NEEDED,
        by=(CONFIGS,),
    ),
    Fault(
        name="config_theta_guessed",
        rows="7",
        words="a missing rope_theta becomes 10,000",
        module="config",
        right="    if theta is None:\n",
        wrong="    theta = 10_000.0 if theta is None else theta\n    if theta is None:\n",
        by=(CONFIGS,),
    ),
    Fault(
        name="config_new_spelling_ignored",
        rows="7",
        words="rope_theta inside rope_parameters is not seen",
        module="config",
        right='theta, kind = found.pop("rope_theta", None), ',
        wrong='found.pop("rope_theta", None)\n    theta, kind = values.get("rope_theta", 10_000.0), ',
        by=("logits_dense",),
    ),
    Fault(
        name="config_tie_guessed",
        rows="12",
        words="a missing tie_word_embeddings becomes False",
        module="config",
        right=NEEDED,
        wrong='        taken.setdefault("tie_word_embeddings", False)\n' + NEEDED,
        by=(CONFIGS,),
    ),
    Fault(
        name="config_eps_guessed",
        rows="13",
        words="a missing rms_norm_eps becomes the class default",
        module="config",
        right='needed += ["rms_norm_eps", "max_position_embeddings"]',
        wrong='needed += ["max_position_embeddings"]',
        by=(CONFIGS,),
    ),
    Fault(
        name="config_norm_topk_prob_guessed",
        rows="15",
        words="a missing norm_topk_prob becomes False",
        module="config",
        right=NEEDED,
        wrong='        if model_type == "qwen3_moe":\n            taken.setdefault("norm_topk_prob", False)\n'
        + NEEDED,
        by=(CONFIGS,),
    ),
    Fault(
        name="config_old_yarn_spelling_ignored",
        rows="35",
        words="rope_scaling's `type` (before `rope_type`) is not seen",
        module="config",
        right='            name = "rope_type" if key == "type" else key\n',
        wrong='            name = key\n            if name == "type":\n                continue\n',
        by=("test_config:test_both_spellings_are_the_same",),
    ),
    Fault(
        name="config_sparse_step_off_by_one",
        rows="own",
        words="decoder_sparse_step counts layers from 0",
        module="config",
        right="(layer + 1) % self.decoder_sparse_step",
        wrong="layer % self.decoder_sparse_step",
        by=("logits_moe_every_second_layer",),
    ),
    Fault(
        name="config_mlp_only_layers_ignored",
        rows="own",
        words="every layer has experts",
        module="config",
        right="and layer not in self.mlp_only_layers",
        wrong="",
        by=("logits_moe_mixed_layers",),
    ),
]
CHECKPOINTS = [
    Fault(
        name="qk_norms_never_loaded",
        rows="2, measured",
        words="the gains of q_norm and k_norm stay 1",
        module="model",
        right=LOADING,
        wrong=loading('tensor.endswith(("q_norm.weight", "k_norm.weight"))', "target.fill_(1)"),
        by=("logits_dense",),
    ),
    Fault(
        name="final_norm_never_loaded",
        rows="measured",
        words="the gains of the final norm stay 1",
        module="model",
        right=LOADING,
        wrong=loading('tensor == "model.norm.weight"', "target.fill_(1)"),
        by=("logits_dense",),
    ),
    Fault(
        name="embedding_copied_over_head",
        rows="12",
        words="the file's lm_head is overwritten with the embedding",
        module="model",
        right=LOADING,
        wrong=loading('tensor == "lm_head.weight"', "target.copy_(model.model.embed_tokens.weight)"),
        by=("logits_dense",),
    ),
    Fault(
        name="unused_tensors_skipped",
        rows="3, 22",
        words="a tensor of an unknown name is dropped without a word",
        module="store.checkpoint",
        right="        if unused:\n",
        wrong="        if False:\n",
        by=("every_tensor_is_used",),
    ),
    Fault(
        name="packed_gate_and_up_exchanged",
        rows="22",
        words="the first half of the packed rows is taken for up",
        module="store.checkpoint",
        right='["gate_proj", "up_proj"]',
        wrong='["up_proj", "gate_proj"]',
        by=("packed_experts",),
    ),
    Fault(
        name="packed_experts_transposed",
        rows="22",
        words="one expert's packed rows are taken for columns",
        module="store.checkpoint",
        right="shape = (size // columns, columns)",
        wrong="shape = (columns, size // columns)",
        by=("packed_experts",),
    ),
    Fault(
        name="expert_gate_and_up_stacked_wrongly",
        rows="22",
        words="official experts are stacked up first",
        module="model",
        right="gate, up = both.chunk(2)",
        wrong="up, gate = both.chunk(2)",
        by=("logits_moe",),
    ),
]
FAULTS = [*CONFIG, *CHECKPOINTS]
