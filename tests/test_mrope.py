"""Positions of three axes against numbers worked by hand and against transformers' classes."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni
from transformers.models.qwen3_vl import modeling_qwen3_vl as vl
from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe as vl_moe

from qwen3_ref.cache import KVCache
from qwen3_ref.config import ConfigError, Qwen3Config
from qwen3_ref.context.stretch import stretched
from qwen3_ref.model import Qwen3, rope_tables
from qwen3_ref.mrope import (
    Layout,
    Part,
    audio_tokens,
    config_axes,
    deepstack,
    frame_seconds,
    frames_with_times,
    left_padded,
    mrope_cos_sin,
    pair_axes,
    parts_of,
    qwen2_vl_positions,
    qwen3_omni_positions,
    qwen3_vl_positions,
    time_text,
)
from qwen3_ref.numpy_ref import rotate
from qwen3_ref.quantize.kv_cache import QuantizedKVCache
from qwen3_ref.rope import cos_sin, default_frequencies, frequencies
from tests.helpers import DENSE, MOE, harden, token_ids
from tests.parity import ATOL, refused

QWEN2, QWEN3 = [16, 24, 24], [24, 20, 20]
TEXT, IMAGE, VIDEO, AUDIO, START, END, AUDIO_START, AUDIO_END = range(1, 9)
"""Ids of the tokens of a row, for transformers' functions."""


def scaling(section: Sequence[int], interleaved: bool = True) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": list(section), "mrope_interleaved": interleaved}


# -- which pair turns by which axis ----------------------------------------------------------------------


def test_pairs_by_hand() -> None:
    def letters(*given: Any) -> str:
        return "".join("THW"[axis] for axis in pair_axes(*given))

    assert letters(QWEN2, False) == "T" * 16 + "H" * 24 + "W" * 24
    assert letters(QWEN3, True) == "THW" * 20 + "TTTT"
    assert letters([11, 11, 10], True) == "THW" * 10 + "TH"  # Qwen3.5
    assert letters([4, 2, 2], True) == "THWTHWTT" and letters([4, 3, 2], True) == "THWTHWTHT"
    assert config_axes(None) is None and config_axes({"rope_type": "yarn"}) is None
    assert config_axes({"mrope_section": [2, 1, 1]}).tolist() == [0, 0, 1, 2]


def test_angles_by_hand() -> None:
    """Position (3, 4, 5): the first six pairs of Qwen3-VL."""
    positions, inv_freq = np.array([[3], [4], [5]]), default_frequencies(128, 5e6)
    cos, sin = mrope_cos_sin(positions, inv_freq, pair_axes(QWEN3, True))
    assert cos.shape == sin.shape == (1, 64)
    angles = [3.0, 3.1433, 3.0876, 1.4558, 1.5254, 1.4983]
    assert np.allclose(cos[0, :6], np.cos(angles), atol=5e-5)
    assert np.allclose(sin[0, :6], np.sin(angles), atol=5e-5)
    for j, (axis, angle) in enumerate(zip([0, 1, 2, 0, 1, 2], angles, strict=True)):
        assert math.isclose((3, 4, 5)[axis] * 5e6 ** (-2 * j / 128), angle, abs_tol=5e-5)


def random_positions(seed: int) -> torch.Tensor:
    """(3, 2, 40): whole numbers of every size, and in the last rows halves, as in Qwen3-Omni."""
    found = torch.randint(0, 9000, (3, 2, 40), generator=torch.Generator().manual_seed(seed)).float()
    found[:, 1] += 0.5
    return found


def official_tables(name: str) -> torch.nn.Module:
    """transformers' rotary embedding of a model."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": QWEN3, "mrope_interleaved": True}
    small = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128}
    if name == "qwen2_vl":
        old = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": QWEN2}
        sizes = {key: value for key, value in small.items() if key != "head_dim"}
        config: Any = transformers.Qwen2VLTextConfig(**sizes, rope_parameters=old)
        return modeling_qwen2_vl.Qwen2VLRotaryEmbedding(config)
    if name == "qwen3_omni_moe":
        config = transformers.Qwen3OmniMoeTextConfig(**small, rope_parameters=rope)
        return omni.Qwen3OmniMoeThinkerTextRotaryEmbedding(config)
    if name == "qwen3_vl_moe":
        config = transformers.Qwen3VLMoeTextConfig(**small, rope_parameters=rope)
        return vl_moe.Qwen3VLMoeTextRotaryEmbedding(config)
    config = transformers.Qwen3VLTextConfig(**small, rope_parameters=rope)
    return vl.Qwen3VLTextRotaryEmbedding(config)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe"])
def test_tables_are_the_official_ones(name: str) -> None:
    """In float32, of transformers' own frequencies, to the bit; in float64 to 1e-12; and ours as a whole."""
    module: Any = official_tables(name)
    axes = pair_axes(QWEN2, False) if name == "qwen2_vl" else pair_axes(QWEN3, True)
    inv_freq = default_frequencies(128, 1e6 if name == "qwen2_vl" else 5e6)
    positions = random_positions(1)
    want = module(torch.zeros(1), positions)
    angles = positions[axes].movedim(0, -1) * module.inv_freq
    for got, table in zip((angles.cos(), angles.sin()), want, strict=True):
        assert torch.equal(torch.cat([got, got], dim=-1), table)
    wide = positions.double()[..., None] * torch.from_numpy(inv_freq)  # (3, b, t, d/2)
    ours = mrope_cos_sin(positions.numpy(), inv_freq, axes)
    tensors = rope_tables(positions, inv_freq, 1.0, torch.float64, axes)
    for got, tensor, table in zip(ours, tensors, (wide.cos(), wide.sin()), strict=True):
        chosen = module.recomposition_frequencies(table.clone())[..., :64]
        assert np.abs(got - chosen.numpy()).max() < 1e-12
        assert np.abs(got - tensor.numpy()).max() < 1e-12


def test_on_text_it_is_rope() -> None:
    """Equal positions on the three axes, whatever the layout: the same table, bit for bit."""
    positions, inv_freq = np.arange(500.0), default_frequencies(128, 5e6)
    plain = cos_sin(positions, inv_freq)
    for axes in (pair_axes(QWEN2, False), pair_axes(QWEN3, True)):
        for got, want in zip(mrope_cos_sin(np.tile(positions, (3, 1)), inv_freq, axes), plain, strict=True):
            assert np.array_equal(got, want)


def test_a_score_depends_on_distances_alone() -> None:
    """On each axis: all positions of a row moved by the same step, another one on every axis."""
    rng = np.random.default_rng(2)
    q, k = rng.normal(size=(2, 1, 1, 1, 16))
    axes, inv_freq = pair_axes([4, 2, 2], True), default_frequencies(16, 100.0)

    def score(at: Any, other: Any) -> float:
        turned = [
            rotate(x, *(table[None] for table in mrope_cos_sin(np.array(place)[:, None], inv_freq, axes)))
            for x, place in ((q, at), (k, other))
        ]
        return float((turned[0] * turned[1]).sum())

    for _ in range(20):
        at, other, step = rng.integers(0, 50, size=(3, 3))
        assert math.isclose(score(at, other), score(at + step, other + step), abs_tol=1e-12)
        assert not math.isclose(score(at, other), score(at + [0, 1, 0], other), abs_tol=1e-6)
        assert not math.isclose(score([1, 5, 2], [0, 0, 0]), score([1, 2, 5], [0, 0, 0]), abs_tol=1e-6)


# -- positions by hand -----------------------------------------------------------------------------------


def test_an_image_by_hand() -> None:
    """Two tokens and a mark, 4 x 6 patches, a mark and three tokens: 13 tokens, 10 positions."""
    found = qwen3_vl_positions([Part("text", 3), Part("image", (4, 6)), Part("text", 4)])
    assert found.ids.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8, 9],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8, 9],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9],
    ]
    assert found.delta == -3 and found.ids.dtype == np.int64
    assert found.kinds.tolist() == ["text"] * 3 + ["image"] * 6 + ["text"] * 4
    assert found.visual.tolist() == [False] * 3 + [True] * 6 + [False] * 4
    assert found.following(2).tolist() == [[10, 11]] * 3 and found.following(1, 4).tolist() == [[14]] * 3


def test_a_video_by_hand() -> None:
    """One token of text, then each of two frames behind a time of one token."""
    parts = [Part("text", 1), *frames_with_times((2, 4, 4), [1, 1]), Part("text", 1)]
    found = qwen3_vl_positions(parts)
    assert found.ids.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 5, 6, 7, 8, 8, 8, 8, 10, 11],
        [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 9, 9, 10, 11],
        [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8, 9, 8, 9, 10, 11],
    ]
    assert found.delta == -4


def test_a_video_of_the_older_models_by_hand() -> None:
    """The example in the documentation of Qwen2.5-VL's code: 25 a second, 2 seconds a frame."""
    parts = [Part("video", (3, 4, 4), seconds=2.0), Part("text", 5)]
    found = qwen2_vl_positions(parts, ids_per_second=25)
    assert found.ids[0].tolist() == [0] * 4 + [50] * 4 + [100] * 4 + [101, 102, 103, 104, 105]
    assert found.ids[1].tolist() == [0, 0, 1, 1] * 3 + [101, 102, 103, 104, 105]
    assert found.ids[2].tolist() == [0, 1, 0, 1] * 3 + [101, 102, 103, 104, 105]
    assert found.delta == 89
    assert qwen2_vl_positions(parts).ids[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3, 4, 5, 6, 7]
    half = qwen2_vl_positions([Part("text", 1), Part("video", (4, 2, 2), seconds=0.8)], ids_per_second=2)
    assert half.ids[0].tolist() == [0, 1, 2, 4, 5], "1 + 0, 1.6, 3.2 and 4.8, rounded down before the 1"
    old = modeling_qwen2_vl.Qwen2VLModel.get_vision_position_ids
    want = old(None, 4, torch.tensor([3, 8, 6]), 1, 2, 1.6)
    assert np.array_equal(
        want, qwen2_vl_positions([Part("text", 4), Part("video", (3, 8, 6), 0.8)], 2).ids[:, 4:]
    )


def test_sound_by_hand() -> None:
    """A second of sound, a video, and the two on one line, as Qwen3-Omni has them."""
    found = qwen3_omni_positions([Part("text", 2), Part("audio", 100), Part("text", 2)])
    assert found.ids.tolist() == [list(range(17))] * 3 and found.delta == 0
    assert found.ids.dtype == np.float32
    video = Part("video", (2, 4, 4), seconds=1.0)
    found = qwen3_omni_positions([Part("text", 2), video, Part("text", 2)])
    assert found.ids.tolist() == [
        [0, 1, 2, 2, 2, 2, 15, 15, 15, 15, 16, 17],
        [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 16, 17],
        [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 16, 17],
    ]
    assert found.delta == 6
    heard = replace(video, sound=200)
    found = qwen3_omni_positions([Part("text", 3), heard, Part("text", 3)])
    times = [3] * 5 + list(range(4, 16)) + [16] * 5 + list(range(17, 29))
    assert found.ids[0].tolist() == [0, 1, 2, *times, 29, 30, 31] and found.delta == -8
    kinds = ["video"] * 4 + ["audio"] * 13 + ["video"] * 4 + ["audio"] * 13
    assert found.kinds[3:-3].tolist() == kinds, "at equal times the video goes first"
    halves = qwen3_omni_positions([Part("text", 2), replace(video, seconds=0.5), Part("text", 1)])
    assert halves.ids[0].tolist() == [0, 1, 2, 2, 2, 2, 8.5, 8.5, 8.5, 8.5, 9.5]


def test_tokens_of_sound() -> None:
    by_hand = {1: 1, 8: 1, 50: 7, 99: 13, 100: 13, 101: 14, 200: 26, 1000: 130, 3000: 390}
    assert {n: audio_tokens(n) for n in by_hand} == by_hand
    lengths = torch.arange(1, 3001)
    official = omni._get_feat_extract_output_lengths(lengths)
    assert [audio_tokens(n) for n in lengths.tolist()] == official.tolist()


def test_times_of_frames() -> None:
    """Pairs of pictures have the mean of their times, and an odd last one is paired with itself."""
    assert frame_seconds([0, 12, 24, 36, 48], 24.0) == [0.25, 1.25, 2.0]
    official = transformers.models.qwen3_vl.processing_qwen3_vl.Qwen3VLProcessor._calculate_timestamps
    for indices, fps in (([0, 7, 15, 22], 25.0), ([0], 24.0), (list(range(0, 90, 9)), 29.97), ([3, 4, 8], 2)):
        assert frame_seconds(indices, fps) == official(None, list(indices), fps)
    assert [time_text(x) for x in (0.25, 1.5, 12.0)] == ["<0.2 seconds>", "<1.5 seconds>", "<12.0 seconds>"]


# -- positions against transformers, on generated layouts -----------------------------------------------


def even(rng: np.random.Generator, most: int = 5) -> int:
    return 2 * int(rng.integers(1, most + 1))


def generated(seed: int) -> list[Part]:
    """A row for Qwen3-VL: text, images and videos in any order, two images side by side but for their
    marks, an image first or last."""
    rng = np.random.default_rng(seed)
    parts: list[Part] = []
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.choice(["text", "image", "video"])
        if kind == "text":
            parts.append(Part("text", int(rng.integers(1, 7))))
        elif kind == "image":
            marks = [Part("text", 1)] if rng.random() < 0.7 or parts and parts[-1].kind == "image" else []
            parts += [*marks, Part("image", (even(rng), even(rng)))]
        else:
            times = rng.integers(1, 5, size=int(rng.integers(1, 5))).tolist()
            parts += frames_with_times((len(times), even(rng), even(rng)), times)
    return parts


def official_inputs(rows: list[list[Part]], left: bool) -> dict[str, Any]:
    """What transformers' Qwen3-VL takes: types and grids; videos of one frame each, which is how the code
    cuts them up itself."""
    lengths = [qwen3_vl_positions(parts).ids.shape[1] for parts in rows]
    types = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(types)
    for row, (parts, n) in enumerate(zip(rows, lengths, strict=True)):
        number = {"text": 0, "image": 1, "video": 2}
        one = [number[kind] for kind in qwen3_vl_positions(parts).kinds]
        place = slice(max(lengths) - n, None) if left else slice(n)
        types[row, place], mask[row, place] = torch.tensor(one), 1
    grids: dict[str, Any] = {}
    for kind in ("image", "video"):
        found = [(1, *p.size[-2:]) for parts in rows for p in parts if p.kind == kind]
        grids[f"{kind}_grid_thw"] = torch.tensor(found) if found else None
    return {"input_ids": types + 1, "mm_token_type_ids": types, "attention_mask": mask, **grids}


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe"])
def test_positions_are_those_of_qwen3_vl(name: str) -> None:
    kind: Any = vl.Qwen3VLModel if name == "qwen3_vl" else vl_moe.Qwen3VLMoeModel
    config = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2))
    model = SimpleNamespace(config=config)
    model.get_vision_position_ids = functools.partial(kind.get_vision_position_ids, model)
    seen: set[str] = set()
    for seed in range(120):
        rows = [generated(3 * seed + i) for i in range(seed % 3 + 1)]
        seen |= {part.kind for parts in rows for part in parts}
        layouts = [qwen3_vl_positions(parts) for parts in rows]
        left = seed % 2 == 0
        given = official_inputs(rows, left)
        want, deltas = kind.get_rope_index(model, **given)
        if left:
            ids, mask = left_padded(layouts)
            assert np.array_equal(ids, want.numpy()) and np.array_equal(mask, given["attention_mask"])
        for row, layout in enumerate(layouts):
            real = given["attention_mask"][row].bool()
            assert np.array_equal(layout.ids, want[:, row, real].numpy()), (seed, rows[row])
            assert layout.delta == int(deltas[row]) and type(layout.delta) is int
            types = given["mm_token_type_ids"][row, real].tolist()
            grids = [[(1, *p.size[-2:]) for p in rows[row] if p.kind == k] for k in ("image", "video")]
            read = qwen3_vl_positions(parts_of(types, *grids))
            assert np.array_equal(read.ids, layout.ids) and read.kinds.tolist() == layout.kinds.tolist()
    assert seen == {"text", "image", "video"}


def test_a_video_grid_is_cut_into_frames() -> None:
    """Of the processor's row: one video of three frames, as one grid."""
    parts = [Part("text", 2), *frames_with_times((3, 4, 6), [5, 5, 6]), Part("text", 1)]
    types = [0 if kind == "text" else 2 for kind in qwen3_vl_positions(parts).kinds]
    read = parts_of(types, video_grids=[(3, 4, 6)])
    assert np.array_equal(qwen3_vl_positions(read).ids, qwen3_vl_positions(parts).ids)


def for_omni(seed: int) -> tuple[list[Part], list[int], dict[str, Any]]:
    """A row for Qwen3-Omni as parts, as ids, and what belongs to it; all its videos have sound, or none."""
    rng = np.random.default_rng(seed)
    sound = seed % 2 == 1
    parts: list[Part] = []
    ids: list[int] = []
    images, videos, seconds, audio = [], [], [], []

    def text(*tokens: int) -> None:
        parts.append(Part("text", len(tokens)))
        ids.extend(tokens)

    for _ in range(int(rng.integers(1, 5))):
        kind = rng.choice(["text", "image", "video", "audio"])
        if kind == "text":
            text(*[TEXT] * int(rng.integers(1, 6)))
        elif kind == "image":
            text(START)
            parts.append(Part("image", (even(rng), even(rng))))
            images.append((1, *parts[-1].size))
            ids += [IMAGE] * math.prod(parts[-1].grid)
            text(END)
        elif kind == "audio":
            text(AUDIO_START)
            audio.append(int(rng.integers(1, 350)))
            parts.append(Part("audio", audio[-1]))
            ids += [AUDIO] * audio_tokens(audio[-1])
            text(AUDIO_END)
        else:
            size = int(rng.integers(1, 5)), even(rng, 3), even(rng, 3)
            step = float(np.float32(rng.choice([0.08, 0.3, 0.5, 1.0, 1.7, 2.0])))
            videos.append(size)
            seconds.append(step)
            text(*[START, AUDIO_START] if sound else [START])
            if sound:
                audio.append(int(rng.integers(1, 500)))
            parts.append(Part("video", size, step, audio[-1] if sound else None))
            kinds = qwen3_omni_positions([parts[-1]]).kinds
            ids += [VIDEO if one == "video" else AUDIO for one in kinds]
            text(*[AUDIO_END, END] if sound else [END])
    given = {
        "image_grid_thw": torch.tensor(images) if images else None,
        "video_grid_thw": torch.tensor(videos) if videos else None,
        "use_audio_in_video": sound,
        "audio_seqlens": torch.tensor(audio) if audio else None,
        "second_per_grids": torch.tensor(seconds) if seconds else None,
    }
    return parts, ids, given


def official_omni() -> Any:
    config = SimpleNamespace(
        image_token_id=IMAGE, video_token_id=VIDEO, audio_token_id=AUDIO, vision_start_token_id=START,
        audio_start_token_id=AUDIO_START, position_id_per_seconds=13,
        audio_config=SimpleNamespace(n_window=50),
    )  # fmt: skip
    kind: Any = omni.Qwen3OmniMoePreTrainedModelForConditionalGeneration
    model = SimpleNamespace(config=config, spatial_merge_size=2)
    model.get_llm_pos_ids_for_vision = functools.partial(kind.get_llm_pos_ids_for_vision, model)
    return functools.partial(kind.get_rope_index, model)


def test_positions_are_those_of_qwen3_omni() -> None:
    official, seen = official_omni(), set()
    for seed in range(160):
        parts, ids, given = for_omni(seed)
        row = torch.tensor([ids])
        want, delta = official(row, attention_mask=torch.ones_like(row), **given)
        layout = qwen3_omni_positions(parts)
        assert np.array_equal(layout.ids, want[:, 0].numpy()), (seed, parts)
        assert layout.delta == float(delta[0, 0])
        seen |= {part.kind for part in parts} | {"sound" for part in parts if part.sound}
        assert layout.kinds.tolist() == [
            {IMAGE: "image", VIDEO: "video", AUDIO: "audio"}.get(one, "text") for one in ids
        ]
    assert seen == {"text", "image", "video", "audio", "sound"}


def test_the_class_default_is_another() -> None:
    """25 ids a second, where the released models say 13: who takes the default is off by the first frame."""
    assert transformers.Qwen3OmniMoeThinkerConfig().position_id_per_seconds == 25
    video = [Part("video", (2, 2, 2))]
    assert qwen3_omni_positions(video).ids[0].tolist() == [0, 13]
    assert qwen3_omni_positions(video, ids_per_second=25).ids[0].tolist() == [0, 25]


# -- the model with three rows of positions --------------------------------------------------------------

SMALL = [4, 2, 2]
ROPE = {"rope_theta": 1e4, **scaling(SMALL)}


@functools.cache
def towers(name: str = "qwen3_vl") -> tuple[Any, Qwen3]:
    """transformers' text part of a model, and our Qwen3, with the same hardened weights."""
    moe = name != "qwen3_vl"
    left_out = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
    settings: dict[str, Any] = {k: v for k, v in (MOE if moe else DENSE).items() if k not in left_out}
    settings["rope_parameters"] = dict(ROPE)
    text, tower = {
        "qwen3_vl": (transformers.Qwen3VLTextConfig, vl.Qwen3VLTextModel),
        "qwen3_vl_moe": (transformers.Qwen3VLMoeTextConfig, vl_moe.Qwen3VLMoeTextModel),
        "qwen3_omni_moe": (transformers.Qwen3OmniMoeTextConfig, omni.Qwen3OmniMoeThinkerTextModel),
    }[name]
    config: Any = text(**settings)
    config._attn_implementation = "eager"
    official: Any = tower(config)
    official = official.float().eval()
    harden(official)
    settings |= {"model_type": "qwen3_moe" if moe else "qwen3", "tie_word_embeddings": True}
    ours = Qwen3(Qwen3Config.from_dict(settings)).eval()
    ours.model.load_state_dict(official.state_dict())
    return official, ours


def rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[Layout]]:
    """Ids (2, t), positions (3, 2, t) of two rows with pictures, of one length."""
    parts = [Part("text", 3), Part("image", (8, 6)), Part("text", 11)]
    other = [Part("text", 5), *frames_with_times((2, 4, 4), [4, 3]), Part("text", 2)]
    layouts = [qwen3_vl_positions(parts), qwen3_vl_positions(other)]
    assert layouts[0].ids.shape == layouts[1].ids.shape
    ids = token_ids(DENSE["vocab_size"], (2, layouts[0].ids.shape[1]), seed)
    return ids, torch.from_numpy(np.stack([layout.ids for layout in layouts], axis=1)), layouts


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe"])
@torch.no_grad()
def test_text_tower_is_the_official_one(name: str) -> None:
    official, ours = towers(name)
    ids, positions, _ = rows()
    want = official(input_ids=ids, position_ids=positions).last_hidden_state
    got = ours.model(ids, position_ids=positions)
    assert (got - want).abs().max() < ATOL
    assert (ours.model(ids) - want).abs().max() > 0.1, "counted positions give another answer"


@torch.no_grad()
def test_rows_with_padding() -> None:
    """Left padding and positions: each row as it is alone."""
    official, ours = towers()
    layouts = [qwen3_vl_positions([Part("text", 2), Part("image", (4, 4)), Part("text", n)]) for n in (1, 5)]
    places, mask = (torch.from_numpy(x) for x in left_padded(layouts))
    ids = token_ids(DENSE["vocab_size"], tuple(mask.shape))
    together = ours.model(ids, position_ids=places, attention_mask=mask)
    want = official(input_ids=ids, position_ids=places, attention_mask=mask).last_hidden_state
    for row, layout in enumerate(layouts):
        real = mask[row].bool()
        alone = ours.model(ids[row, real][None], position_ids=torch.from_numpy(layout.ids)[:, None])
        assert (together[row, real] - alone[0]).abs().max() < ATOL
        assert (together[row, real] - want[row, real]).abs().max() < ATOL


@torch.no_grad()
def test_decoding_goes_on_from_the_picture() -> None:
    """A prompt with a picture through the cache, then token by token, is the whole row at once."""
    official, ours = towers()
    ids, _, layouts = rows(3)
    new = token_ids(DENSE["vocab_size"], (1, 4), 5)
    layout, whole = layouts[0], torch.cat([ids[:1], new], dim=1)
    places = torch.from_numpy(np.concatenate([layout.ids, layout.following(4)], axis=1))[:, None]
    want = official(input_ids=whole, position_ids=places).last_hidden_state[0, -4:]
    cache = KVCache(ours.config, 1, 40)
    ours.model(ids[:1], position_ids=torch.from_numpy(layout.ids)[:, None], cache=cache)
    got = []
    for i in range(4):
        place = torch.from_numpy(layout.following(1, i).copy())[:, None]
        assert place.flatten().tolist() == [cache.length + layout.delta] * 3, "length + delta, on all axes"
        got.append(ours.model(new[:, i : i + 1], position_ids=place, cache=cache)[0])
    assert (torch.cat(got) - want).abs().max() < ATOL


@torch.no_grad()
def test_where_tokens_stand_is_not_forgotten() -> None:
    """Once positions were given the cache wants them in every pass, until it starts over."""
    _, ours = towers()
    ids, positions, _ = rows()

    def fail(*_: Any) -> None:
        raise RuntimeError("stop")

    cache = KVCache(ours.config, 2, 60)
    ours(ids[:, :2], cache=cache)
    ours(ids[:, 2:], position_ids=positions[:, :, 2:], cache=cache)
    refused("give position_ids again", ours, ids[:, :1], cache=cache)
    assert cache.length == ids.shape[1]
    again = cache.select([0])
    refused("give position_ids again", ours, ids[:1, :1], cache=again)
    refused("give position_ids again", ours, ids[:, :1], cache=again.join(again, 1))
    cache.truncate()
    ours(ids, cache=cache)
    ours(ids[:, :1], cache=cache)
    fresh = KVCache(ours.config, 1, 60)
    ours(ids[:1], cache=fresh)
    refused("give position_ids again", ours, ids[:, :1], cache=fresh.join(again, 1))
    with pytest.raises(RuntimeError, match="stop"):
        handle = ours.model.layers[1].register_forward_hook(fail)
        try:
            ours(ids[:1, :1], position_ids=torch.tensor([[99]]), cache=fresh)
        finally:
            handle.remove()
    assert not fresh.placed and fresh.length == ids.shape[1], "a pass that failed left nothing behind"


@torch.no_grad()
def test_text_is_as_it_was() -> None:
    """With three equal rows, with one, and without: bit for bit the model that has no axes."""
    _, ours = towers()
    plain = Qwen3(replace(ours.config, rope_scaling=None))
    plain.load_state_dict(ours.state_dict())
    ids = token_ids(DENSE["vocab_size"], (2, 30))
    want, counted = plain(ids), torch.arange(30).expand(2, 30)
    assert torch.equal(ours(ids), want)
    assert torch.equal(ours(ids, position_ids=counted.expand(3, 2, 30)), want)
    assert torch.equal(ours(ids, position_ids=counted), want) and torch.equal(
        plain(ids, position_ids=counted), want
    )
    moved = ours(ids, position_ids=(counted + 1000).expand(3, 2, 30))
    assert (moved - want).abs().max() < 1e-3, "only distances count"


@torch.no_grad()
def test_the_quicker_model_takes_them_too(tmp_path: Path) -> None:
    """With its parts joined, and with a cache of 8 bits that remembers that positions were given."""
    _, ours = towers()
    ours.save_pretrained(tmp_path / "model")
    quick = Qwen3.from_pretrained(tmp_path / "model", precision="float32")
    ids, positions, _ = rows()
    assert (quick(ids, position_ids=positions) - ours(ids, position_ids=positions)).abs().max() < 2e-4
    cache = QuantizedKVCache(ours.config, 2, 40)
    got = quick(ids, position_ids=positions, cache=cache)
    assert (got - quick(ids, position_ids=positions)).abs().max() < 0.2
    refused("give position_ids again", quick, ids[:, :1], cache=cache.select([1, 0]))


# -- DeepStack -------------------------------------------------------------------------------------------


def test_deepstack_is_the_official_one() -> None:
    rng = np.random.default_rng(3)
    hidden, visual = rng.normal(size=(9, 6)), rng.random(9) < 0.5
    features = rng.normal(size=(int(visual.sum()), 6))
    kept = hidden.copy()
    got = deepstack(hidden, visual, features)
    want = vl.Qwen3VLTextModel._deepstack_process(
        None, torch.from_numpy(hidden), torch.from_numpy(visual), torch.from_numpy(features)
    )
    assert np.array_equal(got, want.numpy()) and np.array_equal(hidden, kept)
    assert np.array_equal(got[~visual], hidden[~visual])
    refused("give one vector for each", deepstack, hidden, visual, features[1:])


@torch.no_grad()
def test_deepstack_in_the_tower() -> None:
    """Features added behind the first two layers of ours, by this function, and in transformers' forward."""
    official, ours = towers()
    ids, positions, layouts = rows()
    visual = np.stack([layout.visual for layout in layouts])
    generator = torch.Generator().manual_seed(4)
    features = [torch.randn(int(visual.sum()), 32, generator=generator) for _ in range(2)]
    want = official(
        input_ids=ids, position_ids=positions, visual_pos_masks=torch.from_numpy(visual),
        deepstack_visual_embeds=features,
    ).last_hidden_state  # fmt: skip

    def added(i: int, _module: Any, _given: Any, out: torch.Tensor) -> torch.Tensor:
        flat = deepstack(out.flatten(0, 1).numpy(), visual.ravel(), features[i].numpy())
        return torch.from_numpy(flat).view_as(out)

    handles = [ours.model.layers[i].register_forward_hook(functools.partial(added, i)) for i in range(2)]
    try:
        got = ours.model(ids, position_ids=positions)
    finally:
        for handle in handles:
            handle.remove()
    assert (got - want).abs().max() < ATOL
    plain = ours.model(ids, position_ids=positions)
    assert torch.equal(got[0, :3], plain[0, :3]), "what stands before the picture is not touched"
    assert (got[0, 3:] - plain[0, 3:]).abs().amax(-1).min() > 1e-3


# -- configs ---------------------------------------------------------------------------------------------


def config(**changes: Any) -> Qwen3Config:
    values = {k: v for k, v in DENSE.items() if k != "rope_parameters"} | {"model_type": "qwen3"}
    return Qwen3Config.from_dict(values | {"rope_theta": 1e4} | changes)


def test_a_config_keeps_its_sections(tmp_path: Any) -> None:
    for section, interleaved in ((SMALL, True), ([2, 3, 3], False)):
        found = config(rope_scaling=scaling(section, interleaved))
        assert found.rope_scaling == scaling(section, interleaved)
        found.to_json(tmp_path / "config.json")
        assert Qwen3Config.from_pretrained(tmp_path) == found
        assert json.loads((tmp_path / "config.json").read_text("utf-8"))["rope_scaling"] == found.rope_scaling
    without = config(rope_scaling={"mrope_section": SMALL})
    assert without.rope_scaling == {"rope_type": "default", "mrope_section": SMALL}
    assert config_axes(without.rope_scaling).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    longer = stretched(found, "yarn", 3, 256)
    assert longer.rope_scaling == {
        "rope_type": "yarn", "factor": 3, "original_max_position_embeddings": 256, "mrope_section": [2, 3, 3],
        "mrope_interleaved": False,
    }  # fmt: skip
    assert stretched(found, "plain", 2).rope_scaling == found.rope_scaling
    assert stretched(config(), "plain", 2).rope_scaling is None


def test_yarn_slows_pairs_whatever_their_axis() -> None:
    """Qwen3-VL to three times its 262,144 tokens, as its page advises."""
    yarn = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 262_144} | {
        k: v for k, v in scaling(QWEN3).items() if k != "rope_type"
    }
    found, factor = frequencies(128, 5e6, yarn, 786_432)
    ratio = found / default_frequencies(128, 5e6)
    assert np.allclose(ratio[[28, 32, 36, 40, 44, 63]], [1, 0.875, 0.7083, 0.5417, 0.375, 0.3333], atol=5e-5)
    assert math.isclose(factor, 1.109861, abs_tol=1e-6)
    text = transformers.Qwen3VLTextConfig(
        hidden_size=256, num_attention_heads=2, head_dim=128, max_position_embeddings=786_432,
        rope_parameters={"rope_theta": 5e6, **yarn},
    )  # fmt: skip
    official: Any = vl.Qwen3VLTextRotaryEmbedding(text)
    assert np.allclose(official.inv_freq.numpy(), found, rtol=2e-6) and official.attention_scaling == factor


# -- bad input -------------------------------------------------------------------------------------------


def test_refused_sections() -> None:
    refused("must be three whole numbers", pair_axes, [24, 40], True)
    refused("must be three whole numbers", pair_axes, [24.0, 20, 20], True)
    refused("must be three whole numbers", pair_axes, [-1, 20, 20], True)
    refused("is 'yes'; it must be true or false", pair_axes, QWEN3, "yes")
    refused(
        "[2, 3, 3] cannot be interleaved: every third of 8 pairs are 3 for height and 2",
        pair_axes,
        [2, 3, 3],
        True,
    )
    assert pair_axes([3, 3, 2], True).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    for section, words in (
        (QWEN3, "makes 64 pairs and the head has 8 (head_dim / 2)."),
        ([8, 4, 4], "makes 16 pairs and the head has 8 (head_dim / 2); it counts pairs, not channels."),
        ("THW", "must be three whole numbers"),
    ):
        refused(words, config, rope_scaling=scaling(section), error=ConfigError)
    refused(
        "does nothing without mrope_section",
        config,
        rope_scaling={"mrope_interleaved": True},
        error=ConfigError,
    )
    refused(
        "must be true or false",
        config,
        rope_scaling=scaling(SMALL) | {"mrope_interleaved": 1},
        error=ConfigError,
    )
    refused("stands outside of rope_scaling", config, mrope_section=SMALL, error=ConfigError)


def test_refused_parts() -> None:
    refused("there is no modality 'smell'; there are text, image, video, audio.", Part, "smell", 3)
    for kind, size, words in (
        ("text", 0, "the size of text is 0; give its number of tokens, at least 1."),
        ("audio", (3,), "give its number of mel frames"),
        ("image", (4, 5), "a grid of 4 x 5 patches cannot be merged 2 x 2; resize the picture"),
        ("image", (1, 4, 4), "give (height, width) in patches"),
        ("image", (0, 4), "whole numbers from 1"),
        ("video", (4, 4), "give (frames, height, width)"),
        ("video", [2, 4, 4], "a tuple of whole"),
        ("video", (2, 3, 4), "a grid of 3 x 4 patches"),
    ):
        refused(words, Part, kind, size)
    refused("seconds is 0; it must be a number above 0", Part, "video", (2, 2, 2), 0)
    refused("sound is 100 of image", Part, "image", (2, 2), sound=100)
    refused("sound is 0 of video", Part, "video", (2, 2, 2), sound=0)
    refused("there are no parts", qwen3_vl_positions, [])
    refused("reads them one by one", qwen3_vl_positions, [Part("video", (2, 2, 2))])
    for model in (qwen2_vl_positions, qwen3_vl_positions):
        refused("does not hear", model, [Part("audio", 9)])
        refused("does not hear", model, [Part("video", (1, 2, 2), sound=9)])
    refused("the video has 2 frames and 1 times", frames_with_times, (2, 4, 4), [5])


def test_refused_rows() -> None:
    refused(
        "a run of 3 image tokens has a grid of 1 x 4 x 4 patches, which makes 4",
        parts_of,
        [0, 1, 1, 1],
        [(1, 4, 4)],
    )
    refused("more runs of image tokens than grids", parts_of, [1, 0, 1], [(1, 2, 2)])
    refused("more runs of video tokens than grids", parts_of, [2], [(1, 2, 2)])
    refused("1 grids of video have no tokens", parts_of, [0, 2], [], [(2, 2, 2)])
    refused("a run of 8 video tokens has a grid of 1 x 4 x 4", parts_of, [2] * 8, [], [(2, 4, 4)])
    refused("cannot be merged", parts_of, [0, 1], [(1, 3, 2)])
    refused("mm_token_type_ids holds 3; Qwen3-VL knows 0 text", parts_of, [0, 3])
    refused("it has one frame", parts_of, [1], [(2, 2, 2)])


def test_refused_positions() -> None:
    _, ours = towers()
    ids = token_ids(160, (2, 5))
    refused(
        "have shape (2, 4) and the new tokens (2, 5); give (2, 5), or (3, 2, 5)",
        ours,
        ids,
        position_ids=torch.zeros(2, 4),
    )
    refused("have shape (4, 2, 5)", ours, ids, position_ids=torch.zeros(4, 2, 5))
    refused("must be finite numbers", ours, ids, position_ids=torch.full((2, 5), math.nan))
    refused("position_ids are torch.bool", ours, ids, position_ids=torch.ones(2, 5, dtype=torch.bool))
    refused("position_ids is a list", ours, ids, position_ids=[[1]])
    plain = Qwen3(replace(ours.config, rope_scaling=None))
    refused("has no mrope_section", plain, ids, position_ids=torch.zeros(3, 2, 5))
    counted = replace(ours.config, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    chunked = stretched(replace(ours.config, rope_scaling=None), "dual-chunk", 2)
    for other in (counted, chunked):
        refused("goes by counted tokens", Qwen3(other), ids, position_ids=torch.zeros(2, 5))
