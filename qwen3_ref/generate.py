"""From logits to tokens: greedy and sampled, batched over uneven prompts, streamed, seeded, and with
a thinking budget.

Recommended settings: Qwen3 documentation, quickstart, and technical report section 4.6;
generation_config.json of the 2507 and Coder models. Thinking budget: report section 4.3.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwen3_ref.model import KVCache, Qwen3
from qwen3_ref.tokenizer import Tokenizer

EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n</think>\n\n"
)
"""What ends a thought when its budget is spent, 24 ids of the official vocabulary: the sentence of the
technical report (section 4.3) as the official documentation's budget example writes it, with a blank
line before it and, unlike the report's print, no full stop after `</think>`."""
NANO_EARLY_STOP = "\n</think>\n\n"
"""The same for the nano family, 3 ids: how its thoughts end in training, and no sentence, of which
every word would be new to it."""


def early_stop_for(model: Qwen3) -> str:
    """NANO_EARLY_STOP for a model of less than 100 million parameters, else the official EARLY_STOP."""
    return NANO_EARLY_STOP if model.config.num_parameters() < 10**8 else EARLY_STOP


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Filters apply in this order: penalties, temperature, top_k,
    top_p, min_p (transformers' order). temperature 0 is greedy and ignores the filters.

    presence_penalty is subtracted once from every token already generated; repetition_penalty
    divides the positive (multiplies the negative) logits of every token in prompt or reply.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        rules = {
            "temperature": (0 <= self.temperature < math.inf, "0 (greedy) or more, and finite"),
            "top_k": (self.top_k is None or self.top_k >= 1, "None (off) or at least 1"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0 (1 is off), and finite"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "between -2 and 2 (0 is off)"),
        }
        for name, (good, allowed) in rules.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}.")

    @classmethod
    def greedy(cls) -> Sampling:
        """Always the most probable token. Qwen3's thinking mode tends to loop with it."""
        return cls(temperature=0.0)

    @classmethod
    def thinking(cls) -> Sampling:
        """Official setting for thinking mode (2504 hybrids and Thinking-2507)."""
        return cls(temperature=0.6, top_p=0.95, top_k=20)

    @classmethod
    def non_thinking(cls) -> Sampling:
        """Official setting for non-thinking mode (2504 hybrids and Instruct-2507)."""
        return cls(temperature=0.7, top_p=0.8, top_k=20)

    @classmethod
    def coder(cls) -> Sampling:
        """Official setting of Qwen3-Coder (generation_config.json)."""
        return cls(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)


def probabilities(
    logits: Tensor,
    sampling: Sampling,
    generated: Sequence[Sequence[int]] = (),
    prompts: Sequence[Sequence[int]] = (),
    num_token_ids: int | None = None,
) -> Tensor:
    """The distributions (b, V) that the next tokens are drawn from, float64; logits (b, V).

    `generated` and `prompts`, one row each, feed the penalties. `num_token_ids`: ids from here on
    are padding rows of the embedding and get probability 0. Raises ValueError if the logits hold NaN.
    """
    x = logits.detach().cpu().double()
    if x.isnan().any():
        raise ValueError("the logits hold NaN; check the weights, or run in float32.")
    if sampling.repetition_penalty != 1.0:
        for row, prompt, reply in zip(x, prompts, generated, strict=True):
            seen = torch.tensor(sorted({*prompt, *reply}), dtype=torch.long)
            divided, times = row[seen] / sampling.repetition_penalty, row[seen] * sampling.repetition_penalty
            row[seen] = torch.where(row[seen] > 0, divided, times)
    if sampling.presence_penalty:
        for row, reply in zip(x, generated, strict=True):
            row[torch.tensor(sorted(set(reply)), dtype=torch.long)] -= sampling.presence_penalty
    if num_token_ids is not None:
        x[:, num_token_ids:] = float("-inf")
    if sampling.temperature == 0:
        return torch.zeros_like(x).scatter(1, x.argmax(dim=-1, keepdim=True), 1.0)
    x = x / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < x.shape[-1]:
        x = x.masked_fill(x < x.topk(sampling.top_k, dim=-1).values[:, -1:], float("-inf"))
    if sampling.top_p < 1:
        ordered, index = x.softmax(-1).sort(dim=-1, descending=True, stable=True)
        # Keep the token that crosses top_p: drop those with top_p already reached before them.
        drop = ordered.cumsum(-1) - ordered >= sampling.top_p
        x = x.masked_fill(torch.zeros_like(drop).scatter(1, index, drop), float("-inf"))
    p = x.softmax(-1)
    if sampling.min_p:
        p = p.masked_fill(p < sampling.min_p * p.amax(dim=-1, keepdim=True), 0.0)
    return p / p.sum(dim=-1, keepdim=True)


def draw(p: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """One token id a row from p (b, V): a uniform number of the row's own generator through the
    inverse of the running sum."""
    u = torch.stack([torch.rand(1, dtype=torch.float64, generator=g) for g in generators])
    total = p.cumsum(-1)
    # u * total[-1] < total[-1], and "right" steps over zero-probability ids at the boundary.
    ids: list[int] = torch.searchsorted(total, u * total[:, -1:], right=True)[:, 0].tolist()
    return ids


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
class _Budget:
    """The ids that a thinking budget needs, and the budget itself (None: count only)."""

    opening: int
    closing: int
    stop_text: list[int]
    tokens: int | None


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


def _budget(tokenizer: Tokenizer | None, tokens: int | None, text: str) -> _Budget | None:
    if tokenizer is None:
        if tokens is not None:
            raise ValueError("thinking_budget needs the tokenizer, to know <think>; pass tokenizer=.")
        return None
    marks = [tokenizer.control_tokens.get(mark) for mark in ("<think>", "</think>")]
    if marks[0] is None or marks[1] is None:
        if tokens is not None:
            raise ValueError(
                "this tokenizer has no <think> and </think> tokens, so its model cannot have a "
                "thinking_budget; leave it out."
            )
        return None
    stop_text = tokenizer.encode(text, allow_control_tokens=True)
    if tokens is not None and stop_text.count(marks[1]) != 1:
        raise ValueError(f"early_stop is {text!r}; it must close the thought with one </think>.")
    return _Budget(marks[0], marks[1], stop_text, tokens)


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

    cache: one of batch 1 that may hold the beginning of the prompt already (from the turn before);
    only the rest is computed. Afterwards it holds the prompt and all of the reply but its last id.
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
    embedding, num_token_ids = model.model.embed_tokens.weight, model.config.num_token_ids
    if tokenizer is not None:  # it knows which rows of the embedding have a text
        num_token_ids = min(num_token_ids, tokenizer.num_ids)
    longest = max(len(row.prompt) for row in rows)
    length = longest + max(row.room for row in rows)
    known = 0 if cache is None else cache.length
    if cache is None:
        cache = KVCache(model.config, len(rows), length, embedding.dtype, embedding.device)
    pads = [longest - len(row.prompt) for row in rows]
    ids = [([0] * pad + row.prompt)[known:] for pad, row in zip(pads, rows, strict=True)]
    mask = [([0] * pad + [1] * len(row.prompt))[known:] for pad, row in zip(pads, rows, strict=True)]
    while True:
        logits = model(
            torch.tensor(ids, device=embedding.device),
            attention_mask=torch.tensor(mask, device=embedding.device),
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
