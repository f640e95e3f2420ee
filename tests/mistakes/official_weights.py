"""Of 07_official_weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.mistakes import Mistake

WIDTH = {"BF16": 2, "F32": 4, "F64": 8}


def begin(entry: Any) -> int:
    return int(entry["data_offsets"][0])


def item(entry: Any, i: int, j: int) -> int:
    return (i * int(entry["shape"][1]) + j) * WIDTH[entry["dtype"]]


def shifted(x: Any, extra: int) -> Any:
    return (x.view(np.uint32) + extra & np.uint32(0xFFFF0000)).view(np.float32)


def bits(x: Any) -> Any:
    whole = x.view(np.uint32)
    return (whole + 0x7FFF + (whole >> 16 & 1)) >> 16


def rounded_by_torch(x: Any) -> Any:
    return torch.from_numpy(x.copy()).to(torch.bfloat16).to(torch.float32).numpy()


def read(entries: Any, **wrong: Any) -> list[int]:
    """The right seven numbers, with some of them replaced by wrong(shape of name)."""

    def shape(name: str) -> Any:
        return entries[name if name in entries else f"model.layers.0.{name}.weight"]["shape"]

    d = shape("self_attn.q_norm")[0]
    layers = {name.split(".")[2] for name in entries if ".layers." in name}
    right = {
        "hidden": shape("model.embed_tokens.weight")[1],
        "layers": len(layers),
        "heads": shape("self_attn.q_proj")[0] // d,
        "kv": shape("self_attn.k_proj")[0] // d,
        "d": d,
        "F": shape("mlp.gate_proj")[0],
        "tied": int("lm_head.weight" not in entries),
    }
    return list((right | {name: value(shape, right, layers) for name, value in wrong.items()}).values())


def experts(tensors: Any, part: str, order: Any) -> Any:
    return np.stack([tensors[f"model.layers.0.mlp.experts.{e}.{part}_proj.weight"] for e in order])


def packed(tensors: Any, order: Any, first: str = "gate", second: str = "up") -> Any:
    return np.concatenate([experts(tensors, first, order), experts(tensors, second, order)], axis=1)


def found(tensors: Any) -> list[str]:
    return list(dict.fromkeys(name.split(".")[5] for name in tensors))


def alternating(tensors: Any, count: int) -> Any:
    pair = np.stack([experts(tensors, part, range(count)) for part in ("gate", "up")], axis=2)
    return pair.reshape(count, -1, pair.shape[-1])


def gaps(got: Any, want: Any) -> list[Any]:
    return [np.abs(a - b) for a, b in zip(got, want, strict=True)]


def first(flags: Any) -> int:
    kept = [*flags, True]
    return kept.index(True)


def first_or_minus_one(got: Any, want: Any, tolerance: float) -> int:
    """For lists that all agree, -1 would be wrong too; a NaN comes first."""
    found = [i for i, gap in enumerate(relative(got, want)) if gap.max() > tolerance]
    return found[0] if found else -1


def relative(got: Any, want: Any) -> list[Any]:
    return [gap / np.sqrt(np.mean(b**2)) for gap, b in zip(gaps(got, want), want, strict=True)]


def right_parting(got: Any, want: Any, tolerance: float) -> int:
    return first(not gap.max() <= tolerance for gap in relative(got, want))


ADDRESS: list[Mistake] = [
    ("the file begins with 8 bytes", lambda n, e, i, j: n + begin(e) + item(e, i, j)),
    ("count from the end of the header, not of the file", lambda n, e, i, j: begin(e) + item(e, i, j)),
    ("add its length too", lambda n, e, i, j: 8 + begin(e) + item(e, i, j)),
    ("you count elements", lambda n, e, i, j: 8 + n + begin(e) + i * e["shape"][1] + j),
    ("that is where the tensor begins", lambda n, e, i, j: 8 + n + begin(e)),
    (
        "you go down the columns",
        lambda n, e, i, j: 8 + n + begin(e) + (j * e["shape"][0] + i) * WIDTH[e["dtype"]],
    ),
    (
        "a row has shape[1] elements",
        lambda n, e, i, j: 8 + n + begin(e) + (i * e["shape"][0] + j) * WIDTH[e["dtype"]],
    ),
    ("you start at the tensor's end", lambda n, e, i, j: 8 + n + e["data_offsets"][1] + item(e, i, j)),
    ("depend on the dtype", lambda n, e, i, j: 8 + n + begin(e) + 2 * (i * e["shape"][1] + j)),
    ("depend on the dtype", lambda n, e, i, j: 8 + n + begin(e) + 4 * (i * e["shape"][1] + j)),
    ("i and j count from 0", lambda n, e, i, j: 8 + n + begin(e) + item(e, i - 1, j - 1)),
    (
        "offsets are bytes already",
        lambda n, e, i, j: 8 + n + (begin(e) + i * e["shape"][1] + j) * WIDTH[e["dtype"]],
    ),
    ("holds the padding already", lambda n, e, i, j: 8 + n + -n % 16 + begin(e) + item(e, i, j)),
]
BFLOAT16: list[Mistake] = [
    ("you cut the lower half off", lambda x: shifted(x, 0)),
    ("right but for exact halves", lambda x: shifted(x, 0x8000)),
    ("right but for exact halves", lambda x: shifted(x, 0x7FFF)),
    ("you always round away from zero", lambda x: shifted(x, 0xFFFF)),
    ("comes back as it was", lambda x: x),
    ("you round to a fixed step", lambda x: np.round(x * 256) / 256),
    ("those are float16 numbers", lambda x: x.astype(np.float16)),
    ("you return bits", bits),
    ("that lets torch round", rounded_by_torch),
    ("that lets torch round", lambda x: torch.tensor(x).bfloat16()),
]
SIZES: list[Mistake] = [
    ("head_dim is not hidden_size / heads", lambda e: read(e, d=lambda s, r, n: r["hidden"] // r["heads"])),
    (
        "hidden_size / head_dim is something else",
        lambda e: read(e, heads=lambda s, r, n: r["hidden"] // r["d"]),
    ),
    ("the number is the highest index plus 1", lambda e: read(e, layers=lambda s, r, n: max(map(int, n)))),
    ("compare layer numbers as integers", lambda e: read(e, layers=lambda s, r, n: int(max(n)) + 1)),
    ("compare layer numbers as integers", lambda e: read(e, layers=lambda s, r, n: int(max(n)))),
    ("that many tensors, not layers", lambda e: read(e, layers=lambda s, r, n: len(e))),
    (
        "you have heads and KV heads exchanged",
        lambda e: read(e, heads=lambda s, r, n: r["kv"], kv=lambda s, r, n: r["heads"]),
    ),
    (
        "divide by head_dim",
        lambda e: read(
            e, heads=lambda s, r, n: s("self_attn.q_proj")[0], kv=lambda s, r, n: s("self_attn.k_proj")[0]
        ),
    ),
    ("gate_proj is (intermediate, hidden)", lambda e: read(e, F=lambda s, r, n: s("mlp.gate_proj")[1])),
    (
        "embed_tokens is (vocabulary, hidden)",
        lambda e: read(e, hidden=lambda s, r, n: s("model.embed_tokens.weight")[0]),
    ),
    ("how many share one", lambda e: read(e, kv=lambda s, r, n: r["heads"] // r["kv"])),
    (
        "its rows are heads * head_dim",
        lambda e: read(e, hidden=lambda s, r, n: s("self_attn.q_proj")[0]),
    ),
    ("up_proj is another matrix", lambda e: read(e, F=lambda s, r, n: s("mlp.gate_proj")[0] * 2)),
    ("tied is the wrong way round", lambda e: read(e, tied=lambda s, r, n: int("lm_head.weight" in e))),
]
STACK: list[Mistake] = [
    ("gate and up are exchanged", lambda t, E: packed(t, range(E), "up", "gate")),
    ("in the order of text, where 10 comes before 2", lambda t, E: packed(t, sorted(found(t)))),
    ("in the order they were found in", lambda t, E: packed(t, found(t))),
    ("your rows alternate", alternating),
    ("you return (E, D, 2F)", lambda t, E: packed(t, range(E)).swapaxes(1, 2)),
    (
        "you transposed with reshape",
        lambda t, E: packed(t, range(E)).swapaxes(1, 2).reshape(packed(t, range(E)).shape),
    ),
    ("gate again", lambda t, E: packed(t, range(E), "gate", "gate")),
    (
        "your ups are not",
        lambda t, E: np.concatenate(
            [experts(t, "gate", range(E)), experts(t, "up", sorted(range(E), key=str))], axis=1
        ),
    ),
    ("in descending order", lambda t, E: packed(t, range(E - 1, -1, -1))),
    ("that is the gate alone", lambda t, E: experts(t, "gate", range(E))),
    (
        "you put all gates before all ups",
        lambda t, E: np.concatenate([experts(t, part, range(E)) for part in ("gate", "up")]).reshape(
            packed(t, range(E)).shape
        ),
    ),
]


def sized(a: Any, b: Any) -> Any:
    return np.sqrt(np.mean((a - b) ** 2) / np.mean(b * b))


PARTING: list[Mistake] = [
    ("you ask for equality", lambda got, want, tol: first(gap.any() for gap in gaps(got, want))),
    (
        "a difference means nothing without the size",
        lambda got, want, tol: first(not gap.max() <= tol for gap in gaps(got, want)),
    ),
    (
        "where the difference is largest",
        lambda got, want, tol: int(np.argmax([gap.max() for gap in relative(got, want)])),
    ),
    (
        "you divide element by element",
        lambda got, want, tol: first(not np.allclose(*p, rtol=tol) for p in zip(got, want, strict=True)),
    ),
    ("that is the last part that agrees", lambda got, want, tol: right_parting(got, want, tol) - 1),
    ("you count from 1", lambda got, want, tol: right_parting(got, want, tol) + 1),
    (
        "the last part that differs",
        lambda got, want, tol: max(i for i, gap in enumerate(relative(got, want)) if gap.max() > tol),
    ),
    (
        "lets NaN through",
        lambda got, want, tol: first(gap.max() > tol for gap in relative(got, want)),
    ),
    ("at a NaN any comparison is False", first_or_minus_one),
    (
        "one number is enough",
        lambda got, want, tol: first(not sized(*p) <= tol for p in zip(got, want, strict=True)),
    ),
    (
        "one number is enough",
        lambda got, want, tol: first(
            not np.abs(a - b).max() <= tol * np.abs(b).max() for a, b in zip(got, want, strict=True)
        ),
    ),
    (
        "one number is enough",
        lambda got, want, tol: first(not gap.mean() <= tol for gap in relative(got, want)),
    ),
    (
        "lets NaN through",
        lambda got, want, tol: first(
            np.nanmax(np.abs(a - b)) > tol * np.sqrt(np.mean(b * b)) for a, b in zip(got, want, strict=True)
        ),
    ),
    ("lets NaN through", lambda got, want, tol: right_parting([np.nan_to_num(a) for a in got], want, tol)),
    (
        "no spread about its mean",
        lambda got, want, tol: first(
            not np.abs(a - b).max() <= tol * b.std() for a, b in zip(got, want, strict=True)
        ),
    ),
    (
        "within the tolerance",
        lambda got, want, tol: first(
            not np.abs(a - b).max() <= tol * np.abs(b).mean() for a, b in zip(got, want, strict=True)
        ),
    ),
    (
        "whatever its sign",
        lambda got, want, tol: first(
            not (a - b).max() <= tol * np.sqrt(np.mean(b * b)) for a, b in zip(got, want, strict=True)
        ),
    ),
    (
        "against the rms of the part alone",
        lambda got, want, tol: first(
            not np.allclose(a, b, rtol=tol, atol=tol * np.sqrt(np.mean(b * b)))
            for a, b in zip(got, want, strict=True)
        ),
    ),
    ("later parts may agree again", lambda got, want, tol: sum(g.max() <= tol for g in relative(got, want))),
    (
        "within the tolerance",
        lambda got, want, tol: first(not gap.max() <= tol / 2 for gap in relative(got, want)),
    ),
    (
        "one number is enough",
        lambda got, want, tol: first(
            not np.abs(a - b).max() <= tol * np.linalg.norm(b) for a, b in zip(got, want, strict=True)
        ),
    ),
]
MISTAKES = {
    "address": ADDRESS,
    "bfloat16": BFLOAT16,
    "sizes": SIZES,
    "stack": STACK,
    "parting": PARTING,
}


def address_by_strides(length: int, entry: Any, i: int, j: int) -> int:
    """NumPy's own strides of a table of such items."""
    strides = np.empty(entry["shape"], dtype=f"V{WIDTH[entry['dtype']]}").strides
    return 8 + length + begin(entry) + i * strides[0] + j * strides[1]


def address_from_the_end(length: int, entry: Any, i: int, j: int) -> int:
    rows, columns = entry["shape"]
    after = (rows - i) * columns - j
    return 8 + length + int(entry["data_offsets"][1]) - after * WIDTH[entry["dtype"]]


def rounded_significand(x: Any) -> Any:
    """Eight bits of the significand, by NumPy's rounding of halves to even."""
    part, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(part * 256) / 256, exponent)


def rounded_by_halves(x: Any) -> Any:
    """The upper half, one more where the lower half is past the middle or the tie is odd."""
    upper, lower = np.divmod(x.view(np.uint32).astype(np.int64), 1 << 16)
    upper += (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
    return (upper << 16).astype(np.uint32).view(np.float32)


def sizes_from_products(entries: Any) -> list[int]:
    """Everything but head_dim from other tensors than the usual ones."""
    block = "model.layers.1."
    d = entries[block + "self_attn.k_norm.weight"]["shape"][0]
    hidden, width = entries[block + "self_attn.o_proj.weight"]["shape"]
    values = entries[block + "self_attn.v_proj.weight"]["shape"][0]
    inner = entries[block + "mlp.down_proj.weight"]["shape"][1]
    layers = len({tuple(name.split(".")[:3]) for name in entries if name.startswith("model.layers.")})
    return [hidden, layers, width // d, values // d, d, inner, 1 - ("lm_head.weight" in entries)]


def stacked_into(tensors: Any, num_experts: int) -> Any:
    """Written into an empty array, part by part."""
    name = "model.layers.0.mlp.experts.{}.{}_proj.weight".format
    F, D = tensors[name(0, "gate")].shape
    out = np.empty((num_experts, 2 * F, D))
    for e in range(num_experts):
        out[e, :F], out[e, F:] = tensors[name(e, "gate")], tensors[name(e, "up")]
    return out


def parting_by_norm(got: Any, want: Any, tolerance: float) -> int:
    agree = [
        bool((np.abs(a - b) <= tolerance * np.linalg.norm(b) / b.size**0.5).all())
        for a, b in zip(got, want, strict=True)
    ]
    return [*agree, False].index(False)


ALSO_RIGHT = {
    "address": [address_by_strides, address_from_the_end],
    "bfloat16": [rounded_significand, rounded_by_halves],
    "sizes": [sizes_from_products, read],
    "stack": [stacked_into, lambda t, E: packed(t, range(E))],
    "parting": [
        parting_by_norm,
        lambda got, want, tol: first(not gap.max() <= tol for gap in relative(got, want)),
    ],
}
