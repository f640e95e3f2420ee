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
        self._held: list[int] = []  # the ids whose keys and values are in the cache

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
        config = self.model.config
        weight, needed = self.model.model.embed_tokens.weight, len(prompt) + limit
        if self._cache is None or self._cache.capacity < needed:
            old, n = self._cache, len(self._held)
            length = min(max(needed, 2 * (old.capacity if old else 0)), config.max_position_embeddings)
            self._cache = KVCache(config, 1, length, weight.dtype, weight.device)
            if old is not None:
                self._cache.keys[..., :n, :] = old.keys[..., :n, :]
                self._cache.values[..., :n, :] = old.values[..., :n, :]
                self._cache.real[:, :n] = True
                self._cache.length = n
        # History drops earlier thoughts, so the prompt leaves the cached ids where the last reply began.
        shared = 0
        while shared < min(len(self._held), len(prompt) - 1) and self._held[shared] == prompt[shared]:
            shared += 1
        self._cache.truncate(shared)
        self._held = prompt[:shared]  # an interrupt in mid-forward leaves columns that do not count
        pending = prompt[shared:]
        self.prefilled += len(pending)
        for token in stream(
            self.model,
            prompt,
            max_new_tokens=limit,
            sampling=self.sampling,
            stop_ids=self.stop_ids,
            generator=self.generator,
            thinking_budget=self.thinking_budget,
            early_stop=self.early_stop,
            tokenizer=self.tokenizer,
            cache=self._cache,
        ):
            self._held += pending  # computed by now; the new id is not
            pending = [token]
            yield token
