"""Faults in reading farther than trained: the methods, the config's words for them, and dynamic NTK."""

from __future__ import annotations

from tests.faults.switch import Fault

PAIRS = "test_rope:test_published_pairs"


def fault(name: str, words: str, module: str, right: str, wrong: str, *by: str) -> Fault:
    """A row of this project's own."""
    return Fault(name=name, rows="own", words=words, module=module, right=right, wrong=wrong, by=by)


FAULTS = [
    fault(
        "by_parts_in_pair_index",
        "the paper's ramp is taken for the code's: linear in the pair's index",
        "rope",
        "kept = np.clip((turns - low) / (high - low), 0.0, 1.0)",
        "kept = np.clip(np.log(turns / low) / np.log(high / low), 0.0, 1.0)",
        PAIRS,
        "test_rope:test_by_parts_is_transformers_llama3",
    ),
    fault(
        "by_parts_blends_the_wrong_way",
        "fast pairs are slowed and slow ones kept",
        "rope",
        "kept * keep + (1 - kept) * keep",
        "(1 - kept) * keep + kept * keep",
        PAIRS,
    ),
    fault(
        "turns_without_two_pi",
        "radians are counted as turns",
        "rope",
        'scaling["original_max_position_embeddings"] * keep / (2 * math.pi)',
        'scaling["original_max_position_embeddings"] * keep',
        PAIRS,
    ),
    fault(
        "dynamic_factor_is_the_stretch",
        "dynamic NTK stretches by factor x length / original",
        "rope",
        "original - (factor - 1)",
        "original - 0 * (factor - 1)",
        "test_rope:test_dynamic_is_transformers",
    ),
    fault(
        "dynamic_is_static",
        "the frequencies of the trained length are used at every length",
        "model",
        "lengths[-1]\n        )[0]",
        "None\n        )[0]",
        "test_rope:test_a_dynamic_model_is_transformers_at_every_length",
    ),
    fault(
        "dynamic_with_a_stale_cache",
        "keys cached under other frequencies are used on",
        "model",
        "if cached or len(lengths) > 1:",
        "if len(lengths) > 1:",
        "test_rope:test_a_cache_cannot_follow_dynamic_frequencies",
    ),
    fault(
        "dynamic_counts_padding",
        "padding makes a text longer",
        "model",
        "lengths = self.config, sorted(set(real.sum(dim=1).tolist()))",
        "lengths = self.config, [real.shape[1]]",
        "test_rope:test_a_cache_cannot_follow_dynamic_frequencies",
    ),
    fault(
        "old_spelling_of_the_type_unread",
        "rope_scaling with 'type' is passed over, and the model reads no farther",
        "rope",
        'scaling.get("rope_type", scaling.get("type"))',
        'scaling.get("rope_type")',
        "test_rope:test_both_spellings_of_the_type",
    ),
    fault(
        "missing_original_length_guessed",
        "max_position_embeddings, 40,960, is taken for the trained length in silence",
        "rope",
        '    if "original_max_position_embeddings" not in given:',
        '    given.setdefault("original_max_position_embeddings", max_position_embeddings)\n    if False:',
        "test_rope:test_turns_and_truth_of_yarn",
    ),
    fault(
        "factor_of_the_whole_room",
        "the factor for a length is counted from max_position_embeddings",
        "context.stretch",
        '"yarn", length / original, original)',
        '"yarn", length / config.max_position_embeddings, original)',
        "test_rope:test_a_factor_for_a_length",
    ),
    fault(
        "short_texts_stretched_all_the_same",
        "a text within the trained length gets YaRN too",
        "context.stretch",
        "    if length <= original:",
        "    if length < 0:",
        "test_rope:test_a_factor_for_a_length",
    ),
    fault(
        "yarn_never_unscaled",
        "YaRN without its attention factor has it",
        "context.stretch",
        'if method == "yarn" and not scaled:',
        "if False:",
        "test_rope:test_stretched_replaces_what_was_there",
    ),
    fault(
        "yarn_on_top_of_yarn",
        "a config that was stretched before keeps that scaling",
        "context.stretch",
        "max_position_embeddings=length, rope_scaling=kept_axes,",
        "max_position_embeddings=length,",
        "test_rope:test_a_factor_for_a_length",
    ),
    fault(
        "needles_at_other_depths",
        "the line asked for stands elsewhere than its depth says",
        "measure.long_context",
        "place = round(depth * last) + number % QUESTIONS",
        "place = round((1 - depth) * last) + number % QUESTIONS",
        "test_long_context:test_lines_stand_at_their_depths",
    ),
    fault(
        "needles_twice",
        "the list keeps the line where it was, too",
        "measure.long_context",
        "lines = [line for line in one.lines if (line[:2], line[3:]) not in asked]",
        "lines = list(one.lines)",
        "test_long_context:test_lines_stand_at_their_depths",
    ),
    fault(
        "dual_chunk_never_unscaled",
        "Dual Chunk Attention without its scale has it",
        "context.stretch",
        "            if scaled:\n",
        "            if True:\n",
        "test_rope:test_the_scale_of_dual_chunk_attention_can_be_left_out_and_no_chunk_stays",
    ),
    fault(
        "chunks_stay_under_yarn",
        "a config that had chunks keeps them under the next method",
        "context.stretch",
        "rope_scaling=kept_axes, dual_chunk_attention_config=None",
        "rope_scaling=kept_axes",
        "test_rope:test_the_scale_of_dual_chunk_attention_can_be_left_out_and_no_chunk_stays",
    ),
]
