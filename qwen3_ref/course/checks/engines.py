"""Checks of 22_engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Trial, Verdict, Wrong, apart, judge

Made = tuple[tuple[Any, ...], np.ndarray[Any, Any], Wrong]


def values_of_q4_0(answer: Answer) -> Verdict:
    """answer(block of 18 bytes) -> the 32 values of a block of Q4_0."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            scale = np.float16(rng.uniform(0.1, 2.0) * rng.choice([-1, 1]))
            pairs = rng.integers(0, 256, 16, dtype=np.uint8)
            block = np.concatenate([np.frombuffer(scale.tobytes(), np.uint8), pairs])
            low, high = (pairs & 15).astype(int), (pairs >> 4).astype(int)
            codes, d = np.concatenate([low, high]), float(scale)
            (turned,) = np.frombuffer(scale.tobytes()[::-1], np.float16)
            signed = np.where(codes > 7, codes - 16, codes)
            (behind,) = np.frombuffer(block[-2:].tobytes(), np.float16)
            if not 1e-3 < abs(float(turned)) < 1e3 or not 1e-3 < abs(float(behind)) < 1e3:
                return (block,), d * (codes - 8), [("drawn again", d * (codes - 8))]
            wrong = [
                ("codes that share a byte are 16 apart, not neighbours",
                 d * (np.stack([low, high], 1).ravel() - 8)),
                ("the low half of byte j is value j, the high half value j + 16",
                 d * (np.concatenate([high, low]) - 8)),
                ("codes are 0 to 15 and stand for -8 to 7: take 8 off", d * codes),
                ("the middle of the grid is code 8, not 7.5", d * (codes - 7.5)),
                ("the middle of the grid is code 8, not 7", d * (codes - 7)),
                ("codes are not in two's complement; take 8 off", d * signed),
                ("multiply by the scale, the first two bytes as a float16", codes - 8),
                ("the scale multiplies", (codes - 8) / d),
                ("the scale has a sign, and it counts", abs(d) * (codes - 8)),
                ("the scale's two bytes are little-endian", float(turned) * (codes - 8)),
                ("the scale is the first two bytes of the block",
                 float(behind) * (codes - 8)),
            ]  # fmt: skip
            return (block,), d * (codes - 8), [(r, np.asarray(v, float)) for r, v in wrong]

        for _ in range(4):
            yield apart(make)

    return judge(answer, trials)


def data_bytes(answer: Answer) -> Verdict:
    """answer(shapes, block) -> bytes of a file's data: matrices in blocks of 32 values, vectors in float32,
    each tensor at a multiple of 32 bytes."""

    def count(shapes: list[tuple[int, ...]], block: float, *, align: int = 32, last: bool = False,
              vector: float = 4.0, stacks: bool = True, by_row: bool = False) -> float:  # fmt: skip
        at = end = 0.0
        for shape in shapes:
            at = float(-(-at // align) * align)
            size = float(np.prod(shape))
            if len(shape) == 3 and not stacks:
                size /= shape[0]
            taken = size * vector if len(shape) == 1 else size / 32 * block
            at = end = at + (float(-(-taken // align) * align) if by_row else taken)
        return float(-(-end // align) * align) if last else end

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make() -> Made:
            block = int(rng.choice([18, 20, 22, 24, 34]))
            shapes: list[tuple[int, ...]] = []
            for _ in range(int(rng.integers(3, 6))):
                shapes.append((int(rng.integers(3, 20)) * 2 + 1,))
                shapes.append((int(rng.integers(3, 30)) * 2 + 1, 32 * int(rng.integers(1, 4))))
            shapes.append((int(rng.integers(3, 5)), 5, 32 * int(rng.integers(1, 3))))
            shapes.append((int(rng.integers(3, 20)) * 2 + 1,))
            turned = shapes[-1:] + shapes[:-1]
            plain = sum(np.prod(s) * 4 if len(s) == 1 else np.prod(s) / 32 * block for s in shapes)
            wrong = [
                ("each tensor begins at a multiple of 32 bytes: fill up before it", plain),
                ("the data end with the last tensor's last byte; nothing is filled up behind it",
                 count(shapes, block, last=True)),
                ("vectors are float32", count(shapes, block, vector=block / 32)),
                ("vectors are float32: 4 bytes a value", count(shapes, block, vector=2)),
                ("`block` is bytes for 32 values, not for one", count(shapes, 32 * block)),
                ("a stack of experts has all its experts", count(shapes, block, stacks=False)),
                ("data begin at multiples of 32, not of 64", count(shapes, block, align=64)),
                ("data begin at multiples of 32, not of 16", count(shapes, block, align=16)),
                ("the order of the tensors counts: the padding hangs on it", count(turned, block)),
                ("matrices are in blocks, not in float32", count(shapes, 128)),
            ]  # fmt: skip
            return (shapes, block), np.asarray(count(shapes, block)), [(r, np.asarray(v)) for r, v in wrong]

        for _ in range(4):
            yield exactly_apart(make)

    return judge(answer, trials)


def exactly_apart(make: Any) -> Trial:
    """`apart` for whole numbers that differ by little: all differ, and are compared to within half."""
    for _ in range(20_000):
        arguments, want, mistakes = make()
        values = [float(want), *(float(value) for _, value in mistakes)]
        pairs = [(a, b) for i, a in enumerate(values) for b in values[:i]]
        if all(abs(a - b) > 1 + 3e-4 * min(a, b) for a, b in pairs):
            return Trial(arguments, want, mistakes, tolerance=0.5)
    raise AssertionError("no inputs tell these mistakes apart")


def where_they_part(answer: Answer) -> Verdict:
    """answer(a, b) -> (the first position where two engines choose otherwise, a's margin there); (-1, 0)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(never: bool) -> Made:
            t, V = int(rng.integers(9, 14)), int(rng.integers(6, 10))
            a = rng.normal(size=(t, V)) * 3
            b = a + rng.normal(size=(t, V)) * 0.1
            places = sorted(rng.choice(np.arange(2, t), 3, replace=False))
            for place in range(t):
                order = np.argsort(a[place])
                b[place, order[-1]] = a[place, order[-1]] + 2.0
                if place in places and not never:
                    b[place, order[-2]] = b[place, order[-1]] + rng.uniform(0.4, 0.9)
            best = np.sort(a, 1)
            margin, theirs = best[:, -1] - best[:, -2], np.sort(b, 1)[:, -1] - np.sort(b, 1)[:, -2]
            n = places[0]
            moved = int(np.abs(a - b).max(1).argmax())
            sure = int(margin.argmin())

            def pair(place: float, value: float) -> np.ndarray[Any, Any]:
                return np.array([place, value], float)

            wrong = [
                ("where a is least sure they need not part", pair(sure, margin[sure])),
                ("where logits differ most they may still choose alike", pair(moved, margin[moved])),
            ]
            if never:
                wrong.append(("if they never differ, the answer is -1 and 0", pair(t, 0)))
                return (a, b), pair(-1, 0), wrong
            wrong += [
                ("the first place counts, not the last", pair(places[-1], margin[places[-1]])),
                ("the margin is a's, not b's", pair(n, theirs[n])),
                ("positions count from 0", pair(n + 1, margin[n])),
                ("the margin is the largest less the second, at that position", pair(n, margin.min())),
                ("the margin is of a alone: how far its own two best are apart",
                 pair(n, np.abs(a - b)[n].max())),
                ("the margin is a difference of two logits, not a logit", pair(n, best[n, -1])),
                ("the second is the next largest, not the smallest", pair(n, best[n, -1] - best[n, 0])),
            ]  # fmt: skip
            return (a, b), pair(n, margin[n]), wrong

        for never in (False, True, False, False):
            yield apart(lambda never=never: make(never))  # type: ignore[misc]

    return judge(answer, trials)


def faults_of(answer: Answer) -> Verdict:
    """answer(keys, tensors, config, weights) -> four truth values: gate and up swapped, q in another order,
    a wrong width of heads, a wrong end."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        def make(faults: tuple[bool, bool, bool, bool], key: str, where: str) -> Trial:
            heads, D, F, L = int(rng.integers(2, 4)) * 2, 24, 12, int(rng.integers(3, 5))
            square = key == "default is right"
            d = D // heads if square else 8
            ends = [int(v) for v in rng.choice(1000, 2, replace=False)]
            config = {"hidden_size": D, "num_attention_heads": heads, "head_dim": d,
                      "num_hidden_layers": L, "eos_token_id": ends[0]}  # fmt: skip
            names = {"self_attn.q_proj": ("attn_q", (heads * d, D)),
                     "self_attn.k_proj": ("attn_k", (2 * d, D)),
                     "mlp.gate_proj": ("ffn_gate", (F, D)), "mlp.up_proj": ("ffn_up", (F, D)),
                     "mlp.down_proj": ("ffn_down", (D, F))}  # fmt: skip
            weights, tensors = {}, {}
            for layer in range(L):
                for name, (theirs, shape) in names.items():
                    value = rng.normal(size=shape)
                    weights[f"model.layers.{layer}.{name}.weight"] = value
                    tensors[f"blk.{layer}.{theirs}.weight"] = value.copy()
            hit = {"first": [0], "last": [L - 1], "all": list(range(L))}[where]
            for layer in hit:
                if faults[0]:
                    gate, up = f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.ffn_up.weight"
                    tensors[gate], tensors[up] = tensors[up], tensors[gate]
                if faults[1]:
                    q = tensors[f"blk.{layer}.attn_q.weight"]
                    tensors[f"blk.{layer}.attn_q.weight"] = (
                        q.reshape(heads, 2, d // 2, D).swapaxes(1, 2).reshape(heads * d, D)
                    )
            keys = {"general.architecture": "qwen3", "qwen3.block_count": L,
                    "qwen3.embedding_length": D, "qwen3.attention.head_count": heads,
                    "tokenizer.ggml.eos_token_id": ends[1] if faults[3] else ends[0]}  # fmt: skip
            if key == "right" or key == "wrong":
                keys["qwen3.attention.key_length"] = d if key == "right" else d + 2
            missing = "qwen3.attention.key_length" not in keys
            want = np.array(faults, float)

            def but(place: int, value: object) -> np.ndarray[Any, Any]:
                changed = want.copy()
                changed[place] = float(bool(value))
                return changed

            first_layer, last_layer, every = want.copy(), want.copy(), want.copy()
            first_layer[:2] *= where != "last"
            last_layer[:2] *= where != "first"
            every[:2] *= where == "all"
            wrong = [
                ("gate and up have one shape: compare their values", but(0, False)),
                ("the fault may be in any layer, not only in the first", first_layer),
                ("the fault may be in any layer, not only in the last", last_layer),
                ("one layer is enough", every),
                ("rows in another order have the same sum and the same shape: compare them one by one",
                 but(1, False)),
                ("without the key, llama.cpp takes hidden_size / num_attention_heads, which may be right",
                 but(2, missing or faults[2])),
                ("a key that is there may be wrong", but(2, faults[2] and missing)),
                ("a key that is missing has a default, which may be wrong",
                 but(2, faults[2] and not missing)),
                ("the end is the config's eos_token_id", but(3, False)),
                ("key_length has to be the config's head_dim", but(2, False)),
            ]  # fmt: skip
            return Trial((keys, tensors, config, weights), want, wrong)

        some: list[tuple[tuple[bool, bool, bool, bool], str, str]] = [
            ((False, False, False, False), "right", "all"),
            ((True, False, False, False), "default is right", "last"),
            ((False, True, True, False), "missing", "first"),
            ((False, True, False, True), "right", "last"),
            ((True, False, True, True), "wrong", "all"),
            ((False, False, False, True), "default is right", "all"),
            ((True, True, False, False), "right", "first"),
        ]
        for i in rng.permutation(len(some)):
            yield make(*some[i])

    return judge(answer, trials, whole=True)
