"""Dual Chunk Attention: positions by hand, the parts against the whole, borders, padding, the config."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.context.chunks import SPARSE, Chunks, Variant, chunk_problem, logit_scale
from qwen3_ref.context.dual_chunk import DualChunkAttention
from qwen3_ref.context.specification import DualChunkNumpyQwen3, relative_attention
from qwen3_ref.model import Qwen3, Trace, rope_tables, rotate
from qwen3_ref.numpy_ref import NumpyQwen3
from qwen3_ref.rope import default_frequencies
from tests.helpers import harden, left_pad, token_ids

PAPER, CODE = Chunks(10, 4, "paper"), Chunks(10, 4)
BLOCK: dict[str, Any] = {"chunk_size": 10, "local_size": 4}
CONFIG = Qwen3Config(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=100.0,  # turns that tell one position from the next
    tie_word_embeddings=True,
    max_position_embeddings=64,
)
LENGTHS = (5, 6, 7, 12, 13, 18, 25)  # about the borders of s = 6


@functools.cache
def _model(**block: Any) -> Qwen3:
    """In float64, hardened; the same weights whatever the attention."""
    config = replace(CONFIG, dual_chunk_attention_config=BLOCK | block)
    model = Qwen3(config, dtype=torch.float64)
    harden(model)
    return model


@functools.cache
def _plain() -> Qwen3:
    model = Qwen3(CONFIG, dtype=torch.float64)
    model.load_state_dict(_model().state_dict())
    return model


def _specification(ids: torch.Tensor, **block: Any) -> np.ndarray[Any, Any]:
    model = _model(**block)
    weights = {name: tensor.numpy() for name, tensor in model.named_official_tensors()}
    return DualChunkNumpyQwen3(model.config, weights)(ids.numpy())


def _logits(ids: torch.Tensor, model: Qwen3 | None = None, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        return (model or _model())(ids, **more)


# -- positions -------------------------------------------------------------------------------------------


def test_the_papers_figure_2() -> None:
    """l 12, c 10, w 4, so s 6; carried on to 18 tokens by hand."""
    assert PAPER.length == 6
    assert PAPER.keys(12).tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert PAPER.successive(12).tolist() == [6, 7, 8, 9, 9, 9] * 2
    assert PAPER.inter == 9
    assert CODE.successive(6).tolist() == [6, 7, 8, 9, 10, 10]
    assert CODE.inter == 10


@pytest.mark.parametrize(
    ("variant", "row", "distances"),
    [
        ("paper", 5, "5 4 3 2 1 0"),
        ("paper", 6, "6 5 4 3 2 1 0"),
        ("paper", 9, "9 8 7 6 5 4 3 2 1 0"),
        ("paper", 10, "9 8 7 6 5 4 4 3 2 1 0"),
        ("paper", 11, "9 8 7 6 5 4 5 4 3 2 1 0"),
        ("paper", 12, "9 8 7 6 5 4 6 5 4 3 2 1 0"),
        ("paper", 15, "9 8 7 6 5 4 9 8 7 6 5 4 3 2 1 0"),
        ("paper", 17, "9 8 7 6 5 4 9 8 7 6 5 4 5 4 3 2 1 0"),
        ("code", 10, "10 9 8 7 6 5 4 3 2 1 0"),
        ("code", 17, "10 9 8 7 6 5 10 9 8 7 6 5 5 4 3 2 1 0"),
    ],
)
def test_rows_of_distances(variant: Variant, row: int, distances: str) -> None:
    found = Chunks(10, 4, variant).distances(18)[row]
    assert found.tolist() == [int(n) for n in distances.split()] + [-1] * (17 - row)


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize(("c", "w"), [(10, 4), (10, 1), (11, 5), (64, 16), (12, 2)])
def test_what_holds_of_all_distances(c: int, w: int, variant: Variant) -> None:
    chunks = Chunks(c, w, variant)
    n = 5 * c
    distance, true = chunks.distances(n), np.arange(n)[:, None] - np.arange(n)[None, :]
    past, most = true >= 0, c if variant == "code" else c - 1
    assert distance[past].max() == most, "no distance beyond"
    assert (distance == true)[past & (np.arange(n) <= most)[:, None]].all(), "plain up to c tokens"
    exact = w + (variant == "code")
    assert (distance == true)[past & (true <= exact)].all(), "true about every border"
    assert (distance != true)[past & (true > most)].all()
    chunk = np.arange(n) // chunks.length
    across = past & (chunk[:, None] > chunk[None, :])
    assert distance[across].min() >= 1
    assert (distance == true)[past & ~across].all()


def test_a_window_longer_than_a_chunk() -> None:
    """s 4, c 10: the code's farthest is the last entry of its successive table, the paper's is c - 1."""
    assert Chunks(10, 6).inter == 7
    assert Chunks(10, 6).successive(4).tolist() == [4, 5, 6, 7]
    assert Chunks(10, 6, "paper").inter == 9


def test_official_configs() -> None:
    assert Chunks(262144, 8192).length == 253_952
    assert Chunks(131072, 4096).length == 126_976


@pytest.mark.parametrize(
    ("n", "original", "m"),
    [
        (131_072, 32_768, 1.1386),
        (262_144, 131_072, 1.0693),
        (1_010_000, 131_072, 1.2042),
        (1_010_000, 262_144, 1.1349),
        (32_768, 32_768, 1.0),
        (1000, 32_768, 1.0),
        (1_010_000, None, 1.0),
        (1_010_000, 0, 1.0),
        (None, 32_768, 1.0),
    ],
)
def test_the_logit_scale_is_m_squared(n: int | None, original: int | None, m: float) -> None:
    assert math.isclose(logit_scale(n, original), m * m, rel_tol=1e-4)


# -- attention -------------------------------------------------------------------------------------------


def _vectors(s: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(s)
    shapes = (1, 4, s, 8), (1, 2, s, 8), (1, 2, s, 8)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _turn(x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return rotate(x, *rope_tables(steps[None], default_frequencies(8, 100.0), 1.0, x.dtype))


def _merged(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunks: Chunks, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    place = torch.arange(k.shape[2]) % chunks.length
    attention = DualChunkAttention(chunks, _turn, scale)
    return attention.traced(_turn(q, place), _turn(k, place), v, None)


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("w", [1, 4, 6])
@pytest.mark.parametrize("s", LENGTHS)
def test_three_parts_merged_are_one_softmax(s: int, w: int, variant: Variant) -> None:
    """Grouped queries; outputs and weights."""
    chunks, (q, k, v) = Chunks(10, w, variant), _vectors(s)
    found = _merged(q, k, v, chunks, 1.3)
    freq = default_frequencies(8, 100.0)
    want = relative_attention(q.numpy(), k.numpy(), v.numpy(), chunks.distances(s), freq, 1.3)
    for ours, theirs in zip(found, want, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-12


def test_softmax_is_taken_in_float32() -> None:
    """Of bfloat16 vectors, 200 tokens: scores are rounded once, and not again in each sum."""
    q, k, v = (x.bfloat16() for x in _vectors(200))
    attention = DualChunkAttention(Chunks(10, 4), lambda x, _: x)
    wide = attention.attend(q.float(), k.float(), v.float(), None)
    assert (attention.attend(q, k, v, None) - wide).abs().mean() < 0.0012


def test_the_order_of_old_chunks_is_lost() -> None:
    """Whole chunks that are two or more back may change places, keys and values together."""
    q, k, v = _vectors(24)
    moved = [*range(6, 12), *range(6), *range(12, 24)]
    one, two = _merged(q, k, v, CODE)[0], _merged(q, k[:, :, moved], v[:, :, moved], CODE)[0]
    assert (one - two)[:, :, 18:].abs().max() < 1e-12, "queries of the last chunk"
    assert (one - two)[:, :, 12:18].abs().max() > 1e-3, "which is no matter to the chunk next to them"


# -- the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [{}, {"original_max_position_embeddings": 20, "scale_length": 60}])
@pytest.mark.parametrize("s", LENGTHS)
def test_the_model_is_its_specification(s: int, block: dict[str, int]) -> None:
    ids = token_ids(50, (2, s), seed=s)
    assert np.abs(_logits(ids, _model(**block)).numpy() - _specification(ids, **block)).max() < 1e-9


def test_it_is_plain_attention_up_to_c_tokens_and_no_farther() -> None:
    ids = token_ids(50, (1, 14))
    apart = (_logits(ids) - _logits(ids, _plain())).abs().amax(-1)[0]
    assert apart[:11].max() < 1e-12
    assert apart[11:].min() > 1e-6, "row 11, the first with a distance of its own"


@pytest.mark.parametrize("steps", [(1,), (3,), (4,), (2, 5), (6,), (7, 1)])
def test_in_pieces_as_whole(steps: tuple[int, ...]) -> None:
    """Prefill in pieces and token by token, with borders inside of them and at their ends."""
    ids = token_ids(50, (2, 25))
    cache, out = KVCache(CONFIG, 2, 25, torch.float64), []
    while cache.length < 25:
        n = steps[len(out) % len(steps)]
        out.append(_logits(ids[:, cache.length : cache.length + n], cache=cache))
    assert (torch.cat(out, 1) - _logits(ids)).abs().max() < 1e-12


def test_cached_keys_are_rotated_once() -> None:
    """Keys stand in the cache as they were first written, however far the text goes on."""
    ids, cache = token_ids(50, (1, 25)), KVCache(CONFIG, 1, 25, torch.float64)
    _logits(ids[:, :8], cache=cache)
    before = cache.keys[:, :, :, :8].clone()
    _logits(ids[:, 8:], cache=cache)
    assert torch.equal(cache.keys[:, :, :, :8], before)


@pytest.mark.parametrize("pieces", [(18,), (7, 11), (17, 1)])
def test_padding_shifts_no_chunk(pieces: tuple[int, ...]) -> None:
    """Rows of 18, 13 and 5 tokens: each is cut at its own tokens, and gives what it gives alone."""
    rows = [token_ids(50, (1, n), seed=n)[0] for n in (18, 13, 5)]
    ids, mask = left_pad(rows)
    cache, out, at = KVCache(CONFIG, 3, 18, torch.float64), [], 0
    for n in pieces:
        part = slice(at, at + n)
        out.append(_logits(ids[:, part], attention_mask=mask[:, part], cache=cache))
        at += n
    for row, found in zip(rows, torch.cat(out, 1), strict=True):
        assert (found[-len(row) :] - _logits(row[None])[0]).abs().max() < 1e-12
    right = _logits(ids.flip(1), attention_mask=mask.flip(1))
    assert (right[1, :13] - _logits(rows[1].flip(0)[None])[0]).abs().max() < 1e-12
    assert right.isfinite().all()


def test_a_trace_holds_the_weights() -> None:
    ids, trace = token_ids(50, (1, 25)), Trace()
    assert (_logits(ids, trace=trace) - _logits(ids)).abs().max() < 1e-12
    weights = torch.stack(trace.attentions)
    assert (weights.sum(-1) - 1).abs().max() < 1e-12
    assert weights.triu(1).abs().max() == 0
    rows, mask = left_pad([ids[0], ids[0, :13]])
    padded = Trace()
    _logits(rows, attention_mask=mask, trace=padded)
    alone = Trace()
    _logits(ids[:, :13], trace=alone)
    assert (padded.attentions[1][1, :, 12:, 12:] - alone.attentions[1][0]).abs().max() < 1e-12


def test_without_the_key_nothing_is_different() -> None:
    model = Qwen3(CONFIG)
    assert model.model.chunk_length is None
    assert "dual_chunk_attention_config" not in CONFIG.to_dict()


# -- the config ------------------------------------------------------------------------------------------


def test_the_block_is_read_written_and_honoured(tmp_path: Path) -> None:
    """With the sparse keys of config_1m.json, which are taken and left out."""
    block = BLOCK | dict.fromkeys(SPARSE, 64)
    model = Qwen3(replace(CONFIG, dual_chunk_attention_config=block))
    model.save_pretrained(tmp_path)
    again = Qwen3.from_pretrained(tmp_path)
    assert again.config.dual_chunk_attention_config == block
    ids = token_ids(50, (1, 25))
    assert torch.equal(_logits(ids, again), _logits(ids, model))
    with pytest.raises(ConfigError, match="use DualChunkNumpyQwen3 of"):
        NumpyQwen3.from_pretrained(tmp_path)
    assert DualChunkNumpyQwen3.from_pretrained(tmp_path)(ids.numpy()).shape == (1, 25, 50)


@pytest.mark.parametrize(
    ("block", "context"),
    [
        ({}, 64),
        ({"original_max_position_embeddings": 0}, 64),
        ({"original_max_position_embeddings": 20}, 20),
        ({"original_max_position_embeddings": 20, "scale_length": 60}, 60),
        ({"original_max_position_embeddings": 20, "scale_length": 5}, 20),
        ({"original_max_position_embeddings": 100}, 64),
    ],
)
def test_how_long_a_text_may_be(block: dict[str, int], context: int) -> None:
    config = replace(CONFIG, dual_chunk_attention_config=BLOCK | block)
    assert config.context_length == context


def test_a_scale_for_short_texts_refuses_none_of_the_trained_length() -> None:
    settings = BLOCK | {"original_max_position_embeddings": 20, "scale_length": 15}
    attention = DualChunkAttention.of(settings, _turn)
    assert (attention.most, attention.scale) == (20, 1)


def test_a_text_beyond_the_stated_length_is_refused() -> None:
    model, cache = _model(original_max_position_embeddings=20), KVCache(CONFIG, 1, 25, torch.float64)
    ids = token_ids(50, (1, 25))
    _logits(ids[:, :20], model, cache=cache)
    with pytest.raises(ValueError, match=r"21 tokens and the logit scale .* up to 20; state the length"):
        _logits(ids[:, 20:21], model, cache=cache)
    assert cache.length == 20


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([], "must be an object"),
        ({"chunk_size": 10}, "local_size is missing"),
        (BLOCK | {"chunk_size": 10.0}, "chunk_size in .* is 10.0; it must be a whole number"),
        (BLOCK | {"local_size": True}, "local_size in .* is True"),
        (BLOCK | {"local_size": 0}, "local_size in .* from 1"),
        (BLOCK | {"local_size": 10}, "local_size 10 in .* leaves nothing of chunk_size 10"),
        (BLOCK | {"original_max_position_embeddings": -1}, "original_max_position_embeddings in .* is -1"),
        (BLOCK | {"chunk_sizes": 4}, "'chunk_sizes' in .* did you mean chunk_size"),
        (BLOCK | {"window": 4}, "'window' in .* known: chunk_size"),
        (BLOCK | {"scale_length": 40}, "does nothing without original_max_position_embeddings"),
        (
            BLOCK | {"original_max_position_embeddings": 20, "scale_length": 65},
            "scale_length .* is 65, more than max_position_embeddings 64",
        ),
    ],
)
def test_a_block_that_cannot_be(wrong: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, dual_chunk_attention_config=wrong)
    assert chunk_problem(BLOCK | dict.fromkeys(SPARSE)) is None


def test_not_together_with_yarn() -> None:
    with pytest.raises(ConfigError, match="no published code runs the two together; keep one"):
        replace(
            CONFIG,
            dual_chunk_attention_config=BLOCK,
            rope_scaling={"rope_type": "linear", "factor": 4.0},
        )


def test_a_wrong_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="variant is 'vllm'; it must be 'code' or 'paper'"):
        Chunks(10, 4, "vllm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leaves nothing of chunk_size"):
        Chunks(10, 10)


def test_weights_are_made_only_for_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as large as the text squared; the answer is the same without them."""
    asked: list[bool] = []
    rows = DualChunkAttention._rows

    def watched(self: Any, q: Any, k: Any, v: Any, mask: Any, traced: bool) -> Any:
        asked.append(traced)
        return rows(self, q, k, v, mask, traced)

    monkeypatch.setattr(DualChunkAttention, "_rows", watched)
    attention = DualChunkAttention(Chunks(16, 4), lambda x, places: x, 1.0, None)
    q, k = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    plain = attention.attend(q, k, k, None)
    traced, weights = attention.traced(q, k, k, None)
    assert asked == [False, True] and torch.equal(plain, traced) and weights.shape == (1, 4, 9, 9)
