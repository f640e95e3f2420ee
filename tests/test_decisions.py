"""The decisions lab: its arms, its questions and verdicts, and what ships of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_ref.commands.line import main
from qwen3_ref.measure import arms, decisions
from qwen3_ref.measure.arms import ARMS, Lab, Languages, Modes, Text
from qwen3_ref.model import Attention, Qwen3, Trace
from qwen3_ref.tasks.documents import maths_documents
from qwen3_ref.tasks.problems import DIGITS
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.corpus import DOMAINS
from qwen3_ref.train.errors import NotFinite, TrainingError
from qwen3_ref.train.loop import IGNORE
from qwen3_ref.train.recipes import pretrain, sft
from qwen3_ref.train.seeds import seeded

CSV = decisions.SHIPPED / "decisions.csv"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Text of one kind under the names of all four domains."""
    tokenizer = Tokenizer.from_pretrained("qwen3-nano")
    stream = pretrain.pack(tokenizer, maths_documents(12_000))
    streams = {domain: stream.roll(1000 * i) for i, domain in enumerate(DOMAINS)}
    return Lab(tmp_path_factory.mktemp("lab"), tokenizer, streams, streams)


# -- arms ------------------------------------------------------------------------------------------------


def test_arms_with_experts_are_of_equal_size_and_work() -> None:
    """All experts, and those that a token takes: the same number of channels, and parameters within 1%."""
    sizes = {}
    for name in ("narrow", "narrow-loud", "wide", "shared"):
        arm = ARMS[name]
        assert isinstance(arm, Text) and arm.experts is not None
        count, chosen, width, shared = arm.experts
        assert (count * width + shared, chosen * width + shared) == (512, 256), name
        sizes[name] = sum(p.numel() for p in arm.make(0).parameters())
    assert max(sizes.values()) / min(sizes.values()) < 1.01
    assert isinstance(ARMS["dense"], Text) and ARMS["dense"].width == 256


def test_the_shared_expert_works_on_every_token() -> None:
    """The layer's output is the routed experts' and one SwiGLU more, by its own matrices."""
    model = Text(experts=(4, 2, 8, 12), hidden_size=32).make(0)
    layer: Any = model.model.layers[0].mlp
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    routed = super(arms.SharedMoe, layer).forward(x)
    gate, up = x @ layer.shared.gate_proj.weight.T, x @ layer.shared.up_proj.weight.T
    assert layer.shared.gate_proj.weight.shape == (12, 32)
    wanted = routed + (gate * torch.sigmoid(gate) * up) @ layer.shared.down_proj.weight.T
    assert torch.allclose(layer(x), wanted, atol=1e-6) and not torch.allclose(layer(x), routed, atol=1e-3)


def test_loud_experts_write_as_much_as_with_a_shared_one() -> None:
    """At the start, where 16 narrow ones write less than a quarter of that; no other matrix differs."""
    some: dict[str, Any] = {name: ARMS[name] for name in ("narrow", "narrow-loud", "shared")}
    models = {name: arm.make(0) for name, arm in some.items()}
    x = torch.randn(1, 200, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        size = {name: float(m.model.layers[0].mlp(x).square().mean().sqrt()) for name, m in models.items()}
    assert size["narrow"] < size["shared"] / 4
    assert size["narrow-loud"] == pytest.approx(size["shared"], rel=0.1)
    pairs = zip(models["narrow"].named_parameters(), models["narrow-loud"].parameters(), strict=True)
    for (name, a), b in pairs:
        assert torch.equal(a * (5.5 if name.endswith("experts.down_proj") else 1), b), name


def test_mixed_reads_what_in_order_reads(lab: Lab) -> None:
    """The very same rows, in another order, drawn once a seed; "long" as many tokens, in long rows."""
    steps = sum(arms.STAGES.values())
    rows = {order: arms.stage_rows(lab, 3, order) for order in ("in order", "mixed", "long")}
    some = {order: [rows[order](step) for step in range(steps)] for order in ("in order", "mixed")}
    kept = {order: Counter(str(ids.tolist()) for ids in found) for order, found in some.items()}
    assert kept["in order"] == kept["mixed"] and len(kept["mixed"]) == steps
    assert [x.shape for x in some["in order"]] != [x.shape for x in some["mixed"]]
    first, last = some["in order"][0], some["in order"][-1]
    assert first.shape == (8, 257) and last.shape == rows["long"](0).shape == (2, 1025)
    assert first[:, 1:].numel() == last[:, 1:].numel(), "as many tokens a step"
    assert torch.equal(arms.stage_rows(lab, 3, "mixed")(7), rows["mixed"](7))


def test_turning_to_another_base_and_to_none() -> None:
    """As a model of that base; without positions the order of what came before is not seen by one layer."""
    model, ids = Text(hidden_size=32).make(0), torch.arange(8)[None]
    arms.turn(model, arms.RAISED)
    other = Qwen3(replace(model.config, rope_theta=arms.RAISED))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), other(ids))
    arms.turn(model, 0)
    assert not torch.allclose(model(ids), other(ids), atol=1e-3)
    attention: Any = model.model.layers[0].self_attn
    x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    still = torch.ones(1, 6, 8), torch.zeros(1, 6, 8)
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    a, b = (attention(y, *still, None, None, None)[:, -1] for y in (x, swapped))
    assert torch.allclose(a, b, atol=1e-6)
    assert (model.model.inv_freq == 0).all()


def test_the_largest_logit_is_the_one_that_eager_attention_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before softmax, scaled, of what a query may see; found without changing what the model says."""
    model, noted = Text(hidden_size=32).make(0), list[float]()
    ids = torch.randint(0, 1200, (2, 9), generator=torch.Generator().manual_seed(0))
    before = model(ids)
    arms.watch_logits(model, noted.append)
    assert torch.equal(model(ids), before)
    layers = [m for m in model.modules() if isinstance(m, Attention)]
    assert len(noted) == len(layers)
    trace = Trace()
    with torch.no_grad():
        model(ids, trace=trace)
    for largest, weights in zip(noted, trace.attentions, strict=True):  # logits up to a constant a row
        last = weights[:, :, -1].log()
        assert largest * 2 >= float((last.amax(-1) - last.amin(-1)).max()) - 1e-4
    q, k = torch.full((1, 2, 2, 4), 3.0), torch.ones(1, 1, 2, 4)
    k[:, :, 1] = 100.0
    q[:, :, 0] = -2.0  # sees the first key alone
    q[:, :, 1] = 0.5
    layers[0].attend = lambda q, k, v, mask: v
    noted.clear()
    arms.watch_logits(model, noted.append)
    layers[0].attend(q, k, k, None)
    assert noted[-1] == pytest.approx(0.5 * 100 * 4 / 2)


def test_languages_never_pairs_the_two(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read holds both languages, from and into digits, and never one into the other; as many
    documents with two languages as with eight; numbers of the test split stay out."""
    drawn: dict[int, list[Any]] = {}
    real = arms.make_problems

    def spy(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        if args[1] == "train":
            drawn[len(options["pairs"])] = found
        return found

    monkeypatch.setattr(arms, "make_problems", spy)
    numbers = {n: Languages(n, steps=1).run(lab, tmp_path / str(n), 0) for n in (2, 8)}
    few, many = drawn.values()
    for some in (few, many):
        pairs = {tuple(p.prompt.split()[1:3]) for p in some}
        assert len(some) == arms.COUNT and not pairs & {arms.FIRST_TWO, arms.FIRST_TWO[::-1]}
        assert {("en", DIGITS), (DIGITS, "ko")} <= pairs
    assert len({tuple(p.prompt.split()[1:3]) for p in few}) == 4
    assert all(5 < found["unpaired loss"] < 9 and found["digits exact"] == 0 for found in numbers.values())


def test_answers_are_measured_on_their_own_tokens(lab: Lab) -> None:
    """By hand: the mean of the examples' means, and exact where every token is the likeliest one."""
    model = Text(hidden_size=32).make(0)
    examples = [sft.Example([5, 6, 7, 8], 2), sft.Example([9, 10, 11], 1)]
    loss, exact = arms.answered(model, examples, 0)
    with torch.no_grad():
        a = -model(torch.tensor([[5, 6, 7]])).log_softmax(-1)[0, [1, 2], [7, 8]].mean()
        b = -model(torch.tensor([[9, 10]])).log_softmax(-1)[0, 1, 11]
        likely = int(model(torch.tensor([[9, 10]]))[0, 1].argmax())
    assert loss == pytest.approx(float(a + b) / 2, rel=1e-5) and exact == 0
    assert arms.answered(model, [sft.Example([9, 10, likely], 1)], 0)[1] == 1


def test_what_an_arm_measures(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each kind; losses beside those of the untrained model, which they leave."""
    monkeypatch.setattr(arms, "HELD_OUT", 512)
    small: dict[str, Any] = {"steps": 2, "hidden_size": 32}
    text = Text(**small).run(lab, lab.out / "a", 0)
    assert text["loss"] == pytest.approx(sum(text[f"loss {d}"] for d in DOMAINS) / 4)
    assert text["diverged"] == 1.0 and text["logit"] > 0 and abs(text["int8 rise"]) < text["loss"]
    assert text["parameters"] == Text(**small).make(0).config.num_non_embedding_parameters()
    moe = Text(**small, experts=(4, 2, 8, 8)).run(lab, lab.out / "b", 0)
    assert 0 <= moe["specialisation"] <= 1 and "logit" not in moe
    twice = [Text(**small).run(lab, lab.out / name, 1)["loss"] for name in ("c", "d")]
    assert twice[0] == twice[1] != text["loss"]


def test_a_run_that_diverges_is_a_result(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite and marked, with the largest logit until then; another failure is none."""

    def fails(error: Exception) -> Any:
        def train(*args: Any, **options: Any) -> None:
            raise error

        return train

    monkeypatch.setattr(arms, "train", fails(NotFinite("the loss is nan")))
    found = Text(steps=2, hidden_size=32).run(lab, lab.out / "e", 0)
    assert found["loss"] == math.inf and found["diverged"] == 1
    monkeypatch.setattr(arms, "train", fails(TrainingError("the disk is full")))
    with pytest.raises(TrainingError, match="disk"):
        Text(steps=2, hidden_size=32).run(lab, lab.out / "f", 0)


def test_a_base_that_rises_at_the_long_stage(lab: Lab) -> None:
    """The base of the recipe until S3 begins, the raised one from there."""
    arm, model = Text(hidden_size=32, order="in order", later=arms.RAISED), Text(hidden_size=32).make(0)
    loss, switch = arm._staged(lab, 0), arms.STAGES["s1"] + arms.STAGES["s2"]
    first = model.model.inv_freq.copy()
    loss(model, switch - 1)
    assert (model.model.inv_freq == first).all()
    loss(model, switch)
    assert model.model.inv_freq[-1] < first[-1] / 10


def test_modes_learn_what_they_are_named_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples with thoughts, without, or both, and steps for each kind."""
    seen: list[tuple[int, set[bool]]] = []

    def watch(model: Qwen3, plan: Any, loss: Any, folder: Path, settings: Any) -> tuple[float, bool]:
        seen.append((plan.steps, thoughts))
        return 0.0, True

    real, thoughts = sft.encode_example, set[bool]()

    def encode(tokenizer: Tokenizer, messages: Any) -> sft.Example:
        thoughts.add(bool(messages[1]["reasoning_content"]))
        assert messages[0]["content"].endswith("/no_think") != bool(messages[1]["reasoning_content"])
        return real(tokenizer, messages)

    monkeypatch.setattr(arms, "learn", watch)
    monkeypatch.setattr(sft, "encode_example", encode)
    monkeypatch.setattr(arms, "evaluate", lambda *a, **o: [type("Row", (), {"correct": True})])
    wanted = {(True, False): {True}, (False, True): {False}, (True, True): {True, False}}
    for (thinking, plain), kinds in wanted.items():
        thoughts = set()
        found = Modes(thinking, plain, steps=2).run(lab, lab.out / "g", 0)
        assert seen[-1] == (2 * (thinking + plain), kinds)
        assert ("thinking accuracy" in found, "non-thinking accuracy" in found) == (thinking, plain)


# -- questions -------------------------------------------------------------------------------------------


def test_a_law_is_found_again() -> None:
    """Exactly, from points on it; with a floor of 0 where the points want one below; not from two."""
    x = [1.0, 2.0, 4.0, 8.0]
    law = decisions.fit(x, [1.5 + 2 / n for n in x])
    assert (law.floor, law.scale, law.exponent) == pytest.approx((1.5, 2, 1), abs=1e-6)
    assert law(16) == pytest.approx(1.5 + 2 / 16)
    low = decisions.fit(x, [3 - 0.7 * math.log(n) for n in x])
    assert low.floor >= 0 and low(1e9) >= 0
    with pytest.raises(ValueError, match="three or more"):
        decisions.fit([1, 2], [1, 2])


def test_sensitivity_by_hand() -> None:
    """(5 + 4 + 3 + ceiling) / 4 - 3: a run that diverged counts as much as counting tokens."""
    losses = dict(zip(decisions.RATES, (5.0, 4.0, 3.0, math.inf), strict=True))
    values = {f"bias@{r:g}": {"loss": x} for r, x in losses.items()} | {"counting": {"loss": 5.5}}
    assert decisions.sensitivity(values, "bias") == pytest.approx((5 + 4 + 3 + 5.5) / 4 - 3)
    assert decisions.best(values, "bias") == 3


@pytest.mark.parametrize(
    "values, word",
    [
        ((1.0, 1.1, 1.2), "confirmed at this scale"),
        ((-1.0, -1.1, -1.2), "refuted at this scale"),
        ((1.0, -0.1, 1.2), "cannot be told"),
        ((0.1, 0.5, 0.6), "cannot be told"),  # all above 0, and Student's interval of three reaches below
    ],
)
def test_verdicts(values: tuple[float, ...], word: str) -> None:
    """By hand: mean -+ 4.303 standard errors."""
    question = decisions.Question("x", lambda v: v["a"]["m"] - v["b"]["m"])
    decision = replace(decisions.DECISIONS[0], questions=(question,))
    table = {i: {"a": {"m": 2 + x}, "b": {"m": 2.0}} for i, x in enumerate(values)}
    (found,) = decisions.verdicts(decision, table)
    mean = sum(values) / 3
    half = 4.303 * (sum((v - mean) ** 2 for v in values) / 2) ** 0.5 / 3**0.5
    assert (found.word, found.mean) == (word, pytest.approx(mean))
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))
    table[7] = {"a": {"m": 1.0}}  # a seed that lacks an arm
    assert len(decisions.verdicts(decision, table)[0].values) == 3
    with pytest.raises(ValueError, match="1 seeds"):
        decisions.verdicts(decision, {0: table[0]})


# -- cells and files -------------------------------------------------------------------------------------


def test_cells_are_kept_and_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is there is not measured again; one of other settings stops; infinity comes back."""
    arm, calls = Text(steps=1, hidden_size=32), list[int]()

    def run(self: Text, lab: Lab, folder: Path, seed: int) -> dict[str, float]:
        calls.append(seed)
        return {"loss": math.inf, "logit": 1.5}

    monkeypatch.setattr(Text, "run", run)
    monkeypatch.setitem(ARMS, "tiny", arm)
    told = list[str]()
    for _ in range(2):
        path = decisions.run_all(lab, ["tiny"], [0, 1], told.append)
    assert calls == [0, 1] and len(told) == 8
    values = decisions.read_results(path, None)
    assert values[1]["tiny"] == {"loss": math.inf, "logit": 1.5}
    assert values[0]["counting"]["loss"] == pytest.approx(lab.unigram, rel=1e-5)
    assert "measure decisions --arm tiny --seed 1" in path.read_text()
    monkeypatch.setitem(ARMS, "tiny", replace(arm, steps=2))
    with pytest.raises(TrainingError, match="other settings"):
        decisions.run_arm(lab, "tiny", 0)
    with pytest.raises(ValueError, match="no arm 'tinny'; did you mean tiny"):
        decisions.run_arm(lab, "tinny", 0)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    """One sentence with the file and the line."""
    path = tmp_path / "decisions.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        decisions.read_results(path)
    path.write_text(",".join(decisions.COLUMNS) + "\nmixed,0,loss,soon,2,x\n")
    with pytest.raises(ValueError, match="in line 2"):
        decisions.read_results(path)


def test_choosing_arms() -> None:
    """By name, by decision, or all; each once."""
    assert decisions.chosen(["experts", "wide"]) == ["narrow", "narrow-loud", "wide", "shared", "dense"]
    assert decisions.chosen(["all"]) == list(ARMS)
    assert decisions.chosen(["counting"]) == ["counting"], "its command is in the file too"
    assert decisions.chosen(["distillation"]) == [], "its arms are those of another study"
    with pytest.raises(ValueError, match="did you mean hybrid.$"):
        decisions.chosen(["hybird"])
    assert seeded(0).initial_seed() and IGNORE == -100


# -- what ships ------------------------------------------------------------------------------------------


def test_the_shipped_results_are_whole() -> None:
    """Every arm with every seed, by this table's settings, and each question has its answer."""
    values = decisions.read_results(CSV)
    assert sorted(values) == list(decisions.SEEDS)
    for seed in decisions.SEEDS:
        assert {*ARMS, "counting"} <= values[seed].keys()
    for decision in decisions.DECISIONS:
        found = decisions.verdicts(decision, values)
        assert all(len(verdict.values) == len(decisions.SEEDS) for verdict in found), decision.name
    joined = json.loads((decisions.SHIPPED / "balancing.json").read_text(encoding="utf-8"))["cells"]
    assert values[2]["balancing global"]["mean_loss"] == joined["global"][2]["after"]["mean_loss"]


def test_the_command_prints_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    """Of what ships, without training; and refuses what it cannot do in a sentence."""
    assert main(["measure", "decisions"]) == 0
    out = capsys.readouterr().out
    assert all(decision.title in out for decision in decisions.DECISIONS)
    assert len(out.splitlines()) == sum(1 + len(d.questions) for d in decisions.DECISIONS)
    for words, code, told in (
        (["decisions", "--arm", "hybird"], 1, "did you mean hybrid"),
        (["decisions", "--seed", "0"], 2, "--seed is of --arm"),
        (["table", "--arm", "mixed"], 2, "has no arms"),
    ):
        assert main(["measure", *words]) == code
        assert told in capsys.readouterr().err
