"""From logits to tokens: greedy and sampled, batched over uneven prompts, streamed, seeded.

Recommended settings: Qwen3 documentation, quickstart, and technical report section 4.6;
generation_config.json of the 2507 and Coder models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_ref.model import KVCache, Qwen3


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
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "None (off) or at least 1"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0 (1 is off)"),
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
    generated: Sequence[int] = (),
    prompt: Sequence[int] = (),
    num_token_ids: int | None = None,
) -> Tensor:
    """The distribution (V,) that the next token is drawn from, float64; logits (V,).

    `num_token_ids`: ids from here on are padding rows of the embedding and get probability 0.
    Raises ValueError if the logits hold NaN.
    """
    x = logits.detach().cpu().double()
    if x.isnan().any():
        raise ValueError("the logits hold NaN; check the weights, or run in float32.")
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *generated}), dtype=torch.long)
        x[seen] = torch.where(
            x[seen] > 0, x[seen] / sampling.repetition_penalty, x[seen] * sampling.repetition_penalty
        )
    if sampling.presence_penalty and generated:
        x[torch.tensor(sorted(set(generated)))] -= sampling.presence_penalty
    if num_token_ids is not None:
        x[num_token_ids:] = float("-inf")
    if sampling.temperature == 0:
        return torch.zeros_like(x).index_fill(0, x.argmax(), 1.0)
    x = x / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < x.numel():
        x = x.masked_fill(x < x.topk(sampling.top_k).values[-1], float("-inf"))
    if sampling.top_p < 1:
        ordered, index = x.softmax(-1).sort(descending=True, stable=True)
        # Keep the token that crosses top_p: drop those with top_p already reached before them.
        x[index[ordered.cumsum(-1) - ordered >= sampling.top_p]] = float("-inf")
    p = x.softmax(-1)
    if sampling.min_p:
        p = p.masked_fill(p < sampling.min_p * p.max(), 0.0)
    return p / p.sum()


def draw(p: Tensor, generator: torch.Generator) -> int:
    """One token id from p (V,), by one uniform number through the inverse of the running sum."""
    u = torch.rand((), dtype=torch.float64, generator=generator)
    total = p.cumsum(-1)
    # u * total[-1] < total[-1], and "right" steps over zero-probability ids at the boundary.
    return int(torch.searchsorted(total, u * total[-1], right=True))


def check_request(model: Qwen3, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise ValueError in one sentence for an empty or over-long prompt or a bad token count."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
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
) -> list[list[int]]:
    """Continue each prompt; returns the new ids of each, a stop id (if one came) included.

    sampling: greedy if absent. stop_ids: a row ends after any of these. on_token(row, id) is called
    for each new token as it comes. batch_size: how many prompts run at once (all, if absent).
    generator: a CPU torch.Generator (seed 0 if absent). Each row gets a seed of its own from it, in
    the order of the prompts, so a row's text does not depend on batch_size or on its neighbours.
    A reply ends at the model's max_position_embeddings even when max_new_tokens is larger.
    Raises ValueError for an empty or over-long prompt, or NaN logits.
    """
    check_request(model, prompts, max_new_tokens)
    sampling = sampling or Sampling.greedy()
    generator = generator or torch.Generator().manual_seed(0)
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in prompts]
    replies: list[list[int]] = [[] for _ in prompts]
    step = batch_size or max(len(prompts), 1)
    for first in range(0, len(prompts), step):
        rows = range(first, min(first + step, len(prompts)))
        batch = [list(prompts[i]) for i in rows]
        for row, token in _batch(
            model, batch, [seeds[i] for i in rows], max_new_tokens, sampling, stop_ids
        ):
            replies[first + row].append(token)
            if on_token is not None:
                on_token(first + row, token)
    return replies


@torch.inference_mode()
def stream(
    model: Qwen3,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The ids that `generate` gives for one prompt, each as soon as it is known."""
    check_request(model, [prompt], max_new_tokens)
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**62, (), generator=generator))
    sampling = sampling or Sampling.greedy()
    for _, token in _batch(model, [list(prompt)], [seed], max_new_tokens, sampling, stop_ids):
        yield token


def _batch(
    model: Qwen3,
    prompts: list[list[int]],
    seeds: list[int],
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int],
) -> Iterator[tuple[int, int]]:
    """Yield (row, id) for prompts that run together: left-padded, one cache, finished rows dropped
    from the sampling but not from the tensor."""
    config, device = model.config, model.model.embed_tokens.weight.device
    longest = max(map(len, prompts))
    limits = [min(max_new_tokens, config.max_position_embeddings - len(p)) for p in prompts]
    cache = KVCache(
        config, len(prompts), longest + max(limits), model.model.embed_tokens.weight.dtype, device
    )
    padded = [[0] * (longest - len(p)) + p for p in prompts]
    ids = torch.tensor(padded, device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replies: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    while running:
        logits = model(ids, attention_mask=mask, cache=cache, logits_to_keep=1)[:, -1]
        new = [0] * len(prompts)
        was_running = sorted(running)
        for row in was_running:
            p = probabilities(
                logits[row], sampling, replies[row], prompts[row], config.num_token_ids
            )
            new[row] = draw(p, generators[row]) if sampling.temperature else int(p.argmax())
            replies[row].append(new[row])
            yield row, new[row]
            if new[row] in stop_ids or len(replies[row]) >= limits[row]:
                running.discard(row)
        ids = torch.tensor(new, device=device)[:, None]
        mask = torch.tensor([[int(row in running)] for row in range(len(prompts))], device=device)
