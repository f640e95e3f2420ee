"""From logits to tokens: greedy and sampled, batched over uneven prompts, streamed, seeded, drafted, and
with a thinking budget.

Recommended settings: Qwen3 documentation, quickstart, and technical report section 4.6;
generation_config.json of the 2507 and Coder models. Thinking budget: report section 4.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from qwen3_ref.arrays import is_whole, require_list, require_whole
from qwen3_ref.cache import KVCache
from qwen3_ref.decode.budget import Budget, BudgetIds
from qwen3_ref.decode.sampling import Sampling, draw, next_ids, probabilities
from qwen3_ref.decode.speculative import Cycle, Draft, accepts, residual
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import Splitter
from qwen3_ref.tokenizer import Tokenizer

StopIds = int | Collection[int] | Tensor | None

PIECE = 2048
"""Tokens of a prompt that one pass takes, so that a long one costs its cache and the working memory of a
piece: masks and activations of a pass grow with its tokens, and some with its tokens times all so far."""


class Generated(list[int]):
    """The new ids of one reply, that is all a list of them is, and how its parts ended.

    `ended`: "stop" (a stop id came, the last of the list) or "length" (no room left).
    `thinking_ended`: "closed" by the model, "budget", or "stop" or "length" inside the thought; None
    if there was no thought, or no tokenizer to know one by.
    `thinking_tokens`: ids that the model spent inside thoughts, marks and forced ids not counted.
    `forced`: the places in the list of the early-stop text's ids, which were fed instead of sampled.
    `reasoning`: the ids inside of thoughts, forced ones included; `answer`: all others, without the
    marks of thoughts and the stop id.
    `second_thought`: what of the answer the model went on to think behind a closed thought, up to and
    with the last `</think>` there; empty in a well-formed reply. Generation does not intervene, and
    the ids stay in `answer`, so that a strict reader sees what was said; a lenient one drops them:
    `answer[len(second_thought):]`.
    `cycles`: with a draft, what was drafted for each pass of the model, and what became of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended: str | None = None
        self.thinking_ended: str | None = None
        self.thinking_tokens = 0
        self.forced: list[int] = []
        self.reasoning: list[int] = []
        self.answer: list[int] = []
        self.second_thought: list[int] = []
        self.cycles: list[Cycle] = []

    @property
    def forced_tokens(self) -> int:
        """How many ids were fed instead of sampled."""
        return len(self.forced)


@dataclass
class Row:
    """One reply on its way: a machine that takes what was drawn and says which id really follows."""

    index: int
    prompt: list[int]
    generator: torch.Generator
    room: int
    budget: BudgetIds | None = None
    stop_ids: Collection[int] = ()
    reply: Generated = field(default_factory=Generated)
    forced: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        b, turn = self.budget, self.prompt
        opened: list[bool] = []
        if b is not None:  # a template may have opened the thought already, or closed it
            if b.turn in turn:
                turn = turn[len(turn) - turn[::-1].index(b.turn) :]
            opened = [i == b.opening for i in turn if i in (b.opening, b.closing)]
        inside = bool(opened) and opened[-1]
        self.splitter = Splitter(b.marks if b else {}, inside=inside, closed=bool(opened) and not inside)

    def take(self, token: int) -> int:
        """Append the drawn id, or the forced one; returns what was appended."""
        b, reply, splitter = self.budget, self.reply, self.splitter
        spent = b is not None and b.tokens is not None and reply.thinking_tokens >= b.tokens
        if b is not None and spent and splitter.inside and not self.forced and token != b.closing:
            # The drawn id is dropped: it would be one more than the budget.
            self.forced.extend(b.stop_text)
            reply.thinking_ended = "budget"
        forced = bool(self.forced)
        if forced:
            token = self.forced.popleft()
            reply.forced.append(len(reply))
        reply.append(token)
        closed_again, part = splitter.closed_again, splitter.feed(token)
        if part == "reasoning":
            reply.reasoning.append(token)
            reply.thinking_tokens += not forced
        elif part == "mark" and not splitter.inside:
            reply.thinking_ended = reply.thinking_ended or "closed"
        elif part == "answer" and token not in self.stop_ids:
            reply.answer.append(token)
        if splitter.closed_again > closed_again:
            reply.second_thought = list(reply.answer)
        if token in self.stop_ids and not forced:
            reply.ended = "stop"
        elif len(reply) >= self.room:
            reply.ended = "length"
        if reply.ended and splitter.inside:
            reply.thinking_ended = reply.ended
        return token


def require_request(model: Qwen3, prompts: Any, max_new_tokens: object) -> list[list[int]]:
    """The prompts as lists of numbers; lists, arrays and tensors of integers are taken.

    Raises ValueError in one sentence for one flat prompt, what is no integer, an empty or over-long
    prompt, and a bad token count.
    """
    if not all(hasattr(model, name) for name in ("config", "dtype", "device")):
        raise ValueError(
            f"the model is a {type(model).__name__}; give a Qwen3, such as Qwen3.from_pretrained()."
        )
    require_whole("max_new_tokens", max_new_tokens, 1)
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        raise ValueError(
            f"prompts is a {type(prompts).__name__}; give encoding['input_ids'] as a list of prompts."
        )
    single = isinstance(prompts, Tensor | np.ndarray) and prompts.ndim == 0
    if single or isinstance(prompts, str | bytes | Mapping) or not hasattr(prompts, "__iter__"):
        raise ValueError(
            f"prompts is a {type(prompts).__name__}; give a list of prompts, each a list of token ids."
        )
    rows = prompts.tolist() if isinstance(prompts, Tensor | np.ndarray) else list(prompts)
    if rows and all(_is_id(row) for row in rows):
        raise ValueError("prompts is one flat list of ids; give a list of prompts, if need be of one: [ids].")
    room = model.config.context_length
    taken = [require_list(f"prompt {i}", row) for i, row in enumerate(rows)]
    for i, prompt in enumerate(taken):
        if len(prompt) == 0:
            raise ValueError(f"prompt {i} is empty; give it at least one token.")
        if len(prompt) >= room:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens and the model's context is {room}, so nothing "
                f"can follow it; shorten the prompt, or {model.config.way_out_of_context}."
            )
    return taken


def _is_id(value: object) -> bool:
    return is_whole(value) or (isinstance(value, Tensor) and value.ndim == 0)


def _stop_ids(value: StopIds, vocab_size: int) -> frozenset[int]:
    """None, a number, or several of them, as configs have it."""
    if value is None:
        return frozenset()
    single = _is_id(value) or isinstance(value, float)  # which is no id, and is said to be none
    found = frozenset(require_list("stop_ids", [value] if single else value))
    for i in found:
        if not 0 <= i < vocab_size:
            raise ValueError(
                f"stop_ids holds {i}, which cannot come: the model's vocabulary has {vocab_size} rows; "
                f"use the stop_ids of the model's own tokenizer."
            )
    return found


def _generator(value: torch.Generator | None) -> torch.Generator:
    """A CPU generator, with seed 0 if none is given: the draws are made there whatever the device."""
    if value is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(value, torch.Generator):
        raise ValueError(f"generator is a {type(value).__name__}; give torch.Generator().manual_seed(SEED).")
    if value.device.type != "cpu":
        raise ValueError(
            f"the generator is on {value.device}, and ids are drawn on the CPU, so that a seed gives the "
            f"same text on any device; give torch.Generator().manual_seed(SEED)."
        )
    return value


@dataclass(frozen=True)
class _Asked:
    """What `generate` and `stream` both take, and hand on as one: see `generate` for each."""

    max_new_tokens: int
    sampling: Sampling | None
    stop_ids: StopIds
    generator: torch.Generator | None
    thinking_budget: int | Budget | None
    tokenizer: Tokenizer | None
    draft: Draft | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, Sampling | None):
            kind = type(self.sampling).__name__
            raise ValueError(f"sampling is a {kind}; give a Sampling, or None for greedy.")
        if not isinstance(self.tokenizer, Tokenizer | None):
            raise ValueError(
                f"tokenizer is a {type(self.tokenizer).__name__}; give a Tokenizer, such as "
                f"Tokenizer.from_pretrained(directory)."
            )
        if not isinstance(self.draft, Draft | None):
            kind = type(self.draft).__name__
            raise ValueError(f"draft is a {kind}; give a Draft, such as Draft(small_model), or None.")


@dataclass
class _Batch:
    """Rows that may run together: all that `generate` and `stream` were asked for, checked."""

    model: Qwen3
    sampling: Sampling
    absent: Tensor  # ids that no token has: padding rows of the embedding
    rows: list[Row]
    draft: Draft | None = None

    @classmethod
    def of(cls, model: Qwen3, prompts: Any, asked: _Asked) -> _Batch:
        prompts = require_request(model, prompts, asked.max_new_tokens)
        config, generator, tokenizer = model.config, _generator(asked.generator), asked.tokenizer
        if tokenizer is not None and tokenizer.ids[-1] >= config.vocab_size:
            raise ValueError(
                f"the tokenizer has ids up to {tokenizer.ids[-1]} and the model's embedding "
                f"{config.vocab_size} rows; use the model's own tokenizer."
            )
        if asked.draft is not None:
            asked.draft.require_fit(config, tokenizer)
        budget = Budget.of(asked.thinking_budget).on(tokenizer)
        ends = _stop_ids(asked.stop_ids, config.vocab_size)
        absent: Sequence[int] = range(config.num_token_ids, config.vocab_size)
        if tokenizer is not None:
            absent = tokenizer.absent(config.vocab_size)
        rows = []
        for i, prompt in enumerate(prompts):
            seed = int(torch.randint(2**62, (), generator=generator))
            own = torch.Generator().manual_seed(seed)
            room = min(int(asked.max_new_tokens), config.context_length - len(prompt))
            rows.append(Row(i, prompt, own, room, budget, ends))
        sampling = asked.sampling or Sampling.greedy()
        return cls(model, sampling, torch.tensor(absent, dtype=torch.long), rows, asked.draft)

    def replies(self, places: int, cache: Callable[[list[Row]], KVCache]) -> Iterator[tuple[int, int]]:
        """Yield (row index, id); `places` rows run together, in a cache that `cache` makes of rows and that
        may hold a beginning that their prompts share."""
        if self.draft is None:
            yield from self.run(places, cache)
            return
        for row in self.rows:  # of several, each would accept another number
            yield from self.speculate(row, self.draft, cache([row]))

    def cache(self, rows: list[Row]) -> KVCache:
        """A new cache with room for these rows."""
        return KVCache(self.model.config, len(rows), _room(rows), self.model.dtype, self.model.device)

    def next_ids(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """Each row's next id, from its logits (rows, V)."""
        return next_ids(
            logits,
            self.sampling,
            [row.generator for row in rows],
            [row.reply for row in rows],
            [row.prompt for row in rows],
            self.absent,
        )

    def distributions(self, logits: Tensor, row: Row, ahead: Sequence[Sequence[int]]) -> Tensor:
        """What each next id (n, V) of a row is drawn from; `ahead`: n lists of ids that are to stand behind
        its reply first."""
        replies = [[*row.reply, *a] if self.sampling.penalises else a for a in ahead]
        return probabilities(logits, self.sampling, replies, [row.prompt] * len(replies), self.absent)

    @torch.inference_mode()
    def run(self, places: int, cache: Callable[[list[Row]], KVCache]) -> Iterator[tuple[int, int]]:
        """Yield (row index, id): continuous batching. Rows that run share one cache, padded on the left.
        Those that have ended stay in it as padding until half are; then they leave, and as many as there
        are places for come in from those that wait, prefilled together."""
        waiting, running = deque(self.rows), list[Row]()
        held: KVCache | None = None
        while True:
            alive = [i for i, row in enumerate(running) if not row.reply.ended]
            if 2 * len(alive) <= len(running):  # and where none has begun yet
                running = [running[i] for i in alive]
                held = held.select(alive) if held is not None and running else None
                alive = list(range(len(running)))
                if waiting:
                    new = [waiting.popleft() for _ in range(min(places - len(running), len(waiting)))]
                    own = cache(new)
                    yield from self.take(self.prefill(new, own), new)
                    running += new
                    more = max(row.room - len(row.reply) for row in running)
                    held = own if held is None else held.join(own, more)
                    continue
            if held is None:
                return
            ids = torch.tensor([[row.reply[-1]] for row in running], device=self.model.device)
            real = torch.tensor([[not row.reply.ended] for row in running], device=self.model.device)
            logits = feed(self.model, ids, held, real)[:, -1]
            some = logits if len(alive) == len(running) else logits[alive]
            yield from self.take(some, [running[i] for i in alive])

    def prefill(self, rows: list[Row], cache: KVCache) -> Tensor:
        """Logits (rows, V) behind the prompts, of which the cache may hold the beginning."""
        longest, known = max(len(row.prompt) for row in rows), cache.length
        pads = [longest - len(row.prompt) for row in rows]
        ids = [[0] * n + row.prompt[known:] for n, row in zip(pads, rows, strict=True)]
        real = [[False] * n + [True] * (longest - known - n) for n in pads]
        device = self.model.device
        new, mask = torch.tensor(ids, device=device), torch.tensor(real, device=device)
        return feed(self.model, new, cache, mask)[:, -1]

    def take(self, logits: Tensor, rows: list[Row]) -> Iterator[tuple[int, int]]:
        """Yield (row index, id) of each row's next id, from its logits (rows, V)."""
        for row, token in zip(rows, self.next_ids(logits, rows), strict=True):
            yield row.index, row.take(token)

    @torch.inference_mode()
    def speculate(self, row: Row, draft: Draft, cache: KVCache) -> Iterator[tuple[int, int]]:
        """The same for one row, with a draft: each pass of the model judges some drafted ids and yields
        those that it keeps, and one more of its own. `cache` may hold the beginning of the prompt."""
        model, reply, most = self.model, row.reply, len(row.prompt) + row.room
        drafter = draft.begin(most)
        while not reply.ended:
            ids, at = row.prompt + reply, len(reply)
            drafted, rows = drafter.propose(
                ids,
                min(draft.tokens, row.room - at - 1),
                lambda logits, ahead: self.distributions(logits, row, [ahead]),
                row.generator,
            )
            new = torch.tensor([[*ids, *drafted][cache.length :]], device=model.device)
            logits = feed(model, new, cache, keep=len(drafted) + 1)[0]
            ahead = [drafted[:i] for i in range(len(drafted) + 1)]
            p = self.distributions(logits, row, ahead)
            q = torch.stack(rows) if rows else one_hot(torch.tensor(drafted).long(), p.shape[1]).double()
            accepted, refused = 0, False
            for i in range(len(drafted) + 1):
                follows = p[i]
                if i < len(drafted):
                    u = float(torch.rand((), dtype=torch.float64, generator=row.generator))
                    refused = not accepts(p[i], q[i], drafted[i], u)
                    follows = residual(p[i], q[i])
                kept = i < len(drafted) and not refused
                token = drafted[i] if kept else draw(follows[None], [row.generator])[0]
                row.take(token)
                if len(reply.forced) and reply.forced[-1] == len(reply) - 1:
                    break  # the thought had no room for it
                accepted += kept
                if refused or reply.ended:
                    break
            while row.forced and not reply.ended:
                row.take(token)
            reply.cycles.append(Cycle(at, tuple(drafted), accepted, refused))
            true = len(ids) + accepted
            drafter.truncate(true)
            given = 0
            try:
                for token in reply[at:]:
                    given += 1
                    yield row.index, token
            finally:  # whoever leaves in the middle has not seen the rest
                cache.truncate(min(true, len(ids) + given - 1))


def feed(model: Qwen3, ids: Tensor, cache: KVCache, mask: Tensor | None = None, keep: int = 1) -> Tensor:
    """Logits of the last `keep` positions (b, keep, V) of new ids and their mask (b, t), in passes of PIECE
    tokens at most. The short one comes first, where rows are padded, and the last has all to keep."""
    t, piece, start = ids.shape[1], max(PIECE, keep), 0
    for stop in range((t - 1) % piece + 1, t + 1, piece):
        some: dict[str, Tensor] = {} if mask is None else {"attention_mask": mask[:, start:stop]}
        kept = keep if stop == t else 1
        logits = model(ids[:, start:stop], cache=cache, logits_to_keep=kept, **some)
        start = stop
    return logits


def generate(
    model: Qwen3,
    prompts: Sequence[Sequence[int]] | Tensor,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: StopIds = (),
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    on_token: Callable[[int, int], None] | None = None,
    thinking_budget: int | Budget | None = None,
    tokenizer: Tokenizer | None = None,
    draft: Draft | None = None,
    cache: KVCache | None = None,
) -> list[Generated]:
    """Continue each prompt; returns the new ids of each, a stop id (if one came) included.

    prompts: lists, arrays or tensors of ids. sampling: greedy if absent. stop_ids: a row ends after any
    of these (one number, several, or None). on_token(row, id) is called for each new token as it comes;
    `row` is the place among all prompts. batch_size: how many prompts run at once (all, if absent); when
    half of them have ended, the next ones take their places.
    generator: a CPU torch.Generator (seed 0 if absent). Each row gets a seed of its own from it, in
    the order of the prompts, so a row's text does not depend on batch_size or on its neighbours.
    A reply ends at the config's `context_length` even when max_new_tokens is larger.

    thinking_budget: how many ids the model may spend between `<think>` and `</think>` (line ends
    count, the marks do not), as a number or a `Budget` with a text of its own. When it wants one more,
    the early-stop text is fed through the cache instead and the answer follows; a thought of exactly so
    many ids closes by itself. 0 cuts the thought as it opens. It bounds, and promises nothing: a thought
    may end earlier, or max_new_tokens, to which forced ids count too, may come first; and a model may
    think on behind the closing mark, without a new opening one, which is answer to the budget (see
    `Generated.second_thought`). A prompt whose thought is closed (non-thinking mode) is not affected.
    `tokenizer` tells the marks; with it alone, parts are told apart and nothing is cut. Ids that it has
    no text for (padding rows of the embedding, gaps between added tokens) are never drawn.

    draft: speculative decoding, see `Draft`. What is said has the same distribution, and greedy is the
    same text (but where two logits are so close that the rounding of another batch shape decides); each
    pass of the model may yield several ids, and `Generated.cycles` says how many. Penalties and filters
    are applied to the draft's distribution too. Rows run one after another.
    cache: one of batch 1. What the prompts have in common at their beginning (a system message; all but
    the last id, where they are one prompt several times) is computed once, in it, and only as far as it
    is not there yet; each row goes on from a copy. It is left holding that common beginning.

    Raises ValueError for an empty or over-long prompt, arguments of the wrong kind, a budget for a
    tokenizer without think tokens, or logits that hold NaN or infinity.
    """
    if on_token is not None and not callable(on_token):
        raise ValueError(f"on_token is a {type(on_token).__name__}; give a function of a row and an id.")
    if batch_size is not None:
        batch_size = require_whole("batch_size", batch_size, 1, ", or None for all at once")
    asked = _Asked(max_new_tokens, sampling, stop_ids, generator, thinking_budget, tokenizer, draft)
    batch = _Batch.of(model, prompts, asked)
    rows = batch.rows
    shared = cache
    if shared is not None and rows:
        _share(model, shared, [row.prompt for row in rows])

    def own(some: list[Row]) -> KVCache:
        if shared is None:
            return batch.cache(some)
        copied = shared.select([0] * len(some))
        copied.reserve(_room(some))
        return copied

    for row, token in batch.replies(batch_size or max(len(rows), 1), own):
        if on_token is not None:
            on_token(row, token)
    return [row.reply for row in rows]


def stream(
    model: Qwen3,
    prompt: Sequence[int] | Tensor,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop_ids: StopIds = (),
    generator: torch.Generator | None = None,
    thinking_budget: int | Budget | None = None,
    tokenizer: Tokenizer | None = None,
    draft: Draft | None = None,
    cache: KVCache | None = None,
) -> Iterator[int]:
    """The ids that `generate` gives for one prompt, each as soon as it is known.

    cache: one of batch 1 that may hold the beginning of the prompt already (from the turn before), or
    all of it and a reply (the same prompt again); only the rest is computed, at least one token.
    Afterwards it holds the prompt and all of the reply but its last id. Raises ValueError as `generate`
    does (at the call, but for the logits), and for a cache that holds another text.
    """
    asked = _Asked(max_new_tokens, sampling, stop_ids, generator, thinking_budget, tokenizer, draft)
    batch = _Batch.of(model, [prompt], asked)
    if cache is not None:
        _require_cache(cache)
        row = batch.rows[0]
        cache.keep(row.prompt, strict=True)
        cache.reserve(len(row.prompt) + row.room - 1)
    given = cache
    return (token for _, token in batch.replies(1, batch.cache if given is None else lambda _: given))


def _room(rows: list[Row]) -> int:
    """Columns that rows need whose prompts are padded to end together."""
    return max(len(row.prompt) for row in rows) + max(row.room for row in rows)


def _require_cache(cache: object) -> None:
    if not hasattr(cache, "reserve"):
        raise ValueError(f"the cache is a {type(cache).__name__}; give a KVCache of the model's config.")


@torch.inference_mode()
def _share(model: Qwen3, cache: KVCache, prompts: list[list[int]]) -> None:
    """Bring a cache to hold what all prompts begin with, and no more; each keeps an id to go on from."""
    _require_cache(cache)
    first, most = prompts[0], min(map(len, prompts)) - 1
    common = next((i for i in range(most) if any(p[i] != first[i] for p in prompts)), most)
    known = cache.keep(first[: common + 1])
    cache.reserve(common)
    if new := first[known:common]:
        feed(model, torch.tensor([new], device=model.device), cache)
