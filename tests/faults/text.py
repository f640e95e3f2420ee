"""Faults of tokenizer and chat: text that reaches the model as other ids, and replies taken apart wrongly."""

from __future__ import annotations

from tests.faults.switch import Fault

PLAIN = """\
        if not allow_control_tokens:
            return self._encode_plain(text, backend)
"""
PUBLISHED = "test_tokenizer:test_published_encodings"
IMPLEMENTATIONS = "test_tokenizer:test_real_text_in_every_implementation"
COMPOSED = "test_tokenizer:test_both_paths_compose_and_no_more"
MODES, TURNS = "test_chat:test_both_modes_by_hand", "test_chat:test_many_turns_by_hand"
REPLIES, MALFORMED = "test_reply:test_replies_by_hand", "test_reply:test_malformed_replies"


FAULTS = [
    Fault(
        name="plain_text_wrapped_in_chat_marks",
        rows="31",
        words="every text is taken for a user's turn, a base model's prompt too",
        module="tokenizer",
        right=PLAIN,
        wrong=PLAIN + '        text = f"<|im_start|>user\\n{text}<|im_end|>\\n<|im_start|>assistant\\n"\n',
        by=("test_chat:test_goldens_encoded",),
    ),
    Fault(
        name="base_prompt_encoded_as_chat",
        rows="31",
        words="text without control tokens gets the marks of a user's turn",
        module="tokenizer",
        right=PLAIN,
        wrong=PLAIN.replace(
            "return self._encode_plain(text, backend)",
            "return [151_644, 872, 198, *self._encode_plain(text, backend), 151_645, 198]",
        ),
        by=(PUBLISHED,),
    ),
    Fault(
        name="typed_marks_become_control_tokens",
        rows="own",
        words="what a user types can end the user's turn",
        module="tokenizer",
        right=PLAIN,
        wrong="",
        by=(
            "test_tokenizer:test_official_ids",
            "test_chat:test_typed_marks_stay_text",
        ),
    ),
    Fault(
        name="padding_rows_decode_to_nothing",
        rows="33",
        words="an id without a text is passed over in silence",
        module="tokenizer",
        right="        if token_id not in self._by_id:\n",
        wrong='        if token_id not in self._by_id:\n            return b""\n        if False:\n',
        by=("test_tokenizer:test_padding_rows_have_no_text",),
    ),
    Fault(
        name="nfc_missing",
        rows="36",
        words="decomposed accents are encoded as they come",
        module="tokenizer",
        right="regex.findall(PATTERN, _NFC.normalize_str(text))",
        wrong="regex.findall(PATTERN, text)",
        by=(f"{IMPLEMENTATIONS}[1]",),
    ),
    Fault(
        name="nfc_missing_in_the_fast_path",
        rows="36",
        words="the library's tokenizer is built without a normaliser",
        module="tokenizer",
        right="        fast.normalizer = _NFC\n",
        wrong="",
        by=(COMPOSED,),
    ),
    Fault(
        name="nfkc_for_nfc",
        rows="36",
        words="the other composed form, which turns wide letters and ligatures into plain ones",
        module="tokenizer",
        right="_NFC = normalizers.NFC()",
        wrong="_NFC = normalizers.NFKC()",
        by=(COMPOSED,),
    ),
    Fault(
        name="digits_by_threes",
        rows="36",
        words="the pattern of other models, which keeps up to three digits together",
        module="tokenizer",
        right=r'    r"|\p{N}"  # each digit alone',
        wrong=r'    r"|\p{N}{1,3}"',
        by=("test_tokenizer:test_nfc_digits_and_contractions_by_hand",),
    ),
    Fault(
        name="contractions_in_lower_case_only",
        rows="36",
        words="DON'T is cut in another way than don't",
        module="tokenizer",
        right="""r"(?i:'s|""",
        wrong="""r"(?:'s|""",
        by=("test_tokenizer:test_nfc_digits_and_contractions_by_hand",),
    ),
    Fault(
        name="spaces_not_left_to_the_word",
        rows="36",
        words="a run of spaces takes the last one too",
        module="tokenizer",
        right=r'r"|\s+(?!\S)|\s+"',
        wrong=r'r"|\s+"',
        by=(f"{IMPLEMENTATIONS}[Python]",),
    ),
    Fault(
        name="thinking_switch_reversed",
        rows="39",
        words="enable_thinking=True adds the empty think block",
        module="chat",
        right="and enable_thinking is False",
        wrong="and enable_thinking is True",
        by=(MODES,),
    ),
    Fault(
        name="thinking_switch_ignored",
        rows="39",
        words="thinking off is asked for, and the prompt still lets the model think",
        module="chat",
        right='elif template == "qwen3" and enable_thinking is False:',
        wrong="elif False:",
        by=(MODES,),
    ),
    Fault(
        name="thinking_switch_on_every_template",
        rows="39",
        words="the 2507 templates have no such switch and get an empty block",
        module="chat",
        right='elif template == "qwen3" and enable_thinking is False:',
        wrong="elif enable_thinking is False:",
        by=(MODES,),
    ),
    Fault(
        name="parser_ignores_the_prompts_think",
        rows="39",
        words="Thinking-2507's prompt has opened the block; the parser waits for the reply to do so",
        module="reply",
        right='template == "qwen3-thinking-2507" or (thinking',
        wrong="(thinking",
        by=(
            MALFORMED,
            REPLIES,
        ),
    ),
    Fault(
        name="parser_thinks_though_thinking_is_off",
        rows="39",
        words="with thinking off, the answer up to a </think> it mentions is taken for thoughts",
        module="reply",
        right="or (thinking and _opened_before([m for _, m in pieces]))",
        wrong="or _opened_before([m for _, m in pieces])",
        by=(REPLIES,),
    ),
    Fault(
        name="parser_answers_though_thinking_is_on",
        rows="39",
        words="thoughts land in the content",
        module="reply",
        right="    if not (begins or opened or thinking):",
        wrong="    if not (begins or opened or not thinking):",
        by=(REPLIES,),
    ),
    Fault(
        name="old_thoughts_kept",
        rows="own",
        words="thoughts before the last query stay in the prompt",
        module="chat",
        right="_turn(message, where, thinks, i > last_query, after is None)",
        wrong="_turn(message, where, thinks, True, after is None)",
        by=(TURNS,),
    ),
    Fault(
        name="tool_results_count_as_queries",
        rows="own",
        words="a wrapped tool result ends the thoughts of the chain it belongs to",
        module="chat",
        right="if not (text.startswith(wrap[0]) and text.endswith(wrap[1]))",
        wrong="",
        by=("test_chat:test_goldens",),
    ),
    Fault(
        name="tool_results_in_turns_of_their_own",
        rows="own",
        words="parallel results do not share one user turn",
        module="chat",
        right="open_turn = before != role and not (coder and before is None)",
        wrong="open_turn = True",
        by=(TURNS,),
    ),
]
