"""Strong-to-weak distillation (report section 4.5), in its two phases.

- off-policy: the student is fine-tuned on replies of the teacher, in both modes, by the loop of `sft`
- on-policy: the student replies itself, and at each of its own tokens its distribution over the whole
  vocabulary is drawn to the teacher's

The report says "minimize the KL divergence" and not which one. Both are here:

- "forward" KL(teacher || student): the student must cover all that the teacher might say
- "reverse" KL(student || teacher): the student must not say what the teacher would not

Which tokens the student draws is not differentiated through, as in GKD (arXiv 2306.13649).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qwen3_ref.chat import Message
from qwen3_ref.decode.generation import require_request
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.tasks.problems import Problem, is_correct
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.loop import Plan, train
from qwen3_ref.train.queries import MAX_REPLY, Query
from qwen3_ref.train.recipes.sft import conversation, replies_to
from qwen3_ref.train.rollout import (
    Batch,
    HeldOut,
    Mean,
    average,
    expected,
    per_token,
    reply_logits,
    roll_out,
    token_log_probs,
)
from qwen3_ref.train.seeds import seed, seeded
from qwen3_ref.train.state import saved_step, weights_hash

Direction = Literal["forward", "reverse"]
FLAGS = (" /think", "", " /no_think", " /no_think")
"""What users add, each as often: no flag means thinking, which a student that never saw it does not know."""


# -- off-policy ----------------------------------------------------------------------------------------


def teacher_conversations(
    teacher: Qwen3,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    run_seed: int,
    only_right: bool = True,
) -> tuple[list[list[Message]], Counter[str]]:
    """The teacher's replies as conversations for `sft.encode_example`, and what became of each.

    Half of the problems are asked with /no_think, a quarter with /think, and a quarter without a flag,
    which is thinking too, at the official settings of the mode. Dropped are replies that are not whole
    or of the other mode, and, with `only_right`, wrong answers after thinking (without thinking, the
    student is to be like the teacher, right or wrong).
    """
    generator = seeded(seed(run_seed, "off-policy: replies"))
    rng = random.Random(seed(run_seed, "off-policy: flags"))
    drawn = [FLAGS[int(rng.random() * len(FLAGS))] for _ in problems]
    kept: list[list[Message]] = []
    fates: Counter[str] = Counter()
    for flag in dict.fromkeys(FLAGS):
        thinking = flag != " /no_think"
        some = [p for p, its in zip(problems, drawn, strict=True) if its == flag]
        asked = [replace(p, prompt=p.prompt + flag) for p in some]
        sampling = Sampling.thinking() if thinking else Sampling.non_thinking()
        replies = replies_to(teacher, tokenizer, asked, sampling=sampling, generator=generator)
        for problem, reply in zip(asked, replies, strict=True):
            if not reply.complete or reply.problems or not reply.content.strip():
                fate = "not whole"
            elif (reply.reasoning is not None) != thinking:
                fate = "other mode"
            elif thinking and only_right and not is_correct(problem, reply.content):
                fate = "wrong answer"
            else:
                fate = "kept"
                kept.append(conversation(problem, reply.reasoning or "", reply.content))
            fates[f"{flag.strip() or 'no flag'}: {fate}"] += 1
    return kept, fates


# -- on-policy -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distill:
    """The settings of an on-policy run; the report gives none. mean: see `rollout.average`."""

    steps: int = 170
    prompts: int = 64
    direction: Direction = "reverse"
    mean: Mean = "token"
    learning_rate: float = 5e-4
    max_new_tokens: int = MAX_REPLY
    save_every: int = 10
    held_out_every: int = 10

    def plan(self) -> Plan:
        """The same for `loop.train`."""
        return Plan(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup=2,
            floor=0.1,
            weight_decay=0.0,
            log_every=1,
            save_every=self.save_every,
        )


def divergence(student: Tensor, teacher: Tensor, direction: Direction) -> Tensor:
    """The KL divergence in nats at each token (n, r), over the whole vocabulary; logits (n, r, V), where
    -inf is an impossible token: infinite if the first model allows what the second does not.

    "forward": KL(teacher || student); "reverse": KL(student || teacher). Raises ValueError for others.
    """
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    if direction == "forward":
        return expected(t, t - s)
    if direction == "reverse":
        return expected(s, s - t)
    raise ValueError(f"direction is {direction!r}; it must be 'forward' or 'reverse'.")


def train_on_teacher(
    student: Qwen3,
    teacher: Qwen3,
    tokenizer: Tokenizer,
    queries: Sequence[Query],
    directory: Path,
    settings: Distill | None = None,
    *,
    seed: int = 0,
    held_out: Sequence[Query] = (),
    stop_at: int | None = None,
) -> None:
    """Train `student` in place on its own replies, from the state in `directory` if there is one.

    The rewards of `queries` are logged and not learned from. `log.csv`: loss (the divergence asked for),
    both divergences, the student's entropy, what `rollout.roll_out` logs, seconds since the row before;
    `held_out.csv` as in `grpo.train_on_rewards`.

    Raises ValueError for too few queries, a prompt that does not fit, or models of different
    vocabularies; TrainingError as `loop.train`.
    """
    settings = settings or Distill()
    if student.config.num_token_ids != teacher.config.num_token_ids:
        raise ValueError(
            f"the student has {student.config.num_token_ids} token ids and the teacher "
            f"{teacher.config.num_token_ids}; their logits can be compared over one vocabulary only."
        )
    if len(queries) < settings.prompts:
        raise ValueError(
            f"there are {len(queries)} queries and a step takes {settings.prompts}; make more, or ask "
            f"for fewer prompts a step."
        )
    prompts = [q.prompt for q in queries]
    for model in (student, teacher):
        require_request(model, prompts, settings.max_new_tokens)
    others = HeldOut(held_out, directory / "held_out.csv", seed, settings.max_new_tokens)
    loss = _StudentLoss(teacher, tokenizer, queries, others, settings, seed)
    about = {
        "seed": seed,
        "settings": asdict(settings),
        "queries": fingerprint(prompts),
        "tokenizer": tokenizer.fingerprint(),
        "start": weights_hash(student),
        "teacher": weights_hash(teacher),
    }
    train(student, settings.plan(), loss, directory, about=about, stop_at=stop_at)
    if saved_step(directory) == settings.steps:
        others.write_row(student, tokenizer, settings.steps)


class _StudentLoss:
    """The loss of each step, on replies that the student has just drawn."""

    def __init__(
        self,
        teacher: Qwen3,
        tokenizer: Tokenizer,
        queries: Sequence[Query],
        held_out: HeldOut,
        settings: Distill,
        seed: int,
    ) -> None:
        self.teacher, self.tokenizer, self.queries = teacher, tokenizer, queries
        self.held_out, self.settings, self.seed = held_out, settings, seed
        self.clock = time.monotonic()

    def __call__(self, model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        s, rng = self.settings, seeded(self.seed, step, "replies")
        if step % s.held_out_every == 0:
            self.held_out.write_row(model, self.tokenizer, step)
        chosen = torch.randperm(len(self.queries), generator=rng)[: s.prompts].tolist()
        asked = [self.queries[i] for i in chosen]
        rollout = roll_out(model, self.tokenizer, asked, s.max_new_tokens, rng)

        def divergences(logits: Tensor, batch: Batch) -> list[Tensor]:
            with torch.no_grad():
                teacher = reply_logits(self.teacher, batch)
                forward = divergence(logits, teacher, "forward")
                reverse = divergence(logits, teacher, "reverse")
                entropy = token_log_probs(logits, batch.replies)[1]
            return [divergence(logits, teacher, s.direction), forward, reverse, entropy]

        learned, *others, counted = per_token(model, rollout.prompts, rollout.replies, divergences)
        numbers = dict(rollout.numbers)
        for name, values in zip(("forward", "reverse", "entropy"), others, strict=True):
            numbers[name] = float(average(values, counted, "token"))
        before, self.clock = self.clock, time.monotonic()
        numbers["seconds"] = self.clock - before
        return average(learned, counted, s.mean, s.max_new_tokens), numbers
