"""Faults of tokenizer and chat: text that reaches the model as other ids, and replies taken apart wrongly."""

from __future__ import annotations

from tests.faults.switch import Fault

PLAIN = """\
        if not allow_control_tokens:
            return self._encode_plain(text, backend)
"""
PUBLISHED = "test_tokenizer:test_published_encodings"
IMPLEMENTATIONS = "test_tokenizer:test_real_text_in_every_implementation"
MODES, TURNS = "test_chat:test_both_modes_by_hand", "test_chat:test_many_turns_by_hand"
REPLIES, MALFORMED = "test_chat:test_replies_by_hand", "test_chat:test_malformed_replies"


def tokenizer(name: str, rows: str, words: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, "tokenizer", ((old, new),), by)


def chat(name: str, rows: str, words: str, old: str, new: str, *by: str) -> Fault:
    return Fault(name, rows, words, "chat", ((old, new),), by)


FAULTS = [
    tokenizer(
        "plain_text_wrapped_in_chat_marks",
        "31",
        "every text is taken for a user's turn, a base model's prompt too",
        PLAIN,
        PLAIN + '        text = f"<|im_start|>user\\n{text}<|im_end|>\\n<|im_start|>assistant\\n"\n',
        "test_chat:test_goldens_encoded",
    ),
    tokenizer(
        "base_prompt_encoded_as_chat",
        "31",
        "text without control tokens gets the marks of a user's turn",
        PLAIN,
        PLAIN.replace(
            "return self._encode_plain(text, backend)",
            "return [151_644, 872, 198, *self._encode_plain(text, backend), 151_645, 198]",
        ),
        PUBLISHED,
    ),
    tokenizer(
        "typed_marks_become_control_tokens",
        "own",
        "what a user types can end the user's turn",
        PLAIN,
        "",
        "test_tokenizer:test_official_ids",
        "test_chat:test_typed_marks_stay_text",
    ),
    tokenizer(
        "padding_rows_decode_to_nothing",
        "33",
        "an id without a text is passed over in silence",
        "        if token_id not in self._by_id:\n",
        '        if token_id not in self._by_id:\n            return b""\n        if False:\n',
        "test_tokenizer:test_padding_rows_have_no_text",
    ),
    tokenizer(
        "nfc_missing",
        "36",
        "decomposed accents are encoded as they come",
        "regex.findall(PATTERN, _NFC.normalize_str(text))",
        "regex.findall(PATTERN, text)",
        IMPLEMENTATIONS,
    ),
    tokenizer(
        "nfc_missing_in_the_fast_path",
        "36",
        "the library's tokenizer is built without a normaliser",
        "        fast.normalizer = _NFC\n",
        "",
        "fresh test_tokenizer:test_nfc_digits_and_contractions_by_hand",
    ),
    tokenizer(
        "nfkc_for_nfc",
        "36",
        "the other composed form, which turns wide letters and ligatures into plain ones",
        "_NFC = normalizers.NFC()",
        "_NFC = normalizers.NFKC()",
        IMPLEMENTATIONS,
    ),
    tokenizer(
        "digits_by_threes",
        "36",
        "the pattern of other models, which keeps up to three digits together",
        r'    r"|\p{N}"  # each digit alone',
        r'    r"|\p{N}{1,3}"',
        "test_tokenizer:test_nfc_digits_and_contractions_by_hand",
    ),
    tokenizer(
        "contractions_in_lower_case_only",
        "36",
        "DON'T is cut in another way than don't",
        """r"(?i:'s|""",
        """r"(?:'s|""",
        "test_tokenizer:test_nfc_digits_and_contractions_by_hand",
    ),
    tokenizer(
        "spaces_not_left_to_the_word",
        "36",
        "a run of spaces takes the last one too",
        r'r"|\s+(?!\S)|\s+"',
        r'r"|\s+"',
        IMPLEMENTATIONS,
    ),
    chat(
        "thinking_switch_reversed",
        "39",
        "enable_thinking=True adds the empty think block",
        "and enable_thinking is False",
        "and enable_thinking is True",
        MODES,
    ),
    chat(
        "thinking_switch_ignored",
        "39",
        "thinking off is asked for, and the prompt still lets the model think",
        'elif template == "qwen3" and enable_thinking is False:',
        "elif False:",
        MODES,
    ),
    chat(
        "thinking_switch_on_every_template",
        "39",
        "the 2507 templates have no such switch and get an empty block",
        'elif template == "qwen3" and enable_thinking is False:',
        "elif enable_thinking is False:",
        MODES,
    ),
    chat(
        "parser_ignores_the_prompts_think",
        "39",
        "Thinking-2507's prompt has opened the block; the parser waits for the reply to do so",
        'prompt_opened = template == "qwen3-thinking-2507"',
        "prompt_opened = False",
        MALFORMED,
        REPLIES,
    ),
    chat(
        "parser_thinks_though_thinking_is_off",
        "39",
        "with thinking off, the answer up to a </think> it mentions is taken for thoughts",
        "and not (thinking and re.search",
        "and not (re.search",
        REPLIES,
    ),
    chat(
        "parser_answers_though_thinking_is_on",
        "39",
        "thoughts land in the content",
        "and not (thinking and re.search",
        "and not (not thinking and re.search",
        REPLIES,
    ),
    chat(
        "old_thoughts_kept",
        "own",
        "thoughts before the last query stay in the prompt",
        "_turn(message, where, thinks, i > last_query, after is None)",
        "_turn(message, where, thinks, True, after is None)",
        TURNS,
    ),
    chat(
        "tool_results_count_as_queries",
        "own",
        "a wrapped tool result ends the thoughts of the chain it belongs to",
        "if not (text.startswith(wrap[0]) and text.endswith(wrap[1]))",
        "",
        "test_chat:test_goldens",
    ),
    chat(
        "tool_results_in_turns_of_their_own",
        "own",
        "parallel results do not share one user turn",
        "open_turn = before != role and not (coder and before is None)",
        "open_turn = True",
        TURNS,
    ),
]
