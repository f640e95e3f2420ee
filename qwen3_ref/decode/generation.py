"""From logits to tokens: greedy and sampled, batched over uneven prompts, streamed, seeded, and with
a thinking budget.

Recommended settings: Qwen3 documentation, quickstart, and technical report section 4.6;
generation_config.json of the 2507 and Coder models. Thinking budget: report section 4.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.decode.budget import EARLY_STOP, _Budget, _budget
from qwen3_ref.decode.sampling import Sampling, draw, probabilities
from qwen3_ref.model import Qwen3
from qwen3_ref.tokenizer import Tokenizer


class Generated(list[int]):
    """The new ids of one reply, that is all a list of them is, and how its parts ended.

    `ended`: "stop" (a stop id came, the last of the list) or "length" (no room left).
    `thinking_ended`: "closed" by the model, "budget", or "stop" or "length" inside the thought; None
    if there was no thought, or no tokenizer to know one by.
    `thinking_tokens`: ids that the model spent inside the thought, marks and forced ids not counted.
    `forced_tokens`: ids of the early-stop text that were fed instead of sampled.
    `reasoning`: the ids between the marks, forced ones included; `answer`: those after the thought,
    without the stop id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended: str | None = None
        self.thinking_ended: str | None = None
        self.thinking_tokens = self.forced_tokens = 0
        self.reasoning: list[int] = []
        self.answer: list[int] = []


@dataclass
class _Row:
    """One reply on its way: a machine that takes what was drawn and says which id really follows."""

    index: int
    prompt: list[int]
    generator: torch.Generator
    room: int
    budget: _Budget | None
    stop_ids: Collection[int]
    reply: Generated = field(default_factory=Generated)
    inside: bool = False
    forced: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.budget is not None:  # a template may have opened the thought already
            marks = [i for i in self.prompt if i in (self.budget.opening, self.budget.closing)]
            self.inside = bool(marks) and marks[-1] == self.budget.opening

    def take(self, token: int) -> int:
        """Append the drawn id, or the forced one; returns what was appended."""
        b, reply = self.budget, self.reply
        spent = b is not None and b.tokens is not None and reply.thinking_tokens >= b.tokens
        if b is not None and spent and self.inside and not self.forced and token != b.closing:
            # The drawn id is dropped: it would be one more than the budget.
            self.forced.extend(b.stop_text)
            reply.thinking_ended = "budget"
        forced = bool(self.forced)
        if forced:
            token = self.forced.popleft()
            reply.forced_tokens += 1
        reply.append(token)
        if b is not None and token == b.opening and not self.inside:
            self.inside = True
        elif b is not None and token == b.closing and self.inside:
            self.inside = False
            reply.thinking_ended = reply.thinking_ended or "closed"
        elif self.inside:
            reply.reasoning.append(token)
            reply.thinking_tokens += not forced
        elif token not in self.stop_ids:
            reply.answer.append(token)
        if token in self.stop_ids and not forced:
            reply.ended = "stop"
        elif len(reply) >= self.room:
            reply.ended = "length"
        if reply.ended and self.inside:
            reply.thinking_ended = reply.ended
        return token


def check_request(
    model: Qwen3, prompts: Sequence[Sequence[int]], max_new_tokens: int, thinking_budget: object = None
) -> None:
    """Raise ValueError in one sentence for an empty or over-long prompt, a bad token count or budget."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    if thinking_budget is not None:
        whole = isinstance(thinking_budget, int) and not isinstance(thinking_budget, bool)
        if not whole or thinking_budget < 0:  # type: ignore[operator]
            raise ValueError(
                f"thinking_budget is {thinking_budget!r}; it must be a whole number of tokens, 0 or more."
            )
    room = model.config.max_position_embeddings
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {i} is empty; give it at least one token.")
        if len(prompt) >= room:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens and the model's context is {room}, so nothing "
                f"can follow it; shorten the prompt, or configure YaRN (rope_scaling)."
            )


@torch.inference_mode()
def generate(
    model: Qwen3,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    on_token: Callable[[int, int], None] | None = None,
    thinking_budget: int | None = None,
    tokenizer: Tokenizer | None = None,
    early_stop: str = EARLY_STOP,
) -> list[Generated]:
    """Continue each prompt; returns the new ids of each, a stop id (if one came) included.

    sampling: greedy if absent. stop_ids: a row ends after any of these. on_token(row, id) is called
    for each new token as it comes. batch_size: how many prompts run at once (all, if absent).
    generator: a CPU torch.Generator (seed 0 if absent). Each row gets a seed of its own from it, in
    the order of the prompts, so a row's text does not depend on batch_size or on its neighbours.
    A reply ends at the model's max_position_embeddings even when max_new_tokens is larger.

    thinking_budget: how many ids the model may spend between `<think>` and `</think>` (line ends
    count, the marks do not). When it wants one more, `early_stop` is fed through the cache instead
    and the answer follows; a thought of exactly so many ids closes by itself. 0 cuts the thought as
    it opens. It bounds, and promises nothing: a thought may end earlier, or max_new_tokens, to which
    forced ids count too, may come first. A prompt whose thought is closed (non-thinking mode) is not
    affected. `tokenizer` tells the marks; with it alone, parts are told apart and nothing is cut. Ids
    that it has no text for (padding rows of the embedding) are never drawn.

    Raises ValueError for an empty or over-long prompt, a batch_size below 1, a negative or fractional
    budget, a budget for a tokenizer without think tokens, or NaN logits.
    """
    rows = _rows(
        model, prompts, max_new_tokens, stop_ids, generator, thinking_budget, tokenizer, early_stop
    )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None for all at once.")
    step = batch_size or max(len(rows), 1)
    for first in range(0, len(rows), step):
        batch = rows[first : first + step]
        for row, token in _run(model, batch, sampling or Sampling.greedy(), tokenizer):
            if on_token is not None:
                on_token(row, token)
    return [row.reply for row in rows]


@torch.inference_mode()
def stream(
    model: Qwen3,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    thinking_budget: int | None = None,
    tokenizer: Tokenizer | None = None,
    early_stop: str = EARLY_STOP,
    cache: KVCache | None = None,
) -> Iterator[int]:
    """The ids that `generate` gives for one prompt, each as soon as it is known.

    cache: one of batch 1 that may hold the beginning of the prompt already (from the turn before), or
    the prompt and more (the same prompt again); only the rest is computed. Another text in it is
    refused. Afterwards it holds the prompt and all of the reply but its last id.
    """
    rows = _rows(
        model, [prompt], max_new_tokens, stop_ids, generator, thinking_budget, tokenizer, early_stop
    )
    for _, token in _run(model, rows, sampling or Sampling.greedy(), tokenizer, cache):
        yield token


def _rows(
    model: Qwen3,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    generator: torch.Generator | None,
    thinking_budget: int | None,
    tokenizer: Tokenizer | None,
    early_stop: str,
) -> list[_Row]:
    check_request(model, prompts, max_new_tokens, thinking_budget)
    budget = _budget(tokenizer, thinking_budget, early_stop)
    generator = generator or torch.Generator().manual_seed(0)
    context = model.config.max_position_embeddings
    rows = []
    for i, prompt in enumerate(prompts):
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator().manual_seed(seed)
        room = min(max_new_tokens, context - len(prompt))
        rows.append(_Row(i, list(prompt), own, room, budget, stop_ids))
    return rows


def _run(
    model: Qwen3,
    rows: list[_Row],
    sampling: Sampling,
    tokenizer: Tokenizer | None,
    cache: KVCache | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (row index, id) for rows that run together: left-padded, one cache; finished rows leave
    the tensors when half are finished."""
    num_token_ids = model.config.num_token_ids
    if tokenizer is not None:  # it knows which rows of the embedding have a text
        num_token_ids = min(num_token_ids, tokenizer.num_ids)
    longest = max(len(row.prompt) for row in rows)
    length = longest + max(row.room for row in rows)
    known = 0 if cache is None else cache.keep(rows[0].prompt, strict=True)
    if cache is None:
        cache = KVCache(model.config, len(rows), length, model.dtype, model.device)
    pads = [longest - len(row.prompt) for row in rows]
    ids = [([0] * pad + row.prompt)[known:] for pad, row in zip(pads, rows, strict=True)]
    mask = [([0] * pad + [1] * len(row.prompt))[known:] for pad, row in zip(pads, rows, strict=True)]
    while True:
        logits = model(
            torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            cache=cache,
            logits_to_keep=1,
        )[:, -1]
        alive = [i for i, row in enumerate(rows) if not row.reply.ended]
        p = probabilities(
            logits[alive],
            sampling,
            [rows[i].reply for i in alive],
            [rows[i].prompt for i in alive],
            num_token_ids,
        )
        greedy = sampling.temperature == 0
        drawn = p.argmax(-1).tolist() if greedy else draw(p, [rows[i].generator for i in alive])
        for i, token in zip(alive, drawn, strict=True):
            yield rows[i].index, rows[i].take(token)
        running = [i for i, row in enumerate(rows) if not row.reply.ended]
        if not running:
            return
        if 2 * len(running) <= len(rows):
            rows = [rows[i] for i in running]
            cache = cache.select(running)
        ids = [[row.reply[-1]] for row in rows]
        mask = [[0 if row.reply.ended else 1] for row in rows]
