"""Of 23_beyond_text."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.mistakes import Mistake

# -- which pair turns by which axis ----------------------------------------------------------------------


def laid(section: Any, height: Any = None, width: Any = None) -> Any:
    """Interleaved, with the slices of height and width as a slip has them."""
    t, h, w = section
    axes = np.zeros(t + h + w, dtype=int)
    axes[slice(*(height or (1, 3 * h, 3)))] = 1
    axes[slice(*(width or (2, 3 * w, 3)))] = 2
    return axes


def in_turn(section: Any) -> Any:
    """One after the other, leaving out who has all its pairs."""
    left, axes = list(section), []
    while any(left):
        for axis in (0, 1, 2):
            if left[axis] > 0:
                axes.append(axis)
                left[axis] -= 1
    return axes


def rest_first(section: Any) -> Any:
    axes, used = laid(section), 3 * max(section[1:])
    return np.concatenate([axes[used:], axes[:used]])


def pair_by_pair(section: Any) -> Any:
    """By the rule in words."""
    axes = []
    for pair in range(sum(section)):
        axis = pair % 3
        axes.append(axis if axis and pair < 3 * section[axis] else 0)
    return axes


def by_index(section: Any) -> Any:
    axes = np.zeros(sum(section))
    axes[1 + 3 * np.arange(section[1])] = 1
    axes[2 + 3 * np.arange(section[2])] = 2
    return axes


INTERLEAVED: list[Mistake] = [
    ("that is sectioned", lambda s: np.repeat([0, 1, 2], s)),
    ("round to the last pair", lambda s: np.arange(sum(s)) % 3),
    ("with steps of 3 they end at", lambda s: laid(s, (1, s[1], 3), (2, s[2], 3))),
    ("yours are exchanged", lambda s: laid(s, (2, 3 * s[1], 3), (1, 3 * s[2], 3))),
    ("height's first is pair 1", lambda s: laid(s, (0, 3 * s[1], 3), (1, 3 * s[2], 3))),
    ("width ends where height does", lambda s: laid(s, width=(2, 3 * s[1], 3))),
    ("height ends where width does", lambda s: laid(s, height=(1, 3 * s[2], 3))),
    ("leaves its places to time", in_turn),
    ("yours stand first", rest_first),
    ("one value a channel", lambda s: np.tile(laid(s), 2)),
    ("one value a channel", lambda s: np.repeat(laid(s), 2)),
    ("time is 0", lambda s: laid(s) + 1),
    ("pair 0 is the fastest", lambda s: laid(s)[::-1]),
]

# -- a video for Qwen3-VL --------------------------------------------------------------------------------


def frames_of(
    start: int, frames: int, height: int, width: int, words: int, *, step: Callable[[int, int], int] = max,
    marks: tuple[int, int] = (1, 1), merge: int = 2, restart: bool = False, tick: bool = False,
    down: bool = False,
) -> Any:  # fmt: skip
    """Right, token by token, with a choice of slips."""
    found: list[tuple[int, int, int]] = []
    place, (rows, columns) = start, (height // merge, width // merge)
    for _ in range(frames):
        for _ in range(words + marks[0]):
            found.append((place, place, place))
            place += 1
        cells = [(r, c) for r in range(rows) for c in range(columns)]
        if down:
            cells = [(r, c) for c in range(columns) for r in range(rows)]
        base = start + words + marks[0] if restart else place
        found += [(place + tick * i, base + r, base + c) for i, (r, c) in enumerate(cells)]
        place += step(rows, columns)
        found += [(place + i,) * 3 for i in range(marks[1])]
        place += marks[1]
    return np.array(found).T


def in_one_run(start: int, frames: int, height: int, width: int, words: int) -> Any:
    at, rows, columns = start + words + 1, height // 2, width // 2
    t, r, c = np.indices((frames, rows, columns)).reshape(3, -1)
    text = np.tile(start + np.arange(words + 1), (3, 1))
    end = at + max(frames, rows, columns)
    return np.concatenate([text, [at + t, at + r, at + c], [[end]] * 3], axis=1)


def frame_and_shift(start: int, frames: int, height: int, width: int, words: int) -> Any:
    """One frame with what is around it, then the same so many positions on."""
    rows, columns = np.indices((height // 2, width // 2)).reshape(2, -1)
    text, length = np.tile(np.arange(words + 1), (3, 1)), words + 2 + max(height, width) // 2
    picture = words + 1 + np.stack([0 * rows, rows, columns])
    one = np.concatenate([text, picture, np.full((3, 1), length - 1)], axis=1)
    return np.concatenate([start + f * length + one for f in range(frames)], axis=1)


VIDEO: list[Mistake] = [
    ("that is one run of frames", in_one_run),
    ("the marks are tokens, too", lambda *a: frames_of(*a, marks=(0, 0))),
    ("a mark behind it as well", lambda *a: frames_of(*a, marks=(1, 0))),
    ("is text and takes positions", lambda *a: frames_of(*a[:4], 0)),
    ("not as it has tokens", lambda *a: frames_of(*a, step=lambda r, c: r * c)),
    ("not one step on", lambda *a: frames_of(*a, step=lambda r, c: 1)),
    ("2 x 2 patches are one token", lambda *a: frames_of(*a, merge=1)),
    ("the video begins at start", lambda start, *a: frames_of(0, *a)),
    ("those of the first frame", lambda *a: frames_of(*a, restart=True)),
    ("yours goes on inside it", lambda *a: frames_of(*a, tick=True)),
    ("yours go down the columns", lambda *a: frames_of(*a, down=True)),
    ("on their side", lambda s, f, h, w, n: frames_of(s, f, w, h, n)),
    ("yours is (n, 3)", lambda *a: frames_of(*a).T),
]

# -- the position of the token to come -------------------------------------------------------------------


def walked(step: Callable[[int, int], int], more: int = 0) -> Callable[..., Any]:
    def answer(parts: Any, generated: int) -> int:
        place = more + generated
        for part in parts:
            place += part if isinstance(part, int) else step(part[0] // 2, part[1] // 2)
        return place

    return answer


def by_positions(parts: Any, generated: int) -> Any:
    """By the largest position so far."""
    largest = -1
    for part in [*parts, generated]:
        largest += max(part) // 2 if isinstance(part, tuple) else part
    return largest + 1


def by_delta(parts: Any, generated: int) -> Any:
    pictures = [(part[0] // 2, part[1] // 2) for part in parts if not isinstance(part, int)]
    length = sum(part for part in parts if isinstance(part, int)) + sum(h * w for h, w in pictures)
    delta = sum(max(h, w) - h * w for h, w in pictures)
    return np.array(length + generated + delta)


NEXT: list[Mistake] = [
    ("where counting would be", walked(lambda h, w: h * w)),
    ("that counts patches", walked(lambda h, w: 2 * max(h, w))),
    ("more than one position", walked(lambda h, w: 1)),
    ("yours takes none", walked(lambda h, w: 0)),
    ("the shorter side", walked(min)),
    ("the height of each picture", walked(lambda h, w: h)),
    ("the width of each picture", walked(lambda h, w: w)),
    ("not added", walked(lambda h, w: h + w)),
    ("wanted is the next", walked(max, -1)),
    ("one position free", walked(max, 1)),
    ("stand there already", lambda parts, generated: walked(max)(parts, 0)),
    ("that is the delta", lambda parts, n: walked(max)(parts, n) - walked(lambda h, w: h * w)(parts, n)),
    ("the delta is negative here", walked(lambda h, w: 2 * h * w - max(h, w))),
]

# -- one time line ---------------------------------------------------------------------------------------


def line(
    frames: int, tokens: int, seconds: float, sound: int, *, rate: float = 13, cut: Any = None,
    first: int = 0, each: int | None = None, late: bool = False, a_second: float = 13,
) -> Any:  # fmt: skip
    """Merged by time, with a choice of slips."""
    cut = cut or (lambda t: t)
    video = [(cut(f * seconds * rate), 0) for f in range(frames) for _ in range(each or tokens)]
    begin = video[-1][0] + 1 if late else 0
    heard = [(begin + k * 13 / a_second, 1) for k in range(sound)]
    both = sorted(video + heard, key=lambda p: (p[0], p[1] if first == 0 else -p[1]))
    return np.array(both, dtype=float).T


def apart(frames: int, tokens: int, seconds: float, sound: int) -> tuple[Any, Any]:
    video = np.array([[f * seconds * 13, 0] for f in range(frames) for _ in range(tokens)]).T
    return video, np.array([[k, 1] for k in range(sound)]).T


def in_pieces(*given: Any) -> Any:
    """Two seconds of video, then two seconds of sound, as Qwen2.5-Omni has them."""
    video, heard = apart(*given)
    pieces = []
    for n in range(100):
        pieces += [x[:, (x[0] >= 26 * n) & (x[0] < 26 * (n + 1))] for x in (video, heard)]
    return np.concatenate(pieces, axis=1)


def by_turns(*given: Any) -> Any:
    """As the official loop goes: two pointers."""
    video, heard = (list(x.T) for x in apart(*given))
    found = []
    while video and heard:
        found.append(video.pop(0) if video[0][0] <= heard[0][0] else heard.pop(0))
    return np.array(found + video + heard).T


def by_heap(*given: Any) -> Any:
    video, heard = apart(*given)
    return np.array(list(heapq.merge(map(tuple, video.T), map(tuple, heard.T)))).T


def in_frames(frames: int, tokens: int, seconds: float, sound: int) -> Any:
    return line(frames, tokens, 1.0, sound, rate=1)


ONE_LINE: list[Mistake] = [
    ("yours has 25", lambda *a: line(*a, rate=25)),
    ("at equal times the video goes first", lambda *a: line(*a, first=1)),
    ("the whole video and then the sound", lambda *a: np.concatenate(apart(*a), axis=1)),
    ("the sound and then the whole video", lambda *a: np.concatenate(apart(*a)[::-1], axis=1)),
    ("yours are cut off", lambda *a: line(*a, cut=int)),
    ("yours are rounded", lambda *a: line(*a, cut=round)),
    ("yours is in frames", in_frames),
    ("yours is in seconds", lambda *a: line(*a, rate=1)),
    ("every frame for a second", lambda f, t, s, n: line(f, t, 1.0, n)),
    ("yours has one token a frame", lambda *a: line(*a, each=1)),
    ("0 is video and 1 is sound", lambda *a: [line(*a)[0], 1 - line(*a)[1]]),
    ("not behind it", lambda *a: line(*a, late=True)),
    ("no pieces of two seconds", in_pieces),
    ("one step apart", lambda *a: line(*a, a_second=12.5)),
]

MISTAKES: dict[str, list[Mistake]] = {
    "interleaved": INTERLEAVED,
    "video": VIDEO,
    "next_position": NEXT,
    "one_line": ONE_LINE,
}
ALSO_RIGHT: dict[str, list[Callable[..., Any]]] = {
    "interleaved": [pair_by_pair, by_index],
    "video": [frames_of, frame_and_shift],
    "next_position": [walked(max), by_positions, by_delta],
    "one_line": [line, by_turns, by_heap],
}
