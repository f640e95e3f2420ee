"""Which tests have passed in this process: a fault's check that has need not be run once more without it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

SECONDS: dict[str, list[float]] = {}
"""By the address that faults use ("test_moe:test_x", or a name of the parity suite): one number a case."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note a case that passes, and how long it takes."""
    start = time.monotonic()
    outcome = yield
    if isinstance(item, pytest.Function) and outcome.excinfo is None:  # type: ignore[attr-defined]
        address = f"{item.module.__name__.removeprefix('tests.')}:{item.originalname}"
        if address == "test_parity:test_parity":
            address = item.callspec.params["name"]
        SECONDS.setdefault(address, []).append(time.monotonic() - start)
