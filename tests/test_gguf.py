"""GGUF: what is written, against the package `gguf` and llama.cpp's own converter; what is read, from sound
files and from bad ones."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.engines.export import export, open_source
from qwen3_ref.engines.gguf import place_of, plans, read, token_list, unsupported, write
from qwen3_ref.engines.source import Source
from qwen3_ref.model import Qwen3
from qwen3_ref.store.checkpoint import open_checkpoint
from qwen3_ref.store.errors import CheckpointError
from qwen3_ref.store.gguf import MAGIC, open_gguf
from qwen3_ref.store.shipped import NANO, find_nano
from qwen3_ref.tokenizer import Tokenizer
from tests.helpers import CASES, harden, scratch

ROOT = Path(__file__).parent
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5}


@functools.cache
def written(name: str, kind: str) -> Path:
    """A file of one of the nano family."""
    folder = scratch() / f"gguf-{name}-{kind}"
    return write(open_source(name), folder, kind)


@functools.cache
def made(case: str, **changes: Any) -> Source:
    """A checkpoint with the nano's tokenizer and a hardened model of some shape."""
    nano = open_source("qwen3-nano")
    values = CASES[case] | {"vocab_size": 1280, "torch_dtype": "float32", "eos_token_id": 1256}
    values["model_type"] = "qwen3_moe" if "num_experts" in values else "qwen3"
    config = Qwen3Config.from_dict(values | changes)
    model = Qwen3(config)
    harden(model)
    folder = scratch() / f"made-{case}-{'-'.join(map(str, changes.values()))}"
    model.save_pretrained(folder)
    nano.tokenizer.save_pretrained(folder)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        (folder / name).write_bytes(nano.files[name])
    return open_source(folder)


def fields_of(config: Qwen3Config) -> dict[str, Any]:
    """What a GGUF file keeps of a config."""
    lost = ("initializer_range", "torch_dtype", "attention_dropout", "router_aux_loss_coef", "architectures")
    return {name: value for name, value in config.to_dict().items() if name not in lost}


# -- there and back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_there_and_back_bit_for_bit(name: str, kind: str) -> None:
    """Every value, the config, the tokenizer and the template of the shipped checkpoints."""
    source, found = open_source(name), read(written(name, kind))
    assert fields_of(found.config) == fields_of(source.config)
    assert found.config.torch_dtype == {"f32": "float32", "bf16": "bfloat16"}[kind]
    checkpoint = open_checkpoint(find_nano(name))
    for tensor in source.config.tensor_shapes():
        assert np.array_equal(checkpoint.read(tensor), found.weights.read(tensor)), tensor
    assert found.tokenizer.fingerprint() == source.tokenizer.fingerprint()
    assert found.tokenizer.special == source.tokenizer.special
    assert found.template == source.template
    assert (found.profile.template, found.profile.base) == (source.profile.template, source.profile.base)
    assert found.profile.stop_ids == source.profile.stop_ids
    assert found.profile.thinking == source.profile.thinking


@pytest.mark.parametrize("case", ["dense", "dense_tied", "dense_yarn", "dense_yarn_attention_factor", "moe",
                                  "dense_one_kv_head", "moe_tied_yarn", "dense_large_eps"])  # fmt: skip
def test_shapes_of_all_kinds_come_back(case: str, tmp_path: Path) -> None:
    """Tied and not, YaRN, heads that are not hidden_size wide, experts: the config and the logits."""
    source = made(case)
    found = read(write(source, tmp_path, "f32"))
    assert fields_of(found.config) == fields_of(source.config)
    ids = torch.arange(5, 45)[None]
    assert torch.equal(found.model()(ids), source.model()(ids))


def test_the_way_back_is_a_checkpoint_directory(tmp_path: Path) -> None:
    """A GGUF file exported to the official layout is read by everything that reads directories."""
    export(written("qwen3-nano", "bf16"), "hf", tmp_path / "back")
    ids = torch.arange(5, 45)[None]
    one, two = (Qwen3.from_pretrained(place)(ids) for place in ("qwen3-nano", tmp_path / "back"))
    assert torch.equal(one, two)
    assert open_source(tmp_path / "back").profile.stop_ids == open_source("qwen3-nano").profile.stop_ids
    assert Tokenizer.from_pretrained(tmp_path / "back").encode("17+4") == open_source(
        "qwen3-nano"
    ).tokenizer.encode("17+4")


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "f16"])
def test_rounded_weights_are_near_and_the_same_as_the_library_reads(kind: str) -> None:
    """Each value within half a step of its block, and equal to what gguf's own reader makes of the bytes."""
    path, source = written("qwen3-nano-moe", kind), open_source("qwen3-nano-moe")
    found = read(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    head = "token_embd.weight"

    @functools.cache
    def values_of(place: str) -> Any:
        tensor = theirs[place]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return values.reshape(tuple(reversed(tensor.shape.tolist())))

    for name, shape in source.config.tensor_shapes().items():
        if ".layers." in name and ".layers.1." not in name:
            continue
        place, expert = place_of(name)
        tensor, values, own = theirs[place], values_of(place), found.weights.read(name)
        assert np.array_equal(own, values if expert is None else values[expert]), name
        exact = source.matrix(name)
        stored = tensor.tensor_type.name
        small = len(shape) == 1 or place.endswith("ffn_gate_inp.weight")
        want = "F32" if small else "Q8_0" if place == head and kind[:2] in ("q4", "q5") else kind.upper()
        assert stored == want, name
        if stored == "F32":
            assert np.array_equal(own, exact)
        elif stored != "F16":
            blocks, error = exact.reshape(-1, 32), (own - exact).reshape(-1, 32)
            steps = {"Q8_0": 127, "Q5_1": 31 / 2, "Q5_0": 15, "Q4_1": 15 / 2, "Q4_0": 7}[stored]
            step = np.abs(blocks).max(1) / steps
            assert (np.abs(error).max(1) <= 1.15 * step).all(), name


def test_a_block_of_q8_0_by_hand(tmp_path: Path) -> None:
    """34 bytes: a float16 scale, the largest value by 127, then 32 signed bytes."""
    file = open_gguf(written("qwen3-nano", "q8_0"))
    name = "blk.0.attn_q.weight"
    block = file.raw(name)[3, 34:68].tobytes()
    values = open_source("qwen3-nano").matrix("model.layers.0.self_attn.q_proj.weight")[3, 32:64]
    (scale,) = struct.unpack("<e", block[:2])
    assert scale == np.float16(np.abs(values).max() / 127)
    codes = struct.unpack("<32b", block[2:])
    assert np.array_equal(file.read(name)[3, 32:64], np.float32(scale) * np.array(codes, np.float32))


# -- as llama.cpp's converter has it ------------------------------------------------------------------------


@pytest.mark.parametrize("moe", [False, True])
def test_names_are_those_of_the_library(moe: bool) -> None:
    source = made("moe" if moe else "dense")
    arch = gguf.MODEL_ARCH.QWEN3MOE if moe else gguf.MODEL_ARCH.QWEN3
    table = gguf.get_tensor_name_map(arch, source.config.num_hidden_layers)
    for name in source.config.tensor_shapes():
        place, expert = place_of(name)
        merged = name if expert is None else name.replace(f".experts.{expert}.", ".experts.")
        assert place == table.get_name(merged, try_suffixes=(".weight",)), name


def test_rows_without_a_text() -> None:
    """Padding of the embedding is unused, so that no engine draws it; words are as GPT-2 prints them."""
    tokenizer = open_source("qwen3-nano").tokenizer
    tokens, types = token_list(tokenizer, 1282)
    assert tokens[1280:] == ["[PAD1280]", "[PAD1281]"] and types[1280:] == [5, 5]
    assert [types[tokenizer.control_tokens[t]] for t in ("<|im_end|>", "<|fim_pad|>", "<think>")] == [3, 3, 4]
    (space,) = tokenizer.encode(" ")
    assert (tokens[space], types[space]) == ("\u0120", 1)


RECORDED = json.loads((ROOT / "data" / "gguf_converter.json").read_text(encoding="utf-8"))
"""What llama.cpp's own converter made of the nano family; how, the file says."""


def summary(path: Path) -> dict[str, Any]:
    """Keys with their types and values (a digest of long ones), tensors with type, shape and digest."""
    reader = gguf.GGUFReader(path)
    keys = {}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            value = field.contents()
            text = json.dumps(value)
            value = hashlib.sha256(text.encode()).hexdigest() if len(text) > 200 else value
            keys[name] = [[kind.name for kind in field.types], value]
    tensors = {
        t.name: [t.tensor_type.name, t.shape.tolist(), hashlib.sha256(t.data.tobytes()).hexdigest()[:16]]
        for t in reader.tensors
    }
    return {"keys": keys, "tensors": tensors}


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0"])
def test_keys_and_tensors_are_those_of_the_official_converter(name: str, kind: str) -> None:
    """Key by key and tensor by tensor, but for what it reads from the model card and its fashion of names."""
    ours, theirs = summary(written(name, kind)), copy.deepcopy(RECORDED["files"][f"{name}-{kind}"])
    assert ours["tensors"] == theirs["tensors"]
    for key in ("general.license", "general.tags"):
        del theirs["keys"][key]
    assert theirs["keys"]["general.name"][1].lower().replace(" ", "-") == name
    assert ours["keys"] == theirs["keys"] | {"general.name": [["STRING"], name]}


# -- what does not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(hidden_size=40), r"hidden_size is 40, the row length of token_embd.weight, and Q8_0 .* 32"),
        (dict(intermediate_size=56), "^intermediate_size is 56, the row length of blk.0.ffn_down.weight"),
        (dict(num_attention_heads=3, num_key_value_heads=3), "num_attention_heads x head_dim is 48"),
    ],
)
def test_rows_that_do_not_divide_are_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    source = made("dense", **{"hidden_size": 32, "intermediate_size": 64} | changes)
    with pytest.raises(CheckpointError, match=says):
        write(source, tmp_path, "q8_0")
    assert not any(tmp_path.iterdir())


def test_experts_that_do_not_divide_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="moe_intermediate_size is 24, .*ffn_down_exps"):
        write(made("moe", intermediate_size=64), tmp_path, "q4_0")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("moe_unnormalised", "norm_topk_prob is false"),
        ("moe_mixed_layers", "leaves a layer dense"),
        ("moe_every_second_layer", "leaves a layer dense"),
    ],
)
def test_models_that_llama_cpp_would_compute_otherwise(case: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        export(made(case), "gguf", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_positions_that_gguf_cannot_state() -> None:
    config = made("dense").config
    llama3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64}  # fmt: skip
    assert "'llama3'" in str(unsupported(replace(config, rope_scaling=llama3)))
    chunks = {"chunk_size": 64, "local_size": 16, "original_max_position_embeddings": 128}
    assert "dual_chunk" in str(unsupported(replace(config, dual_chunk_attention_config=chunks)))
    assert unsupported(config) is None


def test_a_value_beyond_float16_is_named(tmp_path: Path) -> None:
    source = made("dense")
    big = replace(source, weights=_Scaled(source))
    with pytest.raises(CheckpointError, match=r"token_embd.weight holds .*F16 ends at 65,504"):
        write(big, tmp_path, "f16")
    assert not any(tmp_path.iterdir())


class _Scaled:
    def __init__(self, source: Source) -> None:
        self.source = source

    def read(self, name: str, dtype: Any = None) -> Any:
        return self.source.weights.read(name, dtype) * np.float32(1e6)


FULL = """
import resource, sys
from qwen3_ref.engines.export import export
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)  # files that are too large fail as on a full disk
for to, out in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        export("qwen3-nano", to, out)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    assert resource
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "settings.json").write_text("kept", encoding="utf-8")
    words = ["gguf", str(old), "hf", str(new), "ollama", str(new)]
    done = subprocess.run([sys.executable, "-c", FULL, *words], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 3, done
    for line in said:
        assert line.startswith("CheckpointError: ") and "File too large" in line and "free " in line
    assert [path.name for path in old.iterdir()] == ["settings.json"] and not new.exists()


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written("qwen3-nano", "bf16")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match="need the package gguf.*`pip install gguf`"):
        open_gguf(path)
    monkeypatch.setattr("qwen3_ref.engines.export.find_spec", lambda name: None)
    for to, package in (("gguf", "gguf"), ("ct2", "ctranslate2")):
        with pytest.raises(CheckpointError, match=f"needs the package {package}.*`pip install {package}`"):
            export("qwen3-nano", to, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Values are asked for when their turn comes, and each once."""
    source, asked = open_source("qwen3-nano"), list[str]()

    class Counted:
        def read(self, name: str, dtype: Any = None) -> Any:
            asked.append(name)
            return source.weights.read(name, dtype)

    counted = replace(source, weights=Counted())  # type: ignore[arg-type]
    todo = plans(counted, "q8_0")
    assert asked == []
    write(counted, tmp_path, "q8_0")
    assert sorted(asked) == sorted(source.config.tensor_shapes())
    assert len(todo) == len(asked)


# -- bad files -------------------------------------------------------------------------------------------


def bad(change: Callable[[bytearray], Any]) -> bytearray:
    content = bytearray(written("qwen3-nano-student", "q8_0").read_bytes())
    change(content)
    return content


def header_size() -> int:
    return open_gguf(written("qwen3-nano-student", "q8_0")).data


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content.encode())) + content.encode()


def a_file(keys: list[bytes] = (), tensors: list[bytes] = (), data: bytes = b"", counts: Any = None) -> bytes:  # type: ignore[assignment]
    """A file of these entries, written by hand."""
    n, k = counts or (len(tensors), len(keys))
    head = MAGIC + struct.pack("<IQQ", 3, n, k) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def an_entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    size = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + size + struct.pack("<IQ", kind, offset)


A_KEY = text("k") + struct.pack("<II", 4, 1)
LIST = struct.pack("<I", 9)
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no GGUF file: its first letters"),
    "a web page": (b"<!DOCTYPE html><html>", "it is a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
    "version 1": (MAGIC + struct.pack("<IQQ", 1, 0, 0), "has version 1"),
    "big-endian": (MAGIC + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
    "cut in the counts": (MAGIC + struct.pack("<IQ", 3, 0), "truncated: it ends in its counts"),
    "many tensors": (a_file(counts=(2**40, 0)), "claims 1,099,511,627,776 tensors"),
    "many keys": (a_file(counts=(0, 2**63)), "claims 9,223,372,036,854,775,808 keys"),
    "a key twice": (a_file([A_KEY, A_KEY]), "gives 'k' twice"),
    "a long name": (a_file([struct.pack("<Q", 2**62)]), "the name of key 0 claims"),
    "a name that is no text": (a_file([struct.pack("<Q", 2) + b"\xff\xfe" + bytes(8)]), "is no UTF-8"),
    "type 99": (a_file([text("k") + struct.pack("<I", 99)]), "'k' is of type 99"),
    "a-long-list": (a_file([text("k") + LIST + struct.pack("<IQ", 4, 2**60)]), "claims 1,152,921,504,606"),
    "a list of lists": (a_file([text("k") + LIST + struct.pack("<IQ", 9, 1)]), "is a list of type 9"),
    "a cut list": (a_file([text("k") + LIST + struct.pack("<IQ", 4, 1000)]), "truncated: it ends in 'k'"),
    "no dimensions": (a_file([], [an_entry("t", (), 0, 0)]), "has 0 dimensions"),
    "nine dimensions": (a_file([], [an_entry("t", (1,) * 9, 0, 0)]), "has 9 dimensions"),
    "an empty tensor": (a_file([], [an_entry("t", (0, 3), 0, 0)]), r"has shape \(0, 3\)"),
    "an endless tensor": (a_file([], [an_entry("t", (2**40, 2**40), 0, 0)]), "has shape"),
    "type of tensor": (a_file([], [an_entry("t", (4,), 77, 0)], bytes(16)), "'t' in .* is of type 77"),
    "half a block": (a_file([], [an_entry("t", (2, 33), 8, 0)], bytes(99)), "rows of 33 values, and Q8_0"),
    "beyond-the-end": (a_file([], [an_entry("t", (9,), 0, 0)], bytes(32)), "truncated: t ends at byte"),
    "far beyond": (a_file([], [an_entry("t", (8,), 0, 2**63)], bytes(32)), "truncated: t ends at byte"),
    "unaligned": (a_file([], [an_entry("t", (4,), 0, 8)], bytes(64)), "off the alignment"),
    "overlap": (
        a_file([], [an_entry("t", (16,), 0, 0), an_entry("u", (4,), 0, 32)], bytes(64)),
        "u starts within t",
    ),
    "a tensor twice": (
        a_file([], [an_entry("t", (4,), 0, 0), an_entry("t", (4,), 0, 32)], bytes(64)),
        "gives the tensor 't' twice",
    ),
    "alignment": (
        a_file([text("general.alignment") + struct.pack("<II", 4, 33)]),
        "general.alignment is 33",
    ),
    "a part": (
        a_file([text("split.count") + struct.pack("<IH", 2, 3)]),
        "one of 3 files of a model",
    ),
    "a control character": (a_file([text("\x1b[2J") + struct.pack("<I", 99)]), r"\\x1b\[2J"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gets_a_sentence(case: str, tmp_path: Path) -> None:
    content, says = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as found:
        open_gguf(path)
    assert str(found.value).isprintable() and len(str(found.value)) < 1_100 + len(str(path))


def changed(keys: dict[str, Any], drop: tuple[str, ...] = (), rename: dict[str, str] | None = None) -> Path:
    """The student's file, written again by the library with other keys or names."""
    path = written("qwen3-nano-student", "q8_0")
    reader = gguf.GGUFReader(path)
    out = scratch() / "changed.gguf"
    writer = gguf.GGUFWriter(out, keys.pop("arch", "qwen3"))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in drop or name == "general.architecture":
            continue
        inner = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, keys.pop(name, field.contents()), field.types[0], inner)
    for tensor in reader.tensors:
        name = (rename or {}).get(tensor.name, tensor.name)
        if name:
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert not keys, keys
    return Path(out)


def _tokens() -> list[str]:
    tokens: list[str] = gguf.GGUFReader(written("qwen3-nano-student", "q8_0")).fields[
        "tokenizer.ggml.tokens"
    ].contents()
    return tokens


WRONG: dict[str, tuple[Callable[[], Path], str]] = {
    "arch": (lambda: changed({"arch": "llama"}), "general.architecture of .* is 'llama'"),
    "key_length": (
        lambda: changed({}, drop=("qwen3.attention.key_length",)),
        "qwen3.attention.key_length is missing .*default of 48 a head is another model's",
    ),
    "value_length": (
        lambda: changed({"qwen3.attention.value_length": 32}),
        "key_length and value_length .* differ",
    ),
    "layers": (lambda: changed({"qwen3.block_count": 9}), "lacks blk.3.attn_q.weight"),
    "fewer layers": (lambda: changed({"qwen3.block_count": 1}), "holds 'blk.1"),
    "no layers": (lambda: changed({"qwen3.block_count": 0}), "num_hidden_layers is 0"),
    "head count": (lambda: changed({"qwen3.attention.head_count": 4}), "attn_q.weight in .* has shape"),
    "no heads": (lambda: changed({"qwen3.attention.head_count": 0}), "num_attention_heads is 0"),
    "width": (lambda: changed({"qwen3.embedding_length": 128}), "token_embd.weight in .* has shape"),
    "theta": (lambda: changed({}, drop=("qwen3.rope.freq_base",)), "qwen3.rope.freq_base is missing"),
    "no embedding": (lambda: changed({}, rename={"token_embd.weight": ""}), "no token_embd.weight"),
    "no norm": (lambda: changed({}, rename={"blk.0.attn_q_norm.weight": ""}), "lacks blk.0.attn_q_norm"),
    "bias": (lambda: changed({}, rename={"blk.0.attn_q_norm.weight": "blk.0.attn_q.bias"}), "lacks blk.0"),
    "pre": (lambda: changed({"tokenizer.ggml.pre": "llama-bpe"}), "with the pattern 'llama-bpe'"),
    "tokens": (lambda: changed({"tokenizer.ggml.tokens": _tokens()[:-1]}), "not lists for the 1,280 rows"),
    "a token twice": (
        lambda: changed({"tokenizer.ggml.tokens": [*_tokens()[:7], _tokens()[3], *_tokens()[8:]]}),
        "token 7 of .* there twice",
    ),
    "merges": (lambda: changed({"tokenizer.ggml.merges": ["a b c"]}), "a merge is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_no_such_model_gets_a_sentence(case: str) -> None:
    make, says = WRONG[case]
    with pytest.raises((CheckpointError, ConfigError, ValueError), match=says) as found:
        read(make())
    assert "\n" not in str(found.value)


def test_cut_anywhere_it_is_refused(tmp_path: Path) -> None:
    content = written("qwen3-nano-student", "q8_0").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(60), *random.Random(0).sample(range(60, len(content)), 60), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read(path)


def test_any_byte_of_the_header_changed_is_read_or_refused(tmp_path: Path) -> None:
    """400 damaged headers: a sentence, or a model; never another exception, and never much memory."""
    path, size, rng = tmp_path / "damaged.gguf", header_size(), random.Random(1)
    seen = 0
    for at in [*range(24), *rng.sample(range(24, size), 376)]:
        content = bad(lambda content, at=at: content.__setitem__(at, content[at] ^ rng.randrange(1, 256)))
        path.write_bytes(content)
        try:
            read(path)
        except (CheckpointError, ConfigError, ValueError) as error:
            assert "\n" not in str(error)
            seen += 1
    assert seen > 20
