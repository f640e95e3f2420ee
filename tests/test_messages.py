"""Heads silenced and messages exchanged, held against hooks on the model itself and against identities;
and what lesson 04 says of the shipped model, beside its controls."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.measure import messages
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tasks.problems import make_problems
from qwen3_ref.tokenizer import Tokenizer

FINDER = (2, 0)


@functools.cache
def look_ups() -> messages.LookUps:
    """Of the shipped model, sixteen lists."""
    home = find_nano("qwen3-nano-base")
    tok = Tokenizer.from_pretrained(home)
    problems = make_problems("retrieval", "test", 16, difficulty=1, lines=12)
    rows = [tok.encode(f"{problem.prompt}\n{problem.trace}") for problem in problems]
    return messages.LookUps(Qwen3.from_pretrained(home), tok, rows, FINDER)


def logits_of(texts: list[list[int]], hook: Any = None, layer: int = 0) -> torch.Tensor:
    """Of the token after each text, by the model itself; hook: on the input of a layer's o_proj."""
    net = look_ups().net
    ids, real = messages.padded(texts)
    handle = net.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(hook) if hook else None
    with torch.inference_mode():
        logits = net(ids, attention_mask=real, logits_to_keep=1)[:, 0]
    if handle:
        handle.remove()
    return logits


def test_exposed_joints_are_the_model() -> None:
    lists = look_ups()
    for texts, lead in zip(lists.prompts.values(), lists.leads.values(), strict=True):
        assert torch.allclose(lists.lead(logits_of(texts)), lead, atol=1e-4)


@pytest.mark.parametrize("head", [(0, 3), (1, 2), FINDER])
def test_silence_is_zeros_where_the_results_are_written_back(head: messages.Head) -> None:
    lists, (layer, number), d = look_ups(), head, look_ups().head_dim

    def mute(_: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        said = given[0].clone()
        said[..., number * d : (number + 1) * d] = 0
        return (said,)

    right = logits_of(lists.prompts["plain"], mute, layer).argmax(-1) == lists.due
    assert lists.right_without(head) == pytest.approx(float(right.float().mean()))


@pytest.mark.parametrize("part", ["k", "q"])
def test_the_plain_prompts_own_words_change_nothing(part: str) -> None:
    lists = look_ups()
    same = lists.patched(part, lists.below, lists.told["plain"])
    assert torch.allclose(same, lists.leads["plain"], atol=1e-4)
    assert torch.allclose(lists.patched(part, []), lists.leads["plain"], atol=1e-4)
    assert np.allclose(lists.swing(lists.leads["plain"], part), 0)
    assert lists.swing(lists.leads[part], part)[0] == 1


def test_changed_prompts_lead_to_the_other_line() -> None:
    lists = look_ups()
    for plain, keys, query, due, other in zip(*lists.prompts.values(), lists.due, lists.other, strict=True):
        assert sorted(plain) == sorted(keys) and plain[-3:] == keys[-3:] and plain[:-3] == query[:-3]
        assert query[-3:] != plain[-3:] and due != other
        at = next(i for i in range(len(keys)) if keys[i : i + 3] == keys[-3:])
        assert keys[at + 3] == other  # behind the asked key now stands the other line's digit
    assert (lists.leads["plain"] > 0).all() and (lists.leads["k"] < 0).all() and (lists.leads["q"] < 0).all()


def test_what_the_lesson_says_of_the_shipped_model() -> None:
    """Each claim with its control: the other heads."""
    lists = look_ups()
    off = {(layer, head): lists.right_without((layer, head)) for layer in (2, 3) for head in range(4)}
    assert off.pop(FINDER) < 0.25 and min(off.values()) > 0.95
    writers = [(1, 0), (1, 3)]
    others = [at for at in lists.below if at not in writers]
    assert lists.swing(lists.patched("k", writers), "k")[0] > 0.9
    assert abs(lists.swing(lists.patched("k", others), "k")[0]) < 0.1
    low = [at for at in lists.below if at[0] == 0]
    fed = {at: float(lists.swing(lists.relayed([at], writers), "k")[0]) for at in low}
    assert max(fed, key=lambda at: fed[at]) == (0, 3) and fed[0, 0] < 0.1
    assert lists.swing(lists.relayed(low, writers), "k")[0] > 0.9
    assert lists.swing(lists.relayed([], writers), "k")[0] == 0
