"""What may be said to `chat` itself: lines that begin with a slash.

Only a line that is a command is one. A message may hold /think or /no_think, Qwen3's soft switches, which
go to the model with the rest of it; alone on a line they turn the mode for all that follows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_ref.decode.dialogue import Dialogue
from qwen3_ref.store.errors import meant, quoted, reason
from qwen3_ref.store.files import read_json, write_atomically

_MOST = 16 * 2**20
"""Bytes of a saved conversation."""
_KEYS = {"role", "content", "reasoning_content", "tool_calls"}


class Leave(Exception):
    """The user wants to go."""


class Again(Exception):
    """The last reply is to be given anew."""


@dataclass(frozen=True)
class Command:
    """One command: what it takes (shown in /help), what it does, and the function that does it and returns
    what to say. `takes` in brackets may be left out; "" takes nothing."""

    takes: str
    does: str
    run: Callable[[Dialogue, str], str]


def run(dialogue: Dialogue, line: str) -> str:
    """Do what a line such as "/budget 64" says; returns what to tell the user.

    Raises Leave, Again, and ValueError in one sentence for what is no command, or cannot be done."""
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        raise ValueError(f"{quoted(name)} is no command; {meant(name, list(COMMANDS))} (see /help).")
    command, argument = COMMANDS[name], argument.strip()
    if argument and not command.takes:
        raise ValueError(f"{name} takes nothing; give it alone on a line.")
    if not argument and command.takes and not command.takes.startswith("["):
        raise ValueError(f"{name} wants {command.takes}; give it behind the command.")
    return command.run(dialogue, argument)


def is_command(line: str) -> bool:
    """Whether a line is for `chat` and not for the model: a slash and a word, but for paths and the like, and
    for a message that begins with a soft switch."""
    word = line.split(" ")[0]
    if word in ("/think", "/no_think"):
        return line == word
    return line.startswith("/") and word[1:].replace("_", "").isalpha()


def _help(_: Dialogue, __: str) -> str:
    width = max(len(f"{name} {c.takes}") for name, c in COMMANDS.items())
    rows = [f"{f'{name} {c.takes}'.strip():<{width}}  {c.does}" for name, c in COMMANDS.items()]
    more = ["A line that ends in \\ goes on in the next one; so does all between two lines of \"\"\"."]
    return "\n".join([*rows, *more])


def _mode(thinks: bool) -> Callable[[Dialogue, str], str]:
    def turn(dialogue: Dialogue, _: str) -> str:
        dialogue.enable_thinking = thinks
        return "It thinks from now on." if thinks else "It answers at once from now on."

    return turn


def _budget(dialogue: Dialogue, argument: str) -> str:
    if argument in ("", "none"):
        dialogue.thinking_budget = None
        return "Thoughts have no budget."
    if not (argument.isascii() and argument.isdigit()) or len(argument) > 9:
        raise ValueError(f"the budget is {quoted(argument)}; it must be a whole number of tokens, or none.")
    dialogue.thinking_budget = int(argument)
    return f"Thoughts are cut after {int(argument):,} tokens."


def _system(dialogue: Dialogue, text: str) -> str:
    dialogue.set_system(text)
    return "The system message is set." if text else "There is no system message."


def _clear(dialogue: Dialogue, _: str) -> str:
    dialogue.clear()
    return "A new conversation."


def _undo(dialogue: Dialogue, _: str) -> str:
    return f"Taken back: {dialogue.undo()}"


def _retry(dialogue: Dialogue, _: str) -> str:
    dialogue.last_question()  # raises if there is none
    raise Again


def _save(dialogue: Dialogue, file: str) -> str:
    path = Path(file).expanduser()
    if path.exists():
        try:
            conversation(path)
        except ValueError:
            raise ValueError(f"{path} is there and holds no conversation; choose another name.") from None
    write_atomically(path, json.dumps({"messages": dialogue.messages}, indent=1, ensure_ascii=False) + "\n")
    return f"{len(dialogue.messages)} messages are in {path}."


def _load(dialogue: Dialogue, file: str) -> str:
    dialogue.messages = conversation(Path(file).expanduser())
    return f"{len(dialogue.messages)} messages were read."


def _stats(dialogue: Dialogue, _: str) -> str:
    reused = dialogue.prompted - dialogue.prefilled
    return (
        f"{dialogue.total}.\nPrompts: {dialogue.prompted:,} tokens in all, {dialogue.prefilled:,} of them "
        f"computed, {reused:,} found in the cache."
    )


def _exit(_: Dialogue, __: str) -> str:
    raise Leave


def conversation(path: Path) -> list[dict[str, Any]]:
    """The messages of a saved conversation: a system message or none, then questions and replies in turn.

    Raises ValueError in one sentence for a file that cannot be read, or is something else."""
    try:
        found = read_json(path, _MOST)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}); give a file that /save wrote.") from None
    messages = found.get("messages") if isinstance(found, dict) else None
    wrong = f"{path} is no conversation; give a file that /save wrote."
    if not isinstance(messages, list):
        raise ValueError(wrong)
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message) <= _KEYS:
            raise ValueError(wrong)
        if not all(isinstance(message.get(key, ""), str) for key in _KEYS - {"tool_calls"}):
            raise ValueError(wrong)
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(wrong)
    return messages


COMMANDS = {
    "/help": Command("", "this list", _help),
    "/think": Command("", "think before each answer", _mode(True)),
    "/no_think": Command("", "answer at once", _mode(False)),
    "/budget": Command("[N]", "cut thoughts after N tokens; alone: no more", _budget),
    "/system": Command("[TEXT]", "what the model is told first; alone: nothing", _system),
    "/clear": Command("", "start over, with the same system message", _clear),
    "/new": Command("", "the same", _clear),
    "/retry": Command("", "another reply to the last message", _retry),
    "/undo": Command("", "take back the last message and its reply", _undo),
    "/save": Command("FILE", "write the conversation into a file", _save),
    "/load": Command("FILE", "go on with a saved one", _load),
    "/stats": Command("", "tokens and time so far", _stats),
    "/exit": Command("", "leave; Ctrl-D does so too", _exit),
}
