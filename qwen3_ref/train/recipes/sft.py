"""Supervised fine-tuning on conversations, with the loss on the assistant's tokens alone.

Two of the report's four post-training stages (sections 4.1 and 4.3) are of this kind:

- cold start: solved problems with their reasoning, after the report's filters
- thinking-mode fusion: reasoning by rejection sampling from the stage-2 model itself, answers without
  reasoning, `/think` and `/no_think`, and conversations with flags in random turns
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_ref.chat import Json, Message, encode_chat
from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.reply import Reply, parse_reply
from qwen3_ref.tasks.problems import FAMILIES, Problem, is_correct
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.loop import IGNORE, Plan, StepLoss, cross_entropy, on_ranks
from qwen3_ref.train.queries import MAX_REPLY
from qwen3_ref.train.seeds import problems, seed, seeded

# Few steps, as the report has it: what the model can reach is left to reinforcement learning.
COLD_START = Plan(steps=250, learning_rate=1e-3, warmup=20, floor=0.1)
FUSION = Plan(steps=400, learning_rate=5e-4, warmup=20, floor=0.1)
ROWS = 64


@dataclass(frozen=True)
class Example:
    """The ids of a conversation; the last `reply` of them are what the loss is on."""

    ids: list[int]
    reply: int


def encode_example(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Json] = ()
) -> Example:
    """A conversation that ends with the assistant's turn, in the official template.

    The loss is on that turn from its think block to its <|im_end|>. Earlier turns of the assistant
    have none: the template shows them without their reasoning, as nothing that should be imitated.

    Raises ValueError, naming the conversation, if it does not end so, if the template shows what comes
    before the last turn otherwise once that turn is there (as it does with two of the assistant's in a
    row), or if it shows other words than the turn has (a `</think>` in an answer ends a thought).
    """
    if not messages or messages[-1].get("role") != "assistant":
        last = f"the last message is the {messages[-1].get('role')}'s" if messages else "there is no message"
        raise ValueError(f"{_named(messages)}: {last}; end with the assistant's, which is learned.")
    prompt = encode_chat(tokenizer, messages[:-1], tools=tools)
    ids = encode_chat(tokenizer, messages, tools=tools, add_generation_prompt=False)
    ids = ids[: len(ids) - ids[::-1].index(tokenizer.control_tokens["<|im_end|>"])]  # no line end after
    if ids[: len(prompt)] != prompt:
        raise ValueError(
            f"{_named(messages)}: with the last turn the turns before it read otherwise, so no prompt leads "
            f"to it; let a user's or a tool's turn come before the assistant's last."
        )
    said = parse_reply(tokenizer.decode(ids[len(prompt) :]), enable_thinking=True)
    if said.content.strip() != str(messages[-1].get("content") or "").strip():
        raise ValueError(
            f"{_named(messages)}: the template shows the last turn as {said.content[:60]!r}, which is not "
            f"its content; leave marks such as </think> out of it."
        )
    return Example(ids, len(ids) - len(prompt))


def _named(messages: Sequence[Message]) -> str:
    """A conversation by how it begins."""
    first = next((str(m.get("content")) for m in messages if m.get("role") == "user"), "")
    return f"the conversation that begins {first[:40]!r} cannot be learned"


def collate(examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (b, t). Padding is on the right, where no real token can see it."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    targets = torch.full((len(examples), longest), IGNORE)
    for row, example in enumerate(examples):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        targets[row, n - example.reply : n] = ids[row, n - example.reply : n]
    return ids[:, :-1], targets[:, 1:]


def reply_loss(examples: Sequence[Example], tokenizer: Tokenizer, rows: int, seed: int) -> StepLoss:
    """The loss on `rows` examples a step: a new random order each epoch, batches of similar length."""
    if len(examples) < rows:
        raise ValueError(f"there are {len(examples)} examples and a step takes {rows}; make more.")
    pad = tokenizer.control_tokens["<|endoftext|>"]

    @functools.lru_cache(maxsize=1)
    def batches(epoch: int) -> list[list[int]]:
        rng = seeded(seed, "epoch", epoch)
        order = torch.randperm(len(examples), generator=rng).tolist()
        chunks = []
        for i in range(0, len(order), 16 * rows):  # sorted only within 16 batches, to stay random
            near = sorted(order[i : i + 16 * rows], key=lambda j: len(examples[j].ids))
            chunks += [near[k : k + rows] for k in range(0, len(near) - rows + 1, rows)]
        return [chunks[i] for i in torch.randperm(len(chunks), generator=rng).tolist()]

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        epoch, i = divmod(step, len(batches(0)))
        inputs, targets = collate([examples[j] for j in batches(epoch)[i]], pad)
        device = model.device
        inputs, targets = inputs.to(device), targets.to(device)
        if on_ranks(model):
            from qwen3_ref.train.parallel import token_loss

            return token_loss(model, inputs, targets), {"tokens": float(inputs.numel())}
        return cross_entropy(model(inputs), targets), {"tokens": float(inputs.numel())}

    return loss


# -- stage 1: long chain-of-thought cold start ---------------------------------------------------------


def reason_to_drop(problem: Problem, trace: str, answer: str) -> str | None:
    """Why the report's filters drop a response, or None: "wrong answer", "repetition" (the same step
    twice), "guesswork" (the answer is right, and the steps do not lead there)."""
    if not is_correct(problem, answer):
        return "wrong answer"
    steps = trace.split("\n")
    if len(set(steps)) < len(steps):
        return "repetition"
    if trace != problem.trace:  # one step is right at each place, so right and complete means equal
        return "guesswork"
    return None


def draft(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """A trace and an answer of a fallible writer, as the report's own were: a third has a flaw."""
    steps = problem.trace.split("\n")
    i = int(rng.random() * len(steps))
    flaw = int(rng.random() * 9)
    if flaw == 0:  # a slip of the pen, carried on to the end
        last = steps[i][-1]
        wrong = steps[i][:-1] + (str((int(last) + 1) % 10) if last.isdecimal() else "")
        return "\n".join([*steps[:i], wrong, *steps[i + 1 :]]), problem.answer[:-1] + wrong[-1]
    if flaw == 1:
        return "\n".join([*steps[: i + 1], *steps[i:]]), problem.answer
    if flaw == 2:
        return "\n".join(steps[:i]), problem.answer
    return problem.trace, problem.answer


def conversation(problem: Problem, trace: str, answer: str) -> list[Message]:
    """One question and its answer; an empty trace becomes an empty think block."""
    return [
        {"role": "user", "content": problem.prompt},
        {"role": "assistant", "reasoning_content": trace, "content": answer},
    ]


def cold_start_examples(
    tokenizer: Tokenizer, per_family: int, run_seed: int
) -> tuple[list[Example], Counter[str]]:
    """Examples from the drafts of train problems that pass the filters, and what became of all."""
    rng = random.Random(seed(run_seed, "cold start: drafts"))
    examples: list[Example] = []
    fates: Counter[str] = Counter()
    for family in FAMILIES:
        for problem in problems("cold start", family, per_family, run_seed):
            trace, answer = draft(problem, rng)
            reason = reason_to_drop(problem, trace, answer)
            fates[reason or "kept"] += 1
            if reason is None:
                examples.append(encode_example(tokenizer, conversation(problem, trace, answer)))
    return examples, fates


# -- stage 3: thinking-mode fusion ---------------------------------------------------------------------


def replies_to(
    model: Qwen3,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    thinking: bool = True,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> list[Reply]:
    """The model's reply to each problem, taken apart; greedy if `sampling` is None."""
    prompts = [
        encode_chat(tokenizer, [{"role": "user", "content": p.prompt}], enable_thinking=thinking)
        for p in problems
    ]
    replies = generate(
        model,
        prompts,
        max_new_tokens=MAX_REPLY,
        sampling=sampling,
        stop_ids=tokenizer.stop_ids,
        generator=generator,
        batch_size=batch_size,
    )
    return [parse_reply(tokenizer.decode(ids), enable_thinking=thinking) for ids in replies]


def fusion_conversations(
    thinking: Sequence[tuple[Problem, str]], plain: Sequence[Problem], run_seed: int
) -> list[list[Message]]:
    """The stage's conversations: `thinking` has problems with reasoning, `plain` gets none.

    Half of them have earlier turns, mostly two or three, of other problems, with random flags or none. In
    half of those the last user turn says nothing, and the last flag before it holds; with two turns or
    more there is, every other time, an opposite one before that, because where a /no_think is anywhere
    the model would else learn not to look further. A question alone says /think half of the time.
    """
    rng = random.Random(seed(run_seed, "fusion: conversations"))
    pool = [problem for problem, _ in thinking] + list(plain)
    short = [problem for problem in pool if len(problem.prompt) < 120] or pool
    conversations = []
    for problem, trace in [*thinking, *((problem, "") for problem in plain)]:
        flag = " /think" if trace else " /no_think"
        turns = 1 + int(rng.random() ** 0.5 * 3) if rng.random() < 0.5 else 0
        silent = rng.random() < 0.5 and bool(turns or trace)
        switched = silent and turns > 1 and rng.random() < 0.5
        flags = _flags(rng, turns)
        while silent and turns and (_last(flags) != flag or (switched and len({*flags} - {""}) < 2)):
            flags = _flags(rng, turns)
        history: list[Message] = []
        for said in flags:
            earlier = short[int(rng.random() * len(short))]
            history += [
                {"role": "user", "content": earlier.prompt + said},
                {"role": "assistant", "content": earlier.answer},
            ]
        turn = conversation(problem, trace, problem.answer)
        turn[0]["content"] += "" if silent else flag
        conversations.append([*history, *turn])
    return conversations


def _flags(rng: random.Random, turns: int) -> list[str]:
    return [(" /think", " /no_think", "")[int(rng.random() * 3)] for _ in range(turns)]


def _last(flags: Sequence[str]) -> str:
    return next((flag for flag in reversed(flags) if flag), " /think")


def fusion_examples(
    model: Qwen3, tokenizer: Tokenizer, per_family: int, run_seed: int
) -> tuple[list[Example], Counter[str]]:
    """Half of the examples with thinking that `model` (of stage 2) wrote itself and the filters kept,
    half without; and what became of its replies.

    As in the report, it is asked queries of stage 1; those without thinking are new.
    """
    generator = seeded(seed(run_seed, "fusion: replies"))
    thinking: list[tuple[Problem, str]] = []
    plain: list[Problem] = []
    fates: Counter[str] = Counter()
    for family in FAMILIES:
        asked = problems("cold start", family, per_family, run_seed)
        replies = replies_to(model, tokenizer, asked, sampling=Sampling(0.6, 20, 0.95), generator=generator)
        for problem, reply in zip(asked, replies, strict=True):
            reason = reason_to_drop(problem, reply.reasoning or "", reply.content)
            fates[reason or "kept"] += 1
            if reason is None:
                thinking.append((problem, reply.reasoning or ""))
        plain += problems("fusion", family, per_family, run_seed)
    conversations = fusion_conversations(thinking, plain, run_seed)
    return [encode_example(tokenizer, messages) for messages in conversations], fates
