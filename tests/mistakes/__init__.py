"""Likely wrong answers to the exercises, one file a notebook: check -> (part of the remark, the answer)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Mistake = tuple[str, Callable[..., Any]]
