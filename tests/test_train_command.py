"""`train` as a user meets it: what it says and refuses, one process a directory, and stops that lose
nothing: Ctrl-C at any moment, and a killed process half a minute of work at most."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_ref.commands import train as command
from qwen3_ref.commands.line import main
from qwen3_ref.model import Qwen3
from qwen3_ref.train import loop, names, stages
from qwen3_ref.train.errors import Interrupted, TrainingError
from qwen3_ref.train.lock import LOCK, only_process
from qwen3_ref.train.loop import Plan, cross_entropy, held_back, train
from qwen3_ref.train.recipes.distill import Distill
from qwen3_ref.train.recipes.general_rl import Limits
from qwen3_ref.train.recipes.grpo import Grpo
from qwen3_ref.train.run import Run, precision_here
from qwen3_ref.train.state import STATE, load_state, save_state, saved_step, snapshot, weights_hash
from tests.helpers import tiny


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Ctrl-C means what it means in a terminal: a job in the background is started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

PLAN = Plan(steps=12, learning_rate=3e-3, warmup=3, log_every=2, save_every=100)


def data_loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
    ids = torch.randint(1024, (2, 9), generator=torch.Generator().manual_seed(step))
    return cross_entropy(model(ids[:, :-1]), ids[:, 1:]), {}


# -- stops that lose nothing ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = tiny()
    train(model, PLAN, data_loss, tmp_path_factory.mktemp("unbroken"))
    return weights_hash(model)


def pressed(at: int, moment: str, monkeypatch: pytest.MonkeyPatch) -> loop.StepLoss:
    """The loss; Ctrl-C, really sent, in step `at`: before it, while weights change, or while it logs."""
    steps = itertools.count()

    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    if moment == "update":
        real = torch.optim.AdamW.step

        def step(self: Any, *given: Any) -> Any:
            if next(steps) == at:
                press()
            return real(self, *given)

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
    if moment == "log":
        write = loop.Log.write

        def logged(self: Any, row: Any) -> None:
            write(self, row)
            if row["step"] == at + 1:
                press()

        monkeypatch.setattr(loop.Log, "write", logged)

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        if moment == "loss" and step == at:
            press()
        return data_loss(model, step)

    return loss


@pytest.mark.parametrize(("moment", "at", "kept"), [("loss", 7, 7), ("update", 7, 8), ("log", 7, 8)])
def test_ctrl_c_saves_every_finished_step(
    moment: str, at: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: str
) -> None:
    """Long before the first regular save; the weights are never saved half-changed."""
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=rf"the state of step {kept} in "):
        train(tiny(), PLAN, pressed(at, moment, patch), tmp_path)
    assert saved_step(tmp_path) == kept
    again = tiny(seed=1)
    train(again, PLAN, data_loss, tmp_path)
    assert weights_hash(again) == unbroken
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text("utf-8").splitlines()]
    assert steps == ["step", "2", "4", "6", "8", "10", "12"]


def test_ctrl_c_saves_only_between_steps_that_belong_together(tmp_path: Path) -> None:
    """Of three updates on one batch of replies, the first two are taken back."""
    whole = tiny()
    train(whole, PLAN, data_loss, tmp_path / "unbroken")

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 8:
            raise KeyboardInterrupt
        return data_loss(model, step)

    plan = replace(PLAN, together=3)
    with pytest.raises(Interrupted, match="stopped in step 9 of 12; the state of step 6 in"):
        train(tiny(), plan, loss, tmp_path)
    again = tiny(seed=1)
    train(again, plan, data_loss, tmp_path)
    assert weights_hash(again) == weights_hash(whole)


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path) -> None:
    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="no state was saved yet"):
        train(tiny(), PLAN, loss, tmp_path)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize(("together", "saved"), [(1, [3, 6, 9, 12]), (2, [4, 8, 12])])
def test_half_a_minute_of_work_is_saved(
    together: int, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock on which each step takes eleven seconds; only between steps that belong together."""
    now, found = [0.0], list[int]()

    class Clock:
        monotonic = staticmethod(lambda: now[0])

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        now[0] += 11.0
        return data_loss(model, step)

    real = loop.save_state

    def save(directory: Path, tensors: Any, step: int, about: Any) -> None:
        found.append(step)
        real(directory, tensors, step, about)

    monkeypatch.setattr(loop, "time", Clock)
    monkeypatch.setattr(loop, "save_state", save)
    train(tiny(), replace(PLAN, together=together), loss, tmp_path)
    assert found == saved


def test_held_back_elsewhere() -> None:
    """Other threads receive no Ctrl-C, and an inner failure is not hidden."""
    done: list[int] = []

    def work() -> None:
        with held_back():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
    with pytest.raises(ZeroDivisionError), held_back():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- one process a directory ---------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from qwen3_ref.train.lock import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_until_the_first_is_gone(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "nano", "--out", str(out), "--stage", "s1"]) == 1
    said = capsys.readouterr()
    wanted = f"error: another process is training in {out}; wait for it, or choose another directory.\n"
    assert said.err == wanted
    assert (out / LOCK).read_text("utf-8") == f"{holder.pid}\n"
    holder.kill()  # as the system would
    holder.wait()
    with only_process(out):
        assert (out / LOCK).read_text("utf-8") == f"{os.getpid()}\n"
    assert list(out.iterdir()) == []


def test_the_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    with pytest.raises(TrainingError), only_process(new):
        raise TrainingError("nothing was done")
    assert not new.exists()
    with only_process(new):
        (new / "kept").touch()
        with pytest.raises(TrainingError, match="another process is training in"), only_process(new):
            pass
    assert [path.name for path in new.iterdir()] == ["kept"]


def test_a_place_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "run_stage", lambda *_: pytest.fail("work was begun"))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["train", "nano", "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {out} cannot be ") and error.count("\n") == 1


# -- what it says and refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scale", "inf"], "argument --scale: inf is not above 0 and at most 10"),
        (["--scale", "nan"], "argument --scale: nan is not above 0 and at most 10"),
        (["--scale", "0"], "argument --scale: 0 is not above 0 and at most 10"),
        (["--scale", "-1"], "argument --scale: -1 is not above 0 and at most 10"),
        (["--scale", "1e9"], "argument --scale: 1e9 is not above 0 and at most 10"),
        (["--scale", "much"], "argument --scale: invalid float value: 'much'"),
        (["--seed", "-1"], "argument --seed: -1 is not 0 or more and below 4294967296"),
        (["--seed", "4294967296"], "argument --seed: 4294967296 is not 0 or more"),
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
    ],
)
def test_bad_options(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "nano", "--out", str(tmp_path / "run"), *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bad_settings_of_a_run(tmp_path: Path) -> None:
    for scale in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match=f"scale is {scale}; it must be above 0 and at most 10"):
            Run(tmp_path, scale=scale)
    for seed in (-1, 2**32, 1.0, True):
        with pytest.raises(ValueError, match=f"seed is {seed!r}; it must be a whole number, 0 to"):
            Run(tmp_path, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words"),
    [("s4", "there are s1, s2, s3, cold-start, grpo and 14 more"), ("GRPO", "did you mean grpo"),
     ("fuson", "did you mean fusion"), ("xyzzy", "there are s1, s2, s3, cold-start"),
     ("all", "there are s1")],
)  # fmt: skip
def test_an_unknown_stage(name: str, words: str) -> None:
    with pytest.raises(TrainingError, match=f"there is no stage '{name}'; {words}"):
        stages.find_stage(name)


def test_it_says_what_it_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(run: Run, name: str) -> None:
        (run.out / name).mkdir()
        (run.out / name / "summary.json").write_text('{"seconds": 7.4}', encoding="utf-8")

    monkeypatch.setattr(stages, "run_stage", done)
    monkeypatch.setattr("qwen3_ref.train.export.export", lambda run: None)
    monkeypatch.setattr("qwen3_ref.measure.card.write_cards", lambda family: None)
    assert main(["train", "nano", "--out", str(tmp_path), "--stage", "moe-s2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"train nano: stage moe-s2, into {tmp_path}. Ctrl-C saves")
    assert out[1].startswith("precision ")
    assert out[2].startswith("moe-s2: 1260 steps from moe-s1, about ") and " minutes on NVIDIA " in out[2]
    assert out[3] == f"moe-s2: {tmp_path}/moe-s2/model after 7 s"
    assert main(["train", "nano", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[2].startswith("14 stages to run, about ") and 10 < int(out[2].split()[5]) < 60
    assert out[3].startswith("s1: 800 steps from new weights, about ")
    assert "moe-s2: done before" in out
    assert main(["train", "nano", "--out", str(tmp_path / "quick"), "--stage", "s2", "--scale", "0.01"]) == 0
    assert "s2: 42 steps from s1, about a minute" in capsys.readouterr().out


def test_the_precision_is_what_the_cpu_multiplies_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` asks the CPU, says what it found, and is what the stage then trains in; a word decides."""
    trained = []

    def done(run: Run, name: str) -> None:
        trained.append(run.precision)
        (run.out / name).mkdir(exist_ok=True)
        (run.out / name / "summary.json").write_text('{"seconds": 1}', encoding="utf-8")

    monkeypatch.setattr(stages, "run_stage", done)
    with_it = {"avx2": True, "avx512_bf16": True, "amx_bf16": False}
    without: dict[str, object] = {"avx2": True, "avx512_bf16": False, "architecture": "x86_64"}
    for found, word, want, why in (
        (with_it, "auto", "bf16", "this CPU multiplies in it (avx512_bf16)"),
        ({"architecture": "aarch64", "bf16": True}, "auto", "bf16", "this CPU multiplies in it (bf16)"),
        (without, "auto", "fp32", "PyTorch tells of no instructions of this CPU for bfloat16"),
        ({}, "auto", "fp32", "PyTorch tells of no instructions of this CPU for bfloat16"),
        (without, "bf16", "bf16", "as asked for"),
        (with_it, "fp32", "fp32", "as asked for"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        words = ["train", "nano", "--out", str(tmp_path), "--stage", "s1", "--precision", word]
        assert main(words if word != "auto" else words[:-2]) == 0
        assert f"precision {want}: {why}\n" in capsys.readouterr().out and trained[-1] == want


def test_the_cpu_is_asked_for_its_precision() -> None:
    for name, want in (("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("sve_bf16", "bf16"), ("avx2", "fp32")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True}, raising=False)
            assert precision_here()[0] == want
            patch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: False})
            assert precision_here()[0] == "fp32"
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(torch.cpu, "get_capabilities", raising=False)
        assert precision_here()[0] == "fp32", "a PyTorch that cannot be asked"


def imitated(able: bool) -> Callable[..., bool]:
    """A GPU that does it itself, or that can only imitate it."""
    return lambda including_emulation=True: able or including_emulation


def test_another_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU is asked whether it multiplies in bfloat16 itself, and where PyTorch computes reaches the model;
    "meta" stands for a device that this machine lacks."""
    for able, want in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", imitated(able))
        assert precision_here("cuda")[0] == precision_here("cuda:1")[0] == want
    assert precision_here("mps")[0] == "fp32"
    run = Run(tmp_path, device="meta")
    assert stages.STAGES["s1"].start(run).device.type == "meta"
    tiny().save_pretrained(tmp_path / "s1" / "model")
    assert run.model("s1").device.type == "meta" and Run(tmp_path).model("s1").device.type == "cpu"
    with pytest.raises(ValueError, match="device is 'abacus', which cannot be used here"):
        Run(tmp_path, device="abacus")


def test_a_state_comes_back_to_where_the_model_is(tmp_path: Path) -> None:
    """As above, "meta" stands for a GPU."""
    model = tiny()
    optimizer = loop.make_optimizer(model, PLAN)
    optimizer.zero_grad()
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    save_state(tmp_path, snapshot(model, optimizer), 1, {})
    there = Qwen3(model.config, device="meta")
    optimizer = loop.make_optimizer(there, PLAN)
    assert load_state(tmp_path, there, optimizer, {}) == 1
    for parameter in there.parameters():
        kept = optimizer.state[parameter]
        assert {name: value.device.type for name, value in kept.items()} == dict.fromkeys(
            ("step", "exp_avg", "exp_avg_sq"), "meta"
        )


def test_a_stage_goes_on_in_its_precision_alone(tmp_path: Path) -> None:
    train(tiny(), PLAN, data_loss, tmp_path, stop_at=3)
    with pytest.raises(TrainingError, match="is of another run \\(.*precision"):
        train(tiny(), replace(PLAN, precision="bf16"), data_loss, tmp_path)


def test_a_stage_that_no_run_has_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(run: Run, name: str) -> None:
        (run.out / name).mkdir()
        (run.out / name / "summary.json").write_text('{"seconds": 1}', encoding="utf-8")

    monkeypatch.setattr(stages, "run_stage", done)
    monkeypatch.setattr("qwen3_ref.commands.train.LOGS", tmp_path / "nowhere")
    assert main(["train", "nano", "--out", str(tmp_path), "--stage", "grpo"]) == 0
    assert "grpo: 170 steps from cold-start, for a time that no run" in capsys.readouterr().out


def test_help_needs_no_torch_and_the_first_line_comes_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom qwen3_ref.commands.line import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "--stage" in done.stdout
    command = [sys.executable, "-m", "qwen3_ref", "train", "nano", "--stage", "family", "--out"]
    command.append(str(tmp_path / "new"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("train nano: stage family, into ")
        first = time.monotonic()
        error = process.stderr.read()
    assert "is not there; run --stage " in error and time.monotonic() - first > 0.2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_tell_of_the_steps_where_no_bar_is_seen(
    terminal: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step and each tenth, with a clock on which each step takes two seconds."""
    now = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])

    def loss(model: Qwen3, step: int) -> tuple[Tensor, dict[str, float]]:
        now[0] += 2.0
        return data_loss(model, step)

    def stage(run: Run, name: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", Clock)
            train(tiny(), replace(PLAN, steps=40), loss, run.out / name)
        (run.out / name / "summary.json").write_text('{"seconds": 80}', encoding="utf-8")

    monkeypatch.setattr(stages, "run_stage", stage)
    monkeypatch.setattr("qwen3_ref.commands.train.on_terminal", lambda: terminal)
    assert main(["train", "nano", "--out", str(tmp_path), "--stage", "s2"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if ": step " in line]
    left = [re.sub(r"loss \d\.\d{3}, ", "", line) for line in lines]
    if terminal:
        assert left == []
        return
    assert left[0] == "s2: step 1 of 40, 0.5 steps/s, 0:01:18 left"
    assert left[1] == "s2: step 4 of 40, 0.5 steps/s, 0:01:12 left"
    assert [line.split()[2] for line in left] == ["1", *map(str, range(4, 41, 4))]
    logged = (tmp_path / "s2" / "log.csv").read_text("utf-8").splitlines()[2].split(",")
    assert logged[0] == "4" and f"loss {float(logged[1]):.3f}, " in lines[1]
    log = logging.getLogger("qwen3_ref.train.loop")
    assert log.handlers == [] and log.level == logging.NOTSET, "whoever trains without the command sees none"


def test_the_names_are_those_of_the_tables() -> None:
    """They are known before PyTorch is loaded."""
    assert tuple(stages.STAGES) == names.STAGE_NAMES and tuple(stages.EXTRA) == names.EXTRA_NAMES
    assert set(stages.SHIPPED.values()) <= set(names.STAGE_NAMES)


# -- the table of stages -------------------------------------------------------------------------------


def test_the_stages_are_those_of_the_report() -> None:
    """What each starts from and learns from, written out: a wrong base or teacher is a wrong recipe."""
    every = stages.STAGES | stages.EXTRA
    assert {name: stage.name for name, stage in every.items()} == {name: name for name in every}
    assert {name: (stage.base, stage.steps(Run(Path()))) for name, stage in every.items()} == {
        "s1": (None, 800), "s2": ("s1", 4200), "s3": ("s2", 200), "s3-no-abf": ("s2", 200),
        "cold-start": ("s3", 250), "grpo": ("cold-start", 170), "fusion": ("grpo", 400),
        "general-rl": ("fusion", 60),
        "student-s1": (None, 800), "student-s2": ("student-s1", 4200), "student-s3": ("student-s2", 200),
        "off-policy": ("student-s3", 250), "on-policy": ("off-policy", 170),
        "on-policy-forward": ("off-policy", 170), "student-rl": ("off-policy", 170),
        "general-rl-length-alone": ("fusion", 60),
        "moe-s1": (None, 240), "moe-s2": ("moe-s1", 1260), "moe-s3": ("moe-s2", 60),
    }  # fmt: skip
    taught = {name: stage.teacher for name, stage in every.items() if stage.teacher}
    assert taught == dict.fromkeys(("off-policy", "on-policy", "on-policy-forward"), "general-rl")
    balanced = {name: stage.balancing for name, stage in every.items() if stage.balancing}
    assert balanced == dict.fromkeys(("moe-s1", "moe-s2", "moe-s3"), "global")
    assert [name for name, stage in every.items() if stage.keep] == ["grpo"]
    flags = {name: stage.flags for name, stage in every.items() if stage.flags != ("",)}
    every_flag = (" /think", " /no_think", "")
    assert flags == {"on-policy": every_flag, "on-policy-forward": every_flag}
    limits = {name: stage.limits for name, stage in every.items() if stage.limits != Limits()}
    assert limits == {"general-rl-length-alone": Limits((0.75, 1.0, 1.5), alone=True)}
    directions = {n: s.plan.direction for n, s in every.items() if isinstance(s.plan, Distill)}
    assert directions == {"on-policy": "reverse", "on-policy-forward": "forward"}
    rewarded = {"grpo", "general-rl", "student-rl", "general-rl-length-alone"}
    assert {n for n, s in every.items() if isinstance(s.plan, Grpo)} == rewarded
    thetas = {name: stage.mix.rope_theta for name, stage in every.items() if stage.mix}
    assert {name for name, theta in thetas.items() if theta == 1e6} == {"s3", "student-s3", "moe-s3"}
    layers = {n: (s.config().num_hidden_layers, s.config().is_moe) for n, s in every.items() if s.config}
    assert layers["moe-s1"] == (4, True) and layers["s1"] == (4, False) and layers["student-s1"][1] is False
    order = list(stages.STAGES)
    for stage in stages.STAGES.values():
        for needed in (stage.base, stage.teacher):
            assert needed is None or order.index(needed) < order.index(stage.name)


def test_the_time_that_stages_take_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute to get ready, and what the logs say at this scale, in minutes."""
    monkeypatch.setattr(command, "LOGS", tmp_path)
    for name, seconds, device in (("a", 5970, "a card"), ("b", 2400, "a core"), ("c", 60, "a card")):
        (tmp_path / name).mkdir()
        said = json.dumps({"seconds": seconds, "device": device})
        (tmp_path / name / "summary.json").write_text(said, encoding="utf-8")
    assert command._time(["a"], 1.0) == "about 100 minutes on a card"
    assert command._time(["b", "a"], 2.0) == "about 280 minutes on a card and a core"
    assert command._time(["c"], 1.0) == "about 2 minutes on a card"  # 1.5 of them
    assert command._time(["c"], 0.98) == "about a minute on a card"
    assert command._time(["c", "d"], 1.0) == "for a time that no run has measured"
