"""Faults in writing checkpoints for other engines, and in reading their files."""

from __future__ import annotations

from tests.faults.switch import Fault

KEYS = "fresh test_gguf:test_keys_and_tensors_are_those_of_the_official_converter"
BACK = "fresh test_gguf:test_there_and_back_bit_for_bit"


def gguf(name: str, words: str, right: str | tuple[str, ...], wrong: str | tuple[str, ...], *by: str) -> Fault:
    """One in engines/gguf.py."""
    return Fault(name=name, words=words, module="engines.gguf", right=right, wrong=wrong, by=by)


def store(name: str, words: str, right: str, wrong: str, *by: str) -> Fault:
    """One in store/gguf.py."""
    return Fault(name=name, words=words, module="store.gguf", right=right, wrong=wrong, by=by)


FAULTS = [
    gguf(
        "gguf_gate_and_up_swapped",
        "gate goes under up's name, and up under gate's; every shape fits",
        ('"mlp.gate_proj": "ffn_gate"', '"mlp.up_proj": "ffn_up"'),
        ('"mlp.gate_proj": "ffn_up"', '"mlp.up_proj": "ffn_gate"'),
        "test_gguf:test_names_are_those_of_the_library",
    ),
    gguf(
        "gguf_experts_gate_and_up_swapped",
        "the same, of experts",
        ('"gate_proj": "ffn_gate_exps"', '"up_proj": "ffn_up_exps"'),
        ('"gate_proj": "ffn_up_exps"', '"up_proj": "ffn_gate_exps"'),
        "test_gguf:test_names_are_those_of_the_library",
    ),
    gguf(
        "gguf_norms_swapped",
        "the norm before attention goes under the name of that before the MLP, and the other way round",
        ('"input_layernorm": "attn_norm"', '"post_attention_layernorm": "ffn_norm"'),
        ('"input_layernorm": "ffn_norm"', '"post_attention_layernorm": "attn_norm"'),
        "test_gguf:test_names_are_those_of_the_library",
    ),
    gguf(
        "gguf_q_permuted",
        "the channels of queries are interleaved, as Llama's are for the other way of turning",
        "found.append(Plan(place, _kind(c, place, shape, kind, head), shape, partial(source.matrix, name)))",
        "found.append(Plan(place, _kind(c, place, shape, kind, head), shape, partial(lambda n, s: source.matrix(n)"
        ".reshape(-1, 2, c.head_dim // 2, s[1]).swapaxes(1, 2).reshape(s) if 'q_proj' in n else "
        "source.matrix(n), name, shape)))",
        f"{KEYS}[f32]",
    ),
    gguf(
        "gguf_key_length_missing",
        "head_dim is left to the default, hidden_size over heads",
        "    writer.add_key_length(c.head_dim)\n",
        "",
        f"{KEYS}[qwen3-nano]",
    ),
    gguf(
        "gguf_wrong_end",
        "a chat model ends its turns with the token that ends documents",
        "            found[role] = number\n",
        '            found[role] = source.tokenizer.control_tokens["<|endoftext|>"]\n',
        f"{KEYS}[qwen3-nano]",
    ),
    gguf(
        "gguf_experts_on_the_wrong_axis",
        "experts are stacked inside the matrix, row by row",
        "return np.stack([source.matrix(name) for name in names], axis=0)",
        "return np.stack([(m := source.matrix(name)) for name in names], axis=1).reshape(len(names), *m.shape)",
        f"{KEYS}[qwen3-nano-moe]",
    ),
    gguf(
        "gguf_output_written_when_tied",
        "the embedding is written a second time, as a head that nobody trained",
        "    for plan in found:\n        _require_rows(c, plan)\n",
        '    found.append(Plan("output.weight", kind.upper(), (c.vocab_size, c.hidden_size), '
        'partial(source.matrix, "model.embed_tokens.weight")))\n'
        "    for plan in found:\n        _require_rows(c, plan)\n",
        f"{KEYS}[qwen3-nano]",
    ),
    gguf(
        "gguf_norms_in_16_bits",
        "gains of norms are rounded like matrices",
        'if len(shape) == 1 or place.endswith("ffn_gate_inp.weight"):',
        'if place.endswith("ffn_gate_inp.weight"):',
        f"{KEYS}[bf16]",
    ),
    gguf(
        "gguf_router_in_8_bits",
        "the router is rounded like the experts",
        'if len(shape) == 1 or place.endswith("ffn_gate_inp.weight"):',
        "if len(shape) == 1:",
        f"{KEYS}[qwen3-nano-moe]",
    ),
    gguf(
        "gguf_head_in_4_bits",
        "the head is rounded as far as the rest",
        '("q8_0" if kind.startswith(("q4", "q5")) else kind)',
        "kind",
        "fresh test_gguf:test_rounded_weights_are_near_and_the_same_as_the_library_reads[q4_0]",
    ),
    gguf(
        "gguf_pre_not_qwen2",
        "text is cut by another model's pattern",
        'add_tokenizer_pre("qwen2")',
        'add_tokenizer_pre("default")',
        f"{KEYS}[qwen3-nano]",
    ),
    gguf(
        "gguf_control_tokens_as_words",
        "tokens that look like control tokens are none, since the file does not call them special",
        "CONTROL if text in tokenizer.special or looks else USER_DEFINED",
        "CONTROL if text in tokenizer.special else USER_DEFINED",
        f"{KEYS}[qwen3-nano]",
    ),
    gguf(
        "gguf_padding_as_words",
        "rows of the embedding without a text are tokens like others, and can be drawn",
        "types = [UNUSED] * rows",
        "types = [NORMAL] * rows",
        "test_gguf:test_rows_without_a_text",
    ),
    gguf(
        "gguf_merges_turned",
        "the two parts of each merge change places",
        '[f"{_printable(a)} {_printable(b)}" for a, b in',
        '[f"{_printable(b)} {_printable(a)}" for a, b in',
        f"{KEYS}[qwen3-nano]",
    ),
    gguf(
        "gguf_yarn_from_the_whole_length",
        "YaRN stretches the whole context, not the one that was trained",
        "writer.add_rope_scaling_orig_ctx_len(original)",
        "writer.add_rope_scaling_orig_ctx_len(c.max_position_embeddings)",
        "fresh test_gguf:test_shapes_of_all_kinds_come_back[dense_yarn]",
    ),
    gguf(
        "gguf_yarn_without_its_attention_factor",
        "an attention_factor that the config states is lost",
        '_YARN = {"attention_factor": "attn_factor", ',
        "_YARN = {",
        "fresh test_gguf:test_shapes_of_all_kinds_come_back[dense_yarn_attention_factor]",
    ),
    gguf(
        "gguf_unnormalised_experts_written",
        "a model whose experts' weights do not add up to 1 is written for an engine that makes them",
        "if c.is_moe and not c.norm_topk_prob:",
        "if False:",
        "test_gguf:test_models_that_llama_cpp_would_compute_otherwise[moe_unnormalised]",
    ),
    gguf(
        "gguf_head_dim_guessed",
        "a file that does not state key_length is read by the default",
        'key("attention.key_length", why=without)',
        'key("attention.key_length", absent=default)',
        "test_gguf:test_a_file_that_is_no_such_model_gets_a_sentence[key_length]",
    ),
    gguf(
        "gguf_always_tied",
        "a head of its own is passed over on reading",
        '"output.weight" not in file.tensors',
        "True",
        "fresh test_gguf:test_shapes_of_all_kinds_come_back[dense]",
    ),
    store(
        "gguf_half_a_file_left",
        "what a failed write has begun stays on the disk",
        "        temporary.unlink(missing_ok=True)\n",
        "        pass\n",
        "test_gguf:test_a_value_beyond_float16_is_named",
    ),
    store(
        "gguf_infinity_written",
        "a value that float16 cannot hold is written as infinity",
        'if plan.kind == "F16" and not',
        'if plan.kind == "" and not',
        "test_gguf:test_a_value_beyond_float16_is_named",
    ),
    store(
        "gguf_epsilon_widened",
        "float32 keys are read with the digits that widening makes up",
        "return [float(str(value)) for value in values]",
        "return values.tolist()",
        f"{BACK}[qwen3-nano-student]",
    ),
    store(
        "gguf_the_first_expert_for_all",
        "every expert is read from where the first lies",
        "whole.rows(part * size, (part + 1) * size, tensor.shape[1:])",
        "whole.rows(0, size, tensor.shape[1:])",
        f"{BACK}[qwen3-nano-moe]",
    ),
    store(
        "gguf_axes_not_turned",
        "shapes are taken as they stand, fastest axis first",
        "for _ in range(dimensions))[::-1]",
        "for _ in range(dimensions))",
        f"{BACK}[qwen3-nano-student]",
    ),
    store(
        "gguf_beyond_the_end",
        "a tensor may end after the file",
        "if data + tensor.offset + tensor.nbytes > head.size:",
        "if False:",
        "test_gguf:test_a_bad_file_gets_a_sentence[beyond-the-end]",
    ),
    store(
        "gguf_overlap",
        "two tensors may share bytes",
        "if tensor.offset < end:",
        "if tensor.offset < data:",
        "test_gguf:test_a_bad_file_gets_a_sentence[overlap]",
    ),
    store(
        "gguf_lists_of_any_length",
        "a list is as long as the file claims",
        "if count > _MOST_VALUES:",
        "if False:",
        "test_gguf:test_a_bad_file_gets_a_sentence[a-long-list]",
    ),
    Fault(
        name="export_leaves_its_folder",
        words="a failed export leaves the folder that it made",
        module="engines.export",
        right="                target.rmdir()",
        wrong="                pass",
        by=("test_gguf:test_models_that_llama_cpp_would_compute_otherwise[moe_mixed_layers]",),
    ),
    Fault(
        name="export_one_end_of_two",
        words="a caller is told of one token that ends a reply where there are two",
        module="engines.source",
        right="stops = sorted(profile.stop_ids)",
        wrong="stops = sorted(profile.stop_ids)[:1]",
        by=("test_export:test_a_folder_holds_settings_and_the_command[hf]",),
    ),
]
