"""One thread a process, as `make test` sets it: two threads make these small tensors ten times slower,
and sums come out the same on every run. Set before torch is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qwen3_ref.train.corpus import Corpus

for name, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(name, value)

pytest_plugins = ["tests.passed"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults come last: by then most of the checks that they are held against have passed once."""
    items.sort(key=lambda item: item.path.name == "test_faults.py")


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """What the trainer's tests learn from, made in a moment."""
    from tests.helpers import small_corpus

    return small_corpus()
