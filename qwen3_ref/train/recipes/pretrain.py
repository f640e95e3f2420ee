"""Pre-training in three stages, as the technical report describes them (section 3.2), 1/32 as long.

- S1, general: context 256 (4,096 in the report)
- S2, reasoning: more mathematics, code and solved problems; the learning rate falls faster
- S3, long context: context 1,024, RoPE base raised from 10,000 to 1,000,000 (ABF), and text of which
  75% is in documents of 512 to 1,024 tokens and 25% in documents of 128 to 512 (the report: 16,384 to
  32,768 and 4,096 to 16,384)

Documents are packed one after another, each closed by <|endoftext|>, and rows are cut from that
stream wherever it falls. Attention is not stopped at the boundaries: the model has to learn from the
token that what stands before it is another document. (The report does not say how Qwen3 did it.)
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.context import stretch
from qwen3_ref.context.stretch import Method
from qwen3_ref.model import Qwen3
from qwen3_ref.store.progress import progress
from qwen3_ref.tasks.documents import look_up_document
from qwen3_ref.tasks.problems import make_problems
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import DOMAINS, VOCAB_SIZE, Corpus, held_out
from qwen3_ref.train.loop import Plan, StepLoss, cross_entropy, on_ranks

Streams = dict[str, Tensor]

SHORT, LONG = (128, 512), (512, 1024)
"""Lengths of documents in S3, in tokens."""


@dataclass(frozen=True)
class Mix:
    """What one stage trains on: rows of `context` tokens, `rows` a step, domains by weight."""

    context: int
    rows: int
    mixture: Mapping[str, float]
    plan: Plan
    rope_theta: float = 10_000.0
    long_share: float | None = None
    """The share of rows made of LONG documents, the rest being made of SHORT ones; None packs the
    documents as they are."""


MIXES = {
    "s1": Mix(
        context=256,
        rows=16,
        mixture={"code": 0.25, "language": 0.25, "maths": 0.35, "reasoning": 0.15},
        plan=Plan(steps=800, learning_rate=3e-3, warmup=30, floor=0.6),
    ),
    "s2": Mix(
        context=256,
        rows=16,
        mixture={"code": 0.1, "language": 0.05, "maths": 0.425, "reasoning": 0.425},
        plan=Plan(steps=4200, learning_rate=2e-3, warmup=10, floor=0.1),
    ),
    "s3": Mix(
        context=1024,
        rows=4,
        mixture={"code": 0.2, "language": 0.1, "maths": 0.4, "reasoning": 0.3},
        plan=Plan(steps=200, learning_rate=8e-4, warmup=10, floor=0.2),
        rope_theta=1_000_000.0,
        long_share=0.75,
    ),
}
MIXES["s3-no-abf"] = replace(MIXES["s3"], rope_theta=10_000.0)


def nano_config(**changes: object) -> Qwen3Config:
    """qwen3-nano: 1.15 M parameters. As in Qwen3-0.6B, hidden_size / heads is not head_dim, and the
    context (1,280) is the S3 length (1,024) and room for a reply (the report: 32,768 and 8,192).

    Heads of 64 channels are what every engine's kernels take, and rows of whole 32s what 8-bit and 4-bit
    blocks take.
    """
    base = Qwen3Config(
        model_type="qwen3",
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        rope_theta=10_000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        max_position_embeddings=1280,
        initializer_range=0.06,  # 0.02 is for layers ten times as wide, and learns more slowly here
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def moe_config(**changes: object) -> Qwen3Config:
    """qwen3-nano-moe: the dense nano with each feed-forward layer made of 16 small experts, 2 a token.
    2.14 M parameters (4.3 MB in bfloat16), of which 0.76 M work on a token."""
    sparse: dict[str, object] = {
        "model_type": "qwen3_moe",
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    }
    return nano_config(**(sparse | changes))


def student_config() -> Qwen3Config:
    """qwen3-nano-student: 0.46 M parameters, three layers, the same tokenizer and context."""
    return nano_config(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )


def with_rope_theta(model: Qwen3, rope_theta: float) -> Qwen3:
    """The same weights under another RoPE base: all that ABF changes."""
    return with_config(model, replace(model.config, rope_theta=rope_theta))


def with_config(model: Qwen3, config: Qwen3Config) -> Qwen3:
    """The same weights (shared, not copied) under another config of the same shapes."""
    changed = Qwen3(config, device="meta")
    changed.load_state_dict(model.state_dict(), assign=True)
    return changed


def stretched(model: Qwen3, method: Method, factor: float, original: int | None = None) -> Qwen3:
    """The same weights, made to read `factor` times the `original` length (of S3, if absent) without
    further training: `context.stretch.stretched`."""
    original = MIXES["s3"].context if original is None else original
    return with_config(model, stretch.stretched(model.config, method, factor, original))


def pack(tokenizer: Tokenizer, documents: Sequence[str]) -> Tensor:
    """One stream of ids (n,): each document followed by <|endoftext|>."""
    end = tokenizer.control_tokens["<|endoftext|>"]
    shown = progress(documents, "Encoding text")
    return torch.tensor([i for document in shown for i in [*tokenizer.encode(document), end]])


def make_streams(tokenizer: Tokenizer, corpus: Corpus) -> tuple[Streams, Streams]:
    """The packed train and held-out documents of each domain."""
    kept = {domain: [d for d in corpus[domain] if held_out(d)] for domain in DOMAINS}
    rest = {domain: [d for d in corpus[domain] if not held_out(d)] for domain in DOMAINS}
    return (
        {domain: pack(tokenizer, rest[domain]) for domain in DOMAINS},
        {domain: pack(tokenizer, kept[domain]) for domain in DOMAINS},
    )


def make_rows(mix: Mix, tokenizer: Tokenizer, streams: Streams, seed: int, step: int) -> Tensor:
    """The ids (rows, context + 1) of one step: a function of its arguments alone."""
    rng = random.Random(f"{seed} {step}")  # hashed by SHA-512: the same everywhere
    domains, weights = list(mix.mixture), list(mix.mixture.values())
    rows = []
    for _ in range(mix.rows):
        if mix.long_share is not None:
            lengths = LONG if rng.random() < mix.long_share else SHORT
            rows.append(_long_row(mix, tokenizer, streams, lengths, rng))
            continue
        domain = rng.choices(domains, weights)[0]
        stream = streams[domain]
        if len(stream) <= mix.context:
            raise ValueError(
                f"the {domain} text has {len(stream)} tokens and a row takes {mix.context + 1}; give more."
            )
        start = int(rng.random() * (len(stream) - mix.context))
        rows.append(stream[start : start + mix.context + 1])
    return torch.stack(rows)


def _long_row(
    mix: Mix, tokenizer: Tokenizer, streams: Streams, lengths: tuple[int, int], rng: random.Random
) -> Tensor:
    """One row filled with documents whose lengths lie in a range, the last one cut off."""
    end = tokenizer.control_tokens["<|endoftext|>"]
    domains, weights = list(mix.mixture), list(mix.mixture.values())
    parts: list[Tensor] = []
    while sum(map(len, parts)) <= mix.context:
        domain = rng.choices(domains, weights)[0]
        length = lengths[0] + int(rng.random() * (lengths[1] - lengths[0]))
        if domain == "maths":  # a list so long that the answers are far from the questions
            questions = 1 + length // 64
            text = look_up_document(rng, (length - 19 * questions) // 6, questions)
            document = torch.tensor(tokenizer.encode(text))
        else:
            stream = streams[domain]
            start = int(rng.random() * (len(stream) - length))
            document = stream[start : start + length]
            document = document[document != end]  # short documents are joined to make a long one
        parts += [document, torch.tensor([end])]
    return torch.cat(parts)[: mix.context + 1]


def lines_in(length: int) -> int:
    """How many key=value lines a solved problem of at most `length` tokens can have: six tokens each,
    and 35 for the question, the steps and the answer."""
    return (length - 35) // 6


def next_token_loss(mix: Mix, tokenizer: Tokenizer, streams: Streams, seed: int) -> StepLoss:
    """The loss of predicting every next token of a step's rows."""

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        rows = make_rows(mix, tokenizer, streams, seed, step).to(model.device)
        if on_ranks(model):
            from qwen3_ref.train.parallel import token_loss

            return token_loss(model, rows[:, :-1], rows[:, 1:]), {"tokens": float(rows[:, 1:].numel())}
        return cross_entropy(model(rows[:, :-1]), rows[:, 1:]), {"tokens": float(rows[:, 1:].numel())}

    return loss


@torch.inference_mode()
def domain_losses(
    model: Qwen3, streams: Streams, context: int = 256, tokens: int = 16_384
) -> dict[str, float]:
    """Loss in nats per token on the beginning of each stream, in rows of `context` tokens.

    Raises ValueError if that is not one row.
    """
    device = model.device
    losses = {}
    for domain, stream in streams.items():
        count = min(tokens // context, (len(stream) - 1) // context)
        if count < 1:
            raise ValueError(
                f"{min(tokens, len(stream))} tokens of {domain} do not make a row of {context}; give more "
                f"text, or a smaller context."
            )
        rows = torch.stack([stream[i * context : (i + 1) * context + 1] for i in range(count)]).to(device)
        parts = [cross_entropy(model(r[:, :-1]), r[:, 1:]) * len(r) for r in rows.split(16)]
        losses[domain] = float(sum(parts) / count)
    return losses


def retrieval_accuracy(
    model: Qwen3,
    tokenizer: Tokenizer,
    context: int,
    count: int = 200,
    split: str = "validation",
    seed: int = 0,
) -> float:
    """How often the right two digits are the most probable ones, for a look-up of one step in a list
    that fills `context` tokens. The list and the key are given, so nothing is generated."""
    return sum(retrieved(model, tokenizer, context, count, split, seed)) / count


@torch.inference_mode()
def retrieved(
    model: Qwen3, tokenizer: Tokenizer, context: int, count: int, split: str, seed: int
) -> list[bool]:
    """The same for each problem."""
    right = []
    for problem in make_problems("retrieval", split, count, 1, seed, lines=lines_in(context)):
        ids = _ids(tokenizer, f"{problem.prompt}\n{problem.trace}").to(model.device)
        logits = model(ids[:, :-1], logits_to_keep=2)
        right.append(bool((logits.argmax(-1) == ids[:, -2:]).all()))
    return right


QUESTIONS = 20
"""Asked about each list of `haystacks`, whose keys and values are computed once for all of them."""
_QUESTION = 16
"""Tokens that one of them takes, at most."""


@dataclass(frozen=True)
class Haystack:
    """A list of key=value lines and questions (key, two digits) about it: `asked` of keys that occur once,
    at `depths` from 0 (the list's beginning) to 1; `absent` of keys that do not occur, where nothing
    better than a guess is possible."""

    lines: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]
    depths: tuple[float, ...]
    absent: tuple[tuple[str, str], ...]


def haystacks(tokenizer: Tokenizer, context: int, count: int, split: str, seed: int) -> list[Haystack]:
    """`count` lists that fill `context` tokens but for a line or two, each with QUESTIONS questions of one
    step.

    There are only 260 keys, and 4,096 tokens take some 700 lines: the list is filled up with repeated
    lines, whole ones, and never one that is asked about.
    """
    keys = [f"{letter}{digit}" for letter in "abcdefghijklmnopqrstuvwxyz" for digit in range(10)]
    found, distinct = list[Haystack](), min(lines_in(context), len(keys) - QUESTIONS)
    tokens = functools.cache(lambda line: len(tokenizer.encode(f"{line}\n")))
    rng = random.Random(f"haystacks {context} {split} {seed}")  # hashed by SHA-512: the same everywhere
    for problem in make_problems("retrieval", split, count, 1, seed, lines=distinct):
        lines = problem.prompt.split("\n")[:-1]
        numbers = _some(rng, [line for line in lines if line[3:].isdigit()], QUESTIONS)
        filler = [line for line in lines if line not in numbers]
        room = context - _QUESTION - sum(map(tokens, lines))
        while (room := room - tokens(more := filler[int(rng.random() * len(filler))])) >= 0:
            lines.append(more)
        lines = _some(rng, lines, len(lines))
        left = [key for key in keys if key not in {line[:2] for line in lines}]
        found.append(
            Haystack(
                tuple(lines),
                tuple((line[:2], line[3:]) for line in numbers),
                tuple(lines.index(line) / (len(lines) - 1) for line in numbers),
                tuple((key, f"{int(rng.random() * 100):02}") for key in _some(rng, left, QUESTIONS)),
            )
        )
    return found


def _some(rng: random.Random, items: Sequence[str], n: int) -> list[str]:
    return sorted(items, key=lambda _: rng.random())[:n]


@torch.inference_mode()
def look_up(
    model: Qwen3, tokenizer: Tokenizer, haystack: Haystack, questions: Sequence[tuple[str, str]]
) -> list[bool]:
    """For each question whether its two digits are the most probable ones behind the list and the key,
    as in `retrieval_accuracy`. The list is read once, and the cache taken back to its end each time."""
    device, text = model.device, _ids(tokenizer, "\n".join(haystack.lines))
    end, right = text.shape[1], []
    cache = KVCache(model.config, 1, end + 32, next(model.parameters()).dtype, device)
    model(text.to(device), cache=cache, logits_to_keep=1)
    for key, value in questions:
        ids = _ids(tokenizer, f"\nfind {key}\n{key}={value}").to(device)
        logits = model(ids[:, :-1], cache=cache, logits_to_keep=2)
        cache.truncate(end)
        right.append(bool((logits.argmax(-1) == ids[:, -2:]).all()))
    return right


def _ids(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor([tokenizer.encode(text)])
