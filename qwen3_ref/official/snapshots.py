"""Official snapshots: finding them on disk and fetching them. `fetch` is the one function of the package
that uses the network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from qwen3_ref import facts
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.store.checkpoint import CheckpointError, is_complete
from qwen3_ref.store.hub import hub_cache
from qwen3_ref.store.shipped import NANO

_FILES = ["config.json", "generation_config.json", "chat_template*", "tokenizer*", "vocab.json"]
_FILES += ["merges.txt", "*.safetensors*"]


def official_name(name: str) -> str:
    """"Qwen3-8B" for "Qwen3-8B" or "Qwen/Qwen3-8B". Raises ConfigError, with near names, for others, and
    for a checkpoint of which only the text backbone's shape is known."""
    if name in NANO:
        raise ConfigError(
            f"{name} is no official model but comes with the package; "
            f'`store.shipped.find_nano("{name}")` gives its directory.'
        )
    Qwen3Config.named(name)
    short = name.removeprefix("Qwen/")
    if short in facts.backbones():
        raise ConfigError(
            f"{short} cannot be run here, for want of {facts.backbones()[short]['not_here']}; run it with "
            f"transformers (`info {short}` shows its text backbone)."
        )
    return short


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
    return next((place for place in places if is_complete(place)), None)


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
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download

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
        # Asked once before, since the download itself would try for half a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(model["repo"], "config.json", revision=model["revision"]), timeout=10)
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
    if not is_complete(path):
        raise CheckpointError(f"the download of {model['repo']} in {path} is incomplete; repeat it.")
    return path
