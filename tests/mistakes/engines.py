"""Of 22_engines."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.mistakes import Mistake


def halves(block: Any) -> tuple[float, Any, Any]:
    (d,) = struct.unpack("<e", bytes(block[:2]))
    pairs = np.asarray(block[2:]).astype(int)
    return d, pairs % 16, pairs // 16


def decoded(
    block: Any, order: str = "apart", minus: float = 8, scale: Callable[[float], float] = float
) -> Any:  # fmt: skip
    d, low, high = halves(block)
    codes = {"apart": np.concatenate([low, high]), "pairs": np.stack([low, high], 1).ravel(),
             "high": np.concatenate([high, low])}[order]  # fmt: skip
    return scale(d) * (codes - minus)


def twos(block: Any) -> Any:
    d, low, high = halves(block)
    codes = np.concatenate([low, high])
    return d * ((codes + 8) % 16 - 8)


def big_endian(block: Any) -> Any:
    _, low, high = halves(block)
    return struct.unpack(">e", bytes(block[:2]))[0] * (np.concatenate([low, high]) - 8)


def from_the_end(block: Any) -> Any:
    _, low, high = halves(block)
    return struct.unpack("<e", bytes(block[-2:]))[0] * (np.concatenate([low, high]) - 8)


Q4: list[Mistake] = [
    ("are 16 apart, not neighbours", lambda b: decoded(b, "pairs")),
    ("the low half of byte j is value j", lambda b: decoded(b, "high")),
    ("stand for -8 to 7", lambda b: decoded(b, minus=0)),
    ("code 8, not 7.5", lambda b: decoded(b, minus=7.5)),
    ("code 8, not 7", lambda b: decoded(b, minus=7)),
    ("not in two's complement", twos),
    ("multiply by the scale", lambda b: decoded(b, scale=lambda d: 1.0)),
    ("the scale multiplies", lambda b: decoded(b, scale=lambda d: 1 / d)),
    ("the scale has a sign", lambda b: decoded(b, scale=abs)),
    ("little-endian", big_endian),
    ("the first two bytes of the block", from_the_end),
    ("should be", lambda b: decoded(b, minus=9)),
]


def one_by_one(block: Any) -> list[float]:
    """In plain Python."""
    (d,) = struct.unpack("<e", bytes(int(v) for v in block[:2]))
    out = [0.0] * 32
    for j in range(16):
        byte = int(block[2 + j])
        out[j], out[j + 16] = d * ((byte & 15) - 8), d * ((byte >> 4) - 8)
    return out


def counted(shapes: Any, block: Any, align: int = 32, vector: float = 4, last: bool = False) -> float:
    at = end = 0.0
    for shape in shapes:
        at = math.ceil(at / align) * align
        at = end = at + (math.prod(shape) * vector if len(shape) == 1 else math.prod(shape) / 32 * block)
    return math.ceil(end / align) * align if last else end


DATA: list[Mistake] = [
    ("fill up before it", lambda s, b: counted(s, b, align=1)),
    ("nothing is filled up behind it", lambda s, b: counted(s, b, last=True)),
    ("vectors are float32", lambda s, b: counted(s, b, vector=b / 32)),
    ("4 bytes a value", lambda s, b: counted(s, b, vector=2)),
    ("not for one", lambda s, b: counted(s, 32 * b)),
    ("has all its experts", lambda s, b: counted([t[-2:] for t in s], b)),
    ("not of 64", lambda s, b: counted(s, b, align=64)),
    ("not of 16", lambda s, b: counted(s, b, align=16)),
    ("the order of the tensors counts", lambda s, b: counted([*s[-1:], *s[:-1]], b)),
    ("matrices are in blocks", lambda s, b: counted(s, 128)),
]


def whole_blocks(shapes: Any, block: Any) -> int:
    """With offsets kept, in whole numbers."""
    offset = 0
    for i, shape in enumerate(shapes):
        size = 4 * shape[0] if len(shape) == 1 else math.prod(shape[:-1]) * (shape[-1] // 32) * int(block)
        offset += size
        if i < len(shapes) - 1:
            offset += -offset % 32
    return offset


def places(a: Any, b: Any) -> Any:
    return np.flatnonzero(a.argmax(1) != b.argmax(1))


def gap(a: Any, n: int) -> float:
    best = np.sort(a[n])
    return float(best[-1] - best[-2])


def parted(a: Any, b: Any, which: int = 0, by: Any = None, plus: int = 0) -> tuple[float, float]:
    found = places(a, b)
    if len(found) == 0:
        return -1, 0
    n = int(found[which])
    return n + plus, by(a, b, n) if by else gap(a, n)


def at(n: int, a: Any) -> tuple[float, float]:
    return n, gap(a, n)


PART: list[Mistake] = [
    ("not the last", lambda a, b: parted(a, b, which=-1)),
    ("a's, not b's", lambda a, b: parted(a, b, by=lambda a, b, n: gap(b, n))),
    ("least sure", lambda a, b: at(int(np.argmin([gap(a, n) for n in range(len(a))])), a)),
    ("may still choose alike", lambda a, b: at(int(np.abs(a - b).max(1).argmax()), a)),
    ("count from 0", lambda a, b: parted(a, b, plus=1)),
    ("at that position", lambda a, b: parted(a, b, by=lambda a, b, n: min(gap(a, m) for m in range(len(a))))),
    ("of a alone", lambda a, b: parted(a, b, by=lambda a, b, n: np.abs(a - b)[n].max())),
    ("not a logit", lambda a, b: parted(a, b, by=lambda a, b, n: a[n].max())),
    ("not the smallest", lambda a, b: parted(a, b, by=lambda a, b, n: a[n].max() - a[n].min())),
    ("-1 and 0", lambda a, b: parted(a, b) if len(places(a, b)) else (len(a), 0)),
]


def step_by_step(a: Any, b: Any) -> list[float]:
    """Position after position."""
    for n, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        if x.index(max(x)) != y.index(max(y)):
            first, second = sorted(x, reverse=True)[:2]
            return [float(n), first - second]
    return [-1.0, 0.0]


def layers(config: Any, weights: Any, tensors: Any, ours: str, theirs: str) -> list[tuple[Any, Any]]:
    return [
        (weights[f"model.layers.{i}.{ours}.weight"], tensors[f"blk.{i}.{theirs}.weight"])
        for i in range(config["num_hidden_layers"])
    ]


def found(
    keys: Any, tensors: Any, config: Any, weights: Any, *, some: Callable[..., bool] = any,
    only: slice = slice(None), width: str = "right", same: Callable[[Any, Any], bool] = np.array_equal,
) -> list[bool]:  # fmt: skip
    gates = layers(config, weights, tensors, "mlp.gate_proj", "ffn_gate")[only]
    queries = layers(config, weights, tensors, "self_attn.q_proj", "attn_q")[only]
    default = config["hidden_size"] // config["num_attention_heads"]
    key = keys.get("qwen3.attention.key_length")
    head = {
        "right": (key if key is not None else default) != config["head_dim"],
        "missing is wrong": key != config["head_dim"],
        "present is right": key is None and default != config["head_dim"],
        "missing is right": key is not None and key != config["head_dim"],
        "never": False,
    }[width]
    return [
        some(not same(a, b) for a, b in gates),
        some(not same(a, b) for a, b in queries),
        head,
        keys["tokenizer.ggml.eos_token_id"] != config["eos_token_id"],
    ]


def less(place: int) -> Callable[..., list[bool]]:
    def answer(*given: Any) -> list[bool]:
        result = found(*given)
        result[place] = False
        return result

    return answer


def by_sums(keys: Any, tensors: Any, config: Any, weights: Any) -> list[bool]:
    result = found(keys, tensors, config, weights)
    result[1] = found(keys, tensors, config, weights, same=lambda a, b: np.isclose(a.sum(), b.sum()))[1]
    return result


FAULTS: list[Mistake] = [
    ("compare their values", less(0)),
    ("not only in the first", lambda *g: found(*g, only=slice(0, 1))),
    ("not only in the last", lambda *g: found(*g, only=slice(-1, None))),
    ("one layer is enough", lambda *g: found(*g, some=all)),
    ("one by one", by_sums),
    ("one by one", less(1)),
    ("which may be right", lambda *g: found(*g, width="missing is wrong")),
    ("may be wrong", lambda *g: found(*g, width="present is right")),
    ("has a default, which may be wrong", lambda *g: found(*g, width="missing is right")),
    ("has to be the config's head_dim", lambda *g: found(*g, width="never")),
    ("the config's eos_token_id", less(3)),
]


def with_up(keys: Any, tensors: Any, config: Any, weights: Any) -> tuple[Any, ...]:
    """By up's values, and with NumPy's truth."""
    ups = layers(config, weights, tensors, "mlp.up_proj", "ffn_up")
    others = found(keys, tensors, config, weights)
    return (np.any([not np.allclose(a, b) for a, b in ups]), *others[1:])


MISTAKES: dict[str, list[Mistake]] = {
    "values_of_q4_0": Q4,
    "data_bytes": DATA,
    "where_they_part": PART,
    "faults_of": FAULTS,
}
ALSO_RIGHT: dict[str, list[Callable[..., Any]]] = {
    "values_of_q4_0": [decoded, one_by_one],
    "data_bytes": [counted, whole_blocks],
    "where_they_part": [parted, step_by_step],
    "faults_of": [found, with_up],
}
