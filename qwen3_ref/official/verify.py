"""Snapshots against published numbers: configuration, tensors, bytes, hashes, logits, completions."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwen3_ref import facts
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.official.snapshots import find_official, official_name
from qwen3_ref.store.checkpoint import SINGLE, Checkpoint, CheckpointError, open_checkpoint
from qwen3_ref.store.files import open_regular, require_path
from qwen3_ref.store.shipped import NANO, find_nano, local_directory
from qwen3_ref.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch is imported where a model runs, so that `info` and `fetch` start at once
    from qwen3_ref.model import Qwen3

Status = Literal["passed", "failed", "not checked"]


class Failed(Exception):
    """A check ran and found something wrong; the message says what."""


class NotChecked(Exception):
    """A check could not run; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What `verify` reports of one check: what, its status, and what was seen or why it did not run."""

    what: str
    status: Status
    detail: str

    def __str__(self) -> str:
        return f"{self.status:<12} {self.what:<42} {self.detail}"


def verify(name_or_dir: str | os.PathLike[str]) -> Iterator[Finding]:
    """Check a snapshot against the published numbers, one finding at a time.

    An official name: configuration, tensors, byte sizes, hashes and published outputs (golden logits
    and completions) of the snapshot that `find_official` finds. A nano checkpoint, by its name or its
    directory in the package: the same against the hashes that the package states. Any other directory:
    what can be said without a published number, and "not checked" for the rest. Every check that exists
    for the name is listed, whether it can run here or not; it is "passed" only if it ran.
    Raises ConfigError for a name that is neither a known checkpoint nor a directory.
    """
    name: str | None = None
    word = require_path(name_or_dir)
    directory = local_directory(word)
    if directory is None:
        name = official_name(word)
        directory = find_official(name)
        why = f"no snapshot on disk; `python -m qwen3_ref fetch {name}`"
    elif directory.name in NANO and directory.resolve() == find_nano(directory.name):
        name = directory.name
        why = "the package states hashes for its nano checkpoints, which cover this"
    else:
        why = "a directory has no published numbers; give an official name"
    snapshot = _Snapshot(directory or Path(), name)
    for what, check in snapshot.checks():
        if directory is None and check is not None and snapshot.unpublished(what):
            yield _run(what, None, f"{why} (even then: {snapshot.unpublished(what)})")
        else:
            yield _run(what, check if directory is not None else None, why)


def _run(what: str, check: Callable[[], str] | None, why: str) -> Finding:
    if check is None:
        return Finding(what, "not checked", why)
    try:
        return Finding(what, "passed", check())
    except Failed as failure:
        return Finding(what, "failed", str(failure))
    except NotChecked as reason:
        return Finding(what, "not checked", str(reason))
    except (CheckpointError, ConfigError, ValueError, OSError) as error:
        return Finding(what, "failed", str(error))


def _start(text: str) -> str:
    """The first words of a completion, quoted."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


class _Snapshot:
    """The checks of one directory. Each method returns what it saw, or raises Failed or NotChecked."""

    def __init__(self, directory: Path, name: str | None) -> None:
        """`name`: of an official or a shipped nano checkpoint, or None."""
        self.directory, self.name = directory, name
        self.official = name is not None and name not in NANO
        self.published: dict[str, Any] = facts.official_models()[name] if name and self.official else {}
        self.sizes: dict[str, Any] = self.published.get("checkpoint") or {}
        tokenizer = (self.published.get("tokenizer_json") or {}).get("tokenizer_json_sha256")
        self.hashes = {SINGLE: self.sizes.get("file_sha256"), "tokenizer.json": tokenizer}
        if name in NANO:
            self.hashes |= facts.nano_hashes(name)
        self._model: tuple[str, Qwen3] | None = None

    def checks(self) -> Iterator[tuple[str, Callable[[], str] | None]]:
        """(what, check) of every check that exists; None where such a thing has no published numbers."""
        yield "config.json", self.config_json
        yield "tensor names, shapes and dtypes", self.shapes
        yield "finite weights", self.finite
        yield "tokenizer ids", self.tokenizer_ids
        named, official = self.name is not None, self.official
        yield "number of tensors", self.tensor_count if official else None
        yield "bytes of tensor data", self.data_bytes if official else None
        yield "bytes of each file", self.file_bytes if official else None
        yield "sha256 of the weights", self.weights_sha256 if named else None
        yield "sha256 of tokenizer.json", self.tokenizer_sha256 if named else None
        goldens = facts.goldens(self.name) if self.name is not None else []
        for golden in goldens:
            yield f"{golden['name']} in {golden['dtype']}", functools.partial(self.golden, golden)
        if not goldens:
            yield "logits and completions", self.no_goldens if official else None

    def unpublished(self, what: str) -> str | None:
        """Why a check could not run on any snapshot, or None: nothing was published to compare with."""
        sizes = self.sizes
        lacks = {
            "number of tensors": "tensors" not in sizes,
            "bytes of tensor data": not self.name or facts.published_total_size(self.name) is None,
            "bytes of each file": not sizes.keys() & {"file_bytes", "shard_bytes", "files_sum_bytes"},
            "sha256 of the weights": self.hashes[SINGLE] is None,
            "sha256 of tokenizer.json": self.hashes["tokenizer.json"] is None,
            "logits and completions": True,
        }
        return "nothing was published to compare with" if lacks.get(what) else None

    @property
    def config(self) -> Qwen3Config:
        return Qwen3Config.from_pretrained(self.directory)

    def opened(self) -> Checkpoint:
        """The checkpoint, for checks that make no sense while its headers are broken."""
        try:
            return open_checkpoint(self.directory)
        except CheckpointError as error:
            raise NotChecked("its headers cannot be read, see above") from error

    def config_json(self) -> str:
        found = self.config
        if self.name is None or not self.official:
            return f"a possible {found.model_type} model of {found.num_parameters():,} parameters"
        official = Qwen3Config.named(self.name)
        for field in official.__dataclass_fields__:
            if getattr(found, field) != getattr(official, field):
                raise Failed(
                    f"{field} is {getattr(found, field)!r}, officially {getattr(official, field)!r}"
                )
        return f"the official values ({self.published['config_status']})"

    def shapes(self) -> str:
        checkpoint = open_checkpoint(self.directory)
        checkpoint.require(self.config.tensor_shapes())
        kinds = sorted({checkpoint.dtype(name) for name in checkpoint.names()})
        return f"{len(checkpoint.names()):,} tensors in {', '.join(kinds)}, all of them the config's"

    def finite(self) -> str:
        checkpoint = self.opened()
        try:
            checkpoint.require(self.config.tensor_shapes())
        except CheckpointError as error:
            raise NotChecked("its tensors are not the config's, see above") from error
        name = checkpoint.not_finite()
        if name is not None:
            raise Failed(f"{name} holds NaN or an infinity")
        return f"every value of {len(checkpoint.names()):,} tensors is a number"

    def tokenizer_ids(self) -> str:
        if not (self.directory / "tokenizer.json").exists():
            raise NotChecked("there is no tokenizer.json")
        ids, rows = Tokenizer.from_pretrained(self.directory).ids, self.config.vocab_size
        if ids[-1] >= rows:
            raise Failed(f"the tokenizer has an id {ids[-1]:,} and the embedding only {rows:,} rows")
        return f"{len(ids):,} ids in {rows:,} rows of the embedding"

    def tensor_count(self) -> str:
        return self._same(len(self.opened().names()), self.sizes.get("tensors"), "tensors")

    def data_bytes(self) -> str:
        published = facts.published_total_size(self.name) if self.name else None
        surplus = facts.about()["overstated_index"]
        note = ""
        if published is not None and self.name in surplus["models"]:
            published -= surplus["bytes"]
            note = f" (its index says {surplus['bytes']:,} more than there is, as officially)"
        return self._same(self.opened().total_bytes(), published, "bytes") + note

    def file_bytes(self) -> str:
        self.opened()
        files = sorted(self.directory.glob("*.safetensors"))
        sizes = [file.stat().st_size for file in files]
        single = [self.sizes["file_bytes"]] if "file_bytes" in self.sizes else None
        shards = self.sizes.get("shard_bytes", single)
        if shards is not None:
            for file, size, want in zip(files, sizes, shards, strict=False):
                self._same(size, want, f"bytes in {file.name}")
            self._same(len(files), len(shards), "files")
            return f"{sum(sizes):,} bytes, every file of the published size"
        return self._same(sum(sizes), self.sizes.get("files_sum_bytes"), "bytes in all files")

    def weights_sha256(self) -> str:
        return self._hash(SINGLE)

    def tokenizer_sha256(self) -> str:
        return self._hash("tokenizer.json")

    def _hash(self, file: str) -> str:
        want = self.hashes[file]
        if want is None:
            raise NotChecked("no hash was published")
        with open_regular(self.directory / file) as stream:
            got = hashlib.file_digest(stream, "sha256").hexdigest()
        if got != want:
            raise Failed(f"{got[:12]}..., published {want[:12]}...")
        return f"{got[:12]}..."

    def _same(self, got: int, want: int | None, unit: str) -> str:
        if want is None:
            raise NotChecked("no number was published")
        if got != want:
            raise Failed(f"{got:,} {unit}, published {want:,}")
        return f"{got:,} {unit}"

    def no_goldens(self) -> str:
        raise NotChecked("no outputs of this checkpoint were published in full precision")

    def golden(self, golden: dict[str, Any]) -> str:
        """Run the model on a published input and compare; see data/goldens.json for the kinds."""
        self.opened()
        import torch

        from qwen3_ref.decode.generation import generate

        model = self._loaded(golden["dtype"])
        weak = "" if golden["status"] == "verified" else f"; weaker evidence: {golden['source']}"
        if golden["kind"] == "greedy":
            tok = Tokenizer.from_pretrained(self.directory)
            prompt = tok.encode(golden["prompt"])
            most = golden["max_new_tokens"]
            (new,) = generate(model, [prompt], max_new_tokens=most, stop_ids=tok.stop_ids)
            text = tok.decode([*prompt, *new] if golden["includes_prompt"] else new, skip_control_tokens=True)
            if text != golden["want"]:
                raise Failed(f"{_start(text)}, published {_start(golden['want'])}{weak}")
            return _start(text) + weak
        with torch.inference_mode():
            logits = model(torch.tensor([golden["input_ids"]]))[0].double()
        if golden["kind"] == "argmax":
            return self._same(int(logits[-1].argmax()), golden["want"], "is the most probable id") + weak
        want = torch.tensor(golden["want"], dtype=torch.float64)
        got = logits.mean(-1) if golden["kind"] == "mean_over_vocab" else logits[0, : len(want)]
        kept = [i for i in range(len(want)) if i not in golden.get("skip", ())]
        difference = (got - want)[kept].abs().max().item()
        if not difference <= golden["atol"]:  # NaN fails too
            raise Failed(f"largest difference {difference:.2e}, allowed {golden['atol']:.0e}{weak}")
        return f"largest difference {difference:.1e}, allowed {golden['atol']:.0e}{weak}"

    def _loaded(self, dtype: str) -> Qwen3:
        """The model in this dtype; one at a time is kept."""
        import torch

        from qwen3_ref.model import Qwen3

        if self._model is None or self._model[0] != dtype:
            self._model = None  # free it before the next one takes its memory
            self._model = dtype, Qwen3.from_pretrained(self.directory, dtype=getattr(torch, dtype))
        return self._model[1]
