"""Parity with transformers and with the NumPy specification: see parity.py.

Below the named checks: random small configurations, the same 60 in every run.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3_ref.course.compare import compare
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyQwen3
from tests.helpers import DENSE, official_model, token_ids
from tests.parity import ATOL, CHECKS, EXACT


@pytest.mark.parametrize("name", CHECKS)
def test_parity(name: str) -> None:
    CHECKS[name]()


@st.composite
def small_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of a small model, dense or MoE, as transformers' configs take them.

    head_dim is even and never hidden_size / heads, expert width never hidden_size, and YaRN's factor
    never the one that the lengths imply.
    """
    kv_heads, group = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3, 4]))
    heads = kv_heads * group
    hidden = draw(st.sampled_from([16, 24, 40]))
    rope: dict[str, Any] = dict(rope_type="default", rope_theta=10 ** draw(st.floats(4, 7)))
    if draw(st.booleans()):
        original = draw(st.sampled_from([16, 48, 100]))
        implied = 512 / original
        factor = draw(st.floats(1.1, 40).filter(lambda f: not math.isclose(f, implied, rel_tol=0.1)))
        rope |= dict(rope_type="yarn", factor=factor, original_max_position_embeddings=original)
        rope |= draw(
            st.sampled_from([{}, dict(attention_factor=1.2), dict(beta_fast=8.0), dict(truncate=False)])
        )
    values = DENSE | dict(
        hidden_size=hidden,
        intermediate_size=draw(st.sampled_from([8, 20, 60])),
        num_hidden_layers=draw(st.sampled_from([1, 2, 3])),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 6, 10, 16, 32]).filter(lambda d: d * heads != hidden)),
        tie_word_embeddings=draw(st.booleans()),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        rope_parameters=rope,
    )
    if draw(st.booleans()):
        layers = values["num_hidden_layers"]
        experts = draw(st.sampled_from([8, 5, 2, 1]))
        values |= dict(
            num_experts=experts,
            num_experts_per_tok=draw(st.integers(1, experts)),
            moe_intermediate_size=draw(st.sampled_from([7, 12, 20])),
            norm_topk_prob=draw(st.booleans()),
            decoder_sparse_step=draw(st.sampled_from([1, 1, 2])),
            mlp_only_layers=draw(st.sampled_from([[], [], [layers - 1]])),
        )
    return values


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(values=small_configs(), seed=st.integers(0, 2**16))
def test_parity_of_random_configs(values: dict[str, Any], seed: int) -> None:
    """PyTorch against transformers at 5e-5, NumPy against PyTorch in float64 at 1e-10.

    The bounds are absolute. Logits here stay below 4, so float32's rounding stays below 1e-5.
    """
    official = official_model(values, seed)
    ids = token_ids(values["vocab_size"], (2, 40), seed)
    with torch.no_grad(), tempfile.TemporaryDirectory() as directory:
        official.save_pretrained(directory)
        want = official(ids).logits
        ours = Qwen3.from_pretrained(directory)(ids)
        compare("PyTorch, transformers", ours, want, atol=ATOL).require()
        double = Qwen3.from_pretrained(directory, dtype=torch.float64)(ids)
        spec = NumpyQwen3.from_pretrained(directory, dtype=np.float64)(ids.numpy())
        compare("NumPy, PyTorch in float64", spec, double, atol=EXACT).require()
