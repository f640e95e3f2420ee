"""Parity with transformers and with the NumPy specification: see parity.py."""

import pytest

from tests.parity import CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_parity(name: str) -> None:
    CHECKS[name]()
