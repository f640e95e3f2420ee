"""Reading checkpoints: every way a file can be wrong is one sentence, for both loaders; good ones load."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qwen3_ref.config import ConfigError
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.store import checkpoint, files
from qwen3_ref.store.checkpoint import INDEX, SINGLE, CheckpointError, open_checkpoint
from qwen3_ref.store.progress import progress
from tests.damage import (
    K_PROJ,
    copy_of,
    shard,
    tensors_of,
    with_bytes,
    with_entry,
    with_header,
    with_index,
    with_tensors,
)
from tests.helpers import CASES as MODELS
from tests.helpers import official_model, reference

LOADERS: dict[str, Callable[..., Any]] = {
    "torch": Qwen3.from_pretrained,
    "numpy": NumpyQwen3.from_pretrained,
}
Case = tuple[Callable[[Path], None], list[str]]


def missing_shard(directory: Path) -> None:
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def pickle_only(directory: Path) -> None:
    (directory / SINGLE).unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def a_folder(directory: Path) -> None:
    (directory / SINGLE).unlink()
    (directory / SINGLE).mkdir()


def hole(directory: Path) -> None:
    """Every tensor but the first starts four bytes late."""

    def shift(header: dict[str, Any]) -> None:
        for entry in header.values():
            if entry["data_offsets"][0]:
                entry["data_offsets"] = [n + 4 for n in entry["data_offsets"]]

    with_header(shift)(directory)
    with_bytes(lambda content: content + bytes(4))(directory)


def without_shape(header: dict[str, Any]) -> None:
    del header[K_PROJ]["shape"]


def unlisted(index: dict[str, Any]) -> None:
    del index["weight_map"][K_PROJ]


def overlap(header: dict[str, Any]) -> None:
    size = header[K_PROJ]["data_offsets"][1] - header[K_PROJ]["data_offsets"][0]
    header[K_PROJ]["data_offsets"] = [0, size]


def duplicate(header: dict[str, Any]) -> bytes:
    text = json.dumps(header)
    return (text[:-1] + f', "{K_PROJ}": {json.dumps(header[K_PROJ])}}}').encode()


def stray(where: str) -> Callable[[Path], None]:
    return with_index(lambda index: index["weight_map"].update({K_PROJ: where}))


def two_lines(tensors: dict[str, torch.Tensor]) -> None:
    tensors["evil\n\x1b[31mname"] = torch.zeros(1)


def exchanged(directory: Path) -> None:
    """Two tensors of one shape, each in the other's shard: the index is wrong and nothing is missing."""
    index = shard(directory)["weight_map"]
    norms = [n for n in index if n.endswith("layernorm.weight")]
    one = norms[0]
    other = next(n for n in norms if index[n] != index[one])
    index[one], index[other] = index[other], index[one]
    (directory / INDEX).write_text(json.dumps({"weight_map": index}), encoding="utf-8")


def in_two_shards(directory: Path) -> None:
    """A second K_PROJ, with other values, in the shard that the index does not name for it."""
    index = shard(directory)["weight_map"]
    other = next(file for file in sorted(index.values()) if file != index[K_PROJ])
    tensors = {n: t.clone() for n, t in load_file(directory / other).items()}
    save_file(tensors | {K_PROJ: torch.zeros(32, 32)}, directory / other)


def a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe_for_the_index(directory: Path) -> None:
    (directory / SINGLE).unlink()
    a_pipe(directory / INDEX)


def pipe_for_a_shard(directory: Path) -> None:
    shard(directory)
    a_pipe(directory / "model-00002-of-00002.safetensors")


CASES: dict[str, Case] = {
    "truncated": (with_bytes(lambda b: b[:-100]), [SINGLE, "truncated", "model.", "fetch it again"]),
    "empty_file": (with_bytes(lambda b: b""), [SINGLE, "not even a header length"]),
    "header_longer_than_file": (with_bytes(lambda b: b"\xff" * 8 + b[8:]), [SINGLE, "claims"]),
    "header_cut": (with_bytes(lambda b: b[:50]), [SINGLE, "corrupt"]),
    "bytes_at_the_end": (with_bytes(lambda b: b + b"more"), [SINGLE, "4 bytes after the last tensor"]),
    "header_not_json": (with_header(lambda h: b"{]"), [SINGLE, "not JSON"]),
    "header_not_utf8": (with_header(lambda h: b'{"\xff": 1}'), [SINGLE, "not JSON"]),
    "header_a_list": (with_header(lambda h: [h]), [SINGLE, "a list"]),
    "header_a_number": (with_header(lambda h: 7), [SINGLE, "a int"]),
    "header_too_deep": (with_header(lambda h: b"[" * 200_000), [SINGLE, "not JSON"]),
    "name_twice": (with_header(duplicate), [SINGLE, "twice"]),
    "entry_a_string": (with_header(lambda h: h.update({K_PROJ: "F32"})), [SINGLE, K_PROJ, "malformed"]),
    "entry_without_shape": (with_header(without_shape), [SINGLE, K_PROJ, "malformed"]),
    "shape_a_string": (with_entry(shape="48"), [SINGLE, K_PROJ, "malformed"]),
    "shape_of_floats": (with_entry(shape=[32.0, 32.0]), [SINGLE, K_PROJ, "malformed"]),
    "shape_infinite": (with_entry(shape=[float("inf"), 1]), [SINGLE, K_PROJ, "malformed"]),
    "shape_negative": (with_entry(shape=[-32, -32]), [SINGLE, K_PROJ, "malformed"]),
    "shape_true": (with_entry(shape=[True, 1024]), [SINGLE, K_PROJ, "malformed"]),
    "dtype_a_list": (with_entry(dtype=["F32"]), [SINGLE, K_PROJ, "malformed"]),
    "three_offsets": (with_entry(data_offsets=[0, 4, 8]), [SINGLE, K_PROJ, "malformed"]),
    "negative_offset": (with_entry(data_offsets=[-4, 4092]), [SINGLE, K_PROJ, "malformed"]),
    "offsets_backwards": (with_entry(data_offsets=[8, 4], dtype="I8"), [SINGLE, K_PROJ, "-4 bytes"]),
    "offsets_of_another_size": (with_entry(data_offsets=[0, 4]), [SINGLE, K_PROJ, "4 bytes"]),
    "overlap": (with_header(overlap), [SINGLE, "starts at 0", "ends at"]),
    "hole": (hole, [SINGLE, "starts at", "data before it ends at"]),
    "missing_shard": (missing_shard, ["model-00002-of-00002.safetensors", INDEX, "missing", "fetch"]),
    "tensor_not_in_its_shard": (
        with_index(lambda i: i["weight_map"].update(new="model-00001-of-00002.safetensors")),
        [INDEX, "new", "does not hold it"],
    ),
    "tensor_not_in_the_index": (
        with_index(unlisted),
        [INDEX, K_PROJ, "nowhere", "fetch"],
    ),
    "index_not_json": (with_index(lambda i: "{"), [INDEX, "not a safetensors index"]),
    "index_too_deep": (with_index(lambda i: "[" * 200_000), [INDEX, "not a safetensors index"]),
    "index_a_list": (with_index(lambda i: "[]"), [INDEX, "not a safetensors index"]),
    "weight_map_a_list": (
        with_index(lambda i: '{"weight_map": [["a", "b.safetensors"]]}'),
        [INDEX, "weight_map is a list"],
    ),
    "path_above": (stray("../model.safetensors"), [INDEX, K_PROJ, "in its own directory"]),
    "path_absolute": (stray("/tmp/model.safetensors"), [INDEX, K_PROJ, "in its own directory"]),
    "path_backslash": (stray("..\\model.safetensors"), [INDEX, K_PROJ, "in its own directory"]),
    "path_below": (stray("sub/model.safetensors"), [INDEX, K_PROJ, "in its own directory"]),
    "path_of_a_drive": (stray("C:model.safetensors"), [INDEX, K_PROJ, "in its own directory"]),
    "path_with_nul": (stray("a\0.safetensors"), [INDEX, K_PROJ, "in its own directory"]),
    "path_to_a_pickle": (stray("pytorch_model.bin"), [INDEX, K_PROJ, "no safetensors file"]),
    "path_a_number": (stray(5), [INDEX, K_PROJ, "no safetensors file"]),  # type: ignore[arg-type]
    "missing_tensor": (with_tensors(lambda t: t.pop(K_PROJ)), ["checkpoint lacks", K_PROJ, "fetch"]),
    "unused_tensor": (
        with_tensors(lambda t: t.update(extra=torch.zeros(1))),
        ["holds extra", "no place", "config.json"],
    ),
    "unused_bias": (
        with_tensors(lambda t: t.update({K_PROJ[:-6] + "bias": torch.zeros(32)})),
        ["k_proj.bias", "no place"],
    ),
    "wrong_shape": (
        with_tensors(lambda t: t.update({K_PROJ: t[K_PROJ].T.contiguous()[:16]})),
        [SINGLE, K_PROJ, "(16, 32)", "(32, 32)"],
    ),
    "whole_numbers": (
        with_tensors(lambda t: t.update({K_PROJ: t[K_PROJ].int()})),
        [SINGLE, K_PROJ, "I32", "unquantised"],
    ),
    "float8": (
        with_tensors(lambda t: t.update({K_PROJ: t[K_PROJ].to(torch.float8_e4m3fn)})),
        [SINGLE, K_PROJ, "F8_E4M3"],
    ),
    "metadata_of_numbers": (
        with_header(lambda h: h.update(__metadata__={"a": "b", "n": 1})),
        [SINGLE, "of strings"],
    ),
    "metadata_true": (with_header(lambda h: h.update(__metadata__=True)), [SINGLE, "object of strings"]),
    "metadata_a_number": (with_header(lambda h: h.update(__metadata__=0)), [SINGLE, "object of strings"]),
    "header_after_spaces": (with_header(lambda h: b"  " + json.dumps(h).encode()), [SINGLE, "begin with {"]),
    "header_in_utf16": (with_header(lambda h: json.dumps(h).encode("utf-16")), [SINGLE, "not JSON"]),
    "header_of_many_lists": (with_header(lambda h: b"[" + b"[]," * 10**6 + b"0]"), [SINGLE, "1,500,000"]),
    "metadata_twice": (
        with_header(lambda h: b'{"__metadata__": {"a": "b", "a": "c"}}'), [SINGLE, "gives 'a' twice"],
    ),
    "huge_offset": (with_entry(data_offsets=[0, 10**1000]), [SINGLE, "whole number of 1,001 digits"]),
    "large_offset": (with_entry(data_offsets=[0, 2**63]), [SINGLE, K_PROJ, "malformed"]),
    "shape_of_nines": (with_entry(shape=[9] * 10**6), [SINGLE, K_PROJ, "malformed"]),
    "shape_a_huge_number": (with_entry(shape=[10**4000]), [SINGLE, "4,001 digits"]),
    "long_names": (with_header(lambda h: h.update({"x" * 10**5: 5})), [SINGLE, "malformed", "..."]),
    "index_names_twice": (
        with_index(lambda i: '{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}'),
        [INDEX, "not a safetensors index", "gives 'a' twice"],
    ),
    "index_of_many_lists": (with_index(lambda i: "[" + "[]," * 10**6 + "0]"), [INDEX, "1,500,000 values"]),
    "name_that_begins_well": (stray("a.safetensors.bin"), [INDEX, K_PROJ, "no safetensors file"]),
    "name_that_ends_well": (stray("a/../b.safetensors"), [INDEX, K_PROJ, "no safetensors file"]),
    "name_alone": (stray(".safetensors\n"), [INDEX, K_PROJ, "no safetensors file"]),
    "tensor_in_another_shard": (exchanged, [INDEX, "fetch the checkpoint again", "model-0000"]),
    "tensor_in_two_shards": (in_two_shards, [INDEX, K_PROJ, "model-0000", "fetch the checkpoint again"]),
    "pipe": (lambda d: a_pipe(d / SINGLE), [SINGLE, "a device or a pipe, not a file"]),
    "pipe_for_a_shard": (pipe_for_a_shard, ["model-00002-of-00002.safetensors", "a device or a pipe"]),
    "pipe_for_the_index": (pipe_for_the_index, [INDEX, "a device or a pipe"]),
    "device": (lambda d: a_device(d / SINGLE), [SINGLE, "a device or a pipe, not a file"]),
    "pickle_only": (pickle_only, ["pytorch_model.bin", "pickle", "convert"]),
    "no_weights": (lambda d: (d / SINGLE).unlink(), [SINGLE, INDEX, "neither"]),
    "a_folder": (a_folder, [SINGLE, "directory", "permissions"]),
    "names_with_control_characters": (with_tensors(two_lines), ["evil\\n\\x1b[31mname"]),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("case", CASES)
def test_a_bad_checkpoint_is_one_sentence(case: str, loader: str, tmp_path: Path) -> None:
    damage, fragments = CASES[case]
    directory = copy_of("dense", tmp_path)
    LOADERS[loader](directory)  # sound until now
    damage(directory)
    with pytest.raises(CheckpointError) as caught:
        LOADERS[loader](directory)
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    assert message.isprintable() and message.endswith("."), message
    assert len(message) <= 2000


def test_a_header_is_within_its_file(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes((93).to_bytes(8, "little") + b"{" + b" " * 91)
    with pytest.raises(CheckpointError, match="claims 93 bytes and the file has 100"):
        open_checkpoint(tmp_path).names()


def test_a_header_has_a_bound(tmp_path: Path) -> None:
    """Judged by its claim, before it is read; safetensors has about the same one."""
    with (tmp_path / SINGLE).open("wb") as file:
        file.write((25_000_001).to_bytes(8, "little"))
        file.truncate(30_000_000)
    with pytest.raises(CheckpointError, match="claims 25000001 bytes, and more than 25000000 are not read"):
        open_checkpoint(tmp_path).names()


def test_a_device_is_no_file() -> None:
    """One that ends at once, so that a reader that opens it fails here and does not hang."""
    with pytest.raises((OSError, ValueError)) as caught:
        files.read_json(Path(os.devnull), 10)
    assert "a device or a pipe, not a file" in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_an_empty_directory(loader: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither .* nor .* fetch NAME"):
        open_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="there is no .*config.json"):
        LOADERS[loader](tmp_path)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn])
def test_a_tied_head_must_equal_the_embedding(loader: str, dtype: torch.dtype, tmp_path: Path) -> None:
    directory = copy_of("dense_tied", tmp_path)
    tensors = tensors_of(directory)
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, directory / SINGLE)
    LOADERS[loader](directory)  # as Qwen3-0.6B and -1.7B are stored
    head[-1, -1] += 1
    save_file(tensors | {"lm_head.weight": head.to(dtype)}, directory / SINGLE)
    with pytest.raises(CheckpointError, match="lm_head.weight in .*(differs|F8_E4M3)"):
        LOADERS[loader](directory)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_tied_head_in_another_dtype(loader: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Equal values are equal, however they are stored; one in the last place that differs is not."""
    directory = copy_of("dense_tied", tmp_path)
    tensors = tensors_of(directory)
    name = "model.embed_tokens.weight"
    tensors[name] = tensors[name].bfloat16().float().half().float()  # what every dtype holds exactly
    tensors[name][3, 3] = float("nan")
    save_file(tensors | {"lm_head.weight": tensors[name].to(dtype)}, directory / SINGLE)
    LOADERS[loader](directory)
    save_file(tensors | {"lm_head.weight": tensors[name].clone()}, directory / SINGLE)
    LOADERS[loader](directory)  # of one dtype: a NaN equals itself there too
    head = tensors[name].to(dtype)
    head[-1, -1] *= 2
    save_file(tensors | {"lm_head.weight": head}, directory / SINGLE)
    with pytest.raises(CheckpointError, match="lm_head.weight in .* differs"):
        LOADERS[loader](directory)


@pytest.mark.parametrize("block", [7, 64])
def test_a_tied_head_is_compared_wholly(block: int, tmp_path: Path) -> None:
    """Block by block, to the last: one value of each block that differs is enough; and so is its shape."""
    name = "model.embed_tokens.weight"
    embedding = torch.arange(150.0).reshape(15, 10)
    heads = [embedding[:14].clone(), embedding.T.contiguous()]
    for place in (0, 6, 7, 63, 64, 128, 149):
        heads.append(embedding.clone())
        heads[-1].view(-1)[place] += 1
    for head in heads:
        save_file({name: embedding, "lm_head.weight": head}, tmp_path / SINGLE)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(CheckpointError, match="differs"):
            patch.setattr(checkpoint, "_BLOCK", block)
            open_checkpoint(tmp_path).require({name: (15, 10)})


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.model.", "module.model.", "model.text.", "model."])
@pytest.mark.parametrize("case", ["dense", "dense_tied", "moe"])
def test_names_with_another_prefix(loader: str, prefix: str, case: str, tmp_path: Path) -> None:
    """As Qwen3-Embedding, torch.compile and DataParallel leave them; the head's own prefix is shorter."""
    directory = copy_of(case, tmp_path)
    outer = prefix.removesuffix("model.")
    renamed = {
        prefix + n.removeprefix("model.") if n.startswith("model.") else outer + n: t
        for n, t in tensors_of(directory).items()
    }
    assert prefix == "model." or "model.norm.weight" not in renamed
    save_file(renamed, directory / SINGLE)
    want = NumpyQwen3.from_pretrained(reference(case)[0]).weights
    got = LOADERS[loader](directory)
    if loader == "torch":
        got = dict(got.named_official_tensors())
        assert all(np.array_equal(got[n].numpy(), want[n].astype("f4")) for n in want)
    else:
        assert got.weights.keys() == want.keys()
        assert all(np.array_equal(got.weights[n], want[n]) for n in want)


def test_a_prefix_that_says_two_things_is_refused(tmp_path: Path) -> None:
    tensors = {f"{p}embed_tokens.weight": torch.zeros(2, 2) for p in ("a.", "b.")}
    save_file(tensors, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match="lacks model.embed_tokens.weight"):
        open_checkpoint(tmp_path).require({"model.embed_tokens.weight": (2, 2)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0"])
def test_values_that_are_not_finite_are_found(dtype: torch.dtype, value: str, tmp_path: Path) -> None:
    x = torch.full((4, 3), torch.finfo(dtype).max, dtype=dtype)
    x[3, 2] = float(value)
    save_file({"a": torch.zeros(3), "x": x}, tmp_path / SINGLE)
    assert open_checkpoint(tmp_path).not_finite() == (None if value == "0" else "x")


@pytest.mark.parametrize("loader", LOADERS)
def test_experts_stored_twice(loader: str, tmp_path: Path) -> None:
    directory = copy_of("moe", tmp_path)
    tensors = tensors_of(directory)
    down = torch.stack([tensors[f"model.layers.0.mlp.experts.{e}.down_proj.weight"] for e in range(8)])
    save_file(tensors | {"model.layers.0.mlp.experts.down_proj": down}, directory / SINGLE)
    with pytest.raises(CheckpointError, match="experts.0.down_proj.weight is stored twice"):
        LOADERS[loader](directory)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions do not bind root, so be somebody else."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("loader", LOADERS)
def test_permission_denied(loader: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        directory = copy_of("dense", Path(folder))
        for path in (Path(folder), directory):
            path.chmod(0o755)
        (directory / "config.json").chmod(0o644)
        (directory / SINGLE).chmod(0o000)
        with as_nobody(), pytest.raises(CheckpointError, match=f"{SINGLE} cannot be read .*ermission"):
            LOADERS[loader](directory)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("change", ["gone", "cut"])
def test_a_file_that_changes_during_the_load(
    loader: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of("dense", tmp_path)
    require = checkpoint.Checkpoint.require

    def require_then_change(self: checkpoint.Checkpoint, shapes: Any) -> None:
        require(self, shapes)
        if change == "gone":
            (directory / SINGLE).unlink()
        else:
            os.truncate(directory / SINGLE, 5000)

    monkeypatch.setattr(checkpoint.Checkpoint, "require", require_then_change)
    with pytest.raises(CheckpointError, match=f"cannot be read from .*{SINGLE}"):
        LOADERS[loader](directory)


# 100 examples, as many for each kind of damage as hypothesis likes.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_else(data: st.DataObject, tmp_path: Path) -> None:
    source = reference("moe")[0]
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    content = bytearray((source / SINGLE).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    places = data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4))
    for place in places:
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789,:[]{}"'))
    (tmp_path / SINGLE).write_bytes(content)
    for loader in LOADERS.values():
        try:
            loader(tmp_path)
        except (CheckpointError, ConfigError) as error:
            assert str(error).isprintable()


# -- what is right loads right -----------------------------------------------------------------


def test_both_layouts_of_experts(tmp_path: Path) -> None:
    """transformers 5 holds experts packed and saves them one by one; both layouts give one model."""
    directory, ids, logits, _ = reference("moe")
    assert "model.layers.0.mlp.experts.7.up_proj.weight" in tensors_of(directory)
    packed = {name: t.contiguous() for name, t in official_model(MODELS["moe"]).state_dict().items()}
    assert packed["model.layers.0.mlp.experts.gate_up_proj"].shape == (8, 48, 32)  # as it is in memory
    shutil.copy(directory / "config.json", tmp_path)
    save_file(packed, tmp_path / SINGLE)
    for place in (directory, tmp_path):
        with torch.no_grad():
            torch.testing.assert_close(Qwen3.from_pretrained(place)(ids), logits, atol=5e-5, rtol=0)
    one, other = (NumpyQwen3.from_pretrained(place).weights for place in (directory, tmp_path))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_no_more_than_so_many_experts_are_unpacked() -> None:
    """A header may claim any number; ten thousand are taken apart, and one more are left as they are."""
    for count, names in ((10_000, 20_000), (10_001, 1)):
        stored = checkpoint.Stored(Path("x"), "F32", (count, 2, 3), 64)
        found = checkpoint._unpacked("model.layers.0.mlp.experts.gate_up_proj", stored)
        assert len(found) == names
    whole = checkpoint._unpacked("model.layers.0.mlp.experts.gate_up_proj", replace(stored, shape=(2, 2, 3)))
    assert [(name[27:], part.offset, part.shape) for name, part in whole.items()] == [
        ("0.gate_proj.weight", 64, (1, 3)), ("0.up_proj.weight", 76, (1, 3)),
        ("1.gate_proj.weight", 88, (1, 3)), ("1.up_proj.weight", 100, (1, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 4, 1), (1, 2, 3)])
def test_experts_of_one_row_are_unpacked(shape: tuple[int, int, int], tmp_path: Path) -> None:
    save_file({"model.layers.0.mlp.experts.gate_up_proj": torch.zeros(shape)}, tmp_path / SINGLE)
    parts = [f"{e}.{part}" for e in range(shape[0]) for part in ("gate_proj", "up_proj")]
    names = [f"model.layers.0.mlp.experts.{part}.weight" for part in parts]
    assert sorted(open_checkpoint(tmp_path).names()) == sorted(names)


def test_shards_load_as_the_single_file_does(tmp_path: Path) -> None:
    directory = copy_of("dense", tmp_path)
    want = NumpyQwen3.from_pretrained(directory).weights
    shard(directory)
    got = NumpyQwen3.from_pretrained(directory).weights
    assert all(np.array_equal(got[name], want[name]) for name in want)
    state = Qwen3.from_pretrained(directory).state_dict()
    assert all(np.array_equal(state[name].numpy(), want[name]) for name in want)


def test_a_single_file_counts_before_an_index(tmp_path: Path) -> None:
    """As in transformers, so that a directory is not one model here and another there."""
    directory = copy_of("dense", tmp_path)
    single = (directory / SINGLE).read_bytes()
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()
    (directory / SINGLE).write_bytes(single)
    LOADERS["torch"](directory)


@pytest.mark.parametrize("block", [5, 2**22])
def test_every_bfloat16_is_widened_exactly(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_BLOCK", block)
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16) if block > 5 else torch.arange(97).short()
    values = bits.view(torch.bfloat16).reshape(-1, 1)
    save_file({"a": torch.zeros(3), "x": values, "y": values.half()}, tmp_path / SINGLE)
    opened = open_checkpoint(tmp_path)
    assert opened.dtype("x") == "BF16" and opened.shape("x") == tuple(values.shape)
    assert opened.total_bytes() == 12 + 4 * len(values)
    np.testing.assert_array_equal(opened.read("x"), values.float().numpy())
    np.testing.assert_array_equal(opened.read("x", np.float64), values.double().numpy())
    np.testing.assert_array_equal(opened.read("y"), values.half().numpy())


@pytest.mark.parametrize("padding", range(8))
def test_data_at_any_alignment(padding: int, tmp_path: Path) -> None:
    """Old writers did not pad the header, so data may start at an odd byte."""
    directory = copy_of("dense", tmp_path)
    want = tensors_of(directory)
    with_header(lambda h: json.dumps(h).encode() + b" " * padding)(directory)
    state = Qwen3.from_pretrained(directory).state_dict()
    assert all(torch.equal(state[name], want[name]) for name in want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_mixed_and_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    directory = copy_of("dense", tmp_path)
    want = tensors_of(directory)[K_PROJ].to(dtype)
    with_tensors(lambda t: t.update({K_PROJ: want}))(directory)
    assert torch.equal(Qwen3.from_pretrained(directory, dtype=dtype).state_dict()[K_PROJ], want)
    spec = NumpyQwen3.from_pretrained(directory, dtype=np.float64)
    assert np.array_equal(spec.weights[K_PROJ], want.double().numpy())


# -- the progress bar --------------------------------------------------------------------------

SLOWLY = """
import sys, time
from qwen3_ref.store.progress import progress
for i in progress([1, 2, 3], "Loading weights", after=float(sys.argv[1])):
    time.sleep(0.2)
print("done")
"""


def on_a_terminal(code: str, *arguments: str) -> str:
    """Run a child whose stderr and stdout are a terminal; what it shows."""
    import pty

    parent, child = pty.openpty()
    command = [sys.executable, "-c", code, *arguments]
    terminal = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdout=child, stderr=child, env=terminal)
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(parent, 1000):
            shown += piece
    os.close(parent)
    assert process.wait(timeout=60) == 0
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_progress_shows_in_a_terminal_when_it_takes_long() -> None:
    assert "Loading weights" in on_a_terminal(SLOWLY, "0.1")
    assert on_a_terminal(SLOWLY, "30").split() == ["done"]  # not even a control sequence


@pytest.mark.parametrize("after", [1.0, 5.0])
def test_one_bar_from_the_second_on(after: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before the time is over, and once: items come after 0.4, 1.0, 1.2 and 2 seconds."""
    told: list[Any] = []

    class Bar:
        def __init__(self, **_: Any) -> None:
            told.append("a bar")

        def add_task(self, what: str, total: int) -> str:
            told.append((what, total))
            return "task"

        def update(self, task: str, completed: int) -> None:
            told.append((task, completed))

        def start(self) -> None:
            told.append("start")

        def stop(self) -> None:
            told.append("stop")

    clock = iter([7.0, 7.4, 8.0, 8.2, *[9.0] * 9])
    monkeypatch.setattr("qwen3_ref.store.progress.on_terminal", lambda: True)
    monkeypatch.setattr("qwen3_ref.store.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("rich.progress.Progress", Bar)
    assert list(progress([7, 8, 9, 10], "Reading", after=after)) == [7, 8, 9, 10]
    shown = ["a bar", ("Reading", 4), "start", ("task", 2), ("task", 3), "stop"]
    assert told == (shown if after == 1.0 else [])


def test_progress_is_silent_in_a_pipe() -> None:
    result = subprocess.run([sys.executable, "-c", SLOWLY, "0.1"], capture_output=True, check=True)
    assert result.stdout.split() == [b"done"] and result.stderr == b""
    assert progress.__defaults__ == ("Loading weights", 1.0)  # a second is when it appears
