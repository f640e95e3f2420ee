"""Faults of Dual Chunk Attention: positions, borders, parts and their merging, the scale, padding."""

from __future__ import annotations

from tests.faults.switch import Fault

TABLES = "test_dual_chunk:test_the_papers_figure_2"
ROWS = "test_dual_chunk:test_rows_of_distances"
HOLDS = "test_dual_chunk:test_what_holds_of_all_distances"
WIDE = "test_dual_chunk:test_a_window_longer_than_a_chunk"
SCALE = "test_dual_chunk:test_the_logit_scale_is_m_squared"
MERGED = "test_dual_chunk:test_three_parts_merged_are_one_softmax"
MODEL = "test_dual_chunk:test_the_model_is_its_specification"
PADDED = "test_dual_chunk:test_padding_shifts_no_chunk"
BEYOND = "test_dual_chunk:test_a_text_beyond_the_stated_length_is_refused"
LONG = "test_dual_chunk:test_how_long_a_text_may_be"


def fault(name: str, words: str, module: str, right: str, wrong: str, by: str) -> Fault:
    return Fault(name=f"dual_chunk_{name}", words=words, module=module, right=right, wrong=wrong, by=(by,))


FAULTS = [
    fault(
        "whole_chunk_size",
        "a chunk has chunk_size tokens: the local window is forgotten",
        "context.chunks",
        "return self.chunk_size - self.local_size\n",
        "return self.chunk_size\n",
        TABLES,
    ),
    fault(
        "unclamped_table",
        "the successive table goes on beyond the trained length",
        "context.chunks",
        "np.minimum(self.length + self.intra(length), self.farthest)",
        "self.length + self.intra(length)",
        HOLDS,
    ),
    fault(
        "paper_as_code",
        "the paper's largest distance is taken to be c, as the code's",
        "context.chunks",
        'self.chunk_size if self.variant == "code" else self.chunk_size - 1',
        "self.chunk_size",
        ROWS,
    ),
    fault(
        "inter_is_c_always",
        "older chunks stand at c though no entry of the successive table does (a window beyond the chunk)",
        "context.chunks",
        "min(2 * self.length - 1, self.farthest)",
        "self.farthest",
        WIDE,
    ),
    fault(
        "inter_at_s",
        "older chunks stand one chunk length away, nearer than the one between",
        "context.chunks",
        "min(2 * self.length - 1, self.farthest)",
        "self.length",
        ROWS,
    ),
    fault(
        "m_once",
        "the logits are multiplied by m and not by its square, as its description has it",
        "context.chunks",
        "(0.1 * math.log(length / original_length) + 1.0) ** 2",
        "0.1 * math.log(length / original_length) + 1.0",
        SCALE,
    ),
    fault(
        "m_below_l0",
        "short texts get a scale below 1",
        "context.chunks",
        "or not original_length or length <= original_length",
        "or not original_length",
        SCALE,
    ),
    fault(
        "border_one_late",
        "a query on a border counts to the chunk before it",
        "context.chunks",
        "back = place[:, None] // self.length",
        "back = (place[:, None] - 1) // self.length",
        ROWS,
    ),
    fault(
        "unclamped_turn",
        "queries are turned beyond c for the chunk before",
        "context.dual_chunk",
        "(length + place).clamp_max(self.chunks.farthest) - place",
        "(length + place) - place",
        MERGED,
    ),
    fault(
        "one_rotation_for_all_parts",
        "queries keep the place in their own chunk for the chunk before: distances of -1 and less",
        "context.dual_chunk",
        "(q_successive, before, border)",
        "(q, before, border)",
        MERGED,
    ),
    fault(
        "turned_in_full",
        "a query that stands at k already is turned by the whole place of old chunks",
        "context.dual_chunk",
        "self.turn(q, self.chunks.inter - place)",
        "self.turn(q, self.chunks.inter + 0 * place)",
        MERGED,
    ),
    fault(
        "causal_successive",
        "the chunk before is masked as the query's own is",
        "context.dual_chunk",
        "v[:, :, i:j], x is q)",
        "v[:, :, i:j], x is not q_inter)",
        MERGED,
    ),
    fault(
        "merged_by_average",
        "the parts count alike, however much weight each has",
        "context.dual_chunk",
        ".softmax(0).to(q.dtype)",
        ".mul(0).softmax(0).to(q.dtype)",
        MERGED,
    ),
    fault(
        "merged_unnormalised",
        "the parts are added with the sums of their softmax, which nothing divides",
        "context.dual_chunk",
        ".softmax(0).to(q.dtype)",
        ".exp().to(q.dtype)",
        MERGED,
    ),
    fault(
        "no_old_chunks",
        "only the chunk before is read, as in a sliding window",
        "context.dual_chunk",
        "(q_inter, 0, before)]",
        "(q_inter, 0, 0)]",
        MERGED,
    ),
    fault(
        "scale_left_out",
        "the logit scale is computed and not used",
        "context.dual_chunk",
        "(q.shape[-1] ** -0.5 * self.scale)",
        "(q.shape[-1] ** -0.5)",
        MERGED,
    ),
    fault(
        "padding_counts",
        "chunks are cut at columns, so padding moves a row's borders",
        "context.dual_chunk",
        "if mask is None or mask.shape[0] == 1:",
        "if mask is None or mask.shape[0] >= 1:",
        PADDED,
    ),
    fault(
        "keys_at_absolute_positions",
        "keys are rotated by their position in the text instead of the chunk",
        "model",
        "positions = positions % self.chunk_length",
        "positions = positions + 0 * self.chunk_length",
        MODEL,
    ),
    fault(
        "modulo_chunk_size",
        "positions begin again after c tokens and the parts after s",
        "model",
        "self.chunk_length = chunked.chunks.length",
        "self.chunk_length = chunked.chunks.chunk_size",
        f"fresh {MODEL}",
    ),
    fault(
        "block_is_ignored",
        "the model is built without it and reads on beyond its training: what most engines do today",
        "model",
        "if config.dual_chunk_attention_config is not None:",
        "if False and config.dual_chunk_attention_config is not None:",
        f"fresh {MODEL}",
    ),
    fault(
        "silent_beyond_l0",
        "a text beyond L0 gets no scale and no word about it",
        "context.dual_chunk",
        "if self.most is not None and s > self.most:",
        "if False:",
        BEYOND,
    ),
    fault(
        "context_without_scale",
        "the context ends at max_position_embeddings though no scale for that is stated",
        "config",
        'min(self.max_position_embeddings, max(original, chunks.get("scale_length") or 0))',
        "self.max_position_embeddings + 0 * original",
        LONG,
    ),
    fault(
        "short_scale_refuses",
        "a scale for texts shorter than L0 refuses those between, which need none",
        "context.dual_chunk",
        "most = max(original, stated or 0) if original else None",
        "most = stated or original",
        "test_dual_chunk:test_a_scale_for_short_texts_refuses_none_of_the_trained_length",
    ),
    fault(
        "softmax_in_bfloat16",
        "sums of many weights are taken in the model's 8 bits of fraction",
        "context.dual_chunk",
        "scores = at_least_float32(q @ k.transpose(-1, -2))",
        "scores = (q @ k.transpose(-1, -2))",
        "test_dual_chunk:test_softmax_is_taken_in_float32",
    ),
]
