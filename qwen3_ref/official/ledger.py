"""What is said about Qwen3, claim by claim, and the functions that compute what a claim is about.

The claims are data (`facts.ledger()`); nothing in this file says what is right. A claim with `computed_by`
names a function of this file, and `compute` runs it: its result is what the claim's `number` has to be.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwen3_ref import facts, memory
from qwen3_ref.chat import THINKERS, Template, render_chat
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.budget import EARLY_STOP
from qwen3_ref.official.variants import size_of, template_of, variant
from qwen3_ref.tokenizer import CONTROL_TOKENS, Tokenizer

GROUPS = (
    "architecture", "tokenizer", "training", "thinking", "benchmarks", "memory", "deployment", "family",
    "licence",
)  # fmt: skip
"""What claims are about."""
VERDICTS = ("true", "false", "imprecise", "cannot be known")
"""What a claim can be."""
NEAR = 1 / 8
"""How far a number may be off, of the right one, to be called imprecise and not false."""
_APRIL = [name for name, model in facts.official_models().items() if model.get("released") == "2025-04-29"]
_APRIL = [name for name in _APRIL if not name.endswith("-Base")]


@dataclass(frozen=True)
class Claim:
    """One claim. `claim`: what is said, in our words; `finding`: what is so. origin: who says it, and `lines`
    where, in the design card of this project. said: the claim's number as it was written, or a range "5 to
    10"; number: the right one, in `unit`. source: keys of `facts.ledger_sources()`. computed_by, given: the
    function that computes the number, and its arguments."""

    id: str
    group: str
    claim: str
    verdict: str
    finding: str
    source: tuple[str, ...]
    origin: str = "card"
    lines: str = ""
    said: str | None = None
    number: Any = None
    unit: str = ""
    computed_by: str | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> str:
        """The Python that computes it, or ""."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
        return f"{self.computed_by}({arguments})" if self.computed_by else ""


def claims(*words: str) -> list[Claim]:
    """The claims that have all the words: an id, a group, a verdict, or anything in what they say. A word
    that is a group or a verdict is taken as that."""
    every = [Claim(**(row | {"source": tuple(row["source"])})) for row in facts.ledger()]
    for word in words:
        if word in GROUPS:
            every = [c for c in every if c.group == word]
        elif word in VERDICTS or word == "unknown":
            every = [c for c in every if c.verdict == word or (word, c.verdict) == ("unknown", VERDICTS[3])]
        else:
            every = [c for c in every if word.lower() in f"{c.id} {c.claim} {c.finding} {c.origin}".lower()]
    return every


def claim(name: str) -> Claim:
    """The claim with this id. Raises ValueError for an unknown one."""
    for one in claims():
        if one.id == name:
            return one
    raise ValueError(f"there is no claim {name!r} in the ledger; `ledger WORD` finds those about something.")


def compute(one: Claim) -> Any:
    """What the claim is about, computed now. Raises ValueError if nothing computes it."""
    if one.computed_by is None:
        raise ValueError(f"nothing here computes {one.id}; it rests on {', '.join(one.source)}.")
    return FUNCTIONS[one.computed_by](**one.given)


def counts(some: Sequence[Claim]) -> dict[str, dict[str, int]]:
    """group -> verdict -> how many claims."""
    found = Counter((c.group, c.verdict) for c in some)
    return {g: {v: found[g, v] for v in VERDICTS} for g in GROUPS if any(c.group == g for c in some)}


def judged(said: str, number: float) -> str:
    """The verdict on a number as it was written: "true" if the right one, rounded to as many decimals, is it
    (or lies in the range "5 to 10"), "imprecise" if it is off by at most NEAR of the right one, else "false".

    Raises ValueError for a text that is no number and no range."""
    written = [part.strip().replace(",", "") for part in said.split(" to ")]
    if len(written) > 2 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in written):
        raise ValueError(f"{said!r} is no number and no range such as '5 to 10'.")
    ends = [float(part) for part in written]
    if len(ends) == 1:
        decimals = len(written[0].partition(".")[2])
        off = abs(ends[0] - number)
        right = off <= 0.5 * 10.0**-decimals
    else:
        off = max(ends[0] - number, number - ends[1], 0.0)
        right = off == 0
    return "true" if right else "imprecise" if off <= NEAR * abs(number) else "false"


# -- what a config says ------------------------------------------------------------------------------------


def unlike_the_report() -> list[str]:
    """Models whose layers, heads or tied embedding are not those of the report's Tables 1 and 2."""
    tables, wrong = facts.technical_report()["tables_1_2"], []
    for name, row in (tables["dense"] | tables["moe"]).items():
        c = Qwen3Config.named(name)
        ours: list[Any] = [c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads]
        ours += [c.num_experts, c.num_experts_per_tok] if c.is_moe else [c.tie_word_embeddings]
        if ours != row[: len(ours)]:
            wrong.append(name)
    return wrong


def gqa_ratios() -> dict[str, int]:
    """Query heads for each KV head, of the models of April 2025."""
    found = {name: Qwen3Config.named(name) for name in _APRIL}
    return {name: c.num_attention_heads // c.num_key_value_heads for name, c in found.items()}


def rope_thetas(models: Sequence[str]) -> dict[str, int]:
    """The base of RoPE of each."""
    return {name: int(Qwen3Config.named(name).rope_theta) for name in models}


def rope_theta(model: str) -> int:
    """The base of RoPE."""
    return int(Qwen3Config.named(model).rope_theta)


def widths(models: Sequence[str]) -> dict[str, list[int]]:
    """hidden_size, the width of a feed-forward (of an expert, where there are experts) and head_dim."""
    found = {name: Qwen3Config.named(name) for name in models}
    return {
        name: [c.hidden_size, c.moe_intermediate_size or c.intermediate_size, c.head_dim]
        for name, c in found.items()
    }


def bias_tensors() -> int:
    """Tensors with a bias, in all checkpoints of the family together."""
    names = (name for model in _APRIL for name in Qwen3Config.named(model).tensor_shapes())
    return sum(name.endswith(".bias") for name in names)


def qk_norm(model: str) -> dict[str, list[int]]:
    """Name and shape of the weights of QK-Norm in a layer."""
    shapes = Qwen3Config.named(model).tensor_shapes()
    first = {name: shape for name, shape in shapes.items() if name.startswith("model.layers.0.self_attn.")}
    return {name.split(".")[-2]: list(shape) for name, shape in first.items() if "_norm" in name}


def bytes_too_few_without_qk_norm(model: str) -> int:
    """Published bytes of a checkpoint, less those of its tensors counted without QK-Norm."""
    published = facts.published_total_size(model)
    shapes = Qwen3Config.named(model).tensor_shapes()
    counted = [shape for name, shape in shapes.items() if ".q_norm" not in name and ".k_norm" not in name]
    assert published is not None
    return published - 2 * sum(_product(shape) for shape in counted)


def _product(shape: Sequence[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def experts(model: str) -> list[int]:
    """Experts of a layer, those that a token is sent to, and shared ones that every token uses."""
    c = Qwen3Config.named(model)
    shared = sum("shared_expert" in name for name in c.tensor_shapes())
    return [c.num_experts or 0, c.num_experts_per_tok or 0, shared]


def expert_share(model: str) -> float:
    """Percent of a layer's experts that a token is sent to."""
    c = Qwen3Config.named(model)
    return round(100 * (c.num_experts_per_tok or 0) / (c.num_experts or 1), 2)


def active_share(model: str) -> float:
    """Percent of all parameters that a token uses."""
    c = Qwen3Config.named(model)
    return round(100 * c.num_active_parameters() / c.num_parameters(), 2)


def positions(model: str) -> int:
    """max_position_embeddings."""
    return Qwen3Config.named(model).max_position_embeddings


def positions_for_the_prompt(model: str, reply: int) -> int:
    """What max_position_embeddings leaves for a prompt beside a reply."""
    return positions(model) - reply


def yarn_context(model: str) -> int:
    """Tokens with the model card's YaRN setting."""
    yarn = {k: v for k, v in facts.about()["yarn"].items() if k != "source"}
    return replace(Qwen3Config.named(model), rope_scaling=yarn).context_length


def balancing_coefficients() -> dict[str, float]:
    """router_aux_loss_coef of every mixture's config, after training."""
    models = facts.official_models()
    configs = {n: m["config"] for n, m in models.items() if m["config"] and not n.endswith("-Base")}
    return {n: c["router_aux_loss_coef"] for n, c in configs.items() if "router_aux_loss_coef" in c}


# -- what the tokenizer and the templates say --------------------------------------------------------------


def vocabulary() -> list[int]:
    """Ids with a text, rows of the embedding, and the difference."""
    ids, rows = len(Tokenizer.official().ids), Qwen3Config.named("Qwen3-8B").vocab_size
    return [ids, rows, rows - ids]


def merged_tokens() -> list[int]:
    """Tokens that BPE makes, and control tokens beside them."""
    tokenizer = Tokenizer.official()
    return [len(tokenizer.vocab), len(tokenizer.control_tokens)]


def newest_control_tokens(count: int) -> dict[str, int]:
    """The last control tokens and their ids."""
    ids = Tokenizer.official().control_tokens
    return {token: ids[token] for token in CONTROL_TOKENS[-count:]}


def early_stop_tokens() -> int:
    """Tokens of the sentence that ends a thought early, the closing mark and blank lines included."""
    return len(Tokenizer.official().encode(EARLY_STOP, allow_control_tokens=True))


def reply_opens_with(template: Template, **options: Any) -> str:
    """What a prompt ends in behind the assistant's mark."""
    text = render_chat([{"role": "user", "content": "Q"}], template=template, **options)
    return text.rpartition("<|im_start|>assistant\n")[2]


def switches() -> list[str]:
    """What a template's caller can set, beside the messages."""
    names = inspect.signature(render_chat).parameters
    return [name for name in names if name not in ("messages", "template")]


def sampling(template: Template, mode: str) -> list[float]:
    """temperature, top_p and top_k of a mode."""
    drawn = variant(template).sampling[mode]
    return [drawn["temperature"], drawn["top_p"], drawn["top_k"]]


def template_of_plain_names() -> dict[str, str]:
    """The chat template of each checkpoint whose name has no suffix: a base model has none."""
    return {name: str(template_of(name)) for name in _APRIL if template_of(name) in THINKERS}


# -- what the report's tables say --------------------------------------------------------------------------


def _column(table: str, model: str) -> dict[str, float | None]:
    data = facts.technical_report()[table]
    place = data["columns"].index(model)
    return {benchmark: row[place] for benchmark, row in data["rows"].items()}


def score(table: str, model: str, benchmark: str) -> float | None:
    """One cell of a table of benchmarks."""
    return _column(table, model)[benchmark]


def scores(table: str, models: Sequence[str], benchmark: str) -> dict[str, float | None]:
    """A row of a table of benchmarks, of some models."""
    return {model: score(table, model, benchmark) for model in models}


def ahead(table: str, model: str, other: str) -> list[int]:
    """In how many benchmarks of a table a model is ahead of another, and of how many that have both."""
    pairs = zip(_column(table, model).values(), _column(table, other).values(), strict=True)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return [sum(a > b for a, b in both), len(both)]


def not_ahead(table: str, model: str, other: str) -> list[str]:
    """Benchmarks of a table in which a model is not ahead of another."""
    theirs = _column(table, other)
    return [
        name
        for name, mine in _column(table, model).items()
        if mine is not None and theirs[name] is not None and not mine > theirs[name]  # type: ignore[operator]
    ]


def in_front(table: str, model: str, benchmark: str) -> list[str]:
    """Models of a table with a higher score in a benchmark, best first."""
    columns = facts.technical_report()[table]["columns"]
    values = {name: score(table, name, benchmark) for name in columns}
    mine = values[model]
    better = {n: v for n, v in values.items() if v is not None and mine is not None and v > mine}
    return sorted(better, key=lambda name: -better[name])


def parameter_ratio(table: str, model: str, other: str) -> float:
    """Total parameters of a model over those of another, as a table states them."""
    data = facts.technical_report()[table]
    sizes = dict(zip(data["columns"], data["total_parameters_billions"], strict=True))
    return round(sizes[model] / sizes[other], 3)


def shots(benchmark: str) -> str:
    """How the report asks base models the questions of a benchmark."""
    return str(facts.technical_report()["table_3_base_235b"]["shots"][benchmark])


def top_percent(table: str, model: str) -> float:
    """Percent of CodeForces' people that are as good as a model, or better."""
    data = facts.technical_report()[table]
    percentile = dict(zip(data["columns"], data["codeforces_percentile"], strict=True))[model]
    return round(100 - percentile, 1)


def gains_beyond(budget: int) -> dict[str, int]:
    """Percent of what thinking gains from the smallest budget to the largest that comes after a budget
    (the report's Figure 2)."""
    figure = facts.technical_report()["figure_2_thinking_budget"]
    place = figure["budget_tokens"].index(budget)
    curves = figure["thinking"]
    return {name: round(100 * (y[-1] - y[place]) / (y[-1] - y[0])) for name, y in curves.items()}


def gpu_hours_ratio() -> float:
    """GPU hours of on-policy distillation over those of reinforcement learning (Table 21)."""
    rows = facts.technical_report()["table_21_distillation_vs_rl_qwen3_8b"]["rows"]
    distilled, reinforced = rows["+ on-policy distillation"], rows["+ reinforcement learning"]
    return round(distilled["GPU hours"] / reinforced["GPU hours"], 3)


def language_ratio(before: int) -> float:
    """Languages of Qwen3 over those of the generation before."""
    return round(facts.technical_report()["pretraining"]["languages"] / before, 2)


def reported(*, path: Sequence[str]) -> Any:
    """A value of `technical_report.json`, by its keys."""
    value: Any = facts.technical_report()
    for key in path:
        value = value[key]
    return value


# -- memory and cards --------------------------------------------------------------------------------------


def kv_cache_gb(model: str, length: int) -> float:
    """GB of keys and values in bf16."""
    return round(memory.kv_bytes(Qwen3Config.named(model), length) / 1e9, 3)


def kv_bytes_a_token(model: str) -> int:
    """Bytes of one token's keys and values in bf16."""
    return memory.kv_bytes(Qwen3Config.named(model), 1)


def active_gb(model: str) -> float:
    """GB in bf16 of the parameters that one token uses."""
    return round(2 * Qwen3Config.named(model).num_active_parameters() / 1e9, 3)


def gb_of_mib(mib: float) -> float:
    """GB of 10^9 bytes in what tools call MB, which are MiB of 2^20."""
    return round(mib * 2**20 / 1e9, 3)


def cards_needed(model: str, card: str, length: int) -> int | None:
    """The fewest cards for tensor parallelism in bf16, with a cache of `length` tokens."""
    c = Qwen3Config.named(model)
    return memory.cards_needed(c, memory.need(c, length), memory.card(card))


def heads_left_over(model: str, cards: int) -> int:
    """Query heads that remain when they are dealt out evenly over cards."""
    return Qwen3Config.named(model).num_attention_heads % cards


def index_overstates(model: str) -> int:
    """Bytes by which an index's total_size is more than the tensors."""
    return (facts.published_total_size(model) or 0) - Qwen3Config.named(model).weight_bytes()


# -- the family --------------------------------------------------------------------------------------------


def sizes(template: Template) -> list[str]:
    """The sizes of one kind of post-trained checkpoint."""
    return sorted(variant(template).checkpoints)


def released(names: Sequence[str]) -> list[str]:
    """The days on which these checkpoints came out."""
    every = facts.official_models() | facts.backbones()
    return [every[name]["released"] for name in names]


def without_weights() -> list[str]:
    """Models that the report evaluates and nobody can download."""
    return [name for name, model in facts.official_models().items() if model["config"] is None]


def vl_sizes() -> list[str]:
    """The sizes of Qwen3-VL."""
    return sorted(size_of(name) for name in facts.backbones() if "-VL-" in name)


def vl_first() -> str:
    """The day on which the first Qwen3-VL came out."""
    return str(min(model["released"] for name, model in facts.backbones().items() if "-VL-" in name))


def vl_positions() -> list[int]:
    """max_position_embeddings of Qwen3-VL, each value once."""
    return sorted({positions(name) for name in facts.backbones() if "-VL-" in name})


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        unlike_the_report, gqa_ratios, rope_thetas, rope_theta, widths, bias_tensors, qk_norm,
        bytes_too_few_without_qk_norm, experts, expert_share, active_share,
        positions_for_the_prompt, yarn_context, balancing_coefficients, vocabulary, merged_tokens,
        newest_control_tokens, early_stop_tokens, reply_opens_with, switches, sampling,
        template_of_plain_names, score, scores, ahead, not_ahead, in_front, parameter_ratio, shots,
        top_percent, gains_beyond, gpu_hours_ratio, language_ratio, reported, kv_cache_gb, kv_bytes_a_token,
        active_gb, gb_of_mib, cards_needed, heads_left_over, index_overstates, sizes, released,
        without_weights, vl_sizes, vl_first, vl_positions,
    )
}  # fmt: skip
"""What `computed_by` may name."""
