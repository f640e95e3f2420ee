"""A conversation with a model, in which nothing is computed twice that the turns have in common."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.chat import Template, encode_chat
from qwen3_ref.decode.budget import EARLY_STOP
from qwen3_ref.decode.generation import stream
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import parse_reply
from qwen3_ref.tokenizer import Tokenizer


class Dialogue:
    """A conversation with one KV cache: what a turn shares with the one before is not computed again."""

    def __init__(
        self,
        model: Qwen3,
        tokenizer: Tokenizer,
        sampling: Sampling,
        generator: torch.Generator,
        *,
        template: Template = "qwen3",
        enable_thinking: bool = True,
        max_new_tokens: int = 4096,
        thinking_budget: int | None = None,
        early_stop: str = EARLY_STOP,
    ) -> None:
        self.model, self.tokenizer, self.sampling, self.generator = model, tokenizer, sampling, generator
        self.template, self.enable_thinking, self.max_new_tokens = template, enable_thinking, max_new_tokens
        self.thinking_budget, self.early_stop = thinking_budget, early_stop
        self.stop_ids = tokenizer.stop_ids
        self.messages: list[dict[str, Any]] = []
        self.prefilled = 0
        """Prompt tokens computed so far, in all turns."""
        self._cache: KVCache | None = None

    def prompt(self) -> list[int]:
        """The ids of the conversation so far, ready for a reply."""
        return encode_chat(
            self.tokenizer, self.messages, enable_thinking=self.enable_thinking, template=self.template
        )

    def ask(self, text: str) -> Generator[int]:
        """Say something; yields the ids of the reply as they come. However it ends (a stop id, the
        limit, an interrupt), what was said until then is in the history.

        Raises ValueError when the context is full; the message is then not kept.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            prompt = self.prompt()
            limit = min(self.max_new_tokens, self.model.config.max_position_embeddings - len(prompt))
            if limit < 1:
                raise ValueError(
                    f"the conversation has {len(prompt)} tokens and the model's context is "
                    f"{self.model.config.max_position_embeddings}; start another with /new."
                )
        except ValueError:
            self.messages.pop()
            raise
        reply: list[int] = []
        try:
            for token in self._continue(prompt, limit):
                reply.append(token)
                yield token
        finally:
            said = [token for token in reply if token not in self.stop_ids]
            text = self.tokenizer.decode(said)
            parsed = parse_reply(text, template=self.template, enable_thinking=self.enable_thinking)
            self.messages.append(parsed.message())

    def _continue(self, prompt: list[int], limit: int) -> Iterator[int]:
        model, needed = self.model, len(prompt) + limit
        if self._cache is None:
            self._cache = KVCache(model.config, 1, needed, model.dtype, model.device)
        elif self._cache.capacity < needed:
            twice = max(needed, 2 * self._cache.capacity)
            self._cache.reserve(min(twice, model.config.max_position_embeddings))
        # History drops earlier thoughts, so the prompt leaves the cached ids where the last reply began.
        self.prefilled += len(prompt) - self._cache.keep(prompt)
        return stream(
            model,
            prompt,
            max_new_tokens=limit,
            sampling=self.sampling,
            stop_ids=self.stop_ids,
            generator=self.generator,
            thinking_budget=self.thinking_budget,
            early_stop=self.early_stop,
            tokenizer=self.tokenizer,
            cache=self._cache,
        )
