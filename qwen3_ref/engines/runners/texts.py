"""What engines share that bring transformers' tokenizer: texts to ids, conversations to prompts."""

from __future__ import annotations

from typing import Any


class Texts:
    """A subclass sets `tokenizer`."""

    tokenizer: Any

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, control tokens recognised."""
        return [list(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    def render(self, conversations: list[dict[str, Any]]) -> list[str]:
        """The prompt of each conversation."""
        return [
            self.tokenizer.apply_chat_template(
                one["messages"], tools=one["tools"], tokenize=False, add_generation_prompt=True,
                enable_thinking=one["thinking"],
            )
            for one in conversations
        ]  # fmt: skip
