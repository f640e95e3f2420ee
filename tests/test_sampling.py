"""Sampling at its edges: infinities, ties, temperatures that overflow, arguments of a natural but wrong
type. No id may come that does not exist, or that has probability 0."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from qwen3_ref.decode import sampling as module
from qwen3_ref.decode.sampling import Sampling, draw, next_ids, probabilities

INF = math.inf
SETTINGS = [
    Sampling.greedy(),
    Sampling(),
    Sampling.thinking(),
    Sampling(min_p=1.0),
    Sampling(top_p=1e-320),
    Sampling(temperature=1e-320),
    Sampling(temperature=1.7e308),
    Sampling(repetition_penalty=1e-320),
    Sampling(repetition_penalty=1.7e308, presence_penalty=-2),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
@pytest.mark.parametrize(
    "logits",
    [
        [0.0, 1.0, -INF, 2.0],
        [-INF, -INF, -5.0, -INF],
        [-3e38, 3e38, -INF, 0.0],
        [-1.0, -2.0, -1e300, -INF],
        [0.0, 0.0, 0.0, -INF],
    ],
)
def test_whatever_the_setting_an_id_that_can_come(sampling: Sampling, logits: list[float]) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.tensor([logits, logits[::-1]], dtype=dtype)
        before = x.clone()
        try:
            p = probabilities(x, sampling, [[1], [2]], [[0], [3]])
        except ValueError as error:  # 1e308 times a negative logit, or a float32's cast of -1e300
            assert "no token can come" in str(error)
            continue
        assert torch.equal(x, before), "the caller's logits stay as they are"
        assert p.isfinite().all() and torch.allclose(p.sum(-1), torch.ones(2, dtype=torch.float64))
        assert (p[x == -INF] == 0).all()
        for row, token in enumerate(draw(p, [torch.Generator().manual_seed(i) for i in range(2)])):
            assert p[row, token] > 0


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 5e-324])
def test_a_temperature_near_0_is_greedy_and_shares_among_equals(temperature: float) -> None:
    x = torch.tensor([[1.0, 7.0, 7.0, 6.999], [-4.0, -3.0, -3.5, -9.0]])
    want = torch.tensor([[0, 0.5, 0.5, 0], [0, 1, 0, 0]], dtype=torch.float64)
    assert torch.equal(probabilities(x, Sampling(temperature=temperature)), want)


@pytest.mark.parametrize("bad", [INF, math.nan])
@pytest.mark.parametrize("sampling", [Sampling.greedy(), Sampling(), Sampling.thinking()], ids=str)
def test_infinite_logits_are_refused(bad: float, sampling: Sampling) -> None:
    with pytest.raises(ValueError, match="the logits hold NaN or infinity; check the weights, or run"):
        probabilities(torch.tensor([[0.0, 1.0], [bad, 1.0]]), sampling)


@pytest.mark.parametrize("sampling", [Sampling.greedy(), Sampling(), Sampling.thinking()], ids=str)
def test_a_row_in_which_no_token_can_come(sampling: Sampling) -> None:
    with pytest.raises(ValueError, match="no token can come: every logit of a row is minus infinity"):
        probabilities(torch.tensor([[0.0, 1.0], [-INF, -INF]]), sampling)
    with pytest.raises(ValueError, match="no token can come"):  # all that could are padding
        probabilities(torch.tensor([[-INF, 5.0]]), sampling, absent=torch.tensor([1]))


def test_absent_ids_may_lie_anywhere() -> None:
    x = torch.tensor([[9.0, 1.0, 9.0, 1.0, 9.0]])
    got = probabilities(x, Sampling(), absent=torch.tensor([0, 2, 4]))
    assert torch.equal(got, torch.tensor([[0, 0.5, 0, 0.5, 0]], dtype=torch.float64))
    greedy = probabilities(x, Sampling.greedy(), absent=torch.tensor([0, 2, 4]))
    assert greedy.argmax() == 1, "of equals the lowest id"


def test_ties_at_the_kth_place_stay_as_in_transformers() -> None:
    from transformers import TopKLogitsWarper

    x = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    for k in (1, 2, 3, 4):
        want = TopKLogitsWarper(k)(torch.zeros(2, 1).long(), x.clone()).double().softmax(-1)
        got = probabilities(x, Sampling(top_k=k))
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    assert (probabilities(x, Sampling(top_k=2))[0] > 0).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_uniform_number_draw_no_impossible_id(u: float) -> None:
    p = torch.tensor([[0, 0, 0.3, 0.7, 0], [0, 1.0, 0, 0, 0], [0.1] * 5], dtype=torch.float64)
    with mock.patch.object(torch, "rand", lambda *shape, **_: torch.full(shape, u, dtype=torch.float64)):
        assert draw(p, [torch.Generator()] * 3) == ([2, 1, 0] if u == 0 else [3, 1, 4])


@pytest.mark.parametrize("row", [[0.0, 0.0], [math.nan, 1.0], [INF, 0.0], [1.0, math.nan]])
def test_what_is_no_distribution_is_not_drawn_from(row: list[float]) -> None:
    p = torch.tensor([[0.5, 0.5], row], dtype=torch.float64)
    with pytest.raises(ValueError, match="these are no probabilities"):
        draw(p, [torch.Generator(), torch.Generator()])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, True) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")),
        *((name, "1") for name in ("temperature", "top_k", "top_p", "min_p", "presence_penalty")),
        *((name, None) for name in ("temperature", "top_p", "min_p", "presence_penalty")),
        *((name, math.nan) for name in ("temperature", "top_p", "min_p", "repetition_penalty")),
        ("presence_penalty", math.nan),
        ("presence_penalty", 2.5),
        ("top_k", 20.0),
        ("top_k", [20]),
        ("temperature", 10**400),
        ("repetition_penalty", 10**400),
        ("repetition_penalty", INF),
        ("temperature", torch.tensor(0.5)),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused_in_a_sentence(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is .*; it must be .*\.$") as caught:
        Sampling(**{field: value})
    assert len(str(caught.value)) < 200


def test_numbers_of_numpy_are_numbers() -> None:
    setting = Sampling(np.float32(0.5), np.int64(2), np.float64(0.9), min_p=0)  # type: ignore[arg-type]
    x = torch.tensor([[3.0, 2.0, 1.0]])
    want = probabilities(x, Sampling(0.5, 2, 0.9))
    torch.testing.assert_close(probabilities(x, setting), want)


# -- the next ids, without the whole vocabulary -----------------------------------------------------------


def both_ways(
    x: torch.Tensor, sampling: Sampling, seed: int, absent: torch.Tensor | None = None
) -> tuple[list[int], list[int]]:
    """The ids by the specification and by `next_ids`, and after them the next number of each generator."""
    said = [[1, 2]] * len(x)
    found: list[list[int]] = []
    for quick in (False, True):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(x))]
        if quick:
            ids = next_ids(x, sampling, generators, said, said, absent)
        else:
            p = probabilities(x, sampling, said, said, absent)
            ids = p.argmax(-1).tolist() if sampling.temperature == 0 else draw(p, generators)
        left = generators if sampling.temperature else []
        found.append([*ids, *(int(torch.randint(2**62, (), generator=g)) for g in left)])
    return found[0], found[1]


CHOSEN = [
    Sampling.greedy(),
    Sampling(top_k=1),
    Sampling(top_k=3, top_p=0.7),
    Sampling(top_k=20),
    Sampling.thinking(),
    Sampling.non_thinking(),
    Sampling(temperature=2.0, top_k=5, min_p=0.1),
    Sampling(temperature=1e-320, top_k=5),
    Sampling(temperature=1.7e308, top_k=5),
    Sampling(),
    Sampling(top_p=0.9),
    Sampling.coder(),
    Sampling(top_k=5, presence_penalty=1.5),
    Sampling(temperature=0.0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampling", CHOSEN, ids=str)
def test_the_next_ids_are_those_of_the_specification(sampling: Sampling, dtype: torch.dtype) -> None:
    """Random logits, coarse ones that tie, minus infinity, absent ids, k at and above the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(40):
        for size in (3, 5, 7, 41, 300):
            x = torch.randn(3, size, generator=generator) * (1 + seed % 4)
            if seed % 3 == 0:
                x = x.round()
            if seed % 5 == 0:
                x[torch.rand(3, size, generator=generator) < 0.5] = -INF
                x[:, 0] = 0.0
            absent = torch.arange(size - 1 - seed % 2, size) if seed % 2 else torch.tensor([1])
            x[:, absent] += 5.0
            want, got = both_ways(x.to(dtype), sampling, seed, absent)
            assert got == want


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_next_ids_of_the_official_vocabulary(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    absent = torch.arange(151_669, 151_936)
    for seed, sampling in enumerate([Sampling.greedy(), Sampling.thinking(), Sampling(1.5, 40)]):
        x = (torch.randn(2, 151_936, generator=generator) * 3).to(dtype)
        x[:, 151_700] = 99.0
        before = x.clone()
        want, got = both_ways(x, sampling, seed, absent)
        assert got == want and torch.equal(x, before), "the caller's logits stay as they are"


def test_ties_at_the_kth_place_may_come() -> None:
    """All seven that tie with the second, though only four are looked at first; and a tie of three."""
    many, few = torch.zeros(1, 40), torch.zeros(1, 40)
    many[0, 3:10], few[0, 30:33] = 1.0, 1.0
    for x, tied in ((many, range(3, 10)), (few, range(30, 33))):
        x[0, 20] = 1.5
        hot = Sampling(temperature=5.0, top_k=2)
        seen = {next_ids(x, hot, [torch.Generator().manual_seed(s)])[0] for s in range(200)}
        assert seen == {20, *tied}


@pytest.mark.parametrize("sampling", [Sampling.greedy(), Sampling.thinking()], ids=str)
def test_few_ids_go_through_the_filters(sampling: Sampling) -> None:
    """What makes it quick: of the vocabulary, 40 at most are turned to float64 and sorted."""
    x = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    with mock.patch.object(module, "probabilities", side_effect=probabilities) as filtered:
        next_ids(x, sampling, [torch.Generator(), torch.Generator()], absent=torch.tensor([7]))
    widths = [call.args[0].shape[1] for call in filtered.call_args_list]
    assert widths == ([40] if sampling.temperature else [])


@pytest.mark.parametrize("sampling", [Sampling.greedy(), Sampling(top_k=2)], ids=str)
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([math.nan] + [0.0] * 7, "the logits hold NaN or infinity"),
        ([0.0] * 7 + [INF], "the logits hold NaN or infinity"),
        ([-INF] * 8, "no token can come"),
        ([-INF] * 7 + [1.0], "no token can come"),  # the last one is absent
    ],
)
def test_bad_logits_are_refused_there_too(sampling: Sampling, row: list[float], words: str) -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], row])
    with pytest.raises(ValueError, match=words):
        next_ids(x, sampling, [torch.Generator(), torch.Generator()], absent=torch.tensor([7]))
