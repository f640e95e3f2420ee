"""Faults of the tool loop: what is run, what is returned, when it ends, who may write marks."""

from __future__ import annotations

from tests.faults.switch import Fault

RETURNS = "test_tools:test_what_a_call_returns"
LIMIT = "test_tools:test_it_stops_at_the_limit_and_runs_nothing_then"
CUT = "test_tools:test_what_is_cut_off_or_cannot_be_read_is_not_run"
CHAIN = "test_tools:test_a_chain_of_calls_keeps_its_thoughts_and_the_next_question_drops_them"
ORDER = "test_tools:test_calls_of_one_reply_are_run_in_order_and_return_together"


def fault(name: str, words: str, right: str, wrong: str, by: str, module: str = "decode.tools") -> Fault:
    return Fault(name=f"tools_{name}", words=words, module=module, right=right, wrong=wrong, by=(by,))


FAULTS = [
    fault(
        "unknown_runs_first",
        "a call of a tool that is not there runs the one that is",
        'if tool.name == call.get("name")), None)',
        'if tool.name == call.get("name")), tools[0])',
        RETURNS,
    ),
    fault(
        "true_is_a_number",
        "true is taken for the integer 1",
        'or isinstance(value, bool) and kind != "boolean":',
        "or False:",
        RETURNS,
    ),
    fault(
        "required_not_asked_for",
        "missing arguments come to light as Python's own error",
        'for name in schema.get("required") or () if name not in arguments]',
        "for name in () if name not in arguments]",
        RETURNS,
    ),
    fault(
        "results_in_python",
        "results are written as Python prints them: single quotes, True",
        "json.dumps(result, ensure_ascii=False)",
        "str(result)",
        RETURNS,
    ),
    fault(
        "results_without_end",
        "a result of any length goes into the context",
        "if len(text) > LONGEST_RESULT:",
        "if False:",
        RETURNS,
    ),
    fault(
        "last_calls_run",
        "the calls of the last round are run though nobody will read what they return",
        "if said.reply.complete and n + 1 < max_rounds else []",
        "if said.reply.complete else []",
        LIMIT,
    ),
    fault(
        "half_a_reply_runs",
        "of a reply that was cut off the calls before the cut are run",
        "calls = said.reply.tool_calls if said.reply.complete and n + 1",
        "calls = said.reply.tool_calls if n + 1",
        CUT,
    ),
    fault(
        "cut_off_is_an_answer",
        "a reply that ran out of room counts as the answer",
        'outcome.ended if said.reply.complete else "length"',
        "outcome.ended",
        CUT,
    ),
    fault(
        "results_as_user",
        "results come back as the user's words, which are a new question: thoughts of the chain are dropped",
        '{"role": "tool", "content": result} for result',
        '{"role": "user", "content": result} for result',
        CHAIN,
    ),
    fault(
        "callers_list_grows",
        "the caller's conversation is appended to",
        "Outcome(list(messages))",
        "Outcome(messages)",
        CHAIN,
    ),
    fault(
        "only_the_first_call",
        "of several calls in one reply the first is run",
        "for call in calls)",
        "for call in calls[:1])",
        ORDER,
    ),
    fault(
        "nameless_error",
        "an exception without a message comes back as no words at all",
        "' '.join(str(error).split()) or type(error).__name__",
        "' '.join(str(error).split())",
        "test_tools:test_types_and_errors_without_words",
    ),
    fault(
        "whole_numbers_are_no_numbers",
        "1 is refused where a number is asked for",
        '"number": (int, float)',
        '"number": (float,)',
        "test_tools:test_types_and_errors_without_words",
    ),
    fault(
        "list_of_types_raises",
        "a type that JSON schema writes as a list ends the conversation",
        "if not isinstance(kind, str) or kind not in _TYPES:",
        "if kind not in _TYPES:",
        "test_tools:test_types_and_errors_without_words",
    ),
    fault(
        "full_context_has_room",
        "a prompt that fills the context is asked all the same",
        "if len(prompt) >= model.config.context_length:",
        "if len(prompt) > model.config.context_length:",
        "test_tools:test_a_prompt_that_fills_the_context_leaves_no_room_for_a_reply",
    ),
    fault(
        "whole_call_lost_at_the_limit",
        "a call that is whole when the room ends is thrown away",
        'if ids.ended != "stop" and not reply.tool_calls:',
        'if ids.ended != "stop":',
        "test_tools:test_what_the_model_is_asked_with",
    ),
    fault(
        "never_greedy",
        "greedy is asked for, and sampled",
        "sampling=None if greedy else profile.sampling(enable_thinking)",
        "sampling=profile.sampling(enable_thinking)",
        "test_tools:test_what_the_model_is_asked_with",
    ),
    fault(
        "stop_ids_of_the_tokenizer",
        "the checkpoint's own stop ids are left out",
        "stop_ids=profile.stop_ids",
        "stop_ids=tokenizer.stop_ids",
        "test_tools:test_what_the_model_is_asked_with",
    ),
    fault(
        "budget_forgotten",
        "a thinking budget is taken and not passed on",
        "thinking_budget=profile.budget(thinking_budget)",
        "thinking_budget=None",
        "test_tools:test_what_the_model_is_asked_with",
    ),
    fault(
        "one_mode",
        "thinking and non-thinking are sampled alike",
        "else profile.sampling(enable_thinking)",
        "else profile.sampling(True)",
        "test_tools:test_what_the_model_is_asked_with",
    ),
    fault(
        "one_template",
        "every checkpoint is asked in the hybrid's template",
        '"template": profile.template}',
        '"template": "qwen3"}',
        "test_tools:test_what_the_model_is_asked_with",
    ),
    fault(
        "ids_forgotten",
        "a round does not keep what was written",
        "Round(said.reply, results, said.ids)",
        "Round(said.reply, results)",
        "test_tools:test_what_the_model_is_asked_with",
    ),
]
