"""How a checkpoint wants to be talked to: template, sampling, ends, thoughts, from what its directory holds.

First its own chat template, then generation_config.json, then its name; what had to be guessed is said.
Sources: sha256 of chat_template in the official tokenizer_config.json files; recommended settings as
in `Sampling`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from qwen3_ref.arrays import is_whole
from qwen3_ref.chat import Template
from qwen3_ref.decode.budget import EARLY_STOP, Budget
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.reply import END_THINK, THINK
from qwen3_ref.store.files import parse_json, read_within
from qwen3_ref.store.shipped import directory_of
from qwen3_ref.tokenizer import Tokenizer

T = TypeVar("T")
_KNOWN: dict[str, Template] = {
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": "qwen3",
    "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326": "qwen3-instruct-2507",
    "3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7": "qwen3-thinking-2507",
    "5a38bfa05833266240066aedc497decc9b00cc0d3e3b8cceea98cf530196ab06": "qwen3-coder",
    "08d3d4a37dc7fbe8047c5af652a075bbcac988f2eb632c4f22effdec0b76b6c8": "qwen3",  # the nano family's
}
_LARGEST_FILE = 16 * 2**20  # an official tokenizer_config.json has 10 kB
_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Profile:
    """What a conversation with a checkpoint needs to know.

    `template`: of `encode_chat` and `parse_reply`. `thinking`, `non_thinking`: the sampling of each
    mode (see `sampling`). `stop_ids`: what ends a reply. `opening`, `closing`, `early_stop`: of a
    `Budget` (see `budget`). `base`: it was trained on text, not on conversations. `guesses`: a sentence
    for each thing that its directory does not say.
    """

    template: Template
    stop_ids: frozenset[int]
    thinking: Sampling = Sampling.thinking()
    non_thinking: Sampling = Sampling.non_thinking()
    opening: str = THINK
    closing: str = END_THINK
    early_stop: str = EARLY_STOP
    base: bool = False
    guesses: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: Template = "qwen3") -> Profile:
        """The official settings of a template, on a tokenizer."""
        if template == "qwen3-coder":
            settings = Sampling.coder(), Sampling.coder()
        else:
            settings = Sampling.thinking(), Sampling.non_thinking()
        return cls(template, frozenset(tokenizer.stop_ids), *settings)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        *,
        template: Template | None = None,
    ) -> Profile:
        """Read the profile of a checkpoint directory, or of a checkpoint of the nano family by its name.

        `tokenizer`: its own, if it is loaded already. `template`: what the caller knows better. What the
        directory says badly, or not at all, is replaced by the official settings and said in `guesses`.
        Raises ValueError if there is no tokenizer.
        """
        place = directory_of(directory)
        tokenizer = tokenizer or Tokenizer.from_pretrained(place)
        guesses: list[str] = []
        name = name_parts(place)
        found = template or _template(place, name, guesses)
        settings = _json(place / "generation_config.json", guesses)
        official = cls.of(tokenizer, found)
        own = _sampling(settings, found, guesses)
        thinking, non_thinking = own or official.thinking, own or official.non_thinking
        if found == "qwen3" and own == Sampling.thinking():  # the file has room for one of two modes
            non_thinking = official.non_thinking
        ends = _ends(settings, tokenizer, guesses)
        early_stop = settings.get("early_stop_text", EARLY_STOP)
        if not isinstance(early_stop, str) or early_stop.count(END_THINK) != 1:
            guesses.append("Its early_stop_text does not close a thought once; the official one is taken.")
            early_stop = EARLY_STOP
        return replace(
            official,
            stop_ids=official.stop_ids | ends,
            thinking=thinking,
            non_thinking=non_thinking,
            early_stop=early_stop,
            base=_base(ends, tokenizer, name, guesses),
            guesses=tuple(guesses),
        )

    def thinks(self, enable_thinking: bool = True) -> bool:
        """Whether a reply begins with a thought: by its template, and in "qwen3" by the mode."""
        return self.template == "qwen3-thinking-2507" or (self.template == "qwen3" and enable_thinking)

    def sampling(self, enable_thinking: bool = True) -> Sampling:
        """The setting of a mode; of a template with one mode, the one it has."""
        return self.thinking if self.thinks(enable_thinking) else self.non_thinking

    def budget(self, tokens: int | Budget | None) -> Budget:
        """A number of tokens as a budget with this checkpoint's marks and early stop."""
        if isinstance(tokens, Budget):
            return tokens
        return Budget(tokens, self.early_stop, self.opening, self.closing)


def name_parts(directory: Path) -> tuple[str, ...]:
    """The words of a checkpoint's own name, in small letters: of a path its last part, of a snapshot in
    the hub cache its repository's."""
    path = directory.absolute()
    name = path.parents[1].name if path.parent.name == "snapshots" else path.name
    return tuple(re.findall(r"[^\W_]+", name.lower()))


def _template(place: Path, name: tuple[str, ...], guesses: list[str]) -> Template:
    text = _read(place / "chat_template.jinja", bytes.decode, guesses)
    if text is None:
        text = _default(_json(place / "tokenizer_config.json", guesses).get("chat_template"))
    if text is None:
        found = _by_name(name)
        reason = "by its name" if found else "being the commonest"
        guesses.append(f"It has no chat template; {found or 'qwen3'} is taken, {reason}.")
        return found or "qwen3"
    known = _KNOWN.get(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())
    if known is not None:
        return known
    prompt = text.rpartition("add_generation_prompt")[2]  # where the reply is asked for
    switch = "enable_thinking" in text
    if re.search(r"""<think>(\\n|\n)*["']""", prompt):  # and nothing that closes it
        also = " (it has a switch, too, which this one lacks)" if switch else ""
        found, why = "qwen3-thinking-2507", f"since its prompt opens a thought{also}"
    elif switch:
        found, why = "qwen3", "since it knows enable_thinking"
    elif "<function=" in text:
        found, why = "qwen3-coder", "since it writes calls as <function=...>"
    elif "<|im_start|>" in text:
        found, why = "qwen3-instruct-2507", "since it asks for no thoughts"
    else:
        found, why = _by_name(name) or "qwen3", "though it writes turns in another way, so replies may suffer"
    guesses.append(f"Its chat template is none of the official ones; {found} is taken, {why}.")
    return found


def _by_name(name: tuple[str, ...]) -> Template | None:
    if "coder" in name:
        return "qwen3-coder"
    if "2507" in name and "instruct" in name:
        return "qwen3-instruct-2507"
    return "qwen3-thinking-2507" if "2507" in name and "thinking" in name else None


def _default(templates: Any) -> str | None:
    """chat_template as tokenizer_config.json may have it: a text, or several with names."""
    if isinstance(templates, list):
        named = {t.get("name"): t.get("template") for t in templates if isinstance(t, dict)}
        templates = named.get("default")
    return templates if isinstance(templates, str) else None


def _sampling(settings: dict[str, Any], template: Template, guesses: list[str]) -> Sampling | None:
    given = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    if settings.get("do_sample") is False:
        return Sampling.greedy()
    if not given:
        guesses.append(f"It says nothing of sampling; the official setting of {template} is taken.")
        return None
    if given.get("top_k") in (0, -1):  # other engines' ways to write "off"
        del given["top_k"]
    try:
        return Sampling(**given)
    except ValueError as error:
        guesses.append(f"Of generation_config.json: {error} The official setting of {template} is taken.")
        return None


def _ends(settings: dict[str, Any], tokenizer: Tokenizer, guesses: list[str]) -> frozenset[int]:
    """The ids of generation_config.json's eos_token_id, a number or a list, that have a text."""
    value = settings.get("eos_token_id")
    values = value if isinstance(value, list) else [] if value is None else [value]
    good = [v for v in values if is_whole(v) and v in tokenizer.ids]
    if len(good) < len(values):
        guesses.append("eos_token_id in generation_config.json holds what is no token; that is left out.")
    elif not good and not tokenizer.stop_ids:
        guesses.append("Neither it nor its tokenizer names a token that ends a reply; only the limit does.")
    return frozenset(good)


def _base(ends: frozenset[int], tokenizer: Tokenizer, name: tuple[str, ...], guesses: list[str]) -> bool:
    """Whether it goes on with text: a chat model's file names the end of a turn, too."""
    if ends:
        return ends == {tokenizer.control_tokens.get("<|endoftext|>")}
    if "base" in name:
        guesses.append("It does not say what ends its texts; it is taken for a Base model, by its name.")
    return "base" in name


def _json(path: Path, guesses: list[str]) -> dict[str, Any]:
    """A file's object; an empty one for a missing file, and, with a guess, for one of another kind."""
    value = _read(path, parse_json, guesses)
    if not isinstance(value, dict | None):
        guesses.append(f"{path.name} is no JSON object and is left out.")
        return {}
    return value or {}


def _read(path: Path, parse: Callable[[bytes], T], guesses: list[str]) -> T | None:
    """A file's content, parsed; None for a missing file, and, with a guess, for one that cannot be read."""
    try:
        return parse(read_within(path, _LARGEST_FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        guesses.append(f"{path.name} cannot be read and is left out.")
        return None
