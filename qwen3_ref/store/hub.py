"""The hub's cache of downloads on this machine, without a look at the network."""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType


def hub_cache() -> ModuleType:
    """huggingface_hub's view of its cache, imported when needed and without tqdm's complaint about
    missing widgets, which would stand in every notebook's output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("huggingface_hub.file_download")
