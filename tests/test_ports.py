"""The faulty layers of lesson 04: without a fault the package's own model, and each fault does something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qwen3_ref import numpy_ref
from qwen3_ref.config import Qwen3Config
from qwen3_ref.course import ports
from qwen3_ref.model import Attention, causal_mask, rope_tables
from qwen3_ref.rope import cos_sin, frequencies

CONFIG = Qwen3Config(
    vocab_size=8, hidden_size=24, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e6, tie_word_embeddings=True,
)  # fmt: skip


def module() -> Attention:
    """The model's own attention in float64, loud, writing back what its heads say."""
    generator = torch.Generator().manual_seed(3)
    att = Attention(CONFIG, 0).double()
    for name, weight in att.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.data = 1 + 0.5 * noise if "norm" in name else 0.3 * noise
    att.o_proj = torch.nn.Identity()  # type: ignore[assignment]
    return att


def weights(att: Attention) -> dict[str, np.ndarray]:
    return {name.removesuffix(".weight"): p.detach().numpy() for name, p in att.named_parameters()}


X = np.random.default_rng(5).normal(size=(9, 24))


def test_without_a_fault_it_is_the_models_attention() -> None:
    att = module()
    cos, sin = rope_tables(torch.arange(9)[None], frequencies(8, 1e6)[0], 1.0, torch.float64)
    with torch.inference_mode():
        mask = causal_mask(torch.ones(1, 9, dtype=torch.bool), 0)[:, None]
        want = att(torch.from_numpy(X)[None], cos, sin, mask, None, None)[0].numpy()
    w = weights(att)
    for sizes, pads in (([9], 0), ([3, 4, 2], 0), ([1] * 9, 0), ([6, 5, 1], 3)):
        assert np.allclose(ports.layer("", w, X, sizes, pads)[pads:], want, atol=1e-10), (sizes, pads)


@pytest.mark.parametrize("fault", ports.FAULTS)
def test_a_fault_shows_in_padded_chunks_unless_it_is_the_harmless_one(fault: str) -> None:
    w = weights(module())
    right = ports.layer("", w, X, [6, 4, 2], pads=3)[3:]
    moved = np.abs(ports.layer(fault, w, X, [6, 4, 2], pads=3)[3:] - right).max()
    assert moved < 1e-9 if fault == "columns as positions" else moved > 1e-3


def test_wrong_functions_differ_from_the_right_ones_by_their_one_thing() -> None:
    rng = np.random.default_rng(6)
    q, k, v = rng.normal(size=(1, 4, 5, 8)), rng.normal(size=(1, 2, 5, 8)), rng.normal(size=(1, 2, 5, 8))
    allowed = np.tri(5, dtype=bool)[None]
    right = numpy_ref.attention(q, k, v, allowed)[0]
    assert np.allclose(ports.attention_with()(q, k, v, allowed)[0], right)
    assert np.allclose(ports.attention_with(2.0)(q / 2, k, v, allowed)[0], right)
    order = [0, 2, 1, 3]  # heads 0 and 1 read KV heads 0 and 1 when tiled
    tiled = ports.attention_with(tiled=True)(q[:, order], k, v, allowed)[0]
    assert np.allclose(tiled[:, order], right) and not np.allclose(tiled, right)
    cos, sin = cos_sin(np.arange(5)[None], frequencies(8, 1e6)[0])
    gains = [rng.uniform(0.5, 2, size=8) for _ in range(2)]
    late = ports.late_norm(gains)
    for gain in [*gains, gains[0]]:  # in order, and round again
        want = numpy_ref.rms_norm(numpy_ref.rotate(q, cos, sin), gain, 1e-6)
        assert np.allclose(late(numpy_ref.rms_norm(q, gain, 1e-6), cos, sin), want, atol=1e-12)


@pytest.mark.parametrize("fault", ports.BOOKKEEPING)
def test_bookkeeping_is_right_for_one_text_at_once(fault: str) -> None:
    w = weights(module())
    assert np.allclose(ports.layer(fault, w, X, [9]), ports.layer("", w, X, [9]), atol=1e-12)
