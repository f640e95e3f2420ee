"""A conversation with a model, in which nothing is computed twice that the turns have in common."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.budget import Budget
from qwen3_ref.decode.generation import stream
from qwen3_ref.decode.profile import Profile
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import parse_reply
from qwen3_ref.tokenizer import Tokenizer


@dataclass(frozen=True)
class Spent:
    """What replies took: `tokens` written, those of them inside thoughts, and seconds."""

    tokens: int = 0
    thinking: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.tokens + other.tokens, self.thinking + other.thinking, self.seconds + other.seconds
        )

    def __str__(self) -> str:
        speed = f", {self.tokens / self.seconds:.0f} a second" if self.seconds and self.tokens else ""
        return f"{self.tokens:,} tokens, {self.thinking:,} of them thinking{speed}"


class Dialogue:
    """A conversation with one KV cache: what a turn shares with the one before is not computed again.

    `profile` says how the checkpoint wants to be talked to: template, sampling of each mode, stop ids,
    early stop. `enable_thinking` and `thinking_budget` may be changed between two messages.
    """

    def __init__(
        self,
        model: Qwen3,
        tokenizer: Tokenizer,
        profile: Profile,
        generator: torch.Generator,
        *,
        enable_thinking: bool = True,
        max_new_tokens: int = 4096,
        thinking_budget: int | Budget | None = None,
    ) -> None:
        self.model, self.tokenizer, self.profile, self.generator = model, tokenizer, profile, generator
        self.enable_thinking, self.max_new_tokens = enable_thinking, max_new_tokens
        self.thinking_budget = thinking_budget
        self.messages: list[dict[str, Any]] = []
        self.prefilled = 0
        """Prompt tokens computed so far, in all turns."""
        self.prompted = 0
        """Prompt tokens so far, computed or found in the cache."""
        self.last, self.total = Spent(), Spent()
        """What the last reply took, and all of them."""
        self.cache: KVCache | None = None
        """What has been computed: the last prompt and its reply."""

    def prompt(self) -> list[int]:
        """The ids of the conversation so far, ready for a reply."""
        return encode_chat(
            self.tokenizer,
            self.messages,
            enable_thinking=self.enable_thinking,
            template=self.profile.template,
        )

    def ask(self, text: str) -> Generator[int]:
        """Say something; yields the ids of the reply as they come. However it ends (a stop id, the
        limit, an interrupt), what was said until then is in the history.

        Raises ValueError when the context is full, or the model's logits are unsound; a message that
        got no word of a reply is then not kept.
        """
        self.messages.append({"role": "user", "content": text})
        thinking, context = self.enable_thinking, self.model.config.context_length
        try:
            prompt = self.prompt()
            room = min(self.max_new_tokens, context - len(prompt))
            if room < 1:
                raise ValueError(
                    f"the conversation has {len(prompt)} tokens and the model's context is {context}; "
                    f"start another with /clear."
                )
            reply = stream(
                self.model,
                prompt,
                max_new_tokens=room,
                sampling=self.profile.sampling(thinking),
                stop_ids=self.profile.stop_ids,
                generator=self.generator,
                thinking_budget=self.profile.budget(self.thinking_budget),
                tokenizer=self.tokenizer,
                cache=self._ready(prompt, room),
            )
        except BaseException:
            self.messages.pop()
            raise
        said: list[int] = []
        failed, start = False, time.perf_counter()
        try:
            for token in reply:
                said.append(token)
                yield token
        except ValueError:
            failed = True
            raise
        finally:
            self.last = Spent(len(said), self._thinking(said), time.perf_counter() - start)
            self.total += self.last
            if failed and not said:
                self.messages.pop()
            else:
                turn = parse_reply(
                    [token for token in said if token not in self.profile.stop_ids],
                    tokenizer=self.tokenizer,
                    template=self.profile.template,
                    enable_thinking=thinking,
                )
                self.messages.append(turn.message())

    def _thinking(self, said: Sequence[int]) -> int:
        """How many of a reply's tokens stand inside its thought; the marks do not count."""
        control, profile = self.tokenizer.control_tokens, self.profile
        begin, end = control.get(profile.opening), control.get(profile.closing)
        inside, count = profile.template == "qwen3-thinking-2507", 0
        for token in said:
            if token in (begin, end):
                inside = token == begin
            elif token not in profile.stop_ids:
                count += inside
        return count

    # -- going back ----------------------------------------------------------------------------

    def last_question(self) -> str:
        """The last message that was answered. Raises ValueError if there is none."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise ValueError("nothing has been said yet; say something first.")
        question: str = self.messages[-2]["content"]
        return question

    def retry(self) -> Generator[int]:
        """Another reply to the last message, in place of the first; its prompt costs one token. If it gets
        no word, the old reply stays. Raises ValueError as `ask` does, or if there is none."""
        question, old = self.last_question(), self.messages[-2:]
        del self.messages[-2:]
        before = len(self.messages)
        try:
            yield from self.ask(question)
        finally:
            if len(self.messages) == before:
                self.messages += old

    def undo(self) -> str:
        """Take back the last message and its reply; returns the message. Raises ValueError without one."""
        question = self.last_question()
        del self.messages[-2:]
        return question

    def clear(self) -> None:
        """Start over, with the same system message."""
        self.messages = [m for m in self.messages[:1] if m["role"] == "system"]

    def set_system(self, text: str) -> None:
        """What the model is told before all else; "" for nothing."""
        turns = [message for message in self.messages if message["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *turns] if text else turns

    def _ready(self, prompt: list[int], room: int) -> KVCache:
        """The cache with room for a reply, holding no more than what this prompt begins with: history
        drops earlier thoughts, so a prompt leaves the last one where the last reply began."""
        model, needed = self.model, len(prompt) + room
        most = model.config.context_length
        if self.cache is None:
            self.cache = KVCache(model.config, 1, needed, model.dtype, model.device)
        if self.cache.capacity < needed:  # twice as much, so that growing costs little in all
            self.cache.reserve(min(max(needed, 2 * self.cache.capacity), most))
        self.prefilled += len(prompt) - self.cache.keep(prompt)
        self.prompted += len(prompt)
        return self.cache
