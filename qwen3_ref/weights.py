"""Official snapshots: finding them on disk, fetching them, and checking them against published numbers.

(Reading and writing the files themselves is in `checkpoint.py`.) `fetch` is the one function of the
package that uses the network.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwen3_ref import facts
from qwen3_ref.checkpoint import (
    INDEX,
    SINGLE,
    Checkpoint,
    CheckpointError,
    hub_cache,
    open_checkpoint,
    read_index,
)
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.files import write_atomically
from qwen3_ref.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch is imported where a model runs, so that `info` and `fetch` start at once
    from qwen3_ref.model import Qwen3

_FILES = ["config.json", "generation_config.json", "tokenizer*", "vocab.json", "merges.txt", "*.safetensors*"]
Status = Literal["passed", "failed", "not checked"]


NANO = ("qwen3-nano", "qwen3-nano-base", "qwen3-nano-moe", "qwen3-nano-student")
"""The checkpoints that come with the package; `train nano` makes them."""


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


# -- finding and fetching -------------------------------------------------------------------------


def official_name(name: str) -> str:
    """"Qwen3-8B" for "Qwen3-8B" or "Qwen/Qwen3-8B". Raises ConfigError, with near names, for others."""
    Qwen3Config.named(name)
    return name.removeprefix("Qwen/")


def find_official(name: str) -> Path | None:
    """The directory of a complete local snapshot of an official checkpoint, or None. No network.

    Looks, in this order, at $QWEN3_WEIGHTS/NAME, $QWEN3_WEIGHTS/Qwen/NAME, $QWEN3_WEIGHTS itself if
    its last part is NAME, and the hub cache (the revision of the facts, then `main`). Complete means
    that config.json and every shard of the index are there; what is in them, `verify` checks.
    Raises ConfigError for an unknown name.
    """
    short = official_name(name)
    places: list[Path] = []
    root = os.environ.get("QWEN3_WEIGHTS")
    if root:
        base = Path(root).expanduser()
        places = [base / short, base / "Qwen" / short] + ([base] if base.name == short else [])
    model = facts.official_models()[short]
    for revision in (model["revision"], "main"):
        config = hub_cache().try_to_load_from_cache(model["repo"], "config.json", revision=revision)
        if isinstance(config, str):
            places.append(Path(config).parent)
    return next((place for place in places if _complete(place)), None)


def find_nano(name: str) -> Path:
    """The directory of a checkpoint of the nano family, which comes with the package.

    Raises ValueError for an unknown name, CheckpointError if this installation lacks the file.
    """
    if name not in NANO:
        raise ValueError(f"there is no nano checkpoint {name!r}; there are {', '.join(NANO)}.")
    place = Path(__file__).resolve().parent / "data" / "nano" / name
    if not _complete(place):
        raise CheckpointError(f"{place} is not there, so the package is incomplete; install it again.")
    return place


def local_directory(name: str) -> Path | None:
    """What a name stands for without a look at official snapshots: a directory, or a nano checkpoint.

    None for any other name, "" included. Raises CheckpointError as `find_nano` does.
    """
    if name and Path(name).is_dir():
        return Path(name)
    return find_nano(name) if name in NANO else None


def nano_chat_template() -> str:
    """The Jinja template of the nano family, `chat_template.jinja` beside each of its checkpoints."""
    path = Path(__file__).resolve().parent / "data" / "nano_chat_template.jinja"
    return path.read_text(encoding="utf-8")


def finish_nano(directory: Path) -> None:
    """Add what other programs look for beside a nano checkpoint: the chat template, the length of the
    context, and the ids that end a reply (after a base model's name, the id that ends a document).

    Raises OSError in one sentence.
    """
    ids = Tokenizer.from_pretrained(directory).control_tokens
    stop = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    ends = stop[1:] if directory.name.endswith("-base") else stop
    settings = {"do_sample": False, "eos_token_id": ends, "pad_token_id": stop[1]}
    write_atomically(directory / "generation_config.json", json.dumps(settings, indent=2) + "\n")
    named = directory / "tokenizer_config.json"
    config = json.loads(named.read_text(encoding="utf-8"))
    config["model_max_length"] = Qwen3Config.from_pretrained(directory).max_position_embeddings
    write_atomically(named, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    write_atomically(directory / "chat_template.jinja", nano_chat_template())


def _complete(directory: Path) -> bool:
    if not (directory / "config.json").is_file():
        return False
    if (directory / SINGLE).is_file():
        return True
    try:
        return all((directory / file).is_file() for file in set(read_index(directory / INDEX).values()))
    except (CheckpointError, OSError):
        return False


def download_bytes(name: str) -> int:
    """Bytes of an official checkpoint's weights as its files store them: published, or else computed."""
    return facts.published_total_size(official_name(name)) or Qwen3Config.named(name).weight_bytes()


def fetch(name: str) -> Path:
    """Download an official checkpoint into the hub cache, unless it is on disk; returns its directory.

    The revision is the one that the facts describe. A broken download goes on where it stopped.
    Raises ConfigError (unknown name) and CheckpointError (offline, no room), in one sentence.
    """
    short = official_name(name)
    found = find_official(short)
    if found is not None:
        return found
    from huggingface_hub import constants, snapshot_download

    model = facts.official_models()[short]
    cache = Path(constants.HF_HUB_CACHE)
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{short} is not on this machine and HF_HUB_OFFLINE is set, which forbids downloads; "
            f"unset it, or put the files into $QWEN3_WEIGHTS/{short}."
        )
    needed = download_bytes(short)
    blobs = cache / f"models--{model['repo'].replace('/', '--')}" / "blobs"
    partial = sum(file.stat().st_size for file in blobs.glob("*")) if blobs.is_dir() else 0
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed - partial:
        raise CheckpointError(
            f"{short} needs {(needed - partial) / 1e9:.1f} GB more and {existing} has "
            f"{free / 1e9:.1f} GB free; make room, or point HF_HOME at a larger disk."
        )
    try:
        path = Path(
            snapshot_download(model["repo"], revision=model["revision"], allow_patterns=_FILES)
        )
    # The hub's errors are OSErrors or ValueErrors; its HTTP library changes with its version, and
    # that library's own errors share no base class that is safe to name.
    except Exception as error:
        if isinstance(error, OSError) and error.errno and error.filename:  # a file here, not the network
            raise CheckpointError(
                f"{error.filename} cannot be used ({error.strerror}); check its permissions, or point "
                f"HF_HOME at another place."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{model['repo']} could not be downloaded ({reason}); check the connection and repeat the "
            f"command, which goes on where it stopped."
        ) from error
    if not _complete(path):
        raise CheckpointError(f"the download of {model['repo']} in {path} is incomplete; repeat it.")
    return path


# -- verifying ------------------------------------------------------------------------------------


def verify(name_or_dir: str | os.PathLike[str]) -> Iterator[Finding]:
    """Check a snapshot against the published numbers, one finding at a time.

    An official name: configuration, tensors, byte sizes, hashes and published outputs (golden logits
    and completions) of the snapshot that `find_official` finds. A directory: what can be said without
    a published number, and "not checked" for the rest. A check is "passed" only if it ran.
    Raises ConfigError for a name that is neither an official checkpoint nor a directory.
    """
    name: str | None = None
    directory: Path | None = Path(name_or_dir)
    if directory is not None and directory.is_dir():
        why = "a directory has no published numbers; give an official name"
    else:
        name = official_name(str(name_or_dir))
        directory = find_official(name)
        why = f"no snapshot on disk; `python -m qwen3_ref fetch {name}`"
    for what, check in _checks(name, directory):
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


def _checks(
    name: str | None, directory: Path | None
) -> Iterator[tuple[str, Callable[[], str] | None]]:
    """(what, check) of every check that applies; None where nothing was published to check against."""
    snapshot = _Snapshot(directory or Path(), name)
    yield "config.json", snapshot.config_json
    yield "tensor names, shapes and dtypes", snapshot.shapes
    yield "tokenizer ids", snapshot.tokenizer_ids
    official = name is not None
    yield "number of tensors", snapshot.tensor_count if official else None
    yield "bytes of tensor data", snapshot.data_bytes if official else None
    yield "bytes of each file", snapshot.file_bytes if official else None
    yield "sha256 of the weights", snapshot.weights_sha256 if official else None
    yield "sha256 of tokenizer.json", snapshot.tokenizer_sha256 if official else None
    goldens = facts.goldens(name) if name is not None else []
    for golden in goldens:
        yield f"{golden['name']} in {golden['dtype']}", functools.partial(snapshot.golden, golden)
    if not goldens:
        yield "logits and completions", snapshot.no_goldens if official else None


def _start(text: str) -> str:
    """The first words of a completion, quoted."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


class _Snapshot:
    """The checks of one directory. Each method returns what it saw, or raises Failed or NotChecked."""

    def __init__(self, directory: Path, name: str | None) -> None:
        self.directory, self.name = directory, name
        self.published: dict[str, Any] = {} if name is None else facts.official_models()[name]
        self.sizes: dict[str, Any] = self.published.get("checkpoint") or {}
        self._model: tuple[str, Qwen3] | None = None

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
        if self.name is None:
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
        checkpoint.check(self.config.tensor_shapes())
        kinds = sorted({checkpoint.dtype(name) for name in checkpoint.names()})
        return f"{len(checkpoint.names()):,} tensors in {', '.join(kinds)}, all of them the config's"

    def tokenizer_ids(self) -> str:
        if not (self.directory / "tokenizer.json").exists():
            raise NotChecked("there is no tokenizer.json")
        ids, rows = Tokenizer.from_pretrained(self.directory).num_ids, self.config.vocab_size
        if ids > rows:
            raise Failed(f"the tokenizer has {ids:,} ids and the embedding only {rows:,} rows")
        return f"{ids:,} ids in {rows:,} rows of the embedding"

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
        return self._hash(SINGLE, self.sizes.get("file_sha256"))

    def tokenizer_sha256(self) -> str:
        entry = self.published.get("tokenizer_json") or {}
        return self._hash("tokenizer.json", entry.get("tokenizer_json_sha256"))

    def _hash(self, file: str, want: str | None) -> str:
        if want is None:
            raise NotChecked("no hash was published")
        with (self.directory / file).open("rb") as stream:
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

        from qwen3_ref.generate import generate

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
