"""Faults in what is said to `chat` itself."""

from __future__ import annotations

from tests.faults.switch import Fault


def fault(name: str, words: str, module: str, right: str, wrong: str, by: str) -> Fault:
    """A row of this project's own."""
    return Fault(
        name=name, rows="own", words=words, module=module, right=right, wrong=wrong, by=(f"test_slash:{by}",)
    )


FAULTS = [
    fault(
        "retry_loses_the_old_reply",
        "where a second reply fails, the first is gone too",
        "decode.dialogue",
        "                self.messages += old",
        "                pass",
        "test_undo_and_retry",
    ),
    fault(
        "undo_leaves_the_question",
        "/undo takes back the reply alone",
        "decode.dialogue",
        "        del self.messages[-2:]\n        return question",
        "        del self.messages[-1:]\n        return question",
        "test_undo_and_retry",
    ),
    fault(
        "marks_counted_as_thought",
        "the tokens of thinking hold its marks",
        "decode.dialogue",
        "inside = token == begin\n",
        "inside = token == begin\n                count += 1\n",
        "test_tokens_of_thoughts_are_counted",
    ),
    fault(
        "clear_drops_the_system_message",
        "/clear forgets what the model was told first",
        "decode.dialogue",
        'self.messages = [m for m in self.messages[:1] if m["role"] == "system"]',
        "self.messages = []",
        "test_modes_budget_and_system",
    ),
    fault(
        "save_overwrites_anything",
        "/save replaces a file that is no conversation",
        "commands.slash",
        "    if path.exists():",
        "    if False:",
        "test_a_conversation_survives_a_file",
    ),
    fault(
        "soft_switch_taken_for_a_command",
        "a message that begins with /think never reaches the model",
        "commands.slash",
        'if word in ("/think", "/no_think"):',
        "if False:",
        "test_what_is_a_command_and_what_is_for_the_model",
    ),
    fault(
        "loaded_turns_out_of_order",
        "a file whose messages do not take turns is taken",
        "commands.slash",
        'if turns != ["user", "assistant"] * (len(turns) // 2):',
        "if False:",
        "test_files_that_hold_no_conversation",
    ),
]
