"""The parity suite: this package against transformers, and against itself told twice.

Each check is a function without arguments that raises AssertionError when the numbers differ.
`test_parity.py` runs them all; `test_faults.py` runs them again with a known bug switched on and
demands that one fails. For that reason the package is imported inside the functions, and nothing
on the reference side uses it.

The reference weights are hardened: fresh ones have every norm gain at 1 and a nearly silent network,
which lets 9 of 29 known bugs through. Here gains are 1 + 0.5 randn, other weights five times their
initial size, head_dim is not hidden_size / heads, and inputs are 96 tokens long.
"""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

CHECKS: dict[str, Callable[[], None]] = {}
ATOL = 5e-5  # float32 against transformers in float32
EXACT = 1e-10  # float64 against float64

DENSE = dict(
    vocab_size=160,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention_bias=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)
MOE = DENSE | dict(
    moe_intermediate_size=24, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True
)
YARN = dict(
    rope_type="yarn", rope_theta=1e4, factor=3.0, original_max_position_embeddings=64
)  # factor is not max_position_embeddings / original (8)


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register a check under its name."""
    CHECKS[function.__name__] = function
    return function


def harden(model: torch.nn.Module, seed: int = 1) -> None:
    """Random gains, and other weights five times as large, so that every part of the model speaks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.5 * noise)
            else:
                parameter.copy_(0.1 * noise)


def official_model(
    settings: dict[str, Any], seed: int = 1, *, hardened: bool = True
) -> torch.nn.Module:
    """A transformers model, float32, eager attention; hardened, or freshly initialised with the seed."""
    moe = "num_experts" in settings
    config_type = transformers.Qwen3MoeConfig if moe else transformers.Qwen3Config
    config = config_type(**copy.deepcopy(settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        )
    model = model.float().eval()
    if hardened:
        harden(model, seed)
    model.tie_weights()
    return model


@functools.cache
def scratch() -> Path:
    """A temporary folder for this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="qwen3-parity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def token_ids(vocab_size: int, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Random ids."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def reference(case: str) -> tuple[Path, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(checkpoint directory, ids (2, 96), transformers' logits in float32, and in float64)."""
    settings = CASES[case]
    model = official_model(settings)
    directory = scratch() / case
    model.save_pretrained(directory)
    ids = token_ids(settings["vocab_size"], (2, 96))
    with torch.no_grad():
        logits = model(ids).logits
        wide = model.double()(ids).logits
    return directory, ids, logits, wide


CASES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "dense_tied": DENSE | dict(tie_word_embeddings=True),
    "dense_large_eps": DENSE | dict(rms_norm_eps=1e-2),
    "dense_yarn": DENSE | dict(rope_parameters=YARN),
    "dense_yarn_attention_factor": DENSE | dict(rope_parameters=YARN | dict(attention_factor=1.3)),
    "dense_one_kv_head": DENSE | dict(num_key_value_heads=1),
    "dense_mha": DENSE | dict(num_key_value_heads=4),
    "moe": MOE,
    "moe_unnormalised": MOE | dict(norm_topk_prob=False),
    "moe_tied_yarn": MOE | dict(tie_word_embeddings=True, rope_parameters=YARN),
    "moe_mixed_layers": MOE | dict(mlp_only_layers=[1]),
    "moe_every_second_layer": MOE | dict(decoder_sparse_step=2),
}


def against_transformers(case: str) -> None:
    """PyTorch in float32 against transformers; NumPy in float64 against PyTorch in float64."""
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

    directory, ids, logits, wide = reference(case)
    with torch.no_grad():
        model = Qwen3.from_pretrained(directory)
        compare(f"{case}: PyTorch, transformers", model(ids), logits, atol=ATOL).require()
        double = Qwen3.from_pretrained(directory, dtype=torch.float64)(ids)
    spec = NumpyQwen3.from_pretrained(directory, dtype=np.float64)(ids.numpy())
    compare(f"{case}: NumPy, PyTorch in float64", spec, double, atol=EXACT).require()
    # transformers forms norms and angles in float32 even for a float64 model, hence not 1e-10.
    compare(f"{case}: NumPy, transformers", spec, wide, atol=ATOL).require()


def _register_cases() -> None:
    for case in CASES:
        function = functools.partial(against_transformers, case)
        CHECKS[f"logits_{case}"] = function


_register_cases()


def cached_equals_uncached(case: str, chunks: list[int]) -> None:
    """Feeding ids in chunks through one cache gives the logits of feeding them at once."""
    from qwen3_ref.cache import KVCache
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3

    directory, ids, logits, _ = reference(case)
    model = Qwen3.from_pretrained(directory)
    spec, numpy_cache = NumpyQwen3.from_pretrained(directory, dtype=np.float64), NumpyCache()
    cache = KVCache(model.config, batch=2, length=sum(chunks))
    start = 0
    for n in chunks:
        part = slice(start, start + n)
        with torch.no_grad():
            got = model(ids[:, part], cache=cache)
        compare(f"chunk at {start}", got, logits[:, part], atol=ATOL).require()
        got = spec(ids[:, part].numpy(), cache=numpy_cache)
        compare(f"chunk at {start}, NumPy", got, logits[:, part], atol=ATOL).require()
        start += n
        assert cache.length == start == numpy_cache.length, "the cache counts its tokens"


@check
def cache_chunks_3_4_2() -> None:
    """A warm cache must shift the causal mask by the cached length: only multi-token chunks see it."""
    cached_equals_uncached("dense", [3, 4, 2, 1, 1, 30])


@check
def cache_chunks_moe_yarn() -> None:
    cached_equals_uncached("moe_tied_yarn", [3, 4, 2, 1, 7])


@check
def cache_two_turns() -> None:
    """A long first turn, token-by-token reply, then a second turn on the same cache."""
    cached_equals_uncached("dense_tied", [40, 1, 1, 1, 20, 1, 1])


@check
def shortest_prompts() -> None:
    """One token, and two, of which the first must not see the second: whole, cached and eager."""
    from qwen3_ref.cache import KVCache
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3, Trace

    directory, ids, logits, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    for n in (1, 2):
        with torch.no_grad():
            for trace in (None, Trace()):
                compare(f"{n} tokens", model(ids[:, :n], trace=trace), logits[:, :n], atol=ATOL).require()
                cache = KVCache(model.config, batch=2, length=4)
                model(ids[:, :n], cache=cache, trace=trace)
                got = model(ids[:, n : n + 2], cache=cache, trace=trace)
                compare(f"2 after {n}", got, logits[:, n : n + 2], atol=ATOL).require()


@check
def inputs_are_checked() -> None:
    """Ids and masks that do not fit are refused in a sentence, the same one by both models; the last id
    of the vocabulary fits, and integers of any width do."""
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

    directory, ids, _, _ = reference("dense")
    model, spec = Qwen3.from_pretrained(directory), NumpyQwen3.from_pretrained(directory)
    want = model(torch.tensor([[0, 159]]))
    for kind in (torch.uint8, torch.int16, torch.uint16, torch.int32):
        assert torch.equal(model(torch.tensor([[0, 159]], dtype=kind)), want), kind
    for wrong, mask, words in (
        (torch.tensor([[3, 160]]), None, "token id 160 is outside the vocabulary of 160"),
        (torch.tensor([[-1, 3]]), None, "token id -1 is outside"),
        (torch.tensor([[1.0]]), None, "must be integers of shape (batch, tokens)"),
        (torch.ones(1, 2, dtype=torch.bool), None, "bool of shape (1, 2)"),
        (torch.tensor([1]), None, "int64 of shape (1,)"),
        (torch.zeros(1, 0, dtype=torch.long), None, "at least one of each"),
        (ids, torch.ones(2, 95), "attention_mask has shape (2, 95)"),
    ):
        said = []
        for refuses in (model, spec):
            try:
                refuses(wrong, attention_mask=mask)  # type: ignore[operator]
            except ValueError as error:
                assert words in str(error), error
                said.append(str(error).replace("torch.", ""))
            else:
                raise AssertionError(f"not refused: {words}")
        assert said[0] == said[1]


@check
def cache_is_used() -> None:
    """Each decoding step computes one position, and the cache cannot overflow silently."""
    from qwen3_ref.cache import KVCache
    from qwen3_ref.model import Qwen3

    directory, ids, _, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    cache = KVCache(model.config, batch=2, length=5)
    with torch.no_grad():
        model(ids[:, :4], cache=cache)
        assert model(ids[:, 4:5], cache=cache).shape[1] == 1
        try:
            model(ids[:, 5:6], cache=cache)
        except ValueError as error:
            assert "5 of 5" in str(error) and "length=6" in str(error), error
        else:
            raise AssertionError("a full cache took one more token")
        other = KVCache(model.config, 2, 5, torch.bfloat16)
        for refused, words in (
            (lambda: model(ids[:, :1], cache=other), "KVCache with dtype=torch.float32"),
            (lambda: cache.truncate(-1), "length is -1"),
            (lambda: model(ids, logits_to_keep=0), "logits_to_keep is 0"),
            (lambda: model(ids, logits_to_keep=-1), "logits_to_keep is -1"),
        ):
            try:
                refused()
            except ValueError as error:
                assert words in str(error), error
            else:
                raise AssertionError(f"not refused: {words}")
    assert torch.isfinite(cache.keys).all() and cache.length == 5


@check
def cache_truncated() -> None:
    """A truncated cache goes on from its first columns, or starts over, and sees nothing of the rest."""
    from qwen3_ref.cache import KVCache
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3

    directory, ids, logits, _ = reference("dense")
    model = Qwen3.from_pretrained(directory)
    cache = KVCache(model.config, batch=2, length=100)
    with torch.no_grad():
        model(ids.flip(1)[:, :25], attention_mask=(ids > 7)[:, :25], cache=cache)
        cache.truncate()
        first = model(ids[:, :20], cache=cache)
        model(ids.flip(1)[:, :9], cache=cache)
        cache.truncate(20)
        then = model(ids[:, 20:45], cache=cache)
    compare("after truncating", torch.cat([first, then], 1), logits[:, :45], atol=ATOL).require()


def left_pad(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, longest), padded on the left with id 7 (a real id: pads must not leak)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), 7)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], mask[i, longest - len(row) :] = row, 1
    return ids, mask


def padded_equals_alone(case: str) -> None:
    """Uneven left-padded rows, prefilled in three chunks and decoded for 10 steps, equal each row alone.

    The first chunk ends amid the tokens of one padded row and before those of the other.
    """
    from qwen3_ref.cache import KVCache
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyCache, NumpyQwen3

    directory, ids, _, _ = reference(case)
    model = Qwen3.from_pretrained(directory)
    spec = NumpyQwen3.from_pretrained(directory)
    lengths = [9, 4, 23]
    rows = [ids[i % 2, 3 * i : 3 * i + n] for i, n in enumerate(lengths)]
    new = token_ids(model.config.vocab_size, (3, 10), seed=5)
    batch, mask = left_pad(rows)
    cache, numpy_cache = KVCache(model.config, batch=3, length=batch.shape[1] + 10), NumpyCache()
    both = []
    with torch.no_grad():
        chunks = (slice(0, 16), slice(16, 21), slice(21, None))
        pieces = [(batch[:, chunk], mask[:, chunk]) for chunk in chunks]
        pieces += [(new[:, i : i + 1], torch.ones(3, 1, dtype=torch.long)) for i in range(10)]
        for piece, piece_mask in pieces:
            got = model(piece, attention_mask=piece_mask, cache=cache)
            told = spec(piece.numpy(), attention_mask=piece_mask.numpy(), cache=numpy_cache)
            both.append((got, torch.from_numpy(told)))
        got = torch.cat([pair[0] for pair in both], dim=1)
        told = torch.cat([pair[1] for pair in both], dim=1)
        for i, row in enumerate(rows):
            alone = official_alone(case, torch.cat([row, new[i]]))
            own = got[i, -len(alone) :]
            compare(f"row {i} of {len(row)} tokens", own, alone, atol=ATOL).require()
            compare(f"row {i}, NumPy", told[i, -len(alone) :], alone, atol=ATOL).require()


@functools.cache
def cached_official(case: str) -> torch.nn.Module:
    return official_model(CASES[case])


def official_alone(case: str, row: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return cached_official(case)(row[None]).logits[0]


@check
def padding_dense() -> None:
    padded_equals_alone("dense")


@check
def padding_moe() -> None:
    padded_equals_alone("moe")


@check
def eager_equals_fused() -> None:
    """The attention that returns its weights computes what the fused kernel does; weights sum to 1."""
    from qwen3_ref.cache import KVCache
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3, Trace
    from qwen3_ref.numpy_ref import NumpyQwen3

    directory, ids, logits, _ = reference("moe")
    model, trace = Qwen3.from_pretrained(directory), Trace()
    told = Trace()
    NumpyQwen3.from_pretrained(directory)(ids.numpy(), trace=told)
    with torch.no_grad():
        got = model(ids, trace=trace)
        compare("eager logits", got, logits, atol=ATOL).require()
        cache = KVCache(model.config, batch=2, length=96)
        model(ids[:, :50], cache=cache, trace=Trace())
        late = model(ids[:, 50:], cache=cache, trace=Trace())
        compare("eager on a warm cache", late, logits[:, 50:], atol=ATOL).require()
    c = model.config
    assert len(trace.attentions) == len(trace.router_logits) == c.num_hidden_layers
    assert len(trace.hidden_states) == c.num_hidden_layers + 1
    for name in ("hidden_states", "attentions", "router_logits", "expert_weights"):
        for layer, (a, b) in enumerate(zip(getattr(trace, name), getattr(told, name), strict=True)):
            compare(f"{name} {layer}, NumPy", a, b, atol=ATOL).require()
    for weights in trace.attentions:
        compare("rows sum to 1", weights.sum(-1), torch.ones(2, 4, 96), atol=1e-5).require()
        assert (weights.triu(1) == 0).all(), "nobody looks ahead"
    for a, b in zip(trace.expert_ids, told.expert_ids, strict=True):
        assert (a.numpy() == b).all(), "both choose the same experts"


@check
def official_hidden_states() -> None:
    """Layer by layer, so that a difference is found where it arises."""
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3, Trace

    directory, ids, _, _ = reference("dense")
    trace = Trace()
    with torch.no_grad():
        Qwen3.from_pretrained(directory)(ids, trace=trace)
        official = cached_official("dense")(ids, output_hidden_states=True, output_attentions=True)
    for i, (a, b) in enumerate(zip(trace.hidden_states, official.hidden_states, strict=True)):
        compare(f"hidden state {i}", a, b, atol=ATOL).require()
    for i, (a, b) in enumerate(zip(trace.attentions, official.attentions, strict=True)):
        compare(f"attention weights {i}", a, b, atol=ATOL).require()


@check
def gradients() -> None:
    """Training: every weight's gradient equals the official one's, the router's included."""
    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3

    for case in ("dense_tied", "moe"):
        directory, ids, _, _ = reference(case)
        model, official = Qwen3.from_pretrained(directory), cached_official(case)
        official.zero_grad()
        for m in (model, official):
            out = m(ids)
            logits = out if isinstance(out, torch.Tensor) else out.logits
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        theirs = dict(official.named_parameters())
        for name, parameter in model.named_parameters():
            compare(f"{case} {name}", parameter.grad, theirs[name].grad, atol=ATOL).require()


@check
def packed_experts() -> None:
    """transformers 5's layout, experts stacked (E, 2F, D) and (E, D, F) with F != D, loads the same."""
    from safetensors.torch import save_file

    from qwen3_ref.course.compare import compare
    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3

    directory, ids, logits, _ = reference("moe_unnormalised")
    packed = scratch() / "packed"
    packed.mkdir(exist_ok=True)
    shutil.copy(directory / "config.json", packed)
    tensors = cached_official("moe_unnormalised").state_dict()
    stacked = tensors["model.layers.0.mlp.experts.gate_up_proj"]
    assert stacked.shape == (8, 48, 32), "transformers stacks experts in memory"
    save_file({k: v.contiguous() for k, v in tensors.items()}, packed / "model.safetensors")
    with torch.no_grad():
        got = Qwen3.from_pretrained(packed)(ids)
    compare("packed experts", got, logits, atol=ATOL).require()
    told = NumpyQwen3.from_pretrained(packed)(ids.numpy())
    compare("packed experts, NumPy", told, logits, atol=ATOL).require()


@check
def every_tensor_is_used() -> None:
    """A tensor that the model has no place for, or lacks, is refused by name: never skipped."""
    from safetensors.torch import load_file, save_file

    from qwen3_ref.model import Qwen3
    from qwen3_ref.numpy_ref import NumpyQwen3
    from qwen3_ref.store.checkpoint import CheckpointError

    directory, _, _, _ = reference("dense")
    odd = scratch() / "renamed"
    odd.mkdir(exist_ok=True)
    shutil.copy(directory / "config.json", odd)
    name, other = "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.query_norm.weight"
    whole = load_file(directory / "model.safetensors")
    extra = whole | {other: torch.ones(16)}
    renamed = {other if k == name else k: v for k, v in whole.items()}
    for tensors, words in ((extra, other), (renamed, name)):
        save_file(tensors, odd / "model.safetensors")
        for kind in (Qwen3, NumpyQwen3):
            try:
                kind.from_pretrained(odd)  # type: ignore[attr-defined]
            except CheckpointError as error:
                assert words in str(error), error
            else:
                raise AssertionError(f"{kind.__name__} took a checkpoint without telling of {words}")
