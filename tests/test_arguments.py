"""What a caller hands over by mistake: paths, names, counts, devices and configurations that are none."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.config import Qwen3Config
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.official.snapshots import find_official
from qwen3_ref.official.verify import verify
from qwen3_ref.store.checkpoint import INDEX, SINGLE, CheckpointError
from qwen3_ref.tokenizer import Tokenizer

CONFIG = Qwen3Config.named("Qwen3-0.6B")
READERS: dict[str, Callable[[Any], Any]] = {
    "torch": Qwen3.from_pretrained,
    "numpy": NumpyQwen3.from_pretrained,
    "config": Qwen3Config.from_pretrained,
    "tokenizer": Tokenizer.from_pretrained,
    "verify": lambda where: list(verify(where)),
}
WRONG_COUNTS = ["5", -1, 2.0, True, None, float("nan"), np.float32(1)]


def sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert message.isprintable() and message.endswith(".") and message.count("; ") >= 1, message
    return message


@functools.cache
def tiny() -> Qwen3:
    return Qwen3(Qwen3Config.from_dict(small()))


def small() -> dict[str, Any]:
    sizes = dict(vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    return CONFIG.to_dict() | sizes | dict(num_attention_heads=2, num_key_value_heads=1, head_dim=4)


@pytest.mark.parametrize("value", WRONG_COUNTS, ids=repr)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("bytes_per_value", CONFIG.weight_bytes),
        ("length", CONFIG.kv_cache_bytes),
        ("batch", lambda v: CONFIG.kv_cache_bytes(10, v)),
        ("bytes_per_value", lambda v: CONFIG.kv_cache_bytes(10, 1, v)),
        ("context_length", CONFIG.flops_per_token),
    ],
)
def test_counts_are_whole_numbers(name: str, call: Callable[[Any], int], value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be a whole number, at least 0") as caught:
        call(value)
    sentence(caught)
    assert call(np.int8(0)) >= 0 and call(3) > 0  # NumPy's whole numbers are some


def test_numpys_small_counts_do_not_wrap() -> None:
    assert CONFIG.kv_cache_bytes(np.int32(32_768), np.int8(64)) == 64 * CONFIG.kv_cache_bytes(32_768)  # type: ignore[arg-type]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("value", [None, 5, b"/tmp", "", "a\0b", ["a"]], ids=repr)
def test_what_is_no_directory_to_read(reader: str, value: Any) -> None:
    words = "find_official gives None .* fetch NAME" if value is None else "which is no path"
    with pytest.raises(ValueError, match=f"^the directory is .*{words}") as caught:
        READERS[reader](value)
    sentence(caught)


def test_a_checkpoint_of_the_package_is_no_official_one() -> None:
    with pytest.raises(ValueError, match=r"qwen3-nano is no official .* `store.shipped.find_nano") as caught:
        find_official("qwen3-nano")
    sentence(caught)


@pytest.mark.parametrize("value", [None, 5, ["Qwen3-8B"]], ids=repr)
@pytest.mark.parametrize("call", [find_official, Qwen3Config.named])
def test_what_is_no_name(call: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ValueError, match="^the name is .*; give a checkpoint's, such as") as caught:
        call(value)
    sentence(caught)


@pytest.mark.parametrize("value", [None, 5, b"/tmp", ""], ids=repr)
@pytest.mark.parametrize("what", ["model", "tokenizer", "config"])
def test_nothing_is_written_where_no_path_is_given(
    what: str, value: Any, tmp_path: Path
) -> None:
    """"" is no name for the current directory: whoever gives it has forgotten to fill in a variable."""
    save: dict[str, Callable[[Any], None]] = {
        "model": tiny().save_pretrained,
        "tokenizer": Tokenizer.train(["aa aa"], 300).save_pretrained,
        "config": tiny().config.to_json,
    }
    with contextlib.chdir(tmp_path), pytest.raises(ValueError, match="^the (directory|file) is ") as caught:
        save[what](value)
    sentence(caught)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["5GB", None, 1.5, True, 0, -1], ids=repr)
def test_the_size_of_a_shard(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^max_shard_bytes is .*; .* a whole number of bytes") as caught:
        tiny().save_pretrained(tmp_path / "a", max_shard_bytes=value)
    sentence(caught)
    assert not list(tmp_path.iterdir())


def test_a_model_without_values_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on the device meta, .*; make it on another") as caught:
        Qwen3(Qwen3Config.from_dict(small()), device="meta").save_pretrained(tmp_path / "a")
    sentence(caught)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["gpu", "cuda:77", None, 1.5, "xla"], ids=repr)
@pytest.mark.parametrize("call", [lambda d: Qwen3.from_pretrained("qwen3-nano", device=d),
                                  lambda d: Qwen3(Qwen3Config.from_dict(small()), device=d)])
def test_a_device_that_is_not_here(call: Callable[[Any], Any], device: Any) -> None:
    with pytest.raises(ValueError, match="^device is .*cannot be used here .*; use cpu") as caught:
        call(device)
    sentence(caught)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
FILES: dict[str, tuple[str, bytes | None, str]] = {
    "lfs": (SINGLE, LFS, "a git-lfs pointer, whose file `git lfs pull` brings"),
    "page": (SINGLE, b"\n<!DOCTYPE html><html></html>", "a web page, so download the file itself"),
    "lfs_config": ("config.json", LFS, "git lfs pull"),
    "page_config": ("config.json", b"<html>", "a web page"),
    "mark": ("config.json", b"\xef\xbb\xbf{}", "a byte order mark, so save it as UTF-8 without"),
    "comma": ("config.json", b'{"a": 1,}', "mend it, or fetch it again"),
    "comment": ("config.json", b'{"a": 1} // b', "mend it, or fetch it again"),
    "nested": ("config.json", b'{"model_type": "qwen2_5_vl", "text_config":{}}', "multimodal .* in text_con"),
    "renamed": (SINGLE, None, "it holds other.safetensors, so rename that to model.safetensors"),
    "index": (INDEX, b"{}", "is not a safetensors index .'weight_map' is missing"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_download_that_went_wrong(case: str, tmp_path: Path) -> None:
    file, content, words = FILES[case]
    tiny().save_pretrained(tmp_path)
    if file == INDEX:
        (tmp_path / SINGLE).unlink()
    if content is None:
        (tmp_path / file).rename(tmp_path / "other.safetensors")
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises((CheckpointError, ValueError), match=words) as caught:
        Qwen3.from_pretrained(tmp_path)
    assert str(caught.value).endswith(".") and "Error(" not in str(caught.value)


def test_shards_without_their_index(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path, max_shard_bytes=2_000)
    (tmp_path / INDEX).unlink()
    with pytest.raises(CheckpointError, match="it holds model-00001-of-0.*need their .*, so fetch that too"):
        Qwen3.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tie_word_embeddings": False}, "lacks lm_head.weight, .* by tie_word_embeddings false; set that"),
        ({"vocab_size": 310}, "has 300 rows where vocab_size .* 310; set that to 300 if .* resized"),
    ],
    ids=["head", "rows"],
)
def test_a_config_that_does_not_fit_the_head(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    tiny().save_pretrained(tmp_path)
    Qwen3Config.from_dict(small() | {"tie_word_embeddings": True} | change).to_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=words):
        Qwen3.from_pretrained(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_without_cuda() -> None:
    with pytest.raises(ValueError, match="^device is 'cuda', which cannot be used here .*; use cpu"):
        Qwen3.from_pretrained("qwen3-nano", device="cuda")


@pytest.mark.parametrize(
    ("config", "way_out"),
    [
        ("qwen3-nano", r"use Qwen3.from_pretrained\('qwen3-nano'\)"),
        (Path("a"), r"use Qwen3.from_pretrained\("),
        (small(), "Qwen3Config.from_dict makes one"),
        (None, "Qwen3Config.from_dict makes one"),
    ],
    ids=["name", "path", "mapping", "none"],
)
def test_a_config_that_is_none(config: Any, way_out: str) -> None:
    with pytest.raises(ValueError, match=f"^config is .*, which is no Qwen3Config; .*{way_out}") as caught:
        Qwen3(config)
    sentence(caught)
