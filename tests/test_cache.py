"""The KV cache: what a pass leaves behind, however it ends, and what of it serves the next prompt."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_ref.cache import KVCache
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.generation import stream
from qwen3_ref.model import Qwen3
from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3
from qwen3_ref.quantize.kv_cache import QuantizedKVCache
from tests.helpers import TINY, hard_model, left_pad, token_ids

IDS = token_ids(TINY.vocab_size, (2, 12), seed=4)


def held(model: Qwen3, ids: torch.Tensor, room: int = 20, **options: Any) -> KVCache:
    """A cache that has seen these ids."""
    cache = KVCache(model.config, len(ids), room)
    with torch.no_grad():
        model(ids, cache=cache, **options)
    return cache


def columns(cache: KVCache) -> torch.Tensor:
    """All that it holds, keys beside values: (2, L, b, g, length, d)."""
    return torch.stack([cache.keys, cache.values])[..., : cache.length, :]


def test_a_new_one_has_nothing_to_commit() -> None:
    cache = KVCache(TINY, 2, 8)
    cache.commit()
    assert cache.length == 0


def test_it_knows_its_ids_and_its_padding() -> None:
    model = hard_model()
    rows, real = left_pad([IDS[0, :3], IDS[1, :5]])
    cache = held(model, rows, attention_mask=real)
    with torch.no_grad():
        model(IDS[:, 5:7].to(torch.uint8), cache=cache)
    assert cache.ids.tolist() == torch.cat([rows, IDS[:, 5:7]], 1).tolist()
    assert cache.real.tolist() == [[False] * 2 + [True] * 5, [True] * 7]
    assert (cache.batch, cache.length, cache.capacity) == (2, 7, 20)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_interrupted_pass_leaves_it_whole(where: int) -> None:
    """Interrupted in a layer, or (where = 2) between the last layer and the head: a pass that is begun
    anew gives what it would have given, and nothing of the interrupted one is held."""
    model = hard_model()
    cache = held(model, IDS[:, :5])
    before = columns(cache).clone()
    part = [*model.model.layers, model.model.norm][where]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = part.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), torch.no_grad():
        model(IDS.flip(1)[:, :4], cache=cache)
    handle.remove()
    if where == 2:  # all its columns are in, and it says so
        assert cache.ids.tolist() == torch.cat([IDS[:, :5], IDS.flip(1)[:, :4]], 1).tolist()
        cache.truncate(5)
    assert cache.length == 5 and cache.ids.tolist() == IDS[:, :5].tolist()
    assert torch.equal(columns(cache), before)
    with torch.no_grad():
        got, want = model(IDS[:, 5:9], cache=cache), model(IDS[:, :9])[:, 5:]
    assert cache.ids.tolist() == IDS[:, :9].tolist()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_an_interrupted_pass_leaves_the_numpy_cache_whole() -> None:
    model = hard_model()
    weights = {name: tensor.double().numpy() for name, tensor in model.named_official_tensors()}
    spec, ids, calls = NumpyQwen3(TINY, weights), IDS.numpy(), []

    class Interrupted(NumpyQwen3):
        def block(self, layer: int, *rest: Any, **options: Any) -> Any:
            calls.append(layer)
            if layer == 1:
                raise KeyboardInterrupt
            return super().block(layer, *rest, **options)

    cache = NumpyCache()
    spec(ids[:, :5], cache=cache)
    with pytest.raises(KeyboardInterrupt):
        Interrupted(TINY, weights)(ids[:, ::-1][:, :4], cache=cache)
    assert calls == [0, 1] and cache.length == 5
    np.testing.assert_allclose(spec(ids[:, 5:9], cache=cache), spec(ids[:, :9])[:, 5:], atol=1e-12)
    assert cache.length == 9 and [k.shape[2] for k in cache.keys] == [9, 9]


@pytest.mark.parametrize("inside", [False, True])
def test_it_grows_and_what_it_holds_stays(inside: bool) -> None:
    """Also where it is made, or grown, inside inference mode and used outside."""
    model = hard_model()
    with torch.inference_mode(inside):
        cache = KVCache(TINY, 2, 5)
        model(IDS[:, :5], cache=cache)
        before = columns(cache).clone()
        cache.reserve(9)
        assert cache.capacity == 9 and torch.equal(columns(cache), before)
        cache.reserve(3)
        assert cache.capacity == 9, "it never shrinks"
    with torch.no_grad():
        got = model(IDS[:, 5:9], cache=cache)
        torch.testing.assert_close(got, model(IDS[:, :9])[:, 5:], atol=1e-5, rtol=0)
    assert cache.ids.tolist() == IDS[:, :9].tolist()
    with pytest.raises(ValueError, match=r"9 of 9 tokens and 1 more do not fit.*length=10.*reserve\(10\)"):
        model(IDS[:, :1], cache=cache)


def test_truncating_never_goes_up() -> None:
    """Columns beyond the length were never committed, or were forgotten: they stay so."""
    cache = held(hard_model(), IDS)
    cache.truncate(7)
    cache.truncate(11)
    assert cache.length == 7 and cache.ids.tolist() == IDS[:, :7].tolist()
    cache.truncate()
    cache.truncate(20)
    assert cache.length == 0 and cache.real.shape == (2, 0)
    cache.commit()
    assert cache.length == 0, "a commit without a pass adds nothing"


def test_selected_rows_are_a_cache_of_their_own() -> None:
    model = hard_model()
    rows, real = left_pad([IDS[0, :3], IDS[1, :5]])
    cache = held(model, rows, attention_mask=real)
    both = cache.select([1, 0, 0])
    assert (
        both.ids.tolist() == rows[[1, 0, 0]].tolist()
        and both.real.tolist() == real[[1, 0, 0]].bool().tolist()
    )
    new = IDS[[1, 0, 0], 5:7]
    with torch.no_grad():
        got = both, model(new, cache=both)
        want = model(IDS[:, 5:7], cache=cache)[[1, 0, 0]]
    torch.testing.assert_close(got[1], want, atol=1e-5, rtol=0)
    cache.truncate()
    with torch.no_grad():
        model(IDS[:, :4], cache=cache)
    assert both.ids[:, :5].tolist() == rows[[1, 0, 0]].tolist(), "what one does the other does not see"


KEPT = [  # held, prompt, kept, kept though strict (None: refused)
    ([1, 2, 3], [1, 2, 3, 4], 3, 3),  # the beginning of the prompt
    ([1, 2, 3], [1, 2, 3], 2, 2),  # the same again: the last token is computed anew
    ([1, 2, 3, 4, 5], [1, 2, 3], 2, 2),  # the prompt and the reply to it
    ([1, 2, 3], [1], 0, 0),
    ([1, 2, 3], [1, 2, 7, 4], 2, None),
    ([1, 2, 3], [9, 2, 3], 0, None),
    ([1, 2, 1], [1, 3, 1, 4], 1, None),  # ids that agree again later do not count
    ([], [1, 2], 0, 0),
]


@pytest.mark.parametrize("ids, prompt, kept, strictly", KEPT)
def test_what_serves_a_prompt_is_kept(
    ids: list[int], prompt: list[int], kept: int, strictly: int | None
) -> None:
    cache = KVCache(TINY, 1, 8)
    if ids:
        cache = held(hard_model(), torch.tensor([ids]), 8)
    if strictly is None:
        with pytest.raises(ValueError, match=f"another text than this prompt.*from token {kept} on"):
            cache.keep(prompt, strict=True)
        assert cache.ids.tolist() == [ids], "a refusal forgets nothing"
    else:
        assert cache.select([0]).keep(prompt, strict=True) == strictly
    assert cache.keep(prompt) == kept == cache.length
    assert cache.ids[0].tolist() == prompt[:kept]


def test_padding_serves_no_prompt() -> None:
    """A column of padding is no token, whatever id stands there."""
    padded = torch.tensor([[1, 2, 3]])
    cache = held(hard_model(), padded, attention_mask=torch.tensor([[0, 1, 1]]))
    assert cache.keep([1, 2, 3, 4]) == 0


def test_the_same_prompt_again_is_regenerated() -> None:
    """The reply on a used cache is that on a new one, and only one token of the prompt is computed; any
    text that the prompt does not begin with, or that does not begin with the prompt, is refused."""
    model, computed = hard_model(), [0]

    def count(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        computed[0] += given[0].shape[1]

    model.model.embed_tokens.register_forward_pre_hook(count)
    cache, prompt = KVCache(TINY, 1, 32), IDS[0, :6].tolist()
    first = list(stream(model, prompt, max_new_tokens=4, cache=cache))
    assert computed == [6 + 3] and cache.ids[0].tolist() == prompt + first[:-1]
    again = list(stream(model, prompt, max_new_tokens=4, cache=cache))
    assert again == first == list(stream(model, prompt, max_new_tokens=4)) and computed[0] == 9 + 1 + 3 + 9
    longer = [*prompt, *first, 3]
    assert list(stream(model, longer, max_new_tokens=2, cache=cache)) == list(
        stream(model, longer, max_new_tokens=2)
    )
    other = [*prompt[:3], prompt[3] + 1, *prompt[4:]]
    with pytest.raises(ValueError, match="another text than this prompt: they differ from token 3 on"):
        list(stream(model, other, max_new_tokens=2, cache=cache))


def changed(**changes: Any) -> Qwen3Config:
    return Qwen3Config.from_dict(TINY.to_dict() | {"architectures": None} | changes)


WRONG = [
    (lambda: KVCache(changed(num_hidden_layers=3), 2, 20), "3 layers with 2 KV heads of 6.* model has 2"),
    (lambda: KVCache(changed(num_key_value_heads=4), 2, 20), "with 4 KV heads.*own config"),
    (lambda: KVCache(changed(head_dim=8), 2, 20), "of 8 channels.*own config"),
    (lambda: KVCache(TINY, 2, 20, torch.float64), "float64 and the model torch.float32.*dtype=torch.float32"),
    (lambda: KVCache(TINY, 2, 20, device="meta"), "on meta and the model on cpu.*device='cpu'"),
    (lambda: KVCache(TINY, 3, 20), "3 rows and the input has 2.*batch=2"),
    (lambda: KVCache(TINY, 2, 4), "0 of 4 tokens and 5 more do not fit"),
]


@pytest.mark.parametrize("make, words", WRONG)
def test_another_models_cache_is_refused(make: Any, words: str) -> None:
    """In one sentence, before anything is computed, and with nothing written."""
    model, cache = hard_model(), make()
    with pytest.raises(ValueError, match=words) as refused:
        model(IDS[:, :5], cache=cache)
    assert "\n" not in str(refused.value) and cache.length == 0


@pytest.mark.parametrize(
    "of", [lambda c: c, copy.deepcopy, lambda c: c.select([0]), lambda c: (c.reserve(40), c)[1]],
    ids=["itself", "a deep copy", "a selection", "grown"],
)  # fmt: skip
def test_what_another_model_of_the_same_shape_has_seen_is_refused(of: Any) -> None:
    """Keys of other weights would be read as one's own, without a word; an empty cache is anyone's."""
    model, other, prompt = hard_model(), Qwen3(TINY), IDS[0].tolist()
    cache = of(held(model, IDS[:1], 32))
    with pytest.raises(ValueError, match="as another model has seen them; pass a new KVCache"):
        list(stream(other, prompt, max_new_tokens=2, cache=cache))
    assert list(stream(model, prompt, max_new_tokens=2, cache=cache)) == list(
        stream(model, prompt, max_new_tokens=2)
    )
    cache.truncate()
    assert list(stream(other, prompt, max_new_tokens=2, cache=cache)) == list(
        stream(other, prompt, max_new_tokens=2)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(dtype="float32"), "dtype is 'float32'; it must be one of torch.float32"),
        (dict(dtype=torch.int64), "dtype is torch.int64; it must be one of"),
        (dict(device="gpu"), "device is 'gpu', which cannot be used here"),
        (dict(device="cuda:99"), "device is 'cuda:99', which cannot be used here"),
        (dict(length=10**14), "no room for a cache of 1 times 100000000000000 tokens; give a smaller"),
        (dict(length=10**30), "no room for a cache"),
        (dict(batch=10**400), "no room for a cache of a whole number of more than 300 digits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_cache_can_be_made_of_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        KVCache(TINY, **{"batch": 1, "length": 4} | options)
    assert "\n" not in str(refused.value)
    if not {"batch", "length"} & options.keys():
        with pytest.raises(ValueError, match=words):
            Qwen3(TINY, **options)


@pytest.mark.parametrize("trace", [True, "x", []])
def test_what_is_no_trace_is_refused(trace: Any) -> None:
    with pytest.raises(ValueError, match="trace is a .*; give an empty Trace"):
        hard_model()(IDS, trace=trace)


@pytest.mark.parametrize("cache", ["x", [], 3, NumpyCache()])
def test_what_is_no_cache_is_refused(cache: Any) -> None:
    with pytest.raises(ValueError, match="the cache is a .*; give a KVCache"):
        stream(hard_model(), [1, 2], max_new_tokens=2, cache=cache)
    with pytest.raises(ValueError, match="cache is a .*; give a KVCache"):
        hard_model()(IDS, cache=cache)


@pytest.mark.parametrize("wrong", [-1, 2.0, True, "3", None])
def test_counts_are_whole_numbers(wrong: Any) -> None:
    cache = held(hard_model(), IDS)
    calls = [
        lambda: cache.truncate(wrong),
        lambda: cache.reserve(wrong),
        lambda: cache.select([0, wrong]),
        lambda: KVCache(TINY, wrong, 5),
        lambda: KVCache(TINY, 1, wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be a whole number"):
            call()
    with pytest.raises(ValueError, match="no row 2; the cache has 2"):
        cache.select([2])
    with pytest.raises(ValueError, match="one row and a prompt of at least one token"):
        cache.keep([1, 2])
    with pytest.raises(ValueError, match="one row and a prompt of at least one token"):
        cache.select([0]).keep([])
    assert cache.length == 12


# -- rows that join ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KVCache, QuantizedKVCache])
def test_joined_rows_go_on_as_alone(kind: type[KVCache]) -> None:
    """Either may be the longer one; what only padding has seen is dropped; neither is written to."""
    model = hard_model()
    texts = [token_ids(TINY.vocab_size, (n,), seed=n) for n in (9, 5, 3, 7, 2)]
    next_ids = token_ids(TINY.vocab_size, (5, 1), seed=0)

    def filled(rows: list[int]) -> KVCache:
        ids, real = left_pad([texts[i] for i in rows])
        cache = kind(TINY, len(rows), ids.shape[1])
        with torch.no_grad():
            model(ids, attention_mask=real, cache=cache)
        return cache

    want = []
    for i in range(5):
        with torch.no_grad():
            want.append(model(next_ids[i : i + 1], cache=_roomier(filled([i])))[0])
    for first, second in (([0, 1], [2, 3, 4]), ([2, 4], [0, 1])):
        old, new = filled(first).select([1]), filled(second)
        held = [cache.ids.tolist() for cache in (old, new)]
        joined, rows = old.join(new, 1), [first[1], *second]
        assert [cache.ids.tolist() for cache in (old, new)] == held
        longest = max(len(texts[i]) for i in rows)
        assert (joined.batch, joined.length, joined.capacity) == (len(rows), longest, longest + 1)
        assert joined.real.tolist() == left_pad([texts[i] for i in rows])[1].bool().tolist()
        with torch.no_grad():
            got = model(next_ids[rows], cache=joined)
        torch.testing.assert_close(got, torch.stack([want[i] for i in rows]), atol=1e-5, rtol=1e-5)


def _roomier(cache: KVCache) -> KVCache:
    cache.reserve(cache.length + 1)
    return cache


def test_caches_that_cannot_lie_in_one_are_refused() -> None:
    model, other = hard_model(), hard_model()
    cache = held(model, IDS[:, :4])
    for wrong in (held(other, IDS[:, :4]), KVCache(changed(head_dim=8), 1, 4), QuantizedKVCache(TINY, 1, 4)):
        with pytest.raises(ValueError, match="the caches differ in kind, or are of two models; join those"):
            cache.join(wrong)
    with pytest.raises(ValueError, match="more is -1"):
        cache.join(held(model, IDS[:, :4]), -1)
