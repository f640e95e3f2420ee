"""The decisions of Qwen3 as experiments: what of them can be seen in models of a third of a million
parameters.

Each decision asks questions of arms (`arms.ARMS`) that differ in one thing. A question is answered seed by
seed with a number that is above 0 where it speaks for the decision, and its 95% interval over seeds
(Student's) is the verdict: confirmed at this scale, refuted, or cannot be told.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import numpy as np

from qwen3_ref.measure.arms import ARMS, RATES, SIZES, TOKENS, UNSEEN, Lab
from qwen3_ref.measure.statistics import STUDENT
from qwen3_ref.measure.study import kept
from qwen3_ref.measure.table import over_seeds
from qwen3_ref.store.errors import meant
from qwen3_ref.store.files import write_atomically

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "nano" / "measured"
SEEDS = (0, 1, 2)
COLUMNS = ("arm", "seed", "metric", "value", "torch", "command")

Values = Mapping[str, Mapping[str, float]]
"""Of one seed: arm -> metric -> value."""


@dataclass(frozen=True)
class Question:
    """asks: what the number is; of: the number from the values of one seed, above 0 for the decision;
    predicts: it is how far a prediction is off, and holds if 0 is in the interval."""

    asks: str
    of: Callable[[Values], float]
    unit: str = "nats"
    predicts: bool = False


@dataclass(frozen=True)
class Decision:
    """claim: what Qwen's papers say; equal: what the arms have in common; the first question is the
    decision's own. arms: those that are drawn together."""

    name: str
    title: str
    claim: str
    equal: str
    arms: tuple[str, ...]
    questions: tuple[Question, ...]


def less(metric: str, more: str, fewer: str) -> Callable[[Values], float]:
    """How much lower the metric is in the arm `fewer` than in `more`."""
    return lambda values: values[more][metric] - values[fewer][metric]


# -- learning rates -------------------------------------------------------------------------------------


def sensitivity(values: Values, variant: str) -> float:
    """How much the loss depends on the learning rate: the mean over RATES of the loss, at most that of
    counting tokens, less the best of them (arXiv 2309.14322, section 2.2)."""
    losses = [min(values[f"{variant}@{r:g}"]["loss"], values["counting"]["loss"]) for r in RATES]
    return fmean(losses) - min(losses)


def best(values: Values, variant: str) -> float:
    """The lowest loss over RATES."""
    return min(values[f"{variant}@{r:g}"]["loss"] for r in RATES)


# -- the scaling law ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """loss = floor + scale * x ** -exponent: of parameters without embeddings, or of tokens."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, x: float) -> float:
        return self.floor + self.scale * x**-self.exponent


def fit(x: Sequence[float], losses: Sequence[float]) -> Law:
    """The law with the least squares: for each exponent of a grid the line through (x ** -exponent, loss),
    with a floor of 0 or more. Raises ValueError for fewer than three points: they would fit any law."""
    if len(x) < 3 or len(x) != len(losses):
        raise ValueError(f"a law has three numbers, and there are {len(x)} points; give three or more.")
    found = list[tuple[float, Law]]()
    for exponent in np.linspace(0.02, 2, 199):
        powers = np.asarray(x, np.float64) ** -exponent
        for columns in (np.stack([np.ones_like(powers), powers], 1), powers[:, None]):
            solved = np.linalg.lstsq(columns, np.asarray(losses), rcond=None)[0]
            floor, scale = (0.0, *solved)[-2:]
            if floor >= 0:
                error = float(np.square(floor + scale * powers - losses).sum())
                found.append((error, Law(float(floor), float(scale), float(exponent))))
    return min(found, key=lambda pair: pair[0])[1]


def size_arm(hidden_size: int) -> str:
    """The arm of a width at the common rate."""
    return "qk-norm@0.004" if hidden_size == 64 else f"size-{hidden_size}"


def size_law(values: Values, metric: str = "loss") -> Law:
    """Of one seed's SIZES at equal tokens."""
    some = [values[size_arm(h)] for h in SIZES]
    return fit([v["parameters"] for v in some], [v[metric] for v in some])


def miss(values: Values) -> float:
    """What was measured at the size UNSEEN less what the law of the others says."""
    unseen = values[size_arm(UNSEEN)]
    return unseen["loss"] - size_law(values)(unseen["parameters"])


# -- what is joined from other studies ------------------------------------------------------------------


def _joined(folder: Path) -> dict[int, dict[str, dict[str, float]]]:
    """Seed -> arm -> metric -> value of the shipped studies of balancing, distillation and ABF."""
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)
    cells = json.loads((folder / "balancing.json").read_text(encoding="utf-8"))["cells"]
    for variant in ("none", "micro", "global"):
        for seed, cell in enumerate(cells[variant]):
            keys = ("mean_loss", "specialisation", "max_load")
            found[seed][f"balancing {variant}"] = {key: cell["after"][key] for key in keys}
    cells = json.loads((folder / "pruned.json").read_text(encoding="utf-8"))["cells"]
    for way, of_seeds in cells.items():
        for seed, cell in enumerate(of_seeds):
            found[seed][f"healing: {way}"] = {w: fmean(cell[w]) for w in ("greedy", "sampled")}
    spread = json.loads((folder / "spread.json").read_text(encoding="utf-8"))["spread"]
    for item in spread:
        if item["id"].startswith("pretraining.retrieval-1024."):
            for seed, value in item["values"].items():
                found[int(seed)][item["id"].removeprefix("pretraining.")] = {"accuracy": value}
    return found


# -- the decisions --------------------------------------------------------------------------------------

DECISIONS = (
    Decision(
        "qk-norm",
        "QK-Norm instead of QKV bias",
        "to ensure stable training (report, section 2)",
        "matrices at the start, rows and steps",
        tuple(f"{v}@{r:g}" for v in ("qk-norm", "bias", "neither") for r in RATES),
        (
            Question(
                "dependence of the loss on the learning rate, bias less QK-Norm",
                lambda v: sensitivity(v, "bias") - sensitivity(v, "qk-norm"),
            ),
            Question(
                "the same, neither less QK-Norm",
                lambda v: sensitivity(v, "neither") - sensitivity(v, "qk-norm"),
            ),
            Question(
                "loss at the best learning rate, bias less QK-Norm",
                lambda v: best(v, "bias") - best(v, "qk-norm"),
            ),
            Question(
                "largest attention logit at the highest rate, log10 of bias over QK-Norm",
                lambda v: math.log10(v["bias@0.064"]["logit"] / v["qk-norm@0.064"]["logit"]),
                "decades",
            ),
            Question(
                "rise of the loss in 4 bits at the common rate, bias less QK-Norm",
                less("int4 rise", "bias@0.004", "qk-norm@0.004"),
            ),
        ),
    ),
    Decision(
        "stages",
        "three stages of pre-training",
        "general, then reasoning, then long context (report, section 3.2)",
        "tokens, steps and schedule; the first two read the very same rows",
        ("in-order", "mixed", "long"),
        (
            Question(
                "loss on solved problems, mixed less in order", less("loss reasoning", "mixed", "in-order")
            ),
            Question("loss on code, mixed less in order", less("loss code", "mixed", "in-order")),
            Question("loss far into long text, mixed less in order", less("far loss", "mixed", "in-order")),
            Question(
                "loss on solved problems, long less in order", less("loss reasoning", "long", "in-order")
            ),
            Question(
                "CPU seconds, long over in order, less 1",
                lambda v: v["long"]["cpu_seconds"] / v["in-order"]["cpu_seconds"] - 1,
                "times",
            ),
        ),
    ),
    Decision(
        "tokens",
        "twice the data",
        "36T tokens, of which Qwen2.5 had 18T (report, section 3.1)",
        "all but the steps, or all but the width",
        (*(size_arm(h) for h in (*SIZES, UNSEEN)), *(f"steps-{n}" for n in TOKENS)),
        (
            Question("loss after 120 steps less after 240", less("loss", "qk-norm@0.004", "steps-240")),
            Question(
                "loss of a model of 1.6 times the size less of one that read twice as much",
                less("loss", "size-80", "steps-240"),
            ),
            Question("loss of the unseen size less what the law of five says", miss, predicts=True),
        ),
    ),
    Decision(
        "languages",
        "more languages",
        "119 instead of 29, for access and understanding across languages (report, section 3.1)",
        "tokens and steps",
        ("languages-2", "languages-4", "languages-8"),
        (
            Question(
                "loss between two languages that training never pairs, 2 languages less 8",
                less("unpaired loss", "languages-2", "languages-8"),
            ),
            Question(
                "loss between those languages and digits, 2 languages less 8",
                less("digits loss", "languages-2", "languages-8"),
            ),
        ),
    ),
    Decision(
        "balancing",
        "balancing over the global batch",
        "encourages experts to specialise (report, section 2)",
        "matrices at the start, rows and steps; `measure.balance_study`",
        ("balancing none", "balancing micro", "balancing global"),
        (
            Question("loss, micro less global", less("mean_loss", "balancing micro", "balancing global")),
            Question("loss, without less global", less("mean_loss", "balancing none", "balancing global")),
            Question(
                "specialisation, global less micro",
                less("specialisation", "balancing global", "balancing micro"),
                "of 1",
            ),
        ),
    ),
    Decision(
        "experts",
        "no shared expert, and many narrow ones",
        "fine-grained experts, and unlike Qwen2.5-MoE none is shared (report, section 2)",
        "parameters of all experts, and of those that a token takes; rows and steps",
        ("narrow", "narrow-loud", "wide", "shared", "dense"),
        (
            Question("loss, one shared less routed only", less("loss", "shared", "narrow")),
            Question("the same, routed ones that start as loud", less("loss", "shared", "narrow-loud")),
            Question("loss, 4 wide less 16 narrow", less("loss", "wide", "narrow")),
            Question(
                "loss, a dense model of the active size less 16 narrow", less("loss", "dense", "narrow")
            ),
        ),
    ),
    Decision(
        "hybrid",
        "both modes in one model",
        "no need to switch between two models (report, abstract)",
        "examples, and steps in sum",
        ("hybrid", "thinking", "plain"),
        (
            Question(
                "accuracy, the mean of both modes, one model less two",
                lambda v: (
                    (
                        v["hybrid"]["thinking accuracy"]
                        + v["hybrid"]["non-thinking accuracy"]
                        - v["thinking"]["thinking accuracy"]
                        - v["plain"]["non-thinking accuracy"]
                    )
                    / 2
                ),
                "of 1",
            ),
            Question("accuracy, thinking", less("thinking accuracy", "hybrid", "thinking"), "of 1"),
            Question("accuracy, non-thinking", less("non-thinking accuracy", "hybrid", "plain"), "of 1"),
        ),
    ),
    Decision(
        "distillation",
        "strong-to-weak distillation",
        "better than reinforcement learning at a tenth of the GPU hours (report, section 4.5)",
        "the pruned model at the start, problems and, nearly, CPU time; `measure.pruned`",
        tuple(f"healing: {w}" for w in ("GRPO", "on-policy, reverse KL", "teacher's words", "own words")),
        (
            Question(
                "accuracy, sampled, on-policy distillation less GRPO",
                less("sampled", "healing: on-policy, reverse KL", "healing: GRPO"),
                "of 1",
            ),
            Question(
                "accuracy, sampled, the teacher's words less GRPO",
                less("sampled", "healing: teacher's words", "healing: GRPO"),
                "of 1",
            ),
        ),
    ),
    Decision(
        "positions",
        "RoPE with a base that rises at the long stage",
        "10,000, then 1,000,000 by ABF (report, section 3.2)",
        "matrices at the start, rows and steps",
        ("abf", "theta-10000", "in-order", "no-positions"),
        (
            Question("loss far into long text, base 10,000 less ABF", less("far loss", "theta-10000", "abf")),
            Question("the same, 1,000,000 from the start less ABF", less("far loss", "in-order", "abf")),
            Question("loss within 128 tokens, no positions less ABF", less("loss", "no-positions", "abf")),
            Question(
                "loss far into long text, no positions less ABF", less("far loss", "no-positions", "abf")
            ),
            Question(
                "retrieval in 1,024 tokens by the whole nano, ABF less base 10,000",
                less("accuracy", "retrieval-1024.abf", "retrieval-1024.no-abf"),
                "of 1",
            ),
        ),
    ),
)


def find_decision(name: str) -> Decision:
    """By its name. Raises ValueError, naming the nearest, for one that does not exist."""
    found = {decision.name: decision for decision in DECISIONS}
    if name not in found:
        raise ValueError(f"there is no decision {name!r}; {meant(name, list(found))}.")
    return found[name]


# -- verdicts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A question's answer over seeds: the mean, its 95% interval, one value a seed, and the sentence."""

    question: Question
    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    @property
    def word(self) -> str:
        """What the interval allows to say."""
        if self.question.predicts:
            return "as predicted, within the interval" if self.low <= 0 <= self.high else "not as predicted"
        if self.low > 0:
            return "confirmed at this scale"
        return "refuted at this scale" if self.high < 0 else "cannot be told"

    def sentence(self) -> str:
        """The question, the numbers and the word."""
        q = self.question
        scale, unit = (100, " points") if q.unit == "of 1" else (1, f" {q.unit}")
        numbers = f"{scale * self.mean:+.3g}{unit} ({scale * self.low:+.3g} to {scale * self.high:+.3g})"
        return f"{q.asks}: {numbers}: {self.word}"


def verdicts(decision: Decision, values: Mapping[int, Values]) -> list[Verdict]:
    """Of each question, over the seeds that have every arm. Raises ValueError for fewer than two of them."""
    found = []
    for question in decision.questions:
        numbers = list[float]()
        for _, of_seed in sorted(values.items()):
            try:
                numbers.append(question.of(of_seed))
            except KeyError:
                continue
        if len(numbers) not in STUDENT:
            raise ValueError(
                f"{decision.name} was measured whole with {len(numbers)} seeds, and an interval here takes "
                f"2 to 8; run its arms with more."
            )
        n = over_seeds(numbers)
        found.append(Verdict(question, tuple(numbers), n["mean"], n["low"], n["high"]))
    return found


# -- results --------------------------------------------------------------------------------------------


def read_results(path: Path, joined: Path | None = SHIPPED) -> dict[int, dict[str, dict[str, float]]]:
    """Seed -> arm -> metric -> value of a file of COLUMNS, and of the studies in `joined`.

    Raises ValueError, naming the file and the line, for one that is something else."""
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(dict)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has other columns than {', '.join(COLUMNS)}; give a decisions.csv.")
        for row in reader:
            try:
                found[int(row["seed"])].setdefault(row["arm"], {})[row["metric"]] = float(row["value"])
            except (TypeError, ValueError):
                raise ValueError(f"{path} cannot be read in line {reader.line_num}; make it anew.") from None
    for seed, arms in _joined(joined).items() if joined is not None else ():
        found[seed] |= arms
    return dict(found)


def run_arm(lab: Lab, name: str, seed: int) -> dict[str, float]:
    """Train and measure one arm in `OUT/<arm>-<seed>`, or read the result that is there.

    Raises ValueError for an unknown arm, TrainingError for a result of other settings and as
    `loop.train` does."""
    if name != "counting" and name not in ARMS:
        raise ValueError(f"there is no arm {name!r}; {meant(name, list(ARMS))}.")
    if name == "counting":
        return {"loss": lab.unigram}
    folder = lab.out / f"{name}-{seed}"
    path, settings = folder / "result.json", {"arm": repr(ARMS[name]), "seed": seed}
    if (result := kept(path, settings)) is not None:
        return {metric: float(value) for metric, value in result["numbers"].items()}
    numbers = ARMS[name].run(lab, folder, seed)
    told = {metric: value if math.isfinite(value) else "inf" for metric, value in numbers.items()}
    write_atomically(path, json.dumps({"settings": settings, "numbers": told}) + "\n")
    return numbers


def run_all(lab: Lab, names: Sequence[str], seeds: Sequence[int], told: Callable[[str], None]) -> Path:
    """Run arms, seed after seed, and write what there is of them as `OUT/decisions.csv` after each."""
    path, rows = lab.out / "decisions.csv", list[list[object]]()
    for seed in seeds:
        for name in dict.fromkeys(("counting", *names)):
            for metric, value in run_arm(lab, name, seed).items():
                rows.append([name, seed, metric, f"{value:.6g}", version("torch"), command_of(name, seed)])
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
            write_atomically(path, text.getvalue())
            last = {row[2]: row[3] for row in rows if row[:2] == [name, seed]}
            told(f"{name}, seed {seed}: {', '.join(f'{m} {x}' for m, x in last.items())}")
    return path


def command_of(arm: str, seed: int) -> str:
    """What measures one arm again."""
    return f"measure decisions --arm {arm} --seed {seed}"


def minutes(names: Sequence[str], values: Mapping[int, Values]) -> float:
    """CPU minutes that training these arms took with one seed, the mean of all seeds in `values`; measuring
    them takes about a fifth as long."""
    spent = [sum(of_seed[name].get("cpu_seconds", 0) for name in names) for of_seed in values.values()]
    return fmean(spent) / 60


def chosen(words: Sequence[str]) -> list[str]:
    """Arms by name, by the name of their decision, or all of them ("all"), each once. Raises ValueError."""
    names = list[str]()
    for word in words:
        if word == "all":
            names += ARMS
        elif word in ARMS or word == "counting":
            names.append(word)
        elif re.fullmatch("|".join(d.name for d in DECISIONS), word):
            names += [arm for arm in find_decision(word).arms if arm in ARMS]
        else:
            known = list(dict.fromkeys([*ARMS, *(d.name for d in DECISIONS)]))
            raise ValueError(f"there is no arm {word!r}; {meant(word, known)}.")
    return list(dict.fromkeys(names))
