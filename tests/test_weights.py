"""Writing checkpoints that transformers loads, whole or not at all; finding, fetching and verifying."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from huggingface_hub import constants
from safetensors import safe_open

from benchmarks.load import in_child
from qwen3_ref import facts
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.official import verify as verify_module
from qwen3_ref.official.snapshots import fetch
from qwen3_ref.store import checkpoint
from qwen3_ref.store.checkpoint import INDEX, SINGLE, CheckpointError
from qwen3_ref.store.shipped import NANO, find_nano
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import CASES, reference

REVISION = facts.official_models()["Qwen3-0.6B"]["revision"]


def load_official(directory: Path, dtype: torch.dtype) -> torch.nn.Module:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


# -- save_pretrained ---------------------------------------------------------------------------


@pytest.mark.parametrize("shard", [None, 20_000])
@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_we_write(case: str, shard: int | None, tmp_path: Path) -> None:
    """transformers, from our file, gives to the bit what it gave before it wrote its own."""
    directory, ids, logits, _ = reference(case)
    model = Qwen3.from_pretrained(directory)
    model.save_pretrained(tmp_path, **({} if shard is None else {"max_shard_bytes": shard}))
    assert (tmp_path / INDEX).exists() == (shard is not None)
    with torch.no_grad():
        assert torch.equal(load_official(tmp_path, torch.float32)(ids).logits, logits)
        assert torch.equal(Qwen3.from_pretrained(tmp_path)(ids), model(ids))


@pytest.mark.parametrize("case", ["dense", "dense_tied", "moe"])
def test_bfloat16(case: str, tmp_path: Path) -> None:
    directory, ids, _, _ = reference(case)
    original = load_official(directory, torch.bfloat16)
    Qwen3.from_pretrained(directory).save_pretrained(tmp_path / "a", dtype=torch.bfloat16)
    Qwen3.from_pretrained(directory, dtype=torch.bfloat16).save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / SINGLE).read_bytes() == (tmp_path / "b" / SINGLE).read_bytes()
    assert json.loads((tmp_path / "a/config.json").read_text(encoding="utf-8"))["torch_dtype"] == "bfloat16"
    with torch.no_grad():
        got = load_official(tmp_path / "a", torch.bfloat16)(ids).logits
        assert torch.equal(got, original(ids).logits)


def test_the_layout_is_the_official_one(tmp_path: Path) -> None:
    model = Qwen3.from_pretrained(reference("moe")[0])
    model.save_pretrained(tmp_path, max_shard_bytes=30_000)
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    shapes = model.config.tensor_shapes()
    assert index["metadata"]["total_size"] == model.config.weight_bytes(4)
    assert index["weight_map"].keys() == shapes.keys()
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 2
    for file in files:
        with safe_open(tmp_path / file, "np") as shard:
            assert shard.metadata() == {"format": "pt"}
            sizes = [int(np.prod(shapes[name])) * 4 for name in shard.keys()]
            assert sum(sizes) <= 30_000 or len(sizes) == 1
        assert (tmp_path / file).stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_other_files_stay_and_stale_weights_go(tmp_path: Path) -> None:
    model = Qwen3.from_pretrained(reference("dense")[0])
    (tmp_path / "tokenizer.json").write_text("mine", encoding="utf-8")
    (tmp_path / "my_model.safetensors").write_text("mine", encoding="utf-8")
    for size in (20_000, 40_000, 5 * 10**9, 20_000, 20_000):
        model.save_pretrained(tmp_path, max_shard_bytes=size)
        Qwen3.from_pretrained(tmp_path)
        others = {"config.json", "tokenizer.json", "my_model.safetensors"}
        assert others <= set(contents(tmp_path))
        names = set(contents(tmp_path)) - others
        if size == 5 * 10**9:
            assert names == {SINGLE}
        else:
            index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
            assert names == {INDEX, *index["weight_map"].values()}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


SAVE = """
import resource, sys
from qwen3_ref.model import Qwen3
model = Qwen3.from_pretrained(sys.argv[1])
for target in sys.argv[2:]:
    if limit:  # files that are too large fail as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2)
    try:
        model.save_pretrained(target, max_shard_bytes=60_000)
    except Exception as error:
        print(f"{type(error).__module__}.{type(error).__name__}: {error}", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """Over an old checkpoint and in a new place, one after the other in a process of its own."""
    source, old, new = reference("dense")[0], tmp_path / "old", tmp_path / "new"
    shutil.copytree(source, old)
    was = contents(tmp_path)
    command = [sys.executable, "-c", f"limit = 40000\n{SAVE}", str(source), str(old), str(new)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for target, line in zip((old, new), said, strict=True):
        assert line.startswith("qwen3_ref.store.errors.CheckpointError: ")
        assert "free 0.0 GB there or choose" in line
        assert str(target) in line and "File too large" in line
    assert contents(tmp_path) == was and not new.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    source, target = reference("dense")[0], tmp_path / "target"
    shutil.copytree(source, target)
    was = contents(target)
    stall = "import qwen3_ref.model as m, time; save = m.save_file; limit = None\n"
    stall += "m.save_file = lambda t, f, **k: (save(t, f, **k), print('part', flush=True), time.sleep(60))\n"
    command = [sys.executable, "-c", stall + SAVE, str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"part\n"
        process.send_signal(signal.SIGKILL)
    left = contents(target)
    assert {name: left[name] for name in was} == was
    assert set(left) - set(was) and all(name.startswith(".unfinished") for name in set(left) - set(was))
    model = Qwen3.from_pretrained(target)  # the old one loads,
    model.save_pretrained(target)  # and the next write clears up
    assert set(contents(target)) == {"config.json", "generation_config.json", SINGLE}


def told(directory: Path) -> tuple[float, float] | None:
    """(theta, a weight) of the checkpoint that a reader finds, or None for none."""
    try:
        model = Qwen3.from_pretrained(directory)
    except (ConfigError, CheckpointError):
        return None
    return model.config.rope_theta, model.model.norm.weight[0].item()


@pytest.mark.parametrize("new_size", [60_000, 90_000, 10**9], ids=["many", "fewer", "one"])
@pytest.mark.parametrize("old_size", [60_000, 10**9], ids=["many", "one"])
@pytest.mark.parametrize("other_config", [True, False])
def test_a_kill_between_two_renames(
    other_config: bool, old_size: int, new_size: int, tmp_path: Path
) -> None:
    """After any number of steps a reader finds the old checkpoint, the new one, or none; never a mixture."""
    old = Qwen3.from_pretrained(reference("dense")[0])
    with torch.no_grad():
        old.model.norm.weight[0] = 1
        new = copy.deepcopy(old)
        for parameter in new.parameters():
            parameter.mul_(2)
    if other_config:
        new.config = replace(new.config, rope_theta=777.0)
    whole = {"old": told_of(old), "new": told_of(new)}
    renames, unlinks, exchange = os.replace, Path.unlink, checkpoint._exchange
    seen = []
    for steps in range(60):
        target = tmp_path / str(steps)
        old.save_pretrained(target, max_shard_bytes=old_size)
        left = [steps]

        def kill(*arguments: Any, left: list[int] = left, real: Any = None, **more: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*arguments, **more)

        def watched(*arguments: Any, kill: Any = kill, **more: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "replace", functools.partial(kill, real=renames))
                patch.setattr(Path, "unlink", lambda *a, **m: kill(*a, real=unlinks, **m))
                exchange(*arguments, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "_exchange", watched)
            try:
                new.save_pretrained(target, max_shard_bytes=new_size)
                done = True
            except KeyboardInterrupt:
                done = False
        found = told(target)
        assert found in (None, *whole.values()), f"after {steps} steps a mixture: {found}"
        if found is not None:  # not a single tensor of the other
            want = old if found == whole["old"] else new
            got = dict(Qwen3.from_pretrained(target).named_parameters())
            assert all(torch.equal(got[n], p) for n, p in want.named_parameters())
        seen.append(found)
        if done:
            break
    assert done and steps > 1 and seen[0] == whole["old"] and seen[-1] == whole["new"]
    if not other_config and new_size == 10**9:
        assert None not in seen, "one file takes the place of the old weights in one step"


def told_of(model: Qwen3) -> tuple[float, float]:
    return model.config.rope_theta, model.model.norm.weight[0].item()


def test_a_failed_move_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the weights are on their way already, nobody is told that all is as before."""
    model = Qwen3.from_pretrained(reference("dense")[0])
    real = os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(target).name == SINGLE:
            raise OSError(5, "Input/output error")
        real(source, target)

    for before, words in ((False, "in it is as before"), (True, "checkpoint that was there is gone")):
        target = tmp_path / str(before)
        if before:
            model.save_pretrained(target)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(CheckpointError, match=f"Input/output error.*{words}"):
                model.save_pretrained(target)


def test_a_tensor_that_just_fits_stays_in_its_shard(tmp_path: Path) -> None:
    """Sizes 40, 60, 1 with shards of 100: the second fills the first shard to the last byte."""
    written: list[list[str]] = []

    def write(names: list[str], file: Path) -> None:
        written.append(names)
        file.write_bytes(b"")

    def config(file: Path) -> None:
        file.write_text("{}", encoding="utf-8")

    checkpoint.write_checkpoint(tmp_path, {"a": 40, "b": 60, "c": 1, "d": 101, "e": 1}, config, write, 100)
    assert written == [["a", "b"], ["c"], ["d"], ["e"]]


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    """By the next write, before its own: a file of the same name must not come into the new checkpoint."""
    model = Qwen3.from_pretrained(reference("dense")[0])
    (tmp_path / ".unfinished" / "deep").mkdir(parents=True)
    (tmp_path / ".unfinished" / "model-00009-of-00009.safetensors").write_bytes(b"half")
    model.save_pretrained(tmp_path)
    assert set(contents(tmp_path)) == {"config.json", SINGLE}
    assert not (tmp_path / ".unfinished").exists()


def test_what_a_killed_write_left_is_named(tmp_path: Path) -> None:
    """Where there is no checkpoint beside it."""
    (tmp_path / ".unfinished").mkdir()
    words = r"it holds \.unfinished, what a save that was killed has left, so save again"
    with pytest.raises(ConfigError, match=f"there is no .*config.json; {words}"):
        Qwen3.from_pretrained(tmp_path)
    shutil.copyfile(reference("dense")[0] / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=f"there is neither .*; {words}"):
        Qwen3.from_pretrained(tmp_path)


def test_an_interrupt_clears_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    model = Qwen3.from_pretrained(reference("dense")[0])
    monkeypatch.setattr("qwen3_ref.model.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    model = Qwen3.from_pretrained(reference("dense")[0])
    with pytest.raises(ValueError, match="max_shard_bytes is 0"):
        model.save_pretrained(tmp_path, max_shard_bytes=0)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="file cannot be written .*; check permissions or choose"):
        model.save_pretrained(tmp_path / "file")
    for dtype in (torch.int64, torch.bool, "float32"):
        with pytest.raises(ValueError, match="dtype is .*; it must be one of torch.float32"):
            model.save_pretrained(tmp_path / "new", dtype=dtype)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="dtype is .*; it must be one of torch.float32"):
            Qwen3.from_pretrained(reference("dense")[0], dtype=dtype)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_load_needs_the_memory_of_the_model(tmp_path: Path) -> None:
    """At most 1.15 times its bytes, mapped pages included. The large head comes last: the worst case."""
    config = Qwen3Config(
        vocab_size=60_000,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        rope_theta=1e6,
        tie_word_embeddings=False,
    )
    model = Qwen3(config, dtype=torch.bfloat16, device="meta").to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.zero_()  # random numbers take seconds
    model.save_pretrained(tmp_path)
    del model
    for kind, width in (("plain-bfloat16", 2), ("numpy", 4)):
        report = in_child(tmp_path, kind)
        assert report["model_bytes"] == config.weight_bytes(width) > 250e6
        assert report["ratio"] <= 1.15, (kind, report)
        assert report["anonymous_ratio"] > 0.95  # it did load


# -- finding and fetching ----------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, no $QWEN3_WEIGHTS, and downloads allowed."""
    cache = tmp_path / "hub"
    monkeypatch.delenv("QWEN3_WEIGHTS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)  # the hub is there
    return cache


def snapshot(directory: Path) -> Path:
    return Path(shutil.copytree(reference("dense")[0], directory))


def test_find_in_the_environment(nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify_module.find_official("Qwen3-0.6B") is None
    monkeypatch.setenv("QWEN3_WEIGHTS", str(tmp_path))
    assert verify_module.find_official("Qwen3-0.6B") is None
    two = snapshot(tmp_path / "Qwen" / "Qwen3-0.6B")
    assert verify_module.find_official("Qwen/Qwen3-0.6B") == two
    one = snapshot(tmp_path / "Qwen3-0.6B")
    assert verify_module.find_official("Qwen3-0.6B") == one
    monkeypatch.setenv("QWEN3_WEIGHTS", str(one))
    assert verify_module.find_official("Qwen3-0.6B") == one
    assert verify_module.find_official("Qwen3-0.6B-Base") is None
    with pytest.raises(ConfigError, match="did you mean"):
        verify_module.find_official("Qwen3-0.7B")


@pytest.mark.parametrize("revision", [REVISION, "f" * 40])
def test_find_in_the_hub_cache(revision: str, nowhere: Path) -> None:
    repo = nowhere / "models--Qwen--Qwen3-0.6B"
    directory = snapshot(repo / "snapshots" / revision)
    if revision != REVISION:  # whatever `main` is
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(revision, encoding="utf-8")
    assert verify_module.find_official("Qwen3-0.6B") == directory
    assert fetch("Qwen3-0.6B") == directory  # nothing to download
    (directory / SINGLE).unlink()
    assert verify_module.find_official("Qwen3-0.6B") is None


def test_an_incomplete_snapshot_is_none(nowhere: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("QWEN3_WEIGHTS", str(tmp_path))
    model = Qwen3.from_pretrained(reference("dense")[0])
    model.save_pretrained(tmp_path / "Qwen3-8B", max_shard_bytes=60_000)
    assert verify_module.find_official("Qwen3-8B") == tmp_path / "Qwen3-8B"
    shard = next((tmp_path / "Qwen3-8B").glob("model-00002-*"))
    content = shard.read_bytes()
    shard.unlink()
    assert verify_module.find_official("Qwen3-8B") is None
    shard.write_bytes(content)
    (tmp_path / "Qwen3-8B" / "config.json").unlink()
    assert verify_module.find_official("Qwen3-8B") is None


def test_fetch_asks_for_the_described_revision(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        wanted = ["config.json", "chat_template.jinja", "tokenizer.json", "model.safetensors", INDEX]
        files = [*wanted, "pytorch_model.bin", "onnx/model.onnx", "README.md"]
        chosen = huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns)
        assert list(chosen) == wanted
        return str(snapshot(nowhere / "models--Qwen--Qwen3-0.6B" / "snapshots" / revision))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch("Qwen3-0.6B") == nowhere / "models--Qwen--Qwen3-0.6B" / "snapshots" / REVISION
    assert asked == [("Qwen/Qwen3-0.6B", REVISION)]


def test_fetch_says_what_is_wrong(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host\nand a long story")

    def half(*_: Any, **__: Any) -> str:
        (nowhere / "half").mkdir(parents=True)
        return str(nowhere / "half")

    with pytest.raises(ConfigError, match="did you mean"):
        fetch("Qwen3-9B")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"Qwen/Qwen3-0.6B could not .*\(no route to host\); .* repeat"):
        fetch("Qwen3-0.6B")
    denied = PermissionError(13, "Permission denied", "/models/hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=denied))
    with pytest.raises(CheckpointError, match=r"^/models/hub cannot be used \(Permission.*\); .* HF_HOME"):
        fetch("Qwen3-0.6B")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", half)
    with pytest.raises(CheckpointError, match="incomplete"):
        fetch("Qwen3-0.6B")
    usage = shutil.disk_usage(nowhere)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"needs 1.5 GB more .* has 1.0 GB free; .*HF_HOME"):
        fetch("Qwen3-0.6B")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        fetch("Qwen3-0.6B")


def test_fetch_without_a_network_gives_up_at_once(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked once, for the file that the facts describe; its download would try five times."""
    asked: list[tuple[str, float]] = []

    def no_route(url: str, *, timeout: float) -> None:
        asked.append((url, timeout))
        raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_route)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(CheckpointError, match=r"could not be downloaded \(.*refused\); check the connection"):
        fetch("Qwen3-0.6B")
    ((url, timeout),) = asked
    assert REVISION in url and url.endswith("/config.json") and timeout <= 10


def test_a_partial_download_counts_for_the_room(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broken download has left is there already."""
    blobs = nowhere / "models--Qwen--Qwen3-0.6B" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "a.incomplete").open("wb") as file:
        file.truncate(1_000_000_000)  # sparse
    usage = shutil.disk_usage(nowhere)._replace(free=500_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"needs 0.5 GB more .* has 0.5 GB free"):
        fetch("Qwen3-0.6B")
    assert verify_module.find_official("Qwen3-0.6B") is None


# -- verify ------------------------------------------------------------------------------------


def statuses(findings: Any) -> dict[str, str]:
    return {finding.what: finding.status for finding in findings}


@pytest.mark.parametrize("name", [n for n, m in facts.official_models().items() if m["config"]])
def test_nothing_is_passed_without_a_snapshot(name: str, nowhere: Path) -> None:
    findings = list(verify_module.verify(name))
    assert {finding.status for finding in findings} == {"not checked"}
    assert all("no snapshot on disk" in finding.detail for finding in findings)
    goldens = [f for f in findings if " in float32" in f.what or " in bfloat16" in f.what]
    assert len(goldens) == {"Qwen3-0.6B-Base": 5, "Qwen3-0.6B": 1}.get(name, 0)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """A small 'official' checkpoint whose published numbers come from transformers and the file system."""
    directory = tmp_path_factory.mktemp("published") / "Qwen3-0.6B"
    tok = Tokenizer.train(["a checkpoint is verified when every number agrees"], 300)
    settings = CASES["dense_tied"] | {"vocab_size": 320, "initializer_range": 0.5}
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**copy.deepcopy(settings))
    official = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    official.save_pretrained(directory)
    tok.save_pretrained(directory)
    ids = [1, 50, 7, 200, 3]
    text = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    prompt = "every number"
    encoded = text.encode(prompt).ids
    with torch.no_grad():
        logits = official(torch.tensor([ids])).logits[0]
        out = official.generate(torch.tensor([encoded]), max_new_tokens=8, do_sample=False, eos_token_id=299)
    new = out[0, len(encoded) :].tolist()
    want = {
        "mean_over_vocab": logits.mean(-1).tolist(),
        "logits_0_0": [*logits[0, :4].tolist(), 99.0],
        "argmax": int(logits[-1].argmax()),
    }
    more = {"atol": 1e-4, "input_ids": ids, "skip": [4], "status": "verified", "source": "here"}
    goldens: list[dict[str, Any]] = [
        {"name": kind, "kind": kind, "dtype": "float32", "want": value} | more for kind, value in want.items()
    ]
    greedy = {"kind": "greedy", "dtype": "float32", "prompt": prompt, "max_new_tokens": 8} | more
    goldens.append(greedy | {"name": "new", "want": text.decode(new), "includes_prompt": False})
    whole = {"name": "all", "want": text.decode([*encoded, *new]), "includes_prompt": True}
    goldens.append(greedy | whole | {"status": "unverified"})
    size = (directory / SINGLE).stat().st_size
    files = (SINGLE, "tokenizer.json")
    hashes = {f: hashlib.sha256((directory / f).read_bytes()).hexdigest() for f in files}
    data = 4 * sum(p.numel() for p in official.parameters())
    checkpoint = {"tensors": 35, "data_bytes": data, "file_bytes": size, "file_sha256": hashes[SINGLE]}
    model = facts.official_models()["Qwen3-0.6B"] | {
        "config": json.loads((directory / "config.json").read_text(encoding="utf-8")),
        "checkpoint": checkpoint,
        "tokenizer_json": {"tokenizer_json_sha256": hashes["tokenizer.json"]},
    }
    return directory, model, goldens


@pytest.fixture
def official(published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(directory, published model, goldens), copies to be changed, in place of Qwen3-0.6B's facts."""
    source, model, goldens = published
    directory = Path(shutil.copytree(source, tmp_path / "Qwen3-0.6B"))
    model, goldens = copy.deepcopy(model), copy.deepcopy(goldens)
    models = facts.official_models() | {"Qwen3-0.6B": model}
    monkeypatch.setenv("QWEN3_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(facts, "official_models", lambda: models)
    monkeypatch.setattr(facts, "goldens", lambda name: goldens)
    return directory, model, goldens


def test_a_sound_snapshot_passes_everything(official: Any) -> None:
    findings = list(verify_module.verify("Qwen3-0.6B"))
    assert {finding.status for finding in findings} == {"passed"}, findings
    assert len(findings) == 14
    assert "weaker evidence" in findings[-1].detail and "weaker" not in findings[-2].detail


WRONG = {
    "number of tensors": lambda model, goldens: model["checkpoint"].update(tensors=34),
    "bytes of tensor data": lambda model, goldens: model["checkpoint"].update(data_bytes=4),
    "bytes of each file": lambda model, goldens: model["checkpoint"].update(file_bytes=4),
    "sha256 of the weights": lambda model, goldens: model["checkpoint"].update(file_sha256="0" * 64),
    "sha256 of tokenizer.json": lambda m, g: m["tokenizer_json"].update(tokenizer_json_sha256="0" * 64),
    "config.json": lambda model, goldens: model["config"]["rope_parameters"].update(rope_theta=1e4),
    "mean_over_vocab in float32": lambda model, goldens: goldens[0]["want"].__setitem__(2, 0.5),
    "logits_0_0 in float32": lambda model, goldens: goldens[1]["want"].__setitem__(0, float("nan")),
    "argmax in float32": lambda model, goldens: goldens[2].update(want=goldens[2]["want"] ^ 1),
    "new in float32": lambda model, goldens: goldens[3].update(want="another text"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_number_fails_alone(what: str, official: Any) -> None:
    _, model, goldens = official
    WRONG[what](model, goldens)
    failed = [finding.what for finding in verify_module.verify("Qwen3-0.6B") if finding.status == "failed"]
    assert failed == [what]


def test_marks_are_no_part_of_a_published_text(official: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of the other libraries leaves them out, as their decoders do by default."""
    tok = Tokenizer.from_pretrained(official[0])
    drawn = [*tok.encode("every"), *tok.stop_ids]
    official[2][3:] = [official[2][3] | {"want": "every"}]
    monkeypatch.setattr("qwen3_ref.decode.generation.generate", lambda *_, **__: [drawn])
    found = {f.what: f.status for f in verify_module.verify("Qwen3-0.6B")}
    assert tok.stop_ids and found["new in float32"] == "passed"


def test_what_is_found_and_what_was_published(official: Any) -> None:
    directory, model, _ = official
    size = (directory / SINGLE).stat().st_size
    WRONG["bytes of each file"](model, [])
    (said,) = [f.detail for f in verify_module.verify("Qwen3-0.6B") if f.what == "bytes of each file"]
    assert said.startswith(f"{size:,} bytes in {SINGLE}, published 4")


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("by", ["name", "directory"])
def test_the_shipped_weights_have_hashes(name: str, by: str) -> None:
    found = {f.what: f for f in verify_module.verify(name if by == "name" else find_nano(name))}
    passed = {what for what, finding in found.items() if finding.status == "passed"}
    assert passed == {
        "config.json", "tensor names, shapes and dtypes", "finite weights", "tokenizer ids",
        "sha256 of the weights", "sha256 of tokenizer.json",
    }  # fmt: skip
    assert {f.status for f in found.values()} == {"passed", "not checked"}
    for file, what in ((SINGLE, "sha256 of the weights"), ("tokenizer.json", "sha256 of tokenizer.json")):
        digest = hashlib.sha256((find_nano(name) / file).read_bytes()).hexdigest()
        assert found[what].detail == f"{digest[:12]}..."


def test_other_weights_under_a_nano_name_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = facts.nano_hashes("qwen3-nano")
    for file in right:
        wrong = right | {file: "0" * 64}
        monkeypatch.setattr(facts, "nano_hashes", lambda name, wrong=wrong: wrong)
        failed = [f.what for f in verify_module.verify("qwen3-nano") if f.status == "failed"]
        assert failed == ["sha256 of " + ("the weights" if file == SINGLE else file)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_fail(value: float, tmp_path: Path) -> None:
    model = Qwen3.from_pretrained(reference("dense")[0])
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight[-1, -1] = value
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    failed = {f.what: f.detail for f in verify_module.verify(tmp_path) if f.status == "failed"}
    assert set(failed) == {"finite weights"} and "down_proj.weight holds NaN" in failed["finite weights"]


def test_verify_says_which_checks_exist(nowhere: Path) -> None:
    """Without a snapshot: what would be checked if there were one, and what never can be."""
    for name in ("Qwen3-0.6B", "Qwen3-14B"):
        details = {f.what: f.detail for f in verify_module.verify(name)}
        never = {what for what, detail in details.items() if "nothing was published" in detail}
        published = facts.official_models()[name]["checkpoint"]
        assert ("sha256 of the weights" in never) == ("file_sha256" not in published)
        assert ("number of tensors" in never) == ("tensors" not in published)
        assert ("logits and completions" in never) == (not facts.goldens(name))


def test_unpublished_numbers_are_not_checked(official: Any) -> None:
    _, model, goldens = official
    model["checkpoint"] = {}
    goldens.clear()
    found = statuses(verify_module.verify("Qwen3-0.6B"))
    assert [what for what, status in found.items() if status == "passed"] == [
        "config.json", "tensor names, shapes and dtypes", "finite weights", "tokenizer ids",
        "sha256 of tokenizer.json",
    ]  # fmt: skip
    assert "failed" not in found.values()


def test_a_truncated_snapshot_fails_once(official: Any) -> None:
    directory, _, _ = official
    os.truncate(directory / SINGLE, 1000)
    found = statuses(verify_module.verify("Qwen3-0.6B"))
    assert found.pop("tensor names, shapes and dtypes") == "failed"
    assert found.pop("sha256 of the weights") == "failed"
    assert found["mean_over_vocab in float32"] == found["bytes of tensor data"] == "not checked"
    assert "failed" not in found.values()


def test_the_overstated_index_is_known(official: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, _ = official
    surplus = facts.about() | {"overstated_index": {"models": ["Qwen3-0.6B"], "bytes": 40}}
    monkeypatch.setattr(facts, "about", lambda: surplus)
    model["checkpoint"]["index_total_size"] = model["checkpoint"]["data_bytes"] + 40
    finding = next(f for f in verify_module.verify("Qwen3-0.6B") if f.what == "bytes of tensor data")
    assert finding.status == "passed" and "40 more" in finding.detail


def test_a_plain_directory(official: Any) -> None:
    directory, _, _ = official
    found = statuses(verify_module.verify(directory))
    assert list(found.values()) == ["passed"] * 4 + ["not checked"] * 6
    Tokenizer.train(["too many tokens"] * 2, 282).save_pretrained(directory)
    assert statuses(verify_module.verify(directory))["tokenizer ids"] == "passed"
    for count, status in ((320, "passed"), (321, "failed")):  # the embedding has 320 rows
        many = Tokenizer.train([chr(a) + chr(b) for a in range(97, 117) for b in range(97, 117)], count)
        many.save_pretrained(directory)
        assert many.ids[-1] == count - 1
        assert statuses(verify_module.verify(directory))["tokenizer ids"] == status
    (directory / "tokenizer.json").unlink()
    assert statuses(verify_module.verify(directory))["tokenizer ids"] == "not checked"
    (directory / "config.json").write_text("{}", encoding="utf-8")
    assert statuses(verify_module.verify(directory))["config.json"] == "failed"
    with pytest.raises(ConfigError, match="not an official"):
        list(verify_module.verify("no/such/place"))


def test_numpy_loads_what_we_write(tmp_path: Path) -> None:
    directory, ids, logits, _ = reference("moe_mixed_layers")
    Qwen3.from_pretrained(directory).save_pretrained(tmp_path, max_shard_bytes=30_000)
    got = NumpyQwen3.from_pretrained(tmp_path)(ids.numpy())
    np.testing.assert_allclose(got, logits.numpy(), atol=5e-5, rtol=0)
