"""Training: the loop's promises (same bits after a kill, nothing lost), the data, the loss mask."""

from __future__ import annotations

import errno
import io
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_ref.model import Qwen3
from qwen3_ref.reply import parse_reply
from qwen3_ref.tasks import documents
from qwen3_ref.tasks.problems import DIFFICULTIES, FAMILIES, Problem, make_problems
from qwen3_ref.tokenizer import CONTROL_TOKENS, Tokenizer
from qwen3_ref.train import corpus as corpus_module
from qwen3_ref.train import loop, seeds
from qwen3_ref.train import state as state_module
from qwen3_ref.train.corpus import DOMAINS, VOCAB_SIZE, Corpus, digest, split_docstrings, train_tokenizer
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.loop import IGNORE, Plan, cross_entropy, train
from qwen3_ref.train.recipes import pretrain, sft
from qwen3_ref.train.state import STATE
from tests.helpers import tiny

Streams = tuple[pretrain.Streams, pretrain.Streams]
PROBLEM = Problem("arithmetic", 2, "37+45-17 mod 100", "37+45=82\n82-17=65", "65")


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus)


@pytest.fixture(scope="module")
def made(tokenizer: Tokenizer, corpus: Corpus) -> Streams:
    """The training streams and what is held out."""
    return pretrain.make_streams(tokenizer, corpus)


def data_loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
    """Next-token loss on random ids: a function of the step, as the loop asks."""
    ids = torch.randint(1024, (4, 17), generator=torch.Generator().manual_seed(step))
    return cross_entropy(model(ids[:, :-1]), ids[:, 1:]), {}


PLAN = Plan(steps=12, learning_rate=3e-3, warmup=3, log_every=2, save_every=4)


def weights(model: Qwen3) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def failing(at: int, failure: Callable[[Tensor], Tensor]) -> loop.StepLoss:
    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        value, numbers = data_loss(model, step)
        return (failure(value) if step == at else value), numbers

    return loss


def interrupt(*_: Tensor) -> Tensor:
    raise KeyboardInterrupt


# -- the loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moe", [False, True])
def test_resumed_run_ends_in_the_same_bits(tmp_path: Path, moe: bool) -> None:
    sparse = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    changes = {"model_type": "qwen3_moe", "norm_topk_prob": True, **sparse} if moe else {}
    unbroken = tiny(**changes)
    start = weights(unbroken)
    train(unbroken, PLAN, data_loss, tmp_path / "unbroken")
    assert not same(weights(unbroken), start)
    train(tiny(**changes), PLAN, data_loss, tmp_path / "broken", stop_at=5)
    resumed = tiny(seed=1, **changes)  # what it starts from must not matter
    train(resumed, PLAN, data_loss, tmp_path / "broken")
    assert same(weights(resumed), weights(unbroken))
    logs = [(tmp_path / name / "log.csv").read_text("utf-8") for name in ("unbroken", "broken")]
    assert [row.split(",")[0] for row in logs[0].splitlines()] == ["step", *map(str, range(2, 13, 2))]
    assert set(logs[0].splitlines()) <= set(logs[1].splitlines())  # step 5 has a row of its own


def test_ctrl_c_in_a_step_loses_nothing(tmp_path: Path) -> None:
    unbroken, broken = tiny(), tiny()
    train(unbroken, PLAN, data_loss, tmp_path / "unbroken")
    with pytest.raises(TrainingError, match=r"stopped in step 8 of 12; the state of step 7 .* is intact"):
        train(broken, PLAN, failing(7, interrupt), tmp_path / "broken")
    train(broken, PLAN, data_loss, tmp_path / "broken")
    assert same(weights(broken), weights(unbroken))
    assert (tmp_path / "broken/log.csv").read_text() == (tmp_path / "unbroken/log.csv").read_text()


@pytest.mark.parametrize(
    ("failure", "what"),
    [
        (lambda loss: loss * math.nan, "the loss is nan"),
        (lambda loss: loss + math.inf, "the loss is inf"),
        (lambda loss: (loss - loss.detach()).abs().sqrt(), "the gradient's norm is"),  # 0 / 0 backwards
    ],
)
def test_nan_stops_before_it_spreads(tmp_path: Path, failure: Callable[[Tensor], Tensor], what: str) -> None:
    model = tiny()
    with pytest.raises(TrainingError, match=rf"{what}.* in step 7 of 12; the state of step 4 .*intact"):
        train(model, PLAN, failing(6, failure), tmp_path)
    assert all(bool(w.isfinite().all()) for w in weights(model).values())
    assert state_module.saved_step(tmp_path) == 4
    train(model, PLAN, data_loss, tmp_path)


def test_full_disk_while_saving_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny(), PLAN, data_loss, tmp_path, stop_at=4)
    before = (tmp_path / STATE).read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "save_file", full)
        with pytest.raises(TrainingError, match=r"step 8 .*No space left.* step 4 is intact.*disk space"):
            train(tiny(), PLAN, data_loss, tmp_path)
    assert (tmp_path / STATE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "log.csv"] == [STATE]
    train(tiny(), PLAN, data_loss, tmp_path)


def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    train(tiny(), PLAN, data_loss, tmp_path, stop_at=2, about={"seed": 0})
    with pytest.raises(TrainingError, match="config.hidden_size was 32 and is 64"):
        train(tiny(hidden_size=64), PLAN, data_loss, tmp_path, about={"seed": 0})
    with pytest.raises(TrainingError, match="plan.steps was 12 and is 13"):
        train(tiny(), replace(PLAN, steps=13), data_loss, tmp_path, about={"seed": 0})
    with pytest.raises(TrainingError, match="seed was 0 and is 1"):
        train(tiny(), PLAN, data_loss, tmp_path, about={"seed": 1})
    (tmp_path / STATE).write_bytes(b"not a safetensors file")
    with pytest.raises(TrainingError, match="not a training state"):
        train(tiny(), PLAN, data_loss, tmp_path, about={"seed": 0})


def test_schedule_by_hand() -> None:
    plan = Plan(steps=110, learning_rate=2.0, warmup=10, floor=0.1)
    assert [plan.rate(0), plan.rate(4), plan.rate(9)] == pytest.approx([0.2, 1.0, 2.0])
    assert plan.rate(10) == pytest.approx(2.0)
    assert plan.rate(60) == pytest.approx(2.0 * (0.1 + 0.9 / 2))  # half way down the cosine
    assert plan.rate(35) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert plan.rate(110) == pytest.approx(0.2)


def test_the_rate_of_the_schedule_is_used(tmp_path: Path) -> None:
    """AdamW's first update of a gain is the learning rate itself: here a third of 3e-3, warming up."""
    model = tiny()
    train(model, PLAN, data_loss, tmp_path, stop_at=1)
    changes = (model.model.norm.weight.detach() - 1).abs()
    torch.testing.assert_close(changes, torch.full_like(changes, 1e-3), rtol=1e-2, atol=0)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_products(precision: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """float16, whose range is small, is never meant; weights stay in float32."""
    seen = []

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        logits = model(torch.tensor([[1, 2, 3]]))
        seen.append(logits.dtype)
        return cross_entropy(logits[:, :-1], torch.tensor([[2, 3]])), {}

    model = tiny()
    train(model, replace(PLAN, precision=precision), loss, tmp_path, stop_at=1)
    assert seen == [dtype] and {w.dtype for w in weights(model).values()} == {torch.float32}


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_a_terminal_on_stderr(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed on stdout can be piped; nothing of the bar is left behind."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", screen)
    bar = loop.progress_bar()
    assert bar.disable is not terminal and bar.console.file is screen and bar.live.transient


def test_each_tenth_is_told(tmp_path: Path) -> None:
    """And the first step of each call, to whoever listens."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    log, listener = logging.getLogger(loop.__name__), Listener()
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        for stop_at in (10, None):
            train(tiny(), replace(PLAN, steps=30), data_loss, tmp_path / "s1", stop_at=stop_at)
    finally:
        log.removeHandler(listener)
        log.setLevel(logging.NOTSET)
    assert all(line.startswith("s1: step ") and line.endswith(" left") for line in told)
    assert [int(line.split()[2]) for line in told] == [1, 3, 6, 9, 11, 12, 15, 18, 21, 24, 27, 30]


def test_a_log_makes_its_folders_and_goes_on(tmp_path: Path) -> None:
    """Six digits of a float, the columns of the first row; rows after the step to go on from are dropped."""
    path = tmp_path / "not" / "yet" / "log.csv"
    log = loop.Log(path)
    for step, loss in ((1, 0.123456789), (2, 2.0), (3, 1e-7)):
        log.write({"step": step, "loss": loss})
    assert path.read_text("utf-8").splitlines() == ["step,loss", "1,0.123457", "2,2", "3,1e-07"]
    log = loop.Log(path, 2)
    log.write({"step": 3, "loss": 0.5})
    assert path.read_text("utf-8").splitlines() == ["step,loss", "1,0.123457", "2,2", "3,0.5"]


def test_gains_do_not_decay() -> None:
    model = tiny()
    decays = {
        id(p): group["weight_decay"]
        for group in loop.make_optimizer(model, PLAN).param_groups
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.0 if "norm" in name else 0.1), name


def test_gradients_are_clipped_and_bf16_runs(tmp_path: Path) -> None:
    """With a clip of nearly nothing AdamW's first moment is nearly nothing; bf16 keeps float32 weights."""
    model = tiny()
    plan = replace(PLAN, steps=1, clip=1e-9, precision="bf16")
    train(model, plan, data_loss, tmp_path)
    optimizer = loop.make_optimizer(model, plan)
    about = {"config": model.config.to_dict(), "plan": loop.asdict(plan)}
    assert state_module.load_state(tmp_path, model, optimizer, about) == 1
    moments = [state["exp_avg"].norm() for state in optimizer.state.values()]
    assert 0 < float(torch.stack(moments).norm()) <= 1.01e-10  # (1 - 0.9) * clip
    assert {w.dtype for w in weights(model).values()} == {torch.float32}


def test_loss_by_hand_and_all_masked() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [5.0, -5.0]]])
    targets = torch.tensor([[0, 1, IGNORE]])
    want = (math.log(2) + math.log(4)) / 2  # the third position does not count
    assert float(cross_entropy(logits, targets)) == pytest.approx(want)
    with pytest.raises(TrainingError, match="every target of the batch is masked"):
        cross_entropy(logits, torch.full((1, 3), IGNORE))


# -- text --------------------------------------------------------------------------------------------


def test_docstrings_are_cut_out() -> None:
    source = '"""Top."""\nimport os\n\n\nclass A:\n    """A\n    b."""\n\n    x = """kept"""\n'
    assert split_docstrings(source) == ('import os\nclass A:\n    x = """kept"""', ["Top.", "A\n    b."])


def test_other_text_is_an_error_that_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"code": ["a"], "language": ["b"]}
    monkeypatch.setattr(corpus_module, "_installed", lambda: own)
    monkeypatch.setattr(corpus_module, "maths_documents", lambda size: ["c"])
    monkeypatch.setattr(corpus_module, "reasoning_documents", lambda count: ["d"])
    hashes = {name: digest([letter]) for name, letter in zip(DOMAINS, "abcd", strict=True)}
    recorded = {"packages": {"sympy": "1.0"}, "sha256": hashes}
    monkeypatch.setattr(corpus_module, "RECORDED", recorded)
    assert corpus_module.gather() == {**own, "maths": ["c"], "reasoning": ["d"]}
    own["code"] = ["another file"]
    with pytest.raises(TrainingError, match=r"code text .*sympy .* instead of 1.0.*--allow-other-text"):
        corpus_module.gather()
    with pytest.warns(UserWarning, match="weights will differ"):
        assert corpus_module.gather(allow_other_text=True)["code"] == ["another file"]


def test_look_ups_are_followed_to_a_number() -> None:
    rng, lengths = random.Random(0), list[int]()
    for _ in range(50):
        lines = 2 + rng.randrange(40)
        listed, *asked = documents.look_up_document(rng, lines, 8).split("find ")
        pairs = dict(line.split("=") for line in listed.split())
        assert len(pairs) == lines and len(asked) == 8
        for question in asked:
            key, *steps, answer = question.rstrip("\n").split("\n")
            for step in steps:
                assert step == f"{key}={pairs[key]}"
                key = pairs[key]
            assert answer == f"answer {key}" and key.isdigit()
            lengths.append(len(steps))
    assert 0.4 < lengths.count(1) / len(lengths) < 0.7 and max(lengths) >= 4


def test_nano_tokenizer(tokenizer: Tokenizer, corpus: Corpus) -> None:
    """1,280 ids, the official control tokens last, digits alone; the same every time."""
    assert tokenizer.num_ids == VOCAB_SIZE == 1280
    assert list(tokenizer.control_tokens) == list(CONTROL_TOKENS)
    assert list(tokenizer.control_tokens.values()) == list(range(VOCAB_SIZE - 26, VOCAB_SIZE))
    assert tokenizer.merges == train_tokenizer(corpus).merges
    for document in corpus["reasoning"][:20]:
        ids = tokenizer.encode(document)
        assert tokenizer.decode(ids) == document
        parts = [tokenizer.decode([i]) for i in ids]
        assert all(len(part) == 1 for part in parts if any(map(str.isdigit, part)))


# -- pre-training ------------------------------------------------------------------------------------


def test_packing_by_hand(tokenizer: Tokenizer) -> None:
    end = tokenizer.control_tokens["<|endoftext|>"]
    stream = pretrain.pack(tokenizer, ["12", "3", "<|endoftext|>"])
    one, two, three = (tokenizer.vocab[d] for d in (b"1", b"2", b"3"))
    assert stream[:5].tolist() == [one, two, end, three, end]
    assert (stream == end).sum() == 3  # the last document's text is text


@pytest.mark.parametrize("name", ["s1", "s3"])
def test_rows_are_a_function_of_seed_and_step(name: str, tokenizer: Tokenizer, made: Streams) -> None:
    stage = pretrain.MIXES[name]
    streams, held_out = made
    rows = pretrain.make_rows(stage, tokenizer, streams, seed=0, step=5)
    assert rows.shape == (stage.rows, stage.context + 1)
    assert torch.equal(rows, pretrain.make_rows(stage, tokenizer, streams, seed=0, step=5))
    assert not torch.equal(rows, pretrain.make_rows(stage, tokenizer, streams, seed=0, step=6))
    assert not torch.equal(rows, pretrain.make_rows(stage, tokenizer, streams, seed=1, step=5))
    for domain in DOMAINS:
        assert 0 < len(held_out[domain]) < len(streams[domain])


def test_s3_has_the_length_mix(tokenizer: Tokenizer, made: Streams) -> None:
    """75% of the rows hold documents of 512 to 1,024 tokens, 25% of 128 to 512."""
    streams, _ = made
    end = tokenizer.control_tokens["<|endoftext|>"]
    stage = replace(pretrain.MIXES["s3"], rows=400, context=2048)
    long = 0
    for row in pretrain.make_rows(stage, tokenizer, streams, seed=0, step=0):
        ends = [-1, *(row == end).nonzero().flatten().tolist()]
        lengths = [b - a - 1 for a, b in zip(ends, ends[1:], strict=False)]
        shortest, longest = min(lengths), max(lengths)
        assert 90 <= shortest and longest <= 1024
        assert shortest > 420 or longest <= 512, lengths  # one kind or the other
        long += shortest > 420
    assert 0.68 < long / 400 < 0.82


def test_domain_losses_of_a_model_that_knows_nothing(made: Streams) -> None:
    model = tiny()
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    _, held_out = made
    losses = pretrain.domain_losses(model, held_out, context=64, tokens=512)
    assert losses == {domain: pytest.approx(math.log(VOCAB_SIZE)) for domain in DOMAINS}


def test_abf_changes_the_angles_and_no_weight() -> None:
    model = tiny()
    changed = pretrain.with_rope_theta(model, 1e6)
    assert same(weights(model), weights(changed)) and changed.config.rope_theta == 1e6
    ids = torch.arange(40)[None]
    assert torch.allclose(model(ids)[:, 0], changed(ids)[:, 0])  # position 0 is not turned
    assert not torch.allclose(model(ids)[:, -1], changed(ids)[:, -1])


# -- supervised fine-tuning --------------------------------------------------------------------------


def test_collate_by_hand() -> None:
    """Only replies have targets, shifted by one; prompts and padding have none."""
    inputs, targets = sft.collate([sft.Example([1, 2, 3, 4, 5], 2), sft.Example([6, 7, 8], 1)], pad=0)
    assert inputs.tolist() == [[1, 2, 3, 4], [6, 7, 8, 0]]
    assert targets.tolist() == [[IGNORE, IGNORE, 4, 5], [IGNORE, 8, IGNORE, IGNORE]]


def test_loss_mask_by_hand(tokenizer: Tokenizer) -> None:
    """The golden: which tokens of a conversation are learned, written out."""
    example = sft.encode_example(tokenizer, sft.conversation(PROBLEM, PROBLEM.trace, "65"))
    tokens = [tokenizer.decode([i]) for i in example.ids]
    prompt = "<|im_start|>user\n37+45-17 mod 100<|im_end|>\n<|im_start|>assistant\n"
    assert "".join(tokens[: -example.reply]) == prompt
    by_hand = ["<think>", "\n", *"37+45=82", "\n", *"82-17=65", "\n", "</think>", "\n\n", *"65", "<|im_end|>"]
    assert tokens[-example.reply :] == by_hand
    spaced = sft.encode_example(tokenizer, sft.conversation(PROBLEM, PROBLEM.trace, " 65"))
    assert tokenizer.decode(spaced.ids).endswith("</think>\n\n 65<|im_end|>")
    other = sft.encode_example(tokenizer, sft.conversation(PROBLEM, "", "65"))
    assert [tokenizer.decode([i]) for i in other.ids[-other.reply :]] == [
        *("<think>", "\n\n", "</think>", "\n\n"),
        *("6", "5", "<|im_end|>"),
    ]
    inputs, targets = sft.collate([other, example], pad=0)
    assert inputs.shape == targets.shape == (2, len(example.ids) - 1)
    learned = [[tokenizer.decode([i]) for i in row[row != IGNORE].tolist()] for row in targets]
    assert learned == [[tokenizer.decode([i]) for i in other.ids[-other.reply :]], by_hand]
    first = targets[1].ne(IGNORE).nonzero()[0].item()  # <think> is predicted from the token before it
    assert tokenizer.decode([int(inputs[1, first])]) == "\n" and inputs[0, -1] == 0


def test_earlier_turns_are_not_learned(tokenizer: Tokenizer) -> None:
    messages = sft.conversation(PROBLEM, PROBLEM.trace, "65")
    example = sft.encode_example(tokenizer, [*messages, *messages])
    assert tokenizer.decode(example.ids).count("65<|im_end|>") == 2
    assert tokenizer.decode(example.ids[-example.reply :]).count("65<|im_end|>") == 1
    assert tokenizer.decode(example.ids).count("<think>") == 1  # the template drops old reasoning
    with pytest.raises(ValueError, match="the last message is the user's"):
        sft.encode_example(tokenizer, messages[:1])


def test_what_is_typed_cannot_end_a_turn(tokenizer: Tokenizer) -> None:
    problem = replace(PROBLEM, prompt="<|im_end|>")
    example = sft.encode_example(tokenizer, sft.conversation(problem, "x", "y"))
    assert example.ids.count(tokenizer.control_tokens["<|im_end|>"]) == 2


def test_filters_by_hand() -> None:
    right = PROBLEM.trace
    assert sft.reason_to_drop(PROBLEM, right, "65") is None
    assert sft.reason_to_drop(PROBLEM, right, "66") == "wrong answer"
    assert sft.reason_to_drop(PROBLEM, "37+45=82\n37+45=82\n82-17=65", "65") == "repetition"
    assert sft.reason_to_drop(PROBLEM, "", "65") == "guesswork"
    assert sft.reason_to_drop(PROBLEM, "37+45=82", "65") == "guesswork"
    assert sft.reason_to_drop(PROBLEM, "37+45=83\n83-17=65", "65") == "guesswork"  # two wrongs
    one_step = Problem("arithmetic", 1, "01+02 mod 100", "01+02=03", "03")
    assert sft.reason_to_drop(one_step, "", "03") == "guesswork"


def test_cold_start_keeps_right_work_alone(tokenizer: Tokenizer) -> None:
    examples, fates = sft.cold_start_examples(tokenizer, 150, 0)
    assert len(examples) == fates["kept"] and fates.total() == 150 * len(FAMILIES)
    assert all(fates[reason] > 20 for reason in ("wrong answer", "repetition", "guesswork"))
    solved = {p.prompt: p for f in FAMILIES for p in seeds.problems("cold start", f, 150, 0)}
    for example in examples:
        prompt = tokenizer.decode(example.ids[: -example.reply]).split("user\n")[1].split("<|im_end|>")[0]
        reply = parse_reply(tokenizer.decode(example.ids[-example.reply :]))
        assert (reply.reasoning, reply.content) == (solved[prompt].trace, solved[prompt].answer)


def test_each_epoch_shows_every_batch_once() -> None:
    """Batches of one epoch share no example, epochs differ in order, and the step decides."""
    examples = [sft.Example([i, i, i], 2) for i in range(40)]
    seen: list[list[int]] = []

    class Recorder(Qwen3):
        def forward(self, input_ids: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
            seen.append(input_ids[:, 0].tolist())
            return torch.zeros(*input_ids.shape, 1024)

    base = tiny()
    model = Recorder(base.config)

    class Pad:
        control_tokens = {"<|endoftext|>": 0}

    loss = sft.reply_loss(examples, Pad(), rows=8, seed=0)  # type: ignore[arg-type]
    for step in range(10):
        loss(model, step)
    first, second = seen[:5], seen[5:]
    assert sorted(i for batch in first for i in batch) == list(range(40))
    assert sorted(i for batch in second for i in batch) == list(range(40)) and first != second
    loss(model, 2)
    assert seen[-1] == first[2]
    with pytest.raises(ValueError, match="40 examples and a step takes 64"):
        sft.reply_loss(examples, Pad(), rows=64, seed=0)  # type: ignore[arg-type]


def test_fusion_obeys_the_last_flag() -> None:
    problems = make_problems("arithmetic", "train", 400)
    thinking = [(problem, problem.trace) for problem in problems[:200]]
    conversations = sft.fusion_conversations(thinking, problems[200:], 0)
    turns = [len(messages) for messages in conversations]
    assert len(conversations) == 400 and set(turns) == {2, 4, 6, 8} and 160 < turns.count(2) < 240
    unflagged = switched = remembered = 0
    for messages in conversations:
        said = [m["content"] for m in messages if m["role"] == "user"]
        flags = [flag for content in said for flag in content.split() if flag.startswith("/")]
        thinks = not flags or flags[-1] == "/think"
        assert bool(messages[-1]["reasoning_content"]) == thinks
        assert all("reasoning_content" not in m for m in messages[:-1])
        unflagged += not flags
        switched += len(set(flags)) == 2
        remembered += len(set(flags)) == 2 and "/" not in said[-1]
    assert 50 < unflagged < 130 and switched > 60
    assert remembered > 40, "the last turn is silent, and the earlier ones disagree: the hardest to obey"


def test_fusion_takes_only_what_the_model_itself_got_right(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scripted stage-2 model: right, wrong, and right without steps, in turn."""

    def scripted(model: object, tok: object, problems: list[Problem], **_: Any) -> list[Any]:
        assert {p.difficulty for p in problems} == set(DIFFICULTIES[problems[0].family])
        texts = ["<think>\n{t}\n</think>\n\n{a}", "<think>\n{t}\n</think>\n\n?", "{a}"]
        return [parse_reply(texts[i % 3].format(t=p.trace, a=p.answer)) for i, p in enumerate(problems)]

    monkeypatch.setattr(sft, "replies_to", scripted)
    examples, fates = sft.fusion_examples(tiny(), tokenizer, 30, 0)
    assert fates == {"kept": 50, "wrong answer": 50, "guesswork": 50}
    thinks = ["<think>\n\n</think>" not in tokenizer.decode(e.ids[-e.reply :]) for e in examples]
    assert thinks.count(True) == 50 and thinks.count(False) == 150


def test_replies_are_batched_and_parsed(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = make_problems("counting", "test", 5)
    model = tiny()
    monkeypatch.setattr(sft, "MAX_REPLY", 12)
    replies = sft.replies_to(model, tokenizer, problems, batch_size=2)
    assert replies == sft.replies_to(model, tokenizer, problems, batch_size=5) and len(replies) == 5
