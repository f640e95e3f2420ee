"""The rows of the nano family's measured table: what each stage of a run changed.

Each row holds two stages of one run against each other, on problems of the test split that are drawn
with a seed of their own. Answers go to OUT/measured/ROW/*.csv as they come, results to
OUT/measured/ROW.json. A row that was stopped goes on from its answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwen3_ref.chat import encode_chat
from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure.accuracy import BATCH, Mode, Row, chat_prompt, evaluate, summarise
from qwen3_ref.measure.names import require_row
from qwen3_ref.measure.statistics import wilson
from qwen3_ref.measure.table import (
    Item,
    Number,
    accuracy,
    any_of,
    change,
    mean_of,
    read_result,
    share,
    versus,
)
from qwen3_ref.model import Qwen3
from qwen3_ref.store.files import write_atomically
from qwen3_ref.tasks.problems import (
    DIGITS,
    FAMILIES,
    HELD_OUT_PAIRS,
    PAIRS,
    TEST_SEED,
    Problem,
    make_problems,
)
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train import seeds
from qwen3_ref.train.corpus import DOMAINS, held_out
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.queries import MAX_REPLY, read_sample
from qwen3_ref.train.recipes import general_rl, grpo, pretrain
from qwen3_ref.train.recipes.general_rl import Task
from qwen3_ref.train.run import Run
from qwen3_ref.train.state import weights_hash

SPLIT = "test"
COUNT = 500
"""Problems that every number rests on, at least."""
SAMPLES = 8
BUDGETS = (0, 8, 16, 32, 48, None)
CONTEXTS = tuple(pretrain.MIXES["s1"].context * n for n in (1, 2, 4))
LOSS_ROWS = 64


# -- asking --------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """A run, the row that is measured, and what has come of it.

    count: problems of each kind; only tests ask fewer than COUNT.
    """

    run: Run
    row: str
    count: int = COUNT
    stages: dict[str, str] = field(default_factory=dict)  # stage -> fingerprint of its weights
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where results lie."""
        return self.run.out / "measured"

    def model(self, stage: str) -> tuple[Qwen3, Tokenizer]:
        """What a stage left. Raises TrainingError, naming it, if it has not run."""
        model = self.run.model(stage)
        self.stages[stage] = weights_hash(model)[:16]
        return model, Tokenizer.from_pretrained(self.run.out / stage / "model")

    def problems(self, per_family: int) -> list[Problem]:
        """Problems of the test split, all difficulties in turn."""
        return [p for family in FAMILIES for p in make_problems(family, SPLIT, per_family, seed=TEST_SEED)]

    def answers(
        self, stage: str, what: str, problems: Sequence[Problem], *, flags: bool = False, **options: Any
    ) -> list[Row]:
        """`evaluate` with its log in the row's folder; greedy unless `options` say otherwise.

        flags: ask with /think; else without a word about it, for stages that never saw a flag.
        Non-thinking mode is always /no_think and the empty block that the template writes.
        """
        model, tokenizer = self.model(stage)

        def prompt(problem: Problem, mode: Mode) -> list[int]:
            if flags or mode == "non-thinking":
                return chat_prompt(tokenizer, problem, mode)
            return encode_chat(tokenizer, [{"role": "user", "content": problem.prompt}])

        log = self.folder / self.row / f"{stage}-{what}.csv"
        log.parent.mkdir(parents=True, exist_ok=True)
        return evaluate(
            model,
            tokenizer,
            problems,
            **options,
            seed=TEST_SEED,
            max_new_tokens=MAX_REPLY,
            batch_size=BATCH,
            early_stop=NANO_EARLY_STOP,
            log=log,
            prompt=prompt,
        )

    def score(self, stage: str, what: str, tasks: Sequence[Task]) -> list[dict[str, float]]:
        """The parts of each task's reward for a greedy reply; they are written to the row's folder."""
        model, tokenizer = self.model(stage)
        prompts = [task.query(tokenizer).prompt for task in tasks]
        order = sorted(range(len(tasks)), key=lambda i: len(prompts[i]))
        replies = generate(
            model,
            [prompts[i] for i in order],
            max_new_tokens=MAX_REPLY,
            stop_ids=tokenizer.stop_ids,
            batch_size=BATCH,
        )
        parts: list[dict[str, float]] = [{} for _ in tasks]
        for i, reply in zip(order, replies, strict=True):
            sample = read_sample(tokenizer, reply)
            parts[i] = {name: reward(sample) for name, reward in tasks[i].rewards.items()}
        lines = [",".join(["task", *general_rl.PARTS])]
        for i, found in enumerate(parts):
            cells = [f"{found[name]:g}" if name in found else "" for name in general_rl.PARTS]
            lines.append(",".join([str(i), *cells]))
        write_atomically(self.folder / self.row / f"{stage}-{what}.csv", "\n".join(lines) + "\n")
        return parts


# -- the rows: each part yields items, and may lack a stage without harm to the others -----------------

Part = Callable[[Bench], Iterator[Item]]


def _losses(bench: Bench) -> Iterator[Item]:
    """Loss by domain, on the beginning of each domain's held-out documents."""
    tokenizer, context = bench.model("s1")[1], CONTEXTS[0]
    generator = seeds.seeded(seeds.seed(_summary(bench, "s1")["seed"], "weights"))
    before = _row_losses(Qwen3(pretrain.nano_config(), generator=generator), bench, tokenizer)
    for stage in ("s1", "s2", "s3"):
        after = _row_losses(bench.model(stage)[0], bench, tokenizer)
        for domain in DOMAINS:
            numbers = [mean_of(losses[domain], context) for losses in (before, after)]
            what = f"{stage.upper()}: loss on {domain}"
            yield Item(f"pretraining.{stage}.loss.{domain}", what, numbers[0], numbers[1], "nats a token")
        before = after


def _row_losses(model: Qwen3, bench: Bench, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """The loss of each of the first rows of every domain."""
    n, found = CONTEXTS[0], {}
    for domain in DOMAINS:
        stream = pretrain.pack(tokenizer, [d for d in bench.run.corpus[domain] if held_out(d)])
        count = min(LOSS_ROWS, (len(stream) - 1) // n)
        rows = {str(i): stream[i * n : (i + 1) * n + 1] for i in range(count)}
        found[domain] = list(pretrain.domain_losses(model, rows, n).values())
    return found


def _retrieval(bench: Bench) -> Iterator[Item]:
    """Retrieval at 1, 2 and 4 times the S1 length, after S2, and after S3 with and without ABF."""
    stages = {"s2": "", "s3": "with", "s3-no-abf": "without"}
    models = {stage: bench.model(stage) for stage in stages}
    for context in CONTEXTS:
        found = {}
        for stage, (model, tokenizer) in models.items():
            right = pretrain.retrieval_accuracy(model, tokenizer, context, bench.count, SPLIT, TEST_SEED)
            found[stage] = Number(right, *wilson(right, bench.count), bench.count)
        for stage in ("s3", "s3-no-abf"):
            what = f"S3 {stages[stage]} ABF: retrieval in {context:,} tokens"
            way = stage.replace("s3-no-", "no-").replace("s3", "abf")
            yield Item(f"pretraining.retrieval-{context}.{way}", what, found["s2"], found[stage])


def _pass_at_k(bench: Bench) -> Iterator[Item]:
    """pass@1 and pass@8 at temperature 1, before and after GRPO."""
    rows = [_sampled(bench, stage) for stage in ("cold-start", "grpo")]
    yield versus("reasoning.pass-1", "GRPO: pass@1", map(accuracy, rows))
    what = "GRPO: pass@1, its change, same problems"
    yield Item("reasoning.pass-1.change", what, None, change(*rows), "points")
    yield versus(f"reasoning.pass-{SAMPLES}", f"GRPO: pass@{SAMPLES}", map(any_of, rows))


def _sampled(bench: Bench, stage: str, flags: bool = False) -> list[Row]:
    problems = bench.problems(-(-bench.count // len(FAMILIES)))
    return bench.answers(stage, "sampled", problems, flags=flags, samples=SAMPLES, sampling=Sampling())


def _by_step(bench: Bench) -> Iterator[Item]:
    """pass@1 at temperature 1 of the models that the run kept on its way, by step."""
    folder = bench.run.out / "grpo" / "steps"
    kept = sorted(int(path.name) for path in folder.glob("*"))
    if not kept:
        raise TrainingError(f"{folder} is not there; run --stage grpo to its end.")
    updates = grpo.Grpo().updates
    by_step = {n // updates: accuracy(_sampled(bench, f"grpo/steps/{n}")) for n in kept}
    bench.extra["accuracy_by_step"] = {step: asdict(found) for step, found in by_step.items()}
    yield from ()


def _kept(bench: Bench, before: str, after: str, title: str, budgets: Sequence[int | None]) -> Iterator[Item]:
    """Thinking accuracy of two stages, in all and by family, and at budgets below none."""
    problems = bench.problems(bench.count)
    modes: list[Mode] = ["thinking", "non-thinking"]
    rows = [bench.answers(s, "modes", problems, budgets=budgets, modes=modes) for s in (before, after)]
    free = [[r for r in some if r.mode == "thinking" and r.budget is None] for some in rows]
    row = bench.row
    yield versus(f"{row}.thinking.accuracy", f"{title}: thinking accuracy", map(accuracy, free))
    what = f"{title}: its change, same problems"
    yield Item(f"{row}.thinking.change", what, None, change(*free), "points")
    for family in FAMILIES:
        pair = [accuracy([r for r in some if r.family == family]) for some in free]
        yield versus(f"{row}.thinking.accuracy.{family}", f"{title}: thinking accuracy, {family}", pair)
    pair = [accuracy([r for r in some if r.mode == "non-thinking"]) for some in rows]
    yield versus(f"{row}.non-thinking.accuracy", f"{title}: accuracy without thinking", pair)
    for budget in budgets if len(budgets) > 1 else ():
        pair = [accuracy([r for r in x if r.mode == "thinking" and r.budget == budget]) for x in rows]
        limit = "no budget" if budget is None else f"a budget of {budget}"
        name = f"{row}.budget-{'none' if budget is None else budget}.accuracy"
        yield versus(name, f"{title}: accuracy with {limit}", pair)
    by_family = summarise(rows[1], by=("family", "mode", "budget"))
    bench.extra.setdefault("curves", []).extend(
        {"stage": after, **dict(zip(("family", "mode", "budget"), key, strict=True)), **asdict(found)}
        for key, found in by_family.items()
    )


def _fusion_kept(bench: Bench) -> Iterator[Item]:
    yield from _kept(bench, "grpo", "fusion", "Fusion", BUDGETS)


def _obeyed(bench: Bench) -> Iterator[Item]:
    """/think and /no_think in a single question; the model writes its think block itself."""
    problems = bench.problems(-(-bench.count // len(FAMILIES)))
    for flag in ("/no_think", "/think"):
        thinking = flag == "/think"
        rewards = {"mode": lambda sample, thinking=thinking: general_rl.mode_reward(sample, thinking)}
        tasks = [Task([{"role": "user", "content": f"{p.prompt} {flag}"}], rewards, {}) for p in problems]
        name = "obeyed-" + ("think" if thinking else "no-think")
        pair = [
            share([part["mode"] == 1 for part in bench.score(stage, name, tasks)])
            for stage in ("grpo", "fusion")
        ]
        yield versus(f"fusion.{name.replace('-', '.', 1)}", f"Fusion: {flag} obeyed", pair)


def _general(bench: Bench) -> Iterator[Item]:
    """What general RL rewards, kind by kind (`general_rl.make_tasks` gives the kinds in turn)."""
    kinds = ("single_turn", "many_turns", "limited", "tool_call")
    stages = ("fusion", "general-rl")
    tokenizer = bench.model("general-rl")[1]
    tasks = general_rl.make_tasks(tokenizer, bench.count, run_seed=TEST_SEED, split=SPLIT)
    found = [bench.score(stage, "tasks", tasks) for stage in stages]
    wanted: list[tuple[str, str, str, str, float]] = [
        ("mode.many-turns", "mode followed, ThinkFollow (several turns)", "many_turns", "mode", 1.0),
        ("mode.one-turn", "mode followed, one turn", "single_turn", "mode", 1.0),
        ("format.right", "format right", "single_turn", "format", 1.0),
        ("tool-call.valid", "tool call of valid format", "tool_call", "tool", 0.5),
        ("tool-call.right", "tool call right", "tool_call", "tool", 1.0),
        ("length.obeyed", "length limit obeyed", "limited", "length", 1.0),
    ]
    for name, what, kind, part, least in wanted:
        first = kinds.index(kind)
        pair = [share([parts[part] >= least for parts in some[first :: len(kinds)]]) for some in found]
        yield versus(f"general.{name}", f"General RL: {what}", pair)


def _general_kept(bench: Bench) -> Iterator[Item]:
    yield from _kept(bench, "fusion", "general-rl", "General RL", (None,))


def _pairs(bench: Bench) -> Iterator[Item]:
    """Translation of numbers of three and four digits between two languages that training paired, and
    between two that it saw with others only; each pair's accuracy goes beside the items."""
    seen = [pair for pair in PAIRS if DIGITS not in pair]
    modes: list[Mode] = ["thinking", "non-thinking"]
    for kind, pairs, who in (
        ("paired", seen, "languages that training paired"),
        ("unpaired", HELD_OUT_PAIRS, "languages that it never paired"),
    ):
        problems = [
            problem
            for level in (3, 4)
            for problem in make_problems(
                "translation", SPLIT, -(-bench.count // 2), level, TEST_SEED, pairs=pairs
            )
        ]
        rows = bench.answers("general-rl", f"translation-{kind}", problems, flags=True, modes=modes)
        for mode in modes:
            some = [row for row in rows if row.mode == mode]
            what = f"Translation, {mode}: {who}"
            yield Item(f"general.translation.{kind}.{mode}", what, None, accuracy(some))
            by_pair: dict[str, list[Row]] = {}
            for row in some:
                by_pair.setdefault(" ".join(problems[row.problem].prompt.split(" ")[1:3]), []).append(row)
            found = {pair: asdict(accuracy(its)) for pair, its in sorted(by_pair.items())}
            bench.extra.setdefault("translation", {}).setdefault(mode, {}).update(found)


STUDENTS = {
    "off-policy": "off-policy distillation",
    "student-rl": "+ reinforcement learning",
    "on-policy": "+ on-policy distillation, reverse KL",
    "on-policy-forward": "+ on-policy distillation, forward KL",
}


def _student(stage: str) -> Part:
    """Accuracy, pass@k and cost of a student, beside those it had after off-policy distillation."""

    def part(bench: Bench) -> Iterator[Item]:
        found = {s: _student_numbers(bench, s) for s in dict.fromkeys(("off-policy", stage))}
        numbers, before = found[stage], found["off-policy"] if stage != "off-policy" else {}
        bench.extra.setdefault("table_21", {})[stage] = {k: asdict(v) for k, v in numbers.items()}
        for what, number in numbers.items():
            unit = "minutes" if what == "CPU-minutes" else "%"
            old = before.get(what) if unit == "%" else None
            name = f"distillation.{stage}.{what.lower().replace(', ', '.').replace('@', '-')}"
            yield Item(name, f"Student, {STUDENTS[stage]}: {what}", old, number, unit)

    return part


def _student_numbers(bench: Bench, stage: str) -> dict[str, Number]:
    modes: list[Mode] = ["thinking", "non-thinking"]
    greedy = bench.answers(stage, "modes", bench.problems(bench.count), flags=True, modes=modes)
    sampled = _sampled(bench, stage, flags=True)
    summary = _summary(bench, stage)
    minutes = summary["cpu_seconds"] / 60
    return {
        "accuracy, thinking": accuracy([r for r in greedy if r.mode == "thinking"]),
        "accuracy, non-thinking": accuracy([r for r in greedy if r.mode == "non-thinking"]),
        "pass@1": accuracy(sampled),
        f"pass@{SAMPLES}": any_of(sampled),
        "CPU-minutes": Number(minutes, None, None, 1),
    }


def _summary(bench: Bench, stage: str) -> dict[str, Any]:
    text = _file(bench, stage, "summary.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _file(bench: Bench, stage: str, name: str) -> Path:
    path = bench.run.out / stage / name
    if not path.exists():
        raise TrainingError(f"{path} is not there; run --stage {stage} to its end.")
    return path


ROWS: Mapping[str, Sequence[Part]] = {
    "pretraining": (_losses, _retrieval),
    "reasoning": (_pass_at_k, _by_step),
    "fusion": (_fusion_kept, _obeyed),
    "general": (_general, _general_kept, _pairs),
    "distillation": tuple(map(_student, STUDENTS)),
}


def measure_row(run: Run, row: str, count: int = COUNT) -> list[str]:
    """Measure one row and write its JSON; returns a sentence for each part that lacks a stage. Where no
    part has what it needs nothing is written, and an older result stays.

    Raises ValueError for an unknown row, or if answers in the row's folder are another model's.
    """
    require_row(row)
    bench = Bench(run, row, count)
    start, items, missing = time.monotonic(), list[Item](), list[str]()
    for part in ROWS[row]:
        try:
            items += part(bench)
        except TrainingError as error:
            if str(error) not in missing:
                missing.append(str(error))
    if not items:
        return missing
    result = {
        "row": row,
        "split": SPLIT,
        "seed": TEST_SEED,
        "seconds": round(time.monotonic() - start, 1),
        "weights": bench.stages,
        "missing": missing,
        "items": [asdict(item) for item in items],
        **bench.extra,
    }
    write_atomically(bench.folder / f"{row}.json", json.dumps(result, indent=1) + "\n")
    return missing


def stale(run: Run) -> list[str]:
    """A sentence for each result whose model is no longer the one that was measured."""
    found = []
    for row in ROWS:
        path = run.out / "measured" / f"{row}.json"
        weights = read_result(path).get("weights", {}) if path.exists() else {}
        for stage, print_then in weights.items():
            if weights_hash(run.model(stage))[:16] != print_then:
                found.append(
                    f"{run.out / stage / 'model'} is not what `measure {row}` measured; delete "
                    f"{path.with_suffix('')} and run it again."
                )
    return found
