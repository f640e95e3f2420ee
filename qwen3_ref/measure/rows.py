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

import torch

from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.measure import experts
from qwen3_ref.measure.accuracy import BATCH, BUDGETS, Mode, Row, evaluate, summarise
from qwen3_ref.measure.names import require_row
from qwen3_ref.measure.statistics import STUDENT
from qwen3_ref.measure.table import (
    Item,
    Number,
    Score,
    accuracy,
    any_of,
    any_right,
    change,
    lenient,
    lenient_accuracy,
    mean_of,
    read_result,
    right,
    share_of,
    versus,
    versus_hits,
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
from qwen3_ref.train.stages import find_stage
from qwen3_ref.train.state import weights_hash

SPLIT = "test"
COUNT = 500
"""Problems that every number rests on, at least."""
SAMPLES = 8
CONTEXTS = tuple(pretrain.MIXES["s1"].context * n for n in (1, 2, 4))
LOSS_ROWS = 64
LISTS = 10
"""Lists of a length, with `pretrain.QUESTIONS` questions each."""
REACH = (512, 1024, 2048, 4096)
METHODS: tuple[tuple[pretrain.Method, int], ...] = (
    ("plain", 1), ("linear", 2), ("linear", 4), ("ntk", 2), ("ntk", 4), ("yarn", 2), ("yarn", 4)
)  # fmt: skip
METHOD_NAMES = {
    "plain": "as trained",
    "linear": "position interpolation",
    "ntk": "NTK-aware",
    "yarn": "YaRN",
}
CONTROLS = 5
"""Models with random routers, and untrained ones, beside the trained MoE."""


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
        """What a stage left, with weights rounded to bfloat16 as checkpoints have them. Raises
        TrainingError, naming it, if it has not run."""
        model = self.run.model(stage)
        self.stages[stage] = weights_hash(model)[:16]
        model = model.bfloat16().float()
        return model, Tokenizer.from_pretrained(self.run.out / stage / "model")

    def problems(self, per_family: int) -> list[Problem]:
        """Problems of the test split, all difficulties in turn."""
        return [p for family in FAMILIES for p in make_problems(family, SPLIT, per_family, seed=TEST_SEED)]

    def answers(self, stage: str, what: str, problems: Sequence[Problem], **options: Any) -> list[Row]:
        """`evaluate` with its log in the row's folder; greedy unless `options` say otherwise."""
        model, tokenizer = self.model(stage)
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
            pair = before[domain], after[domain]
            numbers = [mean_of(losses, context) for losses in pair]
            gained = mean_of([new - old for old, new in zip(*pair, strict=True)], context)
            what = f"{stage.upper()}: loss on {domain}"
            name = f"pretraining.{stage}.loss.{domain}"
            yield Item(name, what, numbers[0], numbers[1], "nats a token", gained)
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
            found[stage] = pretrain.retrieved(model, tokenizer, context, bench.count, SPLIT, TEST_SEED)
        for stage in ("s3", "s3-no-abf"):
            what = f"S3 {stages[stage]} ABF: retrieval in {context:,} tokens"
            way = stage.replace("s3-no-", "no-").replace("s3", "abf")
            pair = found["s2"], found[stage]
            yield versus_hits(f"pretraining.retrieval-{context}.{way}", what, pair)


def _reach(bench: Bench) -> Iterator[Item]:
    """Retrieval within and beyond the trained length: as trained, and with each method that reaches it,
    on the same questions; and of keys that are not in the list, where a guess is right once in 100."""
    model, tokenizer = bench.model("s3")
    trained, points = pretrain.MIXES["s3"].context, []
    for context in REACH:
        lists = pretrain.haystacks(tokenizer, context, min(LISTS, bench.count), SPLIT, TEST_SEED)
        before: list[list[bool]] = []
        for method, factor in METHODS:
            if method == "plain":
                changed = pretrain.stretched(model, "plain", max(1, context / trained))
            elif factor * trained < context:
                continue
            else:
                changed = pretrain.stretched(model, method, factor)
            hits = [pretrain.look_up(changed, tokenizer, one, one.asked) for one in lists]
            name = METHOD_NAMES[method] + (f", factor {factor}" if method != "plain" else "")
            what = f"S3: retrieval in {context:,} tokens, {name}"
            plain, gained = None, None
            if before:
                plain = share_of(before)
                paired = zip(before, hits, strict=True)
                gained = mean_of([a - b for old, new in paired for b, a in zip(old, new, strict=True)])
            else:
                before = hits
            word = method if method == "plain" else f"{method}-{factor}"
            yield Item(f"pretraining.reach-{context}.{word}", what, plain, share_of(hits), change=gained)
            flat = [
                (d, h)
                for one, row in zip(lists, hits, strict=True)
                for d, h in zip(one.depths, row, strict=True)
            ]
            for sixth in range(6):
                inside = [hit for depth, hit in flat if min(5, int(6 * depth)) == sixth]
                if inside:
                    points.append({
                        "tokens": context, "method": method, "factor": factor, "sixth": sixth,
                        "right": sum(inside), "n": len(inside),
                    })  # fmt: skip
        hits = [pretrain.look_up(changed, tokenizer, one, one.absent) for one in lists]
        what = f"S3: the same in {context:,} tokens, {name}, of keys that are not there"
        yield Item(f"pretraining.reach-{context}.absent", what, None, share_of(hits))
    bench.extra["retrieval_by_depth"] = points


def _pass_at_k(bench: Bench) -> Iterator[Item]:
    """pass@1 and pass@8 at temperature 1, before and after GRPO."""
    rows = [_sampled(bench, stage) for stage in ("cold-start", "grpo")]
    yield versus("reasoning.pass-1", "GRPO: pass@1", rows)
    name, what = f"reasoning.pass-{SAMPLES}", f"GRPO: pass@{SAMPLES}"
    yield versus(name, what, rows, any_of, any_right)


def _sampled(bench: Bench, stage: str) -> list[Row]:
    problems = bench.problems(-(-bench.count // len(FAMILIES)))
    return bench.answers(stage, "sampled", problems, samples=SAMPLES, sampling=Sampling())


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


def _kept(
    bench: Bench,
    before: str,
    after: str,
    title: str,
    budgets: Sequence[int | None],
    name: str | None = None,
) -> Iterator[Item]:
    """Thinking accuracy of two stages, in all and by family, and at budgets below none. name: what the
    items' ids begin with; the row's, if absent."""
    problems = bench.problems(bench.count)
    modes: list[Mode] = ["thinking", "non-thinking"]
    rows = [bench.answers(s, "modes", problems, budgets=budgets, modes=modes) for s in (before, after)]
    free = [[r for r in some if r.mode == "thinking" and r.budget is None] for some in rows]
    row = bench.row if name is None else name
    yield versus(f"{row}.thinking.accuracy", f"{title}: thinking accuracy", free)
    for family in FAMILIES:
        pair = [[r for r in some if r.family == family] for some in free]
        yield versus(f"{row}.thinking.accuracy.{family}", f"{title}: thinking accuracy, {family}", pair)
    pair = [[r for r in some if r.mode == "non-thinking"] for some in rows]
    yield versus(f"{row}.non-thinking.accuracy", f"{title}: accuracy without thinking", pair)
    for budget in budgets if len(budgets) > 1 else ():
        pair = [[r for r in some if r.mode == "thinking" and r.budget == budget] for some in rows]
        limit = "no budget" if budget is None else f"a budget of {budget}"
        at = f"{row}.budget-{'none' if budget is None else budget}"
        yield versus(f"{at}.accuracy", f"{title}: accuracy with {limit}", pair)
        if budget is not None:  # a cut thought may go on, and close a second time
            what = f"{title}: lenient accuracy with {limit}"
            yield versus(f"{at}.lenient", what, pair, lenient_accuracy, lenient)
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
            [part["mode"] == 1 for part in bench.score(stage, name, tasks)] for stage in ("grpo", "fusion")
        ]
        yield versus_hits(f"fusion.{name.replace('-', '.', 1)}", f"Fusion: {flag} obeyed", pair)


def _general(bench: Bench) -> Iterator[Item]:
    """What general RL rewards, kind by kind (`general_rl.make_tasks` gives the kinds in turn). Whether a
    limit is kept is judged by itself, beside the answer; of limits that are too small as well."""
    kinds = ("single_turn", "many_turns", "limited", "tool_call")
    stages = ("fusion", "general-rl")
    tokenizer = bench.model("general-rl")[1]
    tasks, small = (
        general_rl.make_tasks(tokenizer, bench.count, run_seed=TEST_SEED, split=SPLIT, limits=limits)
        for limits in (general_rl.Limits(alone=True), general_rl.Limits((0.75,), alone=True))
    )
    found = [bench.score(stage, "tasks", tasks) for stage in stages]
    wanted: list[tuple[str, str, str, str, float]] = [
        ("mode.many-turns", "mode followed, ThinkFollow (several turns)", "many_turns", "mode", 1.0),
        ("mode.one-turn", "mode followed, one turn", "single_turn", "mode", 1.0),
        ("format.right", "format right", "single_turn", "format", 1.0),
        ("tool-call.valid", "tool call of valid format", "tool_call", "tool", 0.5),
        ("tool-call.right", "tool call right", "tool_call", "tool", 1.0),
        ("length.obeyed", "length limit obeyed", "limited", "length", 1.0),
        ("length.right", "right with a length limit", "limited", "correct", 1.0),
    ]
    for name, what, kind, part, least in wanted:
        first = kinds.index(kind)
        pair = [[parts[part] >= least for parts in some[first :: len(kinds)]] for some in found]
        yield versus_hits(f"general.{name}", f"General RL: {what}", pair)
    first = kinds.index("limited")
    found = [bench.score(stage, "small-limits", small[first :: len(kinds)]) for stage in stages]
    for name, part in (("obeyed", "length"), ("right", "correct")):
        pair = [[parts[part] >= 1.0 for parts in some] for some in found]
        what = f"General RL: {name} with a length limit that the steps do not fit in"
        yield versus_hits(f"general.length-too-small.{name}", what, pair)


def _general_kept(bench: Bench) -> Iterator[Item]:
    yield from _kept(bench, "fusion", "general-rl", "General RL", (None,))


def _length_alone(bench: Bench) -> Iterator[Item]:
    """The same where a short thought is paid for itself: what `general_rl.ENOUGH` is there to avoid."""
    title, name = "General RL, length paid alone", "general.length-alone"
    yield from _kept(bench, "fusion", "general-rl-length-alone", title, (None,), name)


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
        rows = bench.answers("general-rl", f"translation-{kind}", problems, modes=modes)
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
        answers = {s: _student_answers(bench, s) for s in dict.fromkeys(("off-policy", stage))}
        drawn = Number(find_stage(stage).drawn(bench.run, _summary(bench, stage)), None, None, 1)
        table = bench.extra.setdefault("table_21", {}).setdefault(stage, {})
        for what, (of, score) in STUDENT_NUMBERS.items():
            before, after = answers["off-policy"][what], answers[stage][what]
            first = stage == "off-policy"
            item = Item(
                _student_id(stage, what),
                f"Student, {STUDENTS[stage]}: {what}",
                None if first else of(before),
                of(after),
                change=None if first else change(before, after, score),
            )
            table[what] = asdict(item.after)
            yield item
        table["replies drawn"] = asdict(drawn)
        what = f"Student, {STUDENTS[stage]}: replies drawn to learn from"
        yield Item(_student_id(stage, "replies"), what, None, drawn, "replies")

    return part


def _student_id(stage: str, what: str) -> str:
    return f"distillation.{stage}.{what.lower().replace(', ', '.').replace('@', '-')}"


STUDENT_NUMBERS: Mapping[str, tuple[Callable[[Sequence[Row]], Number], Score]] = {
    "accuracy, thinking": (accuracy, right),
    "accuracy, non-thinking": (accuracy, right),
    "pass@1": (accuracy, right),
    f"pass@{SAMPLES}": (any_of, any_right),
}


def _student_answers(bench: Bench, stage: str) -> dict[str, list[Row]]:
    modes: list[Mode] = ["thinking", "non-thinking"]
    greedy = bench.answers(stage, "modes", bench.problems(bench.count), modes=modes)
    sampled = _sampled(bench, stage)
    return {
        "accuracy, thinking": [r for r in greedy if r.mode == "thinking"],
        "accuracy, non-thinking": [r for r in greedy if r.mode == "non-thinking"],
        "pass@1": sampled,
        f"pass@{SAMPLES}": sampled,
    }


def _experts(bench: Bench) -> Iterator[Item]:
    """The trained MoE's routing beside its controls: untrained models, its own trunk with random routers,
    and text without domains; and what the routers are worth, as the loss when they are replaced."""
    model, tokenizer = bench.model("moe-s3")
    rows = _domain_rows(bench, tokenizer)
    config = model.config
    each = range(CONTROLS)
    fresh = (Qwen3(config, generator=torch.Generator().manual_seed(_EXPERTS_SEED + s)) for s in each)
    trained = experts.read(model, rows)
    controls = {
        "untrained": [experts.read(one, rows) for one in fresh],
        "random routers": [experts.read(experts.random_routers(model, s), rows) for s in each],
        "experts exchanged": [experts.read(experts.exchanged_experts(model, s), rows) for s in each],
        "shuffled tokens": [experts.read(model, experts.shuffled(rows, s)) for s in each],
    }
    kinds: dict[str, Callable[[experts.Routing], list[float]]] = {
        "specialisation": lambda r: experts.by_layer(r.picks(range(1, r.ids.shape[1], 2))),
        "specialisation that tokens alone give": lambda r: experts.by_layer(experts.by_tokens_alone(r)),
        "experts in common, same token": lambda r: experts.agreement(r)[0],
        "experts in common, any tokens": lambda r: experts.agreement(r)[1],
    }
    loss = mean_of(trained.loss.flatten().tolist(), rows.shape[2] - 1)
    yield Item("experts.loss.trained", "Experts: loss, trained", None, loss, "nats a token")
    for name, found in controls.items():
        if name == "shuffled tokens":
            continue
        means = mean_of([float(r.loss.mean()) for r in found], quantile=STUDENT[CONTROLS])
        word = name.replace(" ", "-")
        what = f"Experts: loss, {name} ({CONTROLS} seeds), beside the trained MoE's"
        yield Item(f"experts.loss.{word}", what, loss, means, "nats a token")
    for kind, of in kinds.items():
        by_model = {"trained": [of(trained)]} | {
            name: [of(r) for r in found] for name, found in controls.items()
        }
        for name, values in by_model.items():
            for layer in range(config.num_hidden_layers):
                numbers = [one[layer] for one in values]
                after = (
                    mean_of(numbers, quantile=STUDENT[CONTROLS])
                    if len(numbers) > 1
                    else Number(numbers[0], None, None, 1)
                )
                word = f"{kind} {name}".replace(", ", "-").replace(" ", "-")
                what = f"Experts: {kind}, layer {layer}, {name}"
                yield Item(f"experts.{word}.{layer}", what, None, after, "share")


_EXPERTS_SEED = 1000
"""The first of the untrained MoEs' seeds."""


def _domain_rows(bench: Bench, tokenizer: Tokenizer) -> torch.Tensor:
    """The first rows of every domain's held-out documents, as many of each, (G, R, t + 1)."""
    n = CONTEXTS[0]
    streams = [
        pretrain.pack(tokenizer, [d for d in bench.run.corpus[domain] if held_out(d)]) for domain in DOMAINS
    ]
    count = min(LOSS_ROWS // 2, *((len(stream) - 1) // n for stream in streams))
    return torch.stack([
        torch.stack([stream[i * n : (i + 1) * n + 1] for i in range(count)]) for stream in streams
    ])  # fmt: skip


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
    "pretraining": (_losses, _retrieval, _reach),
    "reasoning": (_pass_at_k, _by_step),
    "fusion": (_fusion_kept, _obeyed),
    "general": (_general, _general_kept, _length_alone, _pairs),
    "distillation": tuple(map(_student, STUDENTS)),
    "experts": (_experts,),
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
