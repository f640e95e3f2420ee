"""Faults of the seams of the forward pass: the cache between passes, what is made when, what is exchanged,
equal experts, padding in the losses, dtypes, and what is refused."""

from __future__ import annotations

from tests.faults.switch import Fault

INTERRUPTED = "test_cache:test_an_interrupted_pass_leaves_it_whole"
KEPT = "test_cache:test_what_serves_a_prompt_is_kept"
GROWN = "test_cache:test_it_grows_and_what_it_holds_stays"
MASKS = "test_forward:test_no_mask_where_none_is_needed"
ONCE = "test_forward:test_tables_and_mask_are_made_once_a_pass"
EXCHANGED = "test_forward:test_products_experts_attention_and_head_can_be_exchanged"
KINDS = "test_forward:test_wrong_kinds_are_refused_in_a_sentence"
TIES = "test_forward:test_of_equal_experts_the_lower_index_is_chosen"
PADDED = "test_forward:test_padding_counts_in_no_loss"


def fault(name: str, words: str, module: str, right: str, wrong: str, by: str) -> Fault:
    return Fault(name=name, words=words, module=module, right=right, wrong=wrong, by=(by,))


CACHE = [
    fault(
        "interrupted_pass_counts_later",
        "the columns of a pass that was interrupted are counted with those of the next",
        "cache",
        "self._coming = t\n",
        "self._coming += t\n",
        INTERRUPTED,
    ),
    fault(
        "cache_never_commits_when_interrupted_late",
        "columns count only once the head is through, though all layers have written them",
        "model",
        "            cache.commit()\n        x = self.norm(x)\n",
        "            pass\n        x = self.norm(x)\n        if cache is not None:\n            cache.commit()\n",
        INTERRUPTED,
    ),
    fault(
        "truncate_goes_up",
        "truncate() sets the length, also upwards",
        "cache",
        "min(self.length, length), 0",
        "length, 0",
        "test_cache:test_truncating_never_goes_up",
    ),
    fault(
        "kept_prompt_leaves_nothing_to_compute",
        "the whole prompt may be in the cache, and then there are no logits to go on from",
        "cache",
        "min(shared, len(prompt) - 1)",
        "shared",
        KEPT,
    ),
    fault(
        "kept_ids_agree_again",
        "ids that agree behind the first difference count as shared",
        "cache",
        ".cumprod(0).sum()",
        ".sum()",
        KEPT,
    ),
    fault(
        "kept_padding",
        "a padded column counts as the token that stands there",
        "cache",
        "(same & self.real[0, :n])",
        "same",
        "test_cache:test_padding_serves_no_prompt",
    ),
    fault(
        "another_text_in_the_cache",
        "a prompt goes on from a cache that holds another text, and nobody says so",
        "cache",
        "if strict and shared < n:",
        "if False:",
        KEPT,
    ),
    fault(
        "stream_on_another_text",
        "a lone reply goes back to where the cache and its prompt part, and says nothing",
        "decode.generation",
        "cache.keep(row.prompt, strict=True)",
        "cache.keep(row.prompt)",
        "test_cache:test_the_same_prompt_again_is_regenerated",
    ),
    fault(
        "growing_forgets_the_padding",
        "what grew knows its columns and not which of them are tokens",
        "cache",
        "pad(self._real, (0, more))",
        "pad(torch.zeros_like(self._real), (0, more))",
        GROWN,
    ),
    fault(
        "growing_shrinks", "reserve() cuts off what is too much", "cache", "if more > 0:", "if more:", GROWN
    ),
    fault(
        "selected_rows_keep_the_old_ids",
        "keys and values are those of the chosen rows, ids and padding those of all",
        "cache",
        "kept._ids, kept._real = self._ids[rows], self._real[rows]",
        "pass",
        "test_cache:test_selected_rows_are_a_cache_of_their_own",
    ),
    fault(
        "cache_of_another_model",
        "a cache made for more layers is taken",
        "cache",
        "if (layers, groups, head_dim) != wanted:",
        "if False:",
        "test_cache:test_another_models_cache_is_refused",
    ),
    fault(
        "truncated_to_any_number",
        "a cache is cut to a negative length",
        "cache",
        'length = require_whole("length", length, 0)',
        "pass",
        "test_cache:test_counts_are_whole_numbers",
    ),
    fault(
        "numpy_cache_counts_too_early",
        "an interrupted pass leaves NumPy's cache with columns that have no keys",
        "numpy_ref",
        "        positions, allowed = positions_and_mask(real, start)\n",
        "        positions, allowed = positions_and_mask(real, start)\n        cache.real = real\n",
        "test_cache:test_an_interrupted_pass_leaves_the_numpy_cache_whole",
    ),
]
FORWARD = [
    fault(
        "mask_always_made",
        "t * s booleans are made, and the kernel's own causal path is not used",
        "model",
        "mask = None if plain and not traced else",
        "mask = None if False else",
        MASKS,
    ),
    fault(
        "mask_made_for_every_row",
        "rows without padding get a mask and a table each, all of them equal",
        "model",
        "real = real[:1]  #",
        "pass  #",
        MASKS,
    ),
    fault(
        "frequencies_derived_again",
        "each pass derives the frequencies, and judges YaRN, anew",
        "model",
        "if self.dynamic else self.inv_freq",
        "if self.dynamic else frequencies(6, self.config.rope_theta)[0]",
        ONCE,
    ),
    fault(
        "exchanged_attention_unused",
        "the fused kernel runs, whatever was put in its place",
        "model",
        "out = self.attend(q, k, v, mask)",
        "out = fused_attention(q, k, v, mask)",
        EXCHANGED,
    ),
    fault(
        "exchanged_head_unused",
        "the class's head runs, whatever was put in its place",
        "model",
        "return self.head(x)",
        "return Qwen3.head(self, x)",
        EXCHANGED,
    ),
    fault(
        "initializer_range_ignored",
        "std 0.02 whatever initializer_range says",
        "model",
        "noise * self.config.initializer_range",
        "noise * 0.02",
        "test_forward:test_fresh_weights_have_the_configs_spread",
    ),
    fault(
        "logits_of_right_padding_kept",
        "the last position of a right-padded row is a pad's, and its logits are given out",
        "model",
        "if bool((real.any(dim=1) & ~real[:, -logits_to_keep:].any(dim=1)).any()):",
        "if False:",
        KINDS,
    ),
    fault(
        "small_numbers_overflow",
        "a count of NumPy's eight bits stays one, and what is computed from it wraps around",
        "arrays",
        "    return int(value)  # NumPy's",
        "    return value  # NumPy's",
        "test_forward:test_counts_may_be_numpys",
    ),
    fault(
        "true_logits_are_kept",
        "logits_to_keep=True keeps one",
        "model",
        'require_whole("logits_to_keep", logits_to_keep, 1, ", or None for all")',
        "logits_to_keep",
        KINDS,
    ),
    fault(
        "float_mask_taken",
        "a mask that is meant to be added to scores is read as one of truths",
        "arrays",
        "if not whole or low < 0 or high > 1:",
        "if low < 0 or high > 1:",
        KINDS,
    ),
    fault(
        "mask_of_any_numbers",
        "segment numbers count as ones",
        "arrays",
        "if not whole or low < 0 or high > 1:",
        "if not whole or low < 0:",
        KINDS,
    ),
    fault(
        "numpy_scores_in_float64",
        "the square root's float64 makes float32 scores float64",
        "numpy_ref",
        "np.sqrt(q.shape[-1]).astype(q.dtype)",
        "np.sqrt(q.shape[-1])",
        "test_forward:test_numpy_functions_keep_their_dtype",
    ),
    fault(
        "numpy_tables_in_float64",
        "cos and sin stay float64, and with them all that follows",
        "numpy_ref",
        "(a.astype(x.dtype) for a in cos_sin(",
        "(a for a in cos_sin(",
        "test_forward:test_numpy_computes_in_the_dtype_of_its_weights",
    ),
]
EXPERTS = [
    fault(
        "equal_experts_as_the_kernel_likes",
        "topk says nothing about ties, and NumPy chooses others",
        "moe",
        "probabilities.argsort(dim=-1, descending=True, stable=True)[..., :top_k]",
        "probabilities.topk(top_k, dim=-1).indices",
        TIES,
    ),
    fault(
        "numpy_equal_experts_last_wins",
        "equal experts: the last wins",
        "numpy_ref",
        'np.argsort(-probabilities, axis=-1, kind="stable")[..., :top_k]',
        'np.argsort(probabilities, axis=-1, kind="stable")[..., ::-1][..., :top_k]',
        TIES,
    ),
    fault(
        "picks_counted_by_another_rule",
        "of equal experts the count takes others than the router",
        "train.recipes.balance",
        "best(logits.softmax(dim=-1), top_k)",
        "logits.topk(top_k, dim=-1).indices",
        TIES,
    ),
    fault(
        "z_loss_counts_padding",
        "the mask is not used",
        "moe",
        "rows = pooled_mask.to(squares)",
        "rows = torch.ones_like(squares)",
        PADDED,
    ),
    fault(
        "z_loss_divides_by_padding_too",
        "padding adds nothing and is counted in the mean",
        "moe",
        "(squares * rows).sum() / rows.sum().clamp_min(1)",
        "(squares * rows).mean()",
        PADDED,
    ),
    fault(
        "balance_mask_not_handed_on",
        "the recipe's balancing loss drops the mask",
        "train.recipes.balance",
        "[part], top_k, real, share)",
        "[part], top_k, None, share)",
        PADDED,
    ),
    fault(
        "mask_of_the_other_order",
        "a mask (t, b) passes for one of (b, t)",
        "moe",
        "mask.shape != shape:",
        "mask.numel() != shape.numel():",
        PADDED,
    ),
]
FAULTS = [*CACHE, *FORWARD, *EXPERTS]
