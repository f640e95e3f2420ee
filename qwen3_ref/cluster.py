"""What a step of training holds on each card and sends to others, on any mesh of cards; and which meshes
fit: by counting alone.

A mesh has four sizes, whose product is the number of ranks (one a card):

  dp    copies of the model, each with rows of its own; gradients are averaged
  fsdp  ranks with rows of their own that share one copy: each keeps a slice of every weight and gathers
        a block when its turn comes
  ep    ranks with rows of their own that share the experts: tokens travel to them by all-to-all
  tp    ranks with the same rows that share every matrix: columns, rows, heads, vocabulary

To everything but the experts a rank of `ep` is one more rank of `fsdp` (or, where fsdp is 1, of `dp`).
Sizes are those of the room `parallel`, which is PyTorch's own engine; of what an engine adds (buffers,
fragments) `memory.USABLE` leaves room. GB is 10^9 bytes.

Sources: arXiv 1910.02054 (ZeRO), 1909.08053 (tensor parallelism), 2205.05198 (activations), 2304.11277
(FSDP), 2006.16668 (experts by all-to-all); a ring's bytes: 2(w-1)/w of a tensor for an all-reduce.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qwen3_ref.arrays import require_whole
from qwen3_ref.config import Qwen3Config
from qwen3_ref.memory import USABLE, Card, activation_bytes, card, kv_bytes, tokens_per_second, weight_bytes
from qwen3_ref.store.errors import meant, quoted

NODE = 8
"""Cards of a machine, between which links are quick: those of tensor parallelism stay within one."""
NETWORK = 50e9
"""Bytes a second that a card sends to another machine: 400 Gbit/s, as a DGX H100 has for each card."""
SIZES: Mapping[str, int] = {"bf16": 2, "fp32": 4}
"""Bytes of what is multiplied. Master weights, summed gradients and AdamW's two states have 4 each."""
MOST_RANKS = 100_000
_KINDS = {
    "vocabulary": r"embed_tokens|lm_head",
    "heads": r"[qo]_proj",
    "kv": r"[kv]_proj",
    "experts": r"experts\.",
    "forward": r"(gate|up|down)_proj",
    "whole": r"",
}
"""Kinds of tensors by what splits them, the first pattern that is found; `whole` are norms and routers."""


@dataclass(frozen=True)
class Mesh:
    """How many ranks share what: see the file's words. Raises ValueError for a size below 1."""

    dp: int = 1
    fsdp: int = 1
    ep: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for name in ("dp", "fsdp", "ep", "tp"):
            require_whole(name, getattr(self, name), 1)

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.dp * self.fsdp * self.ep * self.tp

    @property
    def data(self) -> int:
        """Groups of ranks that have rows of their own."""
        return self.ranks // self.tp

    @property
    def shards(self) -> int:
        """Slices of everything but the experts."""
        return self.fsdp * self.ep if self.fsdp > 1 else 1

    @property
    def copies(self) -> int:
        """Ranks that hold the same slice of everything but the experts, and average its gradient."""
        return self.data // self.shards

    def __str__(self) -> str:
        sizes = {"dp": self.dp, "fsdp": self.fsdp, "ep": self.ep, "tp": self.tp}
        return ",".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "dp=1"

    @classmethod
    def of(cls, text: str) -> Mesh:
        """From "dp=2,tp=2". Raises ValueError that names what is wrong in it."""
        sizes: dict[str, int] = {}
        for part in str(text).split(","):
            name, equals, size = (word.strip() for word in part.partition("="))
            if name not in ("dp", "fsdp", "ep", "tp"):
                hint = meant(name, ["dp", "fsdp", "ep", "tp"])
                raise ValueError(f"{quoted(name)} is no size of a mesh; {hint}, as in dp=2,tp=2.")
            if name in sizes:
                raise ValueError(f"{name} stands twice in the mesh {quoted(text)}; give it once.")
            if not equals or not re.fullmatch(r"[1-9]\d{0,5}", size):
                way = "it must be a whole number, as in dp=2"
                raise ValueError(f"{name} is {quoted(size)} in the mesh; {way}.")
            sizes[name] = int(size)
        return cls(**sizes)


@functools.lru_cache(maxsize=64)
def _counted(text: str) -> tuple[Mapping[str, tuple[int, int]], int, int]:
    c = Qwen3Config.from_dict(json.loads(text))
    total: Counter[str] = Counter()
    of_block: dict[str, Counter[str]] = {}
    for name, shape in c.tensor_shapes().items():
        kind = next(kind for kind, pattern in _KINDS.items() if re.search(pattern, name))
        total[kind] += math.prod(shape)
        if name.startswith("model.layers."):
            of_block.setdefault(name.split(".")[2], Counter())[kind] += math.prod(shape)
    largest = max(of_block.values(), key=lambda counts: sum(counts.values()))
    first = c.flops_per_token(0)
    return {kind: (total[kind], largest[kind]) for kind in _KINDS}, first, c.flops_per_token(1) - first


def parameters(config: Qwen3Config) -> Mapping[str, tuple[int, int]]:
    """By kind of tensor: parameters of the model, and of its largest block."""
    return _counted(json.dumps(config.to_dict()))[0]


def forward_flops(config: Qwen3Config, tokens: int) -> int:
    """Operations of a forward pass over a row of so many tokens, each of which sees those before it and
    itself."""
    _, first, each = _counted(json.dumps(config.to_dict()))
    return tokens * first + each * tokens * (tokens + 1) // 2


def problem(config: Qwen3Config, mesh: Mesh) -> str | None:
    """Why a model cannot be split so, in one sentence that names both sizes, or None."""
    c, tp = config, mesh.tp
    widths = {"num_attention_heads": c.num_attention_heads, "vocab_size": c.vocab_size}
    if not all(map(c.is_sparse_layer, range(c.num_hidden_layers))):
        widths["intermediate_size"] = c.intermediate_size
    if c.is_moe:
        assert c.moe_intermediate_size and c.num_experts
        widths["moe_intermediate_size"] = c.moe_intermediate_size
        if c.num_experts % mesh.ep:
            return f"num_experts is {c.num_experts}, which ep={mesh.ep} does not divide; experts stay whole."
    elif mesh.ep > 1:
        return f"ep={mesh.ep} splits experts, and this model has none; use fsdp or dp."
    for name, size in widths.items():
        if size % tp:
            most = "heads stay whole" if name == "num_attention_heads" else "each rank takes the same share"
            return f"{name} is {size:,}, which tp={tp} does not divide; {most}."
    g = c.num_key_value_heads
    if g % tp and tp % g:
        return f"num_key_value_heads is {g} and tp={tp}; one must divide the other, since heads stay whole."
    return None


def _require(config: Qwen3Config, mesh: Mesh, precision: str) -> None:
    if precision not in SIZES:
        raise ValueError(f"the precision is {quoted(precision)}; {meant(str(precision), list(SIZES))}.")
    if reason := problem(config, mesh):
        raise ValueError(f"the mesh {mesh} does not fit: {reason}")


def local(config: Qwen3Config, mesh: Mesh, one_kv_head: bool = False) -> tuple[int, int, int, int]:
    """Parameters that a rank works with, before FSDP slices them: of all that is not experts, of experts;
    the same of the largest block. Where there are fewer KV heads than tp, every rank has k_proj and v_proj
    whole, as `parallel` trains them, or with one_kv_head the one that its query heads read, as engines do
    that serve."""
    of_rank = {"vocabulary": mesh.tp, "heads": mesh.tp, "forward": mesh.tp, "whole": 1}
    copied = mesh.tp > config.num_key_value_heads
    few = config.num_key_value_heads if one_kv_head else 1
    of_rank |= {"kv": few if copied else mesh.tp, "experts": mesh.tp * mesh.ep}
    found = parameters(config)
    rest, block = (
        sum(found[kind][i] // by for kind, by in of_rank.items() if kind != "experts") for i in (0, 1)
    )
    experts, of_block = (found["experts"][i] // of_rank["experts"] for i in (0, 1))
    return rest, experts, block, of_block


@dataclass(frozen=True)
class Held:
    """Bytes on each card in a step of training, at its fullest."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    """What is whole for a moment: slices put together, or copies in 16 bits if these multiply."""
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def block_activations(config: Qwen3Config, mesh: Mesh, precision: str = "bf16") -> int:
    """Bytes that the backward pass of a block needs of its forward pass, for each token.

    What autograd keeps of this model (counted in tests/test_cluster.py): of each RMSNorm the stream in
    float32, its direction, and the output; of queries and keys the same and what attention reads; values;
    attention's output, as it is and as o_proj reads it, and its log-sum; of the feed-forward gate,
    silu(gate), up and their product. Scores are never formed. With experts a token's row stands there for
    each that it chose: before, after, and weighed; and on its way to them and back. Without sequence
    parallelism the stream is whole on every rank of tp.
    """
    c, s, tp = config, SIZES[precision], mesh.tp
    h, g = c.num_attention_heads // tp, max(1, c.num_key_value_heads // tp)
    norm = 4 + 2 * s  # in float32 for its square, as direction, and times the gain; in fp32 the first is x
    total = 2 * norm * c.hidden_size + (norm + 2 * s) * h * c.head_dim + (norm + s) * g * c.head_dim
    total += 4 * (2 + 2 * h + g)  # roots of the norms, attention's log-sums
    if not c.is_moe:
        return total + 4 * s * c.intermediate_size // tp
    assert c.num_experts and c.num_experts_per_tok and c.moe_intermediate_size
    row = (3 if mesh.ep == 1 else 5) * c.hidden_size + 4 * c.moe_intermediate_size // tp
    return total + c.num_experts_per_tok * (s * (row + 1) + 20) + 12 * c.num_experts + 4


def held(
    config: Qwen3Config,
    mesh: Mesh,
    tokens: int,
    *,
    rows: int = 1,
    precision: str = "bf16",
    checkpointing: bool = False,
) -> Held:
    """Bytes a card holds when each group of ranks with the same rows has `rows` of `tokens` tokens.

    Training with AdamW: 4 bytes for a weight, its gradient and each of two states. checkpointing: of a
    block only its input is kept, and the rest computed once more. FSDP has two blocks gathered at a time
    (one computes, the next arrives), gradients of one twice (as computed, and in float32 to be summed), and
    embedding, head and their gradient all the time.
    Raises ValueError for sizes that do not divide, and for another precision.
    """
    _require(config, mesh, precision)
    tokens = require_whole("tokens", tokens, 1) * require_whole("rows", rows, 1)
    s, c = SIZES[precision], config
    rest, experts, block, of_block = local(c, mesh)
    kept = math.ceil(rest / mesh.shards) + math.ceil(experts / mesh.fsdp)
    gathered = 0
    if mesh.fsdp > 1 or s == 2:
        root = parameters(c)["vocabulary"][0] // mesh.tp + c.hidden_size
        gathered = 2 * s * root + (3 * s + 4) * (block + of_block)
    layer = block_activations(c, mesh, precision)
    # Logits, their log-probabilities and gradient in float32; in 16 bits as they come out beside them.
    loss = (12 if s == 4 else 10) * c.vocab_size // mesh.tp
    alive = c.num_hidden_layers * layer + loss
    if checkpointing:
        alive = c.num_hidden_layers * s * c.hidden_size + max(layer, loss)
    return Held(4 * kept, 4 * kept, 8 * kept, gathered, tokens * alive)


@dataclass(frozen=True)
class Traffic:
    """What each rank sends in one step for one purpose.

    group: ranks that take part; bytes: sent by each rank, by a ring or, of an all-to-all, directly.
    overlaps: whether others compute meanwhile; far: whether the group reaches beyond one machine.
    """

    what: str
    collective: str
    group: int
    bytes: int
    overlaps: bool
    far: bool


RING: Mapping[str, int] = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2, "all-to-all": 1}
"""How many times (w - 1) / w of the whole tensor each of w ranks sends."""


def sent(collective: str, size: float, ranks: int) -> int:
    """Bytes that each of `ranks` sends in one collective about `size` bytes: the whole tensor of an
    all-gather, reduce-scatter or all-reduce, one rank's rows of an all-to-all. Raises ValueError."""
    if collective not in RING:
        raise ValueError(f"{quoted(collective)} is no collective; {meant(str(collective), list(RING))}.")
    ranks = require_whole("ranks", ranks, 1)
    return round(RING[collective] * size * (ranks - 1) / ranks)


def traffic(
    config: Qwen3Config,
    mesh: Mesh,
    tokens: int,
    *,
    rows: int = 1,
    precision: str = "bf16",
    reduce: str = "fp32",
    checkpointing: bool = False,
) -> list[Traffic]:
    """What each rank sends in a step, purpose by purpose; arguments and errors as `held` has them.

    reduce: the precision in which gradients are summed. Counted are tensors as long as the stream or the
    weights; the loss's three numbers a token and the routers' counts are left out (under 0.1%).
    """
    _require(config, mesh, precision)
    _require(config, mesh, reduce)
    tokens = require_whole("tokens", tokens, 1) * require_whole("rows", rows, 1)
    c, s, m = config, SIZES[precision], mesh
    rest, experts, _, _ = local(c, m)
    root = parameters(c)["vocabulary"][0] // m.tp + c.hidden_size
    found: list[Traffic] = []

    def add(what: str, collective: str, group: int, stride: int, size: float, overlaps: bool) -> None:
        if group > 1 and size:
            far = group * stride > NODE
            found.append(Traffic(what, collective, group, sent(collective, size, group), overlaps, far))

    # The order of ranks: tp innermost, then ep, fsdp, dp.
    stream = s * tokens * c.hidden_size
    passes = 3 if checkpointing else 2  # forward, backward, and forward once more
    add("heads and columns", "all-reduce", m.tp, 1, 2 * passes * c.num_hidden_layers * stream, False)
    add("embedding and head", "all-reduce", m.tp, 1, 2 * stream, False)
    if m.tp > c.num_key_value_heads:
        add("gradients of KV heads", "all-reduce", m.tp, 1, s * parameters(c)["kv"][0], False)
    sparse = sum(map(c.is_sparse_layer, range(c.num_hidden_layers)))
    picks = (c.num_experts_per_tok or 0) * stream * sparse
    add("tokens to experts and back", "all-to-all", m.ep, m.tp, 2 * passes * picks, False)
    if m.fsdp > 1:
        add("weights, forward", "all-gather", m.shards, m.tp, s * rest, True)
        add("weights, backward", "all-gather", m.shards, m.tp, s * (rest - root), True)
        add("gradients", "reduce-scatter", m.shards, m.tp, SIZES[reduce] * rest, True)
        add("experts, forward", "all-gather", m.fsdp, m.tp * m.ep, s * experts, True)
        add("experts, backward", "all-gather", m.fsdp, m.tp * m.ep, s * experts, True)
        add("experts' gradients", "reduce-scatter", m.fsdp, m.tp * m.ep, SIZES[reduce] * experts, True)
    apart = m.tp * (m.fsdp * m.ep if m.fsdp > 1 else 1)
    add("gradients of copies", "all-reduce", m.copies, apart, SIZES[reduce] * rest / m.shards, True)
    of_experts = SIZES[reduce] * experts / m.fsdp
    add("experts' gradients of copies", "all-reduce", m.dp, m.tp * m.ep * m.fsdp, of_experts, True)
    return found


def seconds(
    config: Qwen3Config, mesh: Mesh, tokens: int, on: Card, *, rows: int = 1, checkpointing: bool = False
) -> tuple[float, float, float] | None:
    """The least time of a step in bf16: for arithmetic, for what is sent while others compute, and for what
    all wait for. None where the card's arithmetic or link is not known. A step takes at least the larger of
    the first two, and the third; real ones reach a third to a half of the arithmetic's peak."""
    if on.flops is None or on.link is None:
        return None
    passes = 4 if checkpointing else 3  # a backward pass is two forward
    work = passes * rows * forward_flops(config, tokens) / mesh.tp
    moved = traffic(config, mesh, tokens, rows=rows, checkpointing=checkpointing)
    hidden, waits = (
        sum(t.bytes / (NETWORK if t.far else on.link) for t in moved if t.overlaps == overlaps)
        for overlaps in (True, False)
    )
    return work / on.flops, hidden, waits


# -- plans ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A mesh, what it holds and sends a card, or in `reason` why it does not fit."""

    mesh: Mesh
    checkpointing: bool
    held: Held | None
    traffic: tuple[Traffic, ...]
    seconds: tuple[float, float, float] | None
    tokens: int
    """Of all ranks in a step."""
    reason: str | None

    @property
    def speed(self) -> float:
        """Tokens a second of all cards, at most; 0 where unknown."""
        return 0.0 if self.seconds is None else self.tokens / (max(self.seconds[:2]) + self.seconds[2])


def cluster(text: str) -> tuple[int, Card]:
    """How many of which card, from "64xH100" or "H100". Raises ValueError, with what may have been meant."""
    parts = re.fullmatch(r"\s*(?:(\d{1,9})\s*[xX*]\s*)?(\S+)\s*", str(text))
    if parts is None:
        raise ValueError(f"{quoted(text)} names no cards; give how many of which, as in 64xH100.")
    count = int(parts[1] or 1)
    if not 1 <= count <= MOST_RANKS:
        raise ValueError(f"{count:,} cards cannot be planned; give 1 to {MOST_RANKS:,}, as in 64xH100.")
    return count, card(parts[2])


def meshes(ranks: int, experts: bool) -> Iterator[Mesh]:
    """Every mesh of so many ranks whose tp stays within a machine; without experts ep is 1."""
    divisors = [n for n in range(1, ranks + 1) if ranks % n == 0]
    for tp, ep in itertools.product(divisors, divisors if experts else [1]):
        if tp > NODE or ranks % (tp * ep):
            continue
        for fsdp in divisors:
            if ranks % (tp * ep * fsdp) == 0:
                yield Mesh(ranks // (tp * ep * fsdp), fsdp, ep, tp)


def plan(
    config: Qwen3Config, mesh: Mesh, tokens: int, on: Card, rows: int = 1, checkpointing: bool | None = None
) -> Plan:
    """One mesh judged: without checkpointing if that fits, else with it (or as asked for)."""
    if reason := problem(config, mesh):
        return Plan(mesh, False, None, (), None, 0, reason)
    wanted = [False, True] if checkpointing is None else [checkpointing]
    for again in wanted:
        found = held(config, mesh, tokens, rows=rows, checkpointing=again)
        if found.total <= USABLE * on.memory:
            break
    reason = None
    if found.total > USABLE * on.memory:
        most = {
            "weights, gradients and AdamW's states": found.weights + found.gradients + found.optimizer,
            "blocks that are gathered": found.gathered,
            "activations": found.activations,
        }
        name = max(most, key=lambda key: most[key])
        reason = (
            f"{found.total / 1e9:,.1f} GB a card, and {USABLE * on.memory / 1e9:,.1f} may be used; "
            f"{most[name] / 1e9:,.1f} are {name}."
        )
    moved = tuple(traffic(config, mesh, tokens, rows=rows, checkpointing=again))
    time = seconds(config, mesh, tokens, on, rows=rows, checkpointing=again)
    return Plan(mesh, again, found, moved, time, mesh.data * rows * tokens, reason)


def plans(
    config: Qwen3Config, ranks: int, tokens: int, on: Card, rows: int = 1
) -> tuple[list[Plan], list[Plan]]:
    """Meshes of so many cards that fit, the quickest first, and where that is not known the one that needs
    least; and those that do not fit, the nearest first."""
    judged = [plan(config, mesh, tokens, on, rows) for mesh in meshes(ranks, config.is_moe)]

    def needs(p: Plan) -> float:
        return p.held.total if p.held else math.inf

    fit = sorted((p for p in judged if p.reason is None), key=lambda p: (-p.speed, needs(p)))
    return fit, sorted((p for p in judged if p.reason is not None), key=needs)


@dataclass(frozen=True)
class Serving:
    """One way to serve: weights in `kind`, split over `cards` cards, so many `instances` of it.

    weights, cache, activations: bytes a card, the cache of one text. texts: how many fit at once in an
    instance. speed: tokens a second of one text at most. reason: why it does not work, or None.
    """

    kind: str
    cards: int
    instances: int
    whole_experts: bool
    weights: int
    cache: int
    activations: int
    texts: int
    speed: float
    reason: str | None


def serving(
    config: Qwen3Config, count: int, tokens: int, on: Card, kind: str = "bf16", cache: str = "bf16"
) -> list[Serving]:
    """Ways to serve a model on so many cards with texts of `tokens` tokens, weights in one of
    `memory.FORMATS`: a way for each number of cards that divides `count` and stays within a machine.

    Heads and matrices are split as in training; KV heads and their cache are copied where there are fewer
    than cards. FP8 has blocks of 128 x 128, which are not cut (vLLM issue 17569): where experts are too
    narrow for it they stay whole, each card holding some (expert parallelism).
    """
    c, found = config, []
    for n in (n for n in range(1, min(count, NODE) + 1) if count % n == 0):
        reason = problem(c, Mesh(tp=n))
        width = c.moe_intermediate_size if c.is_moe else c.intermediate_size
        assert width is not None
        cut = kind == "fp8" and width // n % 128 != 0
        whole = cut and c.is_moe and c.num_experts is not None and c.num_experts % n == 0
        if reason is None and cut and not whole:
            reason = f"a rank's {width // n} of {width:,} channels are no multiple of FP8's blocks of 128."
        if reason is not None:
            found.append(Serving(kind, n, count // n, False, 0, 0, 0, 0, 0.0, reason))
            continue
        rest, experts, _, _ = local(c, Mesh(tp=n), one_kv_head=True)
        doubled = 2 * (rest + experts) - 2 * c.num_parameters() / n  # norms, routers, KV heads on each card
        weights = round(weight_bytes(c, kind) / n + doubled)
        text = round(kv_bytes(c, tokens, 1, cache) * max(1, n / c.num_key_value_heads) / n)
        alive = activation_bytes(c, tokens, 1)
        room = USABLE * on.memory - weights - alive
        texts = max(0, int(room // (text + 4 * c.vocab_size)))
        if texts == 0:
            need, most = (weights + alive + text) / 1e9, USABLE * on.memory / 1e9
            reason = f"{need:,.1f} GB a card with one text, and {most:,.1f} may be used."
        speed = tokens_per_second(c, tokens, on, n, kind, cache)
        found.append(Serving(kind, n, count // n, whole, weights, text, alive, texts, speed, reason))
    return found
