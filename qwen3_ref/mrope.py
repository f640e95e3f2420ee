"""Positions of time, height and width for pictures, video and sound (M-RoPE): which, and who turns by them.

A token of text has one position, a patch of a picture has a row and a column, and a sound a time. M-RoPE
gives every token three positions, and each rotating pair turns by one of them: `pair_axes` says by which.
Text has the same position on all three axes, so on text this is `rope.py`, whatever the layout.

`qwen2_vl_positions`, `qwen3_vl_positions` and `qwen3_omni_positions` lay out a row of `Part`s. NumPy alone.

Shapes: n tokens of a row, b rows, t tokens of a batch, d head_dim; the first of (3, ...) is time, then
height, then width.

Sources: Qwen2-VL (arXiv 2409.12191) section 2.1, Qwen2.5-VL (2502.13923), Qwen2.5-Omni (2503.20215) and
Qwen3-Omni (2509.17765) for TM-RoPE, Qwen3-VL (2511.21631), DeepStack (2406.04334); transformers 5
`models/qwen3_vl/modeling_qwen3_vl.py` and `models/qwen3_omni_moe/modeling_qwen3_omni_moe.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qwen3_ref.arrays import is_number, is_whole
from qwen3_ref.rope import Float64Array
from qwen3_ref.store.errors import quoted

Array = NDArray[Any]
Kind = Literal["text", "image", "video", "audio"]
KINDS: tuple[str, ...] = get_args(Kind)
"""In the order of their numbers in a processor's mm_token_type_ids."""
MERGE = 2
"""Patches on each side of the square that becomes one token."""
OMNI_IDS_PER_SECOND = 13
"""`position_id_per_seconds` of the released Qwen3-Omni: the tokens of a second of sound. The default of
transformers' class is another, 25, which was Qwen2.5-Omni's."""

# -- which pair turns by which axis ------------------------------------------------------------------------


def section_problem(section: Any, interleaved: Any, pairs: int) -> str | None:
    """Why an mrope_section cannot be laid over so many `pairs` (head_dim / 2), in one sentence, or None."""
    if not isinstance(section, list | tuple) or len(section) != 3 or not all(is_whole(n, 0) for n in section):
        return (
            f"mrope_section is {quoted(section)}; it must be three whole numbers, the pairs that turn with "
            f"time, height and width."
        )
    if not isinstance(interleaved, bool):
        return f"mrope_interleaved is {quoted(interleaved)}; it must be true or false."
    if sum(section) != pairs:
        twice = "; it counts pairs, not channels" if sum(section) == 2 * pairs else ""
        return (
            f"mrope_section {quoted(list(section))} makes {sum(section)} pairs and the head has {pairs} "
            f"(head_dim / 2){twice}."
        )
    if interleaved and (3 * section[1] > pairs + 1 or 3 * section[2] > pairs):
        return (
            f"mrope_section {quoted(list(section))} cannot be interleaved: every third of {pairs} pairs are "
            f"{(pairs + 1) // 3} for height and {pairs // 3} for width at most; give the rest to time."
        )
    return None


def pair_axes(section: Sequence[int], interleaved: bool) -> NDArray[np.int64]:
    """The axis (0 time, 1 height, 2 width) that each pair turns by, (d/2,).

    Sectioned (Qwen2-VL, [16, 24, 24]): the first pairs are time's, the next height's, the last width's.
    Interleaved (Qwen3-VL, [24, 20, 20]): time, height, width, time, height, width, ... until height and
    width have theirs; what is left, the slowest pairs, is time's.
    Raises ValueError as `section_problem` says.
    """
    if problem := section_problem(section, interleaved, sum(section)):
        raise ValueError(problem)
    if not interleaved:
        return np.repeat([0, 1, 2], section)
    axes = np.zeros(sum(section), dtype=np.int64)
    axes[1 : 3 * section[1] : 3] = 1
    axes[2 : 3 * section[2] : 3] = 2
    return axes


def config_axes(scaling: Mapping[str, Any] | None) -> NDArray[np.int64] | None:
    """`pair_axes` of a config's `rope_scaling`; None where it has no mrope_section."""
    section = (scaling or {}).get("mrope_section")
    if scaling is None or section is None:
        return None
    return pair_axes(section, scaling.get("mrope_interleaved") or False)


def mrope_cos_sin(
    positions: Array, inv_freq: Float64Array, axes: NDArray[np.int64], attention_factor: float = 1.0
) -> tuple[Float64Array, Float64Array]:
    """cos and sin of every angle, as `rope.cos_sin`: positions (3, ...) give two arrays (..., d/2)."""
    turned_by = np.moveaxis(np.asarray(positions, dtype=np.float64)[axes], 0, -1)  # (..., d/2)
    angles = turned_by * inv_freq
    return np.cos(angles) * attention_factor, np.sin(angles) * attention_factor


# -- what stands in a row ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A stretch of a row that is of one kind.

    kind: "text", "image", "video" or "audio". Marks such as <|vision_start|> are text.
    size: of text, its tokens; of an image, (height, width) in patches, before 2 x 2 of them become one
    token; of a video, (frames, height, width), where a frame is what the encoder makes one of (two
    pictures); of audio, its mel frames of 10 milliseconds.
    seconds: of a video, how long one such frame lasts.
    sound: of a video, the mel frames of the sound that belongs to it.
    Raises ValueError for another kind, or a size that does not fit it.
    """

    kind: Kind
    size: int | tuple[int, ...]
    seconds: float = 1.0
    sound: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no modality {quoted(self.kind)}; there are {', '.join(KINDS)}.")
        sides = {"image": 2, "video": 3}.get(self.kind, 0)
        if not sides and not is_whole(self.size, 1):
            what = "its number of tokens" if self.kind == "text" else "its number of mel frames"
            raise ValueError(f"the size of {self.kind} is {quoted(self.size)}; give {what}, at least 1.")
        if sides:
            _require_grid(self.kind, self.size, sides)
        if not is_number(self.seconds) or self.seconds <= 0:
            raise ValueError(f"seconds is {quoted(self.seconds)}; it must be a number above 0.")
        if self.sound is not None and (self.kind != "video" or not is_whole(self.sound, 1)):
            raise ValueError(
                f"sound is {quoted(self.sound)} of {self.kind}; it is the number of mel frames of a video's "
                f"sound, at least 1, or None."
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Of an image or video, (frames, rows, columns) of its tokens; an image is one frame."""
        assert isinstance(self.size, tuple)
        frames, height, width = (1, *self.size)[-3:]
        return frames, height // MERGE, width // MERGE


def _require_grid(kind: str, size: Any, sides: int) -> None:
    words = "(height, width)" if sides == 2 else "(frames, height, width)"
    if not isinstance(size, tuple) or len(size) != sides or not all(is_whole(n, 1) for n in size):
        raise ValueError(
            f"the size of {kind} is {quoted(size)}; give {words} in patches, a tuple of whole numbers from 1."
        )
    if any(n % MERGE for n in size[-2:]):
        raise ValueError(
            f"a grid of {size[-2]} x {size[-1]} patches cannot be merged {MERGE} x {MERGE}; resize the "
            f"picture so that both sides are even."
        )


def audio_tokens(frames: int) -> int:
    """Tokens of so many mel frames: each second (100 frames) is halved three times, rounding up, and makes
    13; what is left over is halved likewise."""
    left = frames % 100
    for _ in range(3):
        left = math.ceil(left / 2)
    return 13 * (frames // 100) + left


def parts_of(
    types: Sequence[int],
    image_grids: Sequence[Sequence[int]] = (),
    video_grids: Sequence[Sequence[int]] = (),
) -> list[Part]:
    """The parts of one row for Qwen3-VL, from what its processor makes.

    types (n,): its mm_token_type_ids, 0 text, 1 image, 2 video, of this row without padding.
    image_grids, video_grids: (frames, height, width) of each, in patches, as in image_grid_thw and
    video_grid_thw. A video comes frame by frame, each in a run of its own behind its time in text.
    Raises ValueError where runs and grids do not fit each other, and for another number.
    """
    frames = [(1, *grid[1:]) for grid in video_grids for _ in range(grid[0])]
    left = {"image": [tuple(grid) for grid in image_grids], "video": frames}
    parts: list[Part] = []
    for number, run in groupby(types):
        n = len(list(run))
        if not is_whole(number, 0) or number > 2:
            raise ValueError(
                f"mm_token_type_ids holds {quoted(number)}; Qwen3-VL knows 0 text, 1 image and 2 video."
            )
        if number == 0:
            parts.append(Part("text", n))
            continue
        kind: Literal["image", "video"] = "image" if number == 1 else "video"
        if not left[kind]:
            raise ValueError(f"there are more runs of {kind} tokens than grids; give {kind}_grid_thw of all.")
        size = left[kind].pop(0)
        if kind == "image" and size[0] != 1:
            raise ValueError(f"the grid of an image is {quoted(size)}; it has one frame.")
        part = Part(kind, size[1:] if kind == "image" else size)
        if math.prod(part.grid) != n:
            t, h, w = size
            raise ValueError(
                f"a run of {n} {kind} tokens has a grid of {t} x {h} x {w} patches, which makes "
                f"{math.prod(part.grid)}; the grids must be those of this row, in its order."
            )
        parts.append(part)
    for name, grids in left.items():
        if grids:
            raise ValueError(f"{len(grids)} grids of {name} have no tokens; give those of this row alone.")
    return parts


# -- video as Qwen3-VL reads it: pictures with their time written before them -----------------------------


def frame_seconds(indices: Sequence[int], fps: float, pair: int = 2) -> list[float]:
    """When each frame stands in the video: pictures `indices` at `fps`, taken in pairs, of which a frame
    has the mean time; an odd last one is paired with itself."""
    times = [index / fps for index in indices]
    times += [times[-1]] * (-len(times) % pair)
    return [(times[i] + times[i + pair - 1]) / 2 for i in range(0, len(times), pair)]


def time_text(seconds: float) -> str:
    """What stands before a frame of a video in Qwen3-VL's prompt."""
    return f"<{seconds:.1f} seconds>"


def frames_with_times(size: tuple[int, int, int], time_tokens: Sequence[int]) -> list[Part]:
    """The parts of a video (frames, height, width) in Qwen3-VL: before each frame its time in text, of so
    many tokens, and <|vision_start|>; behind it <|vision_end|>."""
    video = Part("video", size)
    if len(time_tokens) != video.grid[0]:
        raise ValueError(
            f"the video has {video.grid[0]} frames and {len(time_tokens)} times; every frame has its own."
        )
    parts: list[Part] = []
    for n in time_tokens:
        parts += [Part("text", n + 1), Part("video", (1, *size[1:])), Part("text", 1)]
    return parts


# -- positions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a row stand.

    ids: (3, n), whole numbers, or float32 of Qwen3-Omni. kinds: (n,), the modality of each token.
    """

    ids: Array
    kinds: NDArray[np.str_]

    @property
    def delta(self) -> float:
        """How far positions are from counting tokens ("rope_deltas"): the largest position + 1 - n."""
        return (self.ids.max() + 1 - self.ids.shape[1]).item()

    @property
    def visual(self) -> NDArray[np.bool_]:
        """(n,), True at the tokens of images and videos."""
        return np.isin(self.kinds, ("image", "video"))

    def following(self, count: int, already: int = 0) -> Array:
        """Positions (3, count) of text that is generated after the row, of which `already` tokens are."""
        ahead = np.arange(already, already + count, dtype=self.ids.dtype)
        return np.broadcast_to(self.ids.max() + 1 + ahead, (3, count))


def grid_positions(start: float, times: Array, height: int, width: int) -> Array:
    """Positions (3, T height width) of T frames in row-major order: time `start + times`, while rows and
    columns count from `start` in every frame."""
    time, row, column = np.meshgrid(times, np.arange(height), np.arange(width), indexing="ij")
    return start + np.stack([time, row, column]).reshape(3, -1)


def _lay_out(parts: Sequence[Part], times: Callable[[Part], Array], dtype: type) -> Layout:
    """One rule for all models: a part begins behind the largest position before it, on any axis."""
    if not parts:
        raise ValueError("there are no parts; a row has at least one token.")
    ids, kinds, start = [], [], dtype(0)
    for part in parts:
        if part.kind in ("text", "audio"):
            assert isinstance(part.size, int)
            n = part.size if part.kind == "text" else audio_tokens(part.size)
            block = np.broadcast_to(start + np.arange(n, dtype=dtype), (3, n))
            kind = np.repeat(part.kind, n)
        else:
            block = grid_positions(start, times(part).astype(dtype), *part.grid[1:]).astype(dtype)
            kind = np.repeat(part.kind, block.shape[1])
            if part.sound is not None:
                block, kind = _with_sound(block, start, part.sound)
        ids.append(block)
        kinds.append(kind)
        start = block.max() + dtype(1)
    return Layout(np.concatenate(ids, axis=1), np.concatenate(kinds))


def _with_sound(video: Array, start: Any, frames: int) -> tuple[Array, NDArray[np.str_]]:
    """Tokens of a video and of its sound on one time line: in the order of their times, and at equal times
    video first. Both begin at `start`."""
    n = audio_tokens(frames)
    sound = np.broadcast_to(start + np.arange(n, dtype=video.dtype), (3, n))
    both = np.concatenate([video, sound], axis=1)
    kinds = np.repeat(["video", "audio"], [video.shape[1], n])
    order = np.argsort(both[0], kind="stable")
    return both[:, order], kinds[order]


def _refuse_sound(parts: Sequence[Part], model: str) -> None:
    for part in parts:
        if part.kind == "audio" or part.sound is not None:
            raise ValueError(f"{model} does not hear, and a part is audio; leave it out, or use Qwen3-Omni.")


def qwen2_vl_positions(parts: Sequence[Part], ids_per_second: float | None = None) -> Layout:
    """Positions as Qwen2-VL has them: the time of a video's frame is its number. With `ids_per_second`
    (`tokens_per_second`; 2 in the released Qwen2.5-VL) they are Qwen2.5-VL's: the seconds since its beginning
    times that, rounded down. Raises ValueError for audio."""
    _refuse_sound(parts, "Qwen2-VL")

    def times(part: Part) -> Array:
        frames = np.arange(part.grid[0])
        return frames if ids_per_second is None else np.floor(frames * part.seconds * ids_per_second)

    return _lay_out(parts, times, np.int64)


def qwen3_vl_positions(parts: Sequence[Part]) -> Layout:
    """Positions as Qwen3-VL has them: every frame of a video is a picture of its own, and its time is
    written before it in words (`frames_with_times`). Raises ValueError for a video of several frames in one
    part, and for audio."""
    _refuse_sound(parts, "Qwen3-VL")
    for part in parts:
        if part.kind == "video" and part.grid[0] > 1:
            raise ValueError(
                f"a part is a video of {part.grid[0]} frames, and Qwen3-VL reads them one by one with the "
                f"time in text before each; make its parts with frames_with_times."
            )
    return _lay_out(parts, lambda part: np.zeros(part.grid[0]), np.int64)


def qwen3_omni_positions(parts: Sequence[Part], ids_per_second: float = OMNI_IDS_PER_SECOND) -> Layout:
    """Positions as Qwen3-Omni has them (TM-RoPE): one step of time is 1/13 second, for sound and video
    alike, so both are on one time line. Frames may stand between whole numbers: positions are float32."""

    def times(part: Part) -> Array:
        frames = np.arange(part.grid[0], dtype=np.float32)
        return frames * np.float32(part.seconds) * np.float32(ids_per_second)

    return _lay_out(parts, times, np.float32)


def left_padded(layouts: Sequence[Layout]) -> tuple[Array, NDArray[np.int64]]:
    """Rows of different length as a batch: positions (3, b, t), 0 in the padding, and the attention mask
    (b, t). What follows a row is still `Layout.following`: padding shifts no position."""
    longest = max(layout.ids.shape[1] for layout in layouts)
    ids = np.zeros((3, len(layouts), longest), dtype=layouts[0].ids.dtype)
    mask = np.zeros((len(layouts), longest), dtype=np.int64)
    for row, layout in enumerate(layouts):
        n = layout.ids.shape[1]
        ids[:, row, longest - n :], mask[row, longest - n :] = layout.ids, 1
    return ids, mask


# -- DeepStack ----------------------------------------------------------------------------------------------


def deepstack(hidden: Array, visual: NDArray[np.bool_], features: Array) -> Array:
    """The output of an early layer with what the vision encoder's matching layer saw added, at the visual
    tokens alone: hidden (n, D), visual (n,), features (visual tokens, D) -> (n, D).

    Qwen3-VL does so behind its first three layers; the sequence gets no longer.
    Raises ValueError if features are not those of the visual tokens.
    """
    if features.shape != (int(visual.sum()), hidden.shape[-1]):
        raise ValueError(
            f"features have shape {features.shape}, and the row has {int(visual.sum())} visual tokens of "
            f"width {hidden.shape[-1]}; give one vector for each."
        )
    out = hidden.copy()
    out[visual] += features
    return out
