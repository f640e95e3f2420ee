"""Checks of 23_beyond_text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, Wrong, apart, judge
from qwen3_ref.mrope import MERGE, OMNI_IDS_PER_SECOND, grid_positions, pair_axes

Made = tuple[tuple[object, ...], Array, Wrong]


def interleaved(answer: Answer) -> Verdict:
    """answer(section) -> (pairs,) the axis (0, 1, 2) of each pair, interleaved."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            h, w = map(int, rng.choice(np.arange(3, 9), size=2, replace=False))
            t = max(3 * h - 1, 3 * w) - h - w + int(rng.integers(3, 8))
            want = pair_axes([t, h, w], True)
            pairs = len(want)

            def laid(height: slice, width: slice) -> Array:
                axes = np.zeros(pairs)
                axes[height], axes[width] = 1, 2
                return axes

            left, turns = [t, h, w], []
            while sum(left):
                for axis in range(3):
                    if left[axis]:
                        turns.append(axis)
                        left[axis] -= 1
            used = 3 * max(h, w)
            rest_first = np.concatenate([want[used:], want[:used]])
            channels = "that is one value a channel; there is one a pair"
            mistakes: Wrong = [
                ("that is sectioned: each axis in one block", np.repeat([0, 1, 2], [t, h, w])),
                ("you go round to the last pair; height and width end when they have theirs",
                 np.arange(pairs) % 3),
                ("your slices end at pair h and pair w; with steps of 3 they end at 3 h and 3 w",
                 laid(slice(1, h, 3), slice(2, w, 3))),
                ("height turns pair 1 and width pair 2; yours are exchanged",
                 laid(slice(2, 3 * h, 3), slice(1, 3 * w, 3))),
                ("pair 0 is time's, and height's first is pair 1",
                 laid(slice(0, 3 * h, 3), slice(1, 3 * w, 3))),
                ("width ends where height does in yours; it has its own number",
                 laid(slice(1, 3 * h, 3), slice(2, 3 * h, 3))),
                ("height ends where width does in yours; it has its own number",
                 laid(slice(1, 3 * w, 3), slice(2, 3 * w, 3))),
                ("an axis that has all its pairs leaves its places to time; the others keep every third",
                 np.array(turns)),
                ("the pairs that are left go to time at the end; yours stand first", rest_first),
                (channels, np.tile(want, 2)),
                (channels, np.repeat(want, 2)),
                ("you count axes from 1; time is 0", want + 1),
                ("you begin with the slowest pair; pair 0 is the fastest", want[::-1]),
            ]  # fmt: skip
            return ([t, h, w],), want, mistakes

        yield from (apart(make) for _ in range(3))

    return judge(answer, trials)


def video(answer: Answer) -> Verdict:
    """answer(start, frames, height, width, time_tokens): a video for Qwen3-VL, height and width in patches ->
    (3, n) positions: for each frame its time in text, a mark, the frame, a mark."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            start, frames, words = (int(rng.integers(*ends)) for ends in ((3, 20), (2, 4), (2, 6)))
            rows, columns = map(int, rng.choice(np.arange(2, 6), size=2, replace=False))

            def laid(
                step: int = max(rows, columns), before: int = words + 1, after: int = 1, size: int = 1,
                begin: int = start, grid: tuple[int, int] = (rows, columns), count: int = frames,
            ) -> Array:  # fmt: skip
                """Frame by frame, with a choice of slips."""
                blocks, place = [], begin
                for _ in range(count):
                    picture = grid_positions(
                        place + before, np.zeros(1, dtype=int), *(size * n for n in grid)
                    )
                    text = place + np.arange(before), place + before + step + np.arange(after)
                    blocks += [np.tile(text[0], (3, 1)), picture, np.tile(text[1], (3, 1))]
                    place = place + before + step + after
                return np.concatenate(blocks, axis=1)

            want = laid()
            times = np.arange(frames)
            ahead, cube = start + words + 1, grid_positions(start + words + 1, times, rows, columns)
            end = np.full((3, 1), ahead + max(frames, rows, columns))
            run = np.concatenate([np.tile(np.arange(start, ahead), (3, 1)), cube, end], axis=1)
            one = laid(count=1).shape[1]
            inside = np.tile(np.arange(one), frames)
            seen = (inside > words) & (inside < one - 1)
            again, ticking = want.copy(), want.copy()
            again[1:, seen] = np.tile(want[1:, seen][:, : rows * columns], (1, frames))
            ticking[0, seen] += np.tile(np.arange(rows * columns), frames)
            turned = want.reshape(3, frames, one).copy()
            block = turned[:, :, words + 1 : -1].reshape(3, frames, rows, columns)
            turned[:, :, words + 1 : -1] = block.swapaxes(2, 3).reshape(3, frames, -1)
            mistakes: Wrong = [
                ("that is one run of frames; in Qwen3-VL each has its own time and its own marks", run),
                ("the marks are tokens, too: one before each frame, one behind it",
                 laid(before=words, after=0)),
                ("each frame has a mark behind it as well", laid(after=0)),
                ("the time of each frame is text and takes positions", laid(before=1)),
                ("a frame takes as many positions as its longer side, not as it has tokens",
                 laid(step=rows * columns)),
                ("behind a frame text goes on behind its last row and column, not one step on", laid(step=1)),
                ("2 x 2 patches are one token", laid(2 * max(rows, columns), size=2)),
                ("the video begins at start", want - start),
                ("rows and columns begin where the frame begins; yours are those of the first frame", again),
                ("a frame has one time; yours goes on inside it", ticking),
                ("tokens come row by row; yours go down the columns", turned.reshape(3, -1)),
                ("height is given first; you lay the frames on their side", laid(grid=(columns, rows))),
                ("wanted is (3, n), an axis a row; yours is (n, 3)", want.T),
            ]  # fmt: skip
            return (start, frames, MERGE * rows, MERGE * columns, words), want, mistakes

        yield from (apart(make) for _ in range(3))

    return judge(answer, trials)


def next_position(answer: Answer) -> Verdict:
    """answer(parts, generated): parts are numbers of text tokens, or (height, width) in patches; -> the
    position of the token to come, after so many generated ones."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            parts: list[object] = []
            for _ in range(int(rng.integers(2, 4))):
                rows, columns = map(int, rng.choice(np.arange(2, 8), size=2, replace=False))
                parts += [int(rng.integers(2, 9)), (MERGE * rows, MERGE * columns)]
            parts.append(int(rng.integers(2, 9)))
            generated = int(rng.integers(11, 90))
            sizes = [part for part in parts if isinstance(part, tuple)]
            text = sum(part for part in parts if isinstance(part, int))

            def at(*steps: float) -> Array:
                return np.array(text + sum(steps) + generated)

            grids = [(h // MERGE, w // MERGE) for h, w in sizes]
            want = at(*(max(grid) for grid in grids))
            tokens = text + sum(h * w for h, w in grids)
            delta = int(want) - generated - tokens
            mistakes: Wrong = [
                ("that is where counting would be: a picture takes fewer positions than tokens",
                 np.array(tokens + generated)),
                ("that counts patches, and 2 x 2 of them are one token",
                 at(*(max(size) for size in sizes))),
                ("a picture takes more than one position", at(len(grids))),
                ("a picture takes positions, too; yours takes none", at()),
                ("that is the shorter side of each picture", at(*(min(grid) for grid in grids))),
                ("that is the height of each picture; a wide one goes farther", at(*(h for h, _ in grids))),
                ("that is the width of each picture; a tall one goes farther", at(*(w for _, w in grids))),
                ("rows and columns are counted beside each other, not added",
                 at(*(h + w for h, w in grids))),
                ("that is the position of the last token that is there; wanted is the next", want - 1),
                ("that leaves one position free", want + 1),
                ("the tokens that were generated stand there already", want - generated),
                ("that is the delta, not the position", np.array(delta)),
                ("the delta is negative here: add it to the count, do not take it away",
                 np.array(tokens + generated - delta)),
            ]  # fmt: skip
            return (parts, generated), want, mistakes

        yield from (apart(make) for _ in range(3))

    return judge(answer, trials)


def one_line(answer: Answer) -> Verdict:
    """answer(frames, tokens, seconds, sound): a video of so many frames of `tokens` tokens, each `seconds`
    long, with `sound` tokens of sound -> (2, n): times, counted from 0, and 0 for video or 1 for sound."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def merged(video: Array, sound: Array, first: int = 0) -> Array:
            both = np.stack([np.concatenate([video, sound]), np.repeat([0, 1], [len(video), len(sound)])])
            return both[:, np.lexsort([both[1] if first == 0 else -both[1], both[0]])]

        def make() -> Made:
            frames, tokens = int(rng.integers(4, 7)), int(rng.integers(2, 5))
            seconds = float(rng.choice([0.5, 0.7, 1.3, 1.5]))
            sound = int(OMNI_IDS_PER_SECOND * frames * seconds) + int(rng.integers(-2, 3))
            number = np.repeat(np.arange(frames), tokens)
            video, heard = number * seconds * OMNI_IDS_PER_SECOND, np.arange(sound)
            want = merged(video, heard)
            behind = np.concatenate([video, heard]), np.repeat([0, 1], [len(video), sound])
            chunk = 2 * OMNI_IDS_PER_SECOND
            order = np.lexsort([behind[0], behind[1], behind[0] // chunk])
            other = merged(number * seconds * 25, heard)
            mistakes: Wrong = [
                ("a second is 13 steps of time in the released model; yours has 25", other),
                ("at equal times the video goes first; yours lets the sound", merged(video, heard, 1)),
                ("that is the whole video and then the sound; merge them by time", np.stack(behind)),
                ("that is the sound and then the whole video; merge them by time",
                 np.stack([np.concatenate(p) for p in ((heard, video), (1 + 0 * heard, 0 * video))])),
                ("times of frames need not be whole; yours are cut off", merged(np.floor(video), heard)),
                ("times of frames need not be whole; yours are rounded", merged(np.rint(video), heard)),
                ("the time of a frame is in steps of 1/13 second; yours is in frames", merged(number, heard)),
                ("the time of a frame is in steps of 1/13 second; yours is in seconds",
                 merged(number * seconds, heard)),
                ("that takes every frame for a second", merged(number * OMNI_IDS_PER_SECOND, heard)),
                ("every token of a frame has the frame's time; yours has one token a frame",
                 merged(video[::tokens], heard)),
                ("0 is video and 1 is sound; yours are exchanged", np.stack([want[0], 1 - want[1]])),
                ("the sound begins with the video, not behind it", merged(video, heard + video.max() + 1)),
                ("there are no pieces of two seconds in Qwen3-Omni; merge token by token",
                 np.stack(behind)[:, order]),
                ("tokens of sound are one step apart", merged(video, heard * 13 / 12.5)),
            ]  # fmt: skip
            return (frames, tokens, seconds, sound), want, mistakes

        yield from (apart(make) for _ in range(3))

    return judge(answer, trials)
