"""A conversation with a model, in which nothing is computed twice that the turns have in common."""

from __future__ import annotations

from collections.abc import Generator
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
                    f"start another with /new."
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
        failed = False
        try:
            for token in reply:
                said.append(token)
                yield token
        except ValueError:
            failed = True
            raise
        finally:
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
        return self.cache
