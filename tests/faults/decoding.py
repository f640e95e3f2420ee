"""Faults of sampling, budgets, profiles, dialogue and the chat command."""

from __future__ import annotations

from tests.faults.switch import Fault

ANY_SETTING = "test_sampling:test_whatever_the_setting_an_id_that_can_come"
SAMPLING = [
    Fault(
        name="infinite_logits_pass",
        words="only NaN is looked for among the logits",
        module="decode.sampling",
        right='if not bool((x < float("inf")).all()):',
        wrong="if bool(x.isnan().any()):",
        by=("test_sampling:test_infinite_logits_are_refused",),
    ),
    Fault(
        name="hopeless_rows_pass",
        words="a row in which every logit is minus infinity is sampled from",
        module="decode.sampling",
        right="if not bool(best.isfinite().all()):",
        wrong="if False:",
        by=("test_sampling:test_a_row_in_which_no_token_can_come",),
    ),
    Fault(
        name="low_temperature_overflows",
        words="logits are divided by a temperature near 0 as they are",
        module="decode.sampling",
        right="torch.where(fits, heated, (x - best) / sampling.temperature)",
        wrong="heated",
        by=("test_sampling:test_a_temperature_near_0_is_greedy_and_shares_among_equals",),
    ),
    Fault(
        name="callers_logits_written_over",
        words="float64 logits are penalised in place",
        module="decode.sampling",
        right=".double().clone()",
        wrong=".double()",
        by=(ANY_SETTING,),
    ),
    Fault(
        name="uniform_0_draws_the_impossible",
        words="a uniform 0 draws the first id, whatever its probability",
        module="decode.sampling",
        right="u * total[:, -1:], right=True",
        wrong="u * total[:, -1:], right=False",
        by=("test_sampling:test_the_ends_of_the_uniform_number_draw_no_impossible_id",),
    ),
    Fault(
        name="ties_at_the_kth_place_dropped",
        words="exactly k tokens stay, whichever come first",
        module="decode.sampling",
        right='x.masked_fill(x < x.topk(sampling.top_k, dim=-1).values[:, -1:], float("-inf"))',
        wrong=(
            'torch.full_like(x, float("-inf")).scatter(1, x.topk(sampling.top_k, dim=-1).indices, '
            "x.topk(sampling.top_k, dim=-1).values)"
        ),
        by=("test_sampling:test_ties_at_the_kth_place_stay_as_in_transformers",),
    ),
    Fault(
        name="true_is_a_number",
        words="True passes for 1",
        module="arrays",
        right="isinstance(value, int | np.integer) and not isinstance(value, bool)",
        wrong="isinstance(value, int | np.integer)",
        by=("test_sampling:test_a_setting_of_the_wrong_kind_is_refused_in_a_sentence",),
    ),
    Fault(
        name="sums_of_nan_are_drawn_from",
        words="the draw trusts what it is given",
        module="decode.sampling",
        right="if not bool(((total[:, -1] > 0) & total[:, -1].isfinite()).all()):",
        wrong="if False:",
        by=("test_sampling:test_what_is_no_distribution_is_not_drawn_from",),
    ),
    Fault(
        name="candidates_by_probability",
        words="the candidates are drawn from in the order of their logits, not of their ids",
        module="decode.sampling",
        right="ids, order = ids.sort(dim=-1)",
        wrong="order = torch.arange(ids.shape[1]).expand_as(ids)",
        by=("test_sampling:test_the_next_ids_are_those_of_the_specification",),
    ),
    Fault(
        name="ties_beyond_the_candidates_dropped",
        words="the candidates are taken to hold all that tie with the k-th",
        module="decode.sampling",
        right="if bool((heated[:, sampling.top_k - 1] > heated[:, -1]).all()):",
        wrong="if True:",
        by=("test_sampling:test_ties_at_the_kth_place_may_come",),
    ),
    Fault(
        name="absent_ids_among_the_candidates",
        words="candidates are chosen before the ids without a token are struck out",
        module="decode.sampling",
        right="if absent is not None and len(absent):",
        wrong="if False:",
        by=("test_sampling:test_the_next_ids_are_those_of_the_specification",),
    ),
    Fault(
        name="nan_is_the_largest_logit",
        words="the quick way to the largest logit takes NaN for one",
        module="decode.sampling",
        right='bool(logits.amax() < float("inf"))',
        wrong="True",
        by=("test_sampling:test_bad_logits_are_refused_there_too",),
    ),
]
GENERATION = [
    Fault(
        name="gaps_between_added_tokens_drawn",
        words="all ids below the tokenizer's last one count as tokens",
        module="tokenizer",
        right="*(i for i in self._gaps if i < rows), ",
        wrong="",
        by=("test_generate:test_added_tokens_are_drawn_and_gaps_between_them_never",),
    ),
    Fault(
        name="added_tokens_never_drawn",
        words="what the config calls spare rows stays spare, whatever the tokenizer has added",
        module="decode.generation",
        right="absent = tokenizer.absent(config.vocab_size)",
        wrong="absent = [*tokenizer.absent(config.vocab_size), *absent]",
        by=("test_generate:test_added_tokens_are_drawn_and_gaps_between_them_never",),
    ),
    Fault(
        name="row_number_restarts_in_each_batch",
        words="on_token gets the place in the batch",
        module="decode.generation",
        right="yield row.index, row.take(token)",
        wrong="yield rows.index(row), row.take(token)",
        by=("test_generate:test_on_token_says_the_place_among_all_prompts",),
    ),
    Fault(
        name="another_text_on_the_cache",
        words="a cache that holds another text is quietly cut back",
        module="decode.generation",
        right="cache.keep(row.prompt, strict=True)",
        wrong="cache.keep(row.prompt)",
        by=("test_dialogue:test_the_same_prompt_again_on_its_cache",),
    ),
    Fault(
        name="a_full_cache_ends_the_reply",
        words="a cache that is given does not grow",
        module="decode.generation",
        right="        cache.reserve(len(row.prompt) + row.room - 1)\n",
        wrong="        cache.reserve(0)\n",
        by=("test_dialogue:test_a_cache_that_is_given_grows",),
    ),
    Fault(
        name="forced_places_from_1",
        words="places of forced ids are counted from 1",
        module="decode.generation",
        right="            reply.forced.append(len(reply))\n",
        wrong="            reply.forced.append(len(reply) + 1)\n",
        by=("test_budget:test_the_places_of_forced_ids",),
    ),
    Fault(
        name="second_thought_unnoticed",
        words="only the first mark behind a closed thought is noted",
        module="decode.generation",
        right="if splitter.closed_again > closed_again:",
        wrong="if splitter.closed_again > closed_again and not reply.second_thought:",
        by=("test_budget:test_thinking_on_behind_the_mark_is_recorded",),
    ),
    Fault(
        name="second_thought_without_its_thought",
        words="in non-thinking mode a closing mark counts for nothing",
        module="decode.generation",
        right="closed=bool(opened) and not inside",
        wrong="closed=False",
        by=("test_budget:test_thinking_on_behind_the_mark_is_recorded",),
    ),
    Fault(
        name="earlier_turns_open_thoughts",
        words="a thought that an earlier turn left open is open in this one",
        module="decode.generation",
        right="            if b.turn in turn:\n",
        wrong="            if False:\n",
        by=("test_budget:test_only_the_last_turn_says_whether_a_thought_is_open",),
    ),
    Fault(
        name="early_stop_that_opens",
        words="an early stop may open a thought of its own",
        module="decode.budget",
        right="(text.count(closing) != 1 or opening in text)",
        wrong="(text.count(closing) != 1)",
        by=("test_budget:test_an_early_stop_closes_once_and_opens_nothing",),
    ),
]
PIECES = "test_generate:test_pieces_give_the_logits_of_one_pass"
LONG = [
    Fault(
        name="each_piece_has_the_first_mask",
        words="every piece of a long prompt is given the mask of the first columns",
        module="decode.generation",
        right='{"attention_mask": mask[:, start:stop]}',
        wrong='{"attention_mask": mask[:, : stop - start]}',
        by=(PIECES,),
    ),
    Fault(
        name="a_piece_too_short_for_its_logits",
        words="the last piece of a long prompt may hold fewer positions than are asked for",
        module="decode.generation",
        right="piece, start = ids.shape[1], max(PIECE, keep), 0",
        wrong="piece, start = ids.shape[1], PIECE, 0",
        by=(PIECES,),
    ),
    Fault(
        name="shared_beginning_in_one_pass",
        words="what prompts have in common is computed at once, however long it is",
        module="decode.generation",
        right="        feed(model, torch.tensor([new], device=model.device), cache)\n",
        wrong="        model(torch.tensor([new], device=model.device), cache=cache, logits_to_keep=1)\n",
        by=("test_generate:test_a_long_prompt_is_never_computed_at_once",),
    ),
]
JOINED = "test_cache:test_joined_rows_go_on_as_alone"
TURNS = "test_budget:test_rows_come_and_go_and_each_says_what_it_says_alone"
GROUPS = "test_budget:test_places_are_filled_again_in_groups"
CONTINUOUS = [
    Fault(
        name="joined_with_padding_on_the_right",
        words="the shorter of two caches that join gets its padding behind its tokens",
        module="cache",
        right="sides = (width - part.shape[axis], more)",
        wrong="sides = (0, width - part.shape[axis] + more)",
        by=(JOINED,),
    ),
    Fault(
        name="joined_padding_counts_as_tokens",
        words="the columns that a shorter cache is padded with count as tokens",
        module="cache",
        right="                pieces.append(pad(part, sides if axis == 1 else (0, 0, *sides)))\n",
        wrong=(
            "                pieces.append(pad(part, sides if axis == 1 else (0, 0, *sides), "
            'value=1 if name == "_real" else 0))\n'
        ),
        by=(JOINED,),
    ),
    Fault(
        name="columns_of_padding_kept",
        words="columns that are padding in every row stay when rows join",
        module="cache",
        right="return int(columns[0]) if len(columns) else self.length",
        wrong="return 0",
        by=(JOINED,),
    ),
    Fault(
        name="newcomers_before_those_that_run",
        words="new rows stand before the running ones in the list and behind them in the cache",
        module="decode.generation",
        right="                    running += new\n",
        wrong="                    running = new + running\n",
        by=(TURNS,),
    ),
    Fault(
        name="newcomers_one_at_a_time",
        words="one new row is let in where many places are free",
        module="decode.generation",
        right="for _ in range(min(places - len(running), len(waiting)))]",
        wrong="for _ in range(1)]",
        by=(GROUPS,),
    ),
    Fault(
        name="no_place_before_all_have_ended",
        words="the next rows wait for the longest reply of the ones before",
        module="decode.generation",
        right="if 2 * len(alive) <= len(running):",
        wrong="if not alive:",
        by=(GROUPS,),
    ),
    Fault(
        name="no_room_behind_the_newcomers",
        words="a joined cache has the room that the running rows needed, and new ones need more",
        module="decode.generation",
        right="max(row.room - len(row.reply) for row in running)",
        wrong="max(row.room - len(row.reply) for row in running[:1])",
        by=("test_generate:test_newcomers_have_room_for_a_whole_reply",),
    ),
]
BY_NAME = "test_profile:test_without_a_template_the_words_of_its_name"
BY_CONTENT = "test_profile:test_other_templates_by_what_they_contain"
PROFILE = [
    Fault(
        name="template_by_a_piece_of_the_name",
        words="a checkpoint called decoder is a coder",
        module="decode.profile",
        right='if "coder" in name:',
        wrong='if "coder" in "-".join(name):',
        by=(BY_NAME,),
    ),
    Fault(
        name="name_before_template",
        words="what a checkpoint is called counts more than the template that lies in it",
        module="decode.profile",
        right="    if text is None:\n        found = _by_name(name)",
        wrong="    if text is None or _by_name(name):\n        found = _by_name(name)",
        by=("test_profile:test_a_renamed_checkpoint_keeps_its_template",),
    ),
    Fault(
        name="opened_thought_in_the_history",
        words="a thought that the template writes into the history counts as opened by the prompt",
        module="decode.profile",
        right='text.rpartition("add_generation_prompt")[2]',
        wrong="text",
        by=(BY_CONTENT,),
    ),
    Fault(
        name="one_setting_for_both_modes",
        words="the official file's thinking setting is used without thinking, too",
        module="decode.profile",
        right='if found == "qwen3" and own == Sampling.thinking():',
        wrong="if False:",
        by=("test_profile:test_official_settings_of_every_open_checkpoint",),
    ),
    Fault(
        name="do_sample_ignored",
        words="a checkpoint that asks for greedy decoding is sampled",
        module="decode.profile",
        right='if settings.get("do_sample") is False:',
        wrong="if False:",
        by=("test_profile:test_the_nano_family_leaves_nothing_to_guess",),
    ),
    Fault(
        name="guesses_in_silence",
        words="a template taken by its name is taken without a word",
        module="decode.profile",
        right="guesses.append(f\"It has no chat template; {found or 'qwen3'} is taken, {reason}.\")",
        wrong="pass",
        by=(BY_NAME,),
    ),
    Fault(
        name="official_sentence_for_the_nano",
        words="the early stop that a checkpoint's directory holds is not read",
        module="decode.profile",
        right='settings.get("early_stop_text", EARLY_STOP)',
        wrong="EARLY_STOP",
        by=("test_profile:test_the_nano_family_leaves_nothing_to_guess",),
    ),
]
HANDED_ON = "test_dialogue:test_everything_it_was_given_reaches_the_generation"
READ = "test_dialogue:test_a_reply_is_read_in_the_mode_it_was_asked_in"
DIALOGUE = [
    Fault(
        name="dialogue_forgets_the_budget",
        words="a conversation thinks as long as it likes",
        module="decode.dialogue",
        right="self.profile.budget(self.thinking_budget)",
        wrong="self.profile.budget(None)",
        by=(HANDED_ON,),
    ),
    Fault(
        name="dialogue_forgets_the_early_stop",
        words="a conversation's thoughts end with the official sentence",
        module="decode.dialogue",
        right="self.profile.budget(self.thinking_budget)",
        wrong="self.thinking_budget",
        by=("test_dialogue:test_a_budget_cuts_with_the_checkpoints_own_text",),
    ),
    Fault(
        name="one_temperature_for_both_modes",
        words="a conversation without thoughts is sampled as one with them",
        module="decode.dialogue",
        right="self.profile.sampling(thinking)",
        wrong="self.profile.sampling(True)",
        by=(HANDED_ON,),
    ),
    Fault(
        name="reply_read_as_if_thinking",
        words="a reply without thoughts is read as one with them",
        module="decode.dialogue",
        right="enable_thinking=thinking,",
        wrong="enable_thinking=True,",
        by=(READ,),
    ),
    Fault(
        name="reply_read_in_the_next_mode",
        words="a reply is read in the mode of the next message",
        module="decode.dialogue",
        right="enable_thinking=thinking,",
        wrong="enable_thinking=self.enable_thinking,",
        by=(READ,),
    ),
    Fault(
        name="typed_marks_end_the_turn",
        words="a reply is read as text, in which a mark that was typed out counts",
        module="decode.dialogue",
        right=(
            "[token for token in said if token not in self.profile.stop_ids]",
            "                    tokenizer=self.tokenizer,\n                    template",
        ),
        wrong=(
            "self.tokenizer.decode(t for t in said if t not in self.profile.stop_ids)",
            "                    template",
        ),
        by=("test_dialogue:test_a_reply_that_is_put_back_loses_no_word",),
    ),
    Fault(
        name="failed_message_kept",
        words="a message whose reply failed at once stays in the history, with an empty reply",
        module="decode.dialogue",
        right="if failed and not said:",
        wrong="if False:",
        by=("test_dialogue:test_what_fails_before_a_word_is_said_is_not_kept",),
    ),
]
CHAT = [
    Fault(
        name="dumb_terminal_shows_no_marks",
        words="any terminal is thought to dim",
        module="commands.chat",
        right="out.is_terminal and out.color_system is not None and not out.no_color",
        wrong="out.is_terminal",
        by=("test_dialogue:test_where_nothing_can_be_dimmed_the_marks_tell_thought_from_answer",),
    ),
    Fault(
        name="temperature_in_one_mode_alone",
        words="--temperature is forgotten without thoughts",
        module="commands.chat",
        right="            non_thinking=replace(profile.non_thinking, temperature=t),\n",
        wrong="",
        by=("test_dialogue:test_a_temperature_from_the_command_line_holds_in_both_modes",),
    ),
]
EXPORT = [
    Fault(
        name="config_names_no_end",
        words="config.json names no end token, so that other engines never stop",
        module="train.export",
        right="bos_token_id=text, eos_token_id=text if base else turn",
        wrong="bos_token_id=None, eos_token_id=None",
        by=("test_nano:test_a_fresh_export_is_what_the_package_has",),
    ),
    Fault(
        name="base_model_ends_as_a_chat",
        words="a base model's file has both stop ids",
        module="train.export",
        right='"eos_token_id": text, "max_new_tokens"',
        wrong='"eos_token_id": [turn, text], "max_new_tokens"',
        by=("test_nano:test_a_fresh_export_is_what_the_package_has",),
    ),
]
FAULTS = [*SAMPLING, *GENERATION, *LONG, *CONTINUOUS, *PROFILE, *DIALOGUE, *CHAT, *EXPORT]
