"""Checks of 07_official_weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3_ref.course.checks.judge import Answer, Array, Trial, Verdict, habits, judge

WIDTHS = {"BF16": 2, "F32": 4, "F64": 8}
# All numbers of this exercise are small, since answers are compared to four digits.
WRONG_ADDRESSES = (
    "the file begins with 8 bytes that hold the header's length; you left them out",
    "data_offsets count from the end of the header, not of the file",
    "data_offsets count from the end of the header; add its length too",
    "you count elements; multiply by the bytes of one, which depend on the dtype",
    "that is where the tensor begins, not its element [i, j]",
    "you go down the columns; files are written row by row",
    "a row has shape[1] elements, not shape[0]",
    "you start at the tensor's end; data_offsets are (begin, end)",
)


def address(answer: Answer) -> Verdict:
    """answer(header_length, entry, i, j) -> the byte of the file at which element [i, j] begins."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for dtype, width in WIDTHS.items():
            values: list[int] = []
            others: list[tuple[str, int]] = []
            while len({*values, *(value for _, value in others)}) <= len(WRONG_ADDRESSES) + len(others):
                rows, columns = map(int, rng.permutation([5, 7, 11])[:2])  # until all give another byte
                i, j = int(rng.integers(1, rows)), int(rng.integers(1, columns))
                header, begin = int(16 * rng.integers(10, 20) + 8), int(8 * rng.integers(3, 30))
                size = rows * columns * width
                start, item = 8 + header + begin, i * columns + j
                want = start + item * width
                values = [want, want - 8, begin + item * width, want - header, start + item, start]
                values += [start + (j * rows + i) * width, start + (i * rows + j) * width, want + size]
                others = [
                    ("the bytes of one number depend on the dtype: 2, 4 or 8", start + item * other)
                    for other in (2, 4)
                    if other != width
                ]
                times = begin * (width - 1)
                others += [
                    ("i and j count from 0", want - (columns + 1) * width),
                    ("offsets are bytes already; only the elements before it are multiplied", want + times),
                    ("header_length holds the padding already", want + 8),
                ]
            entry = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [begin, begin + size]}
            named = [*zip(WRONG_ADDRESSES, values[1:], strict=True), *others]
            mistakes = [(remark, np.array(float(value))) for remark, value in named]
            yield Trial((header, entry, i, j), np.array(float(want)), mistakes)

    return judge(answer, trials)


def bfloat16(answer: Answer) -> Verdict:
    """answer(x): x float32 (n,) -> x rounded to the nearest bfloat16, halves to even, as float32 (n,)."""
    if "bfloat16" in habits(answer):
        return Verdict(False, "that lets torch round; here the bits are yours to work on")

    def upper(bits: Array) -> Array:
        return (bits & np.uint32(0xFFFF0000)).view(np.float32)

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        odd_ones = "right but for exact halves: those go to the neighbour whose last bit is 0"
        for scale in (0.02, 30.0):
            x = (scale * rng.normal(size=24)).astype(np.float32)
            bits = x.view(np.uint32).copy()
            bits[:8] = bits[:8] & 0xFFFF0000 | 0x8000  # exact halves, above even and above odd
            bits[:4] &= ~np.uint32(1 << 16)
            bits[4:8] |= np.uint32(1 << 16)
            bits[8:16] = bits[8:16] & 0xFFFF0000 | rng.integers(0x8100, 0xFFFF, 8).astype(np.uint32)
            bits[16] |= 0x7FFFFF  # all ones: rounding carries into the exponent
            bits[17:] = bits[17:] & 0xFFFF0000 | rng.integers(1, 0x7F00, 7).astype(np.uint32)
            x = bits.view(np.float32)
            last = bits >> 16 & 1
            want = upper(bits + 0x7FFF + last)
            mistakes = [
                ("you cut the lower half off; round to the nearest, or weights shrink", upper(bits)),
                (odd_ones, upper(bits + 0x8000)),
                (odd_ones, upper(bits + 0x7FFF)),
                ("you always round away from zero", upper(bits + 0xFFFF)),
                ("your x comes back as it was", x),
                (
                    "you round to a fixed step; that of bfloat16 grows with the number, which keeps 8 bits",
                    np.round(x * 256) / 256,
                ),
                ("those are float16 numbers; bfloat16 keeps 8 bits of exponent", x.astype(np.float16)),
                ("you return bits; shift them up again and view as float32", (bits + 0x7FFF + last) >> 16),
            ]
            typed = [(remark, np.asarray(wrong, dtype=np.float64)) for remark, wrong in mistakes]
            yield Trial((x,), want.astype(np.float64), typed, 1e-9)

    return judge(answer, trials)


def sizes(answer: Answer) -> Verdict:
    """answer(entries) -> hidden_size, layers, heads, KV heads, head_dim, intermediate_size, tied (0 or 1)."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for tied in rng.permutation([True, False]):  # head_dim is not hidden / heads, as in the official 0.6B
            d, kv, layers = int(2 * rng.integers(5, 9)), int(rng.integers(2, 4)), int(rng.integers(12, 16))
            group = int(rng.choice([n for n in (2, 3, 4) if n != kv]))  # so that it is not taken for kv
            heads, V = kv * group, 300 + int(rng.integers(40))
            hidden = heads * d + int(16 * rng.integers(1, 4))
            F = hidden + int(8 * rng.integers(1, 5))  # another number than any that could be taken for it
            entries = _entries(hidden, layers, heads, kv, d, F, V, tied)
            right = [hidden, layers, heads, kv, d, F, int(tied)]

            def but(right: list[int] = right, **wrong: int) -> Array:
                names = ("hidden", "layers", "heads", "kv", "d", "F", "tied")
                return np.array([wrong.get(n, v) for n, v in zip(names, right, strict=True)], dtype=float)

            guess = "head_dim is not hidden_size / heads (a real bug); q_norm has one gain a channel"
            computed = "heads are the rows of q_proj / head_dim; hidden_size / head_dim is something else"
            layer = "layers count from 0: the number is the highest index plus 1"
            text = "as text '9' comes after '13'; compare layer numbers as integers"
            mistakes = [
                (guess, but(d=hidden // heads)),
                (computed, but(heads=hidden // d)),
                (layer, but(layers=layers - 1)),
                (text, but(layers=10)),
                (text, but(layers=9)),
                ("that many tensors, not layers", but(layers=len(entries))),
                ("you have heads and KV heads exchanged", but(heads=kv, kv=heads)),
                (
                    "heads / KV heads is how many share one; KV heads are the rows of k_proj / head_dim",
                    but(kv=group),
                ),
                (
                    "hidden_size is the columns of q_proj; its rows are heads * head_dim",
                    but(hidden=heads * d),
                ),
                ("gate_proj alone has intermediate_size rows; up_proj is another matrix", but(F=2 * F)),
                ("you return rows of q_proj and k_proj; divide by head_dim", but(heads=heads * d, kv=kv * d)),
                ("gate_proj is (intermediate, hidden): you took the wrong axis", but(F=hidden)),
                ("embed_tokens is (vocabulary, hidden): you took the wrong axis", but(hidden=V)),
                ("tied is the wrong way round: a tied model stores no lm_head", but(tied=1 - int(tied))),
            ]
            yield Trial((entries,), but(), mistakes)

    return judge(answer, trials)


def _entries(
    D: int, layers: int, heads: int, kv: int, d: int, F: int, V: int, tied: bool
) -> dict[str, dict[str, Any]]:
    """Header entries of a dense checkpoint, in the order of the names as text, as in official files."""
    block = {
        "input_layernorm": [D], "post_attention_layernorm": [D], "self_attn.q_norm": [d],
        "self_attn.k_norm": [d], "self_attn.q_proj": [heads * d, D], "self_attn.k_proj": [kv * d, D],
        "self_attn.v_proj": [kv * d, D], "self_attn.o_proj": [D, heads * d], "mlp.gate_proj": [F, D],
        "mlp.up_proj": [F, D], "mlp.down_proj": [D, F],
    }  # fmt: skip
    shapes = {f"model.layers.{i}.{part}.weight": s for i in range(layers) for part, s in block.items()}
    shapes |= {"model.embed_tokens.weight": [V, D], "model.norm.weight": [D]}
    if not tied:
        shapes["lm_head.weight"] = [V, D]
    entries, at = {}, 0
    for name in sorted(shapes):
        size = 2 * int(np.prod(shapes[name]))
        entries[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [at, at + size]}
        at += size
    return entries


def stack(answer: Answer) -> Verdict:
    """answer(tensors, num_experts) -> gate_up_proj (E, 2F, D), expert by number, gate rows first."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        for F, D in ((3, 5), (4, 3)):
            E = int(rng.integers(11, 14))  # more than ten, so that order as text shows
            gate, up = rng.normal(size=(2, E, F, D))
            down = rng.normal(size=(E, D, F))
            tensors = {}
            for e in rng.permutation(E):
                for part, values in (("gate", gate), ("up", up), ("down", down)):
                    tensors[f"model.layers.0.mlp.experts.{e}.{part}_proj.weight"] = values[e]
            want = np.concatenate([gate, up], axis=1)
            as_text = [int(word) for word in sorted(map(str, range(E)))]
            as_found = list(dict.fromkeys(int(name.split(".")[5]) for name in tensors))
            mixed = np.stack([gate, up], axis=2).reshape(E, 2 * F, D)
            turned = want.swapaxes(1, 2)
            mistakes = [
                ("gate and up are exchanged: the gate rows come first", np.concatenate([up, gate], axis=1)),
                ("your experts are in the order of text, where 10 comes before 2", want[as_text]),
                ("your experts are in the order they were found in; sort by number", want[as_found]),
                ("your rows alternate gate, up, gate, up; wanted are all gate rows, then all up rows", mixed),
                ("you return (E, D, 2F); weights are (out, in), so (E, 2F, D)", turned),
                ("you transposed with reshape, which keeps the numbers in line", turned.reshape(want.shape)),
                ("that is the gate alone; the up rows follow it", gate),
                (
                    "the second half of yours is gate again; it should be up",
                    np.concatenate([gate, gate], axis=1),
                ),
                (
                    "your gates are in order, your ups are not: sort both by number",
                    np.concatenate([gate, up[as_text]], axis=1),
                ),
                ("your experts are in descending order; expert 0 comes first", want[::-1]),
                ("you put all gates before all ups; each expert has its own pair", _all_first(gate, up)),
            ]
            yield Trial((tensors, E), want, mistakes)

    return judge(answer, trials)


def _all_first(gate: Array, up: Array) -> Array:
    E, F, D = gate.shape
    return np.concatenate([gate, up]).reshape(E, 2 * F, D)


def parting(answer: Answer) -> Verdict:
    """answer(got, want, tolerance): lists of arrays -> how many agree before the first that does not."""

    def trials(rng: np.random.Generator) -> Iterator[Trial]:
        n, zero, loud, shifted, near, tolerance = 40, 1, 2, 3, 4, 1e-3
        for kind in ("wrong", "single", "below", "nan", "wrong", "none"):
            first = int(rng.integers(6, 30))  # one less is not `near`
            worst = int(rng.integers(first + 3, n - 2))
            scales = rng.uniform(0.5, 2.0, size=n)
            scales[loud], scales[first] = 3e4, 4e-3  # a loud part and a quiet one
            want = [s * rng.normal(size=(4, 6)) for s in scales]
            want[zero][0, 0] = 0.0  # a rounded zero is right, whatever its relative error
            want[shifted] += 20 * scales[shifted]  # far from zero, so its spread is not its size
            if kind != "wrong":
                want[first][1, 1], want[first][3, 0] = 0.0, 20 * scales[first]
            for w in want if kind == "nan" else ():
                w[1, 1] = 0.0  # where NaN will stand, so that 0 in its place would pass
            sizes = [float(np.sqrt(np.mean(w * w))) for w in want]
            got = [w * (1 + 1e-6 * rng.choice([-1, 1], size=w.shape)) for w in want]
            got[zero][0, 0] = 1e-4 * scales[zero]
            got[near][2, 3] = want[near][2, 3] + 0.95 * tolerance * sizes[near]  # within the tolerance
            got[shifted][2, 3] = want[shifted][2, 3] + 0.9 * tolerance * sizes[shifted]
            last = {"none": first, "single": first + 2, "below": first + 2}.get(kind, n)
            for i in range(first, last):
                share = 0.05 if i == first else 0.3
                if kind == "nan":
                    got[i][1, 1] = np.nan
                else:
                    got[i] = want[i] + (5 if i == worst else share) * scales[i] * rng.normal(size=(4, 6))
            if kind in ("single", "below"):  # one number: where a zero is wanted; where the largest is
                got[first] = want[first] * 1.0
                place, sign = ((1, 1), 1.5) if kind == "single" else ((3, 0), -1.5)
                got[first][place] += sign * tolerance * sizes[first]
            right = first if kind != "none" else n
            absolute = "a difference means nothing without the size of the values: divide by their rms"
            within = "that is within the tolerance: up to tolerance times the rms, parts agree"
            spread = "that is within the tolerance, which is of the rms, and of no spread about its mean"
            mistakes = [
                (within, near),
                (spread, shifted),
                ("you ask for equality; two right programs differ by rounding", 0),
                (absolute, loud),
                ("you divide element by element; the size is that of the whole part", zero),
                ("that is where the difference is largest; what matters is where it begins", worst),
                ("that is the last part that agrees; wanted is how many agree", right - 1),
                ("that is the last part that differs; wanted is the first", n - 1),
                ("you count from 1; the answer is how many agree before it", right + 1),
            ]
            if kind in ("single", "below"):
                some = (
                    "one number is enough: the largest difference counts, beside the rms of the part, "
                    "not its largest value, and not a mean of differences"
                )
                below = (
                    "a difference counts whatever its sign, and against the rms of the part alone, not of "
                    "the number where it stands"
                )
                agree = "later parts may agree again; wanted is how many agree before the first that does not"
                mistakes = [(some if kind == "single" else below, first + 1), (agree, n - 2), *mistakes]
            if kind == "nan":
                remark = "NaN > tolerance is False, so your test lets NaN through; ask `not (a <= b)`"
                mistakes = [(remark, n), ("at a NaN any comparison is False; treat it as a difference", -1)]
            typed = [(remark, np.array(float(wrong))) for remark, wrong in mistakes if wrong != right]
            yield Trial((got, want, tolerance), np.array(float(right)), typed)

    return judge(answer, trials)
