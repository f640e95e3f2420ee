"""Those who are measured: ours, the peers, and the machine itself. Each answers the same few questions.

A decode turn is some steps of one token for each row, the likeliest id fed back, behind `context` tokens;
a prefill turn is one pass over a prompt with logits for its last token. Turns return seconds.
No library is imported before its contestant is made: some interpreters have llama.cpp and no PyTorch.

Shapes: b rows, t new tokens, g KV heads, d head_dim, D hidden_size.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

REAL = 600
"""Contexts of so many tokens are computed; longer caches are filled with noise, as costly to read."""


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def seeded_ids(rows: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Ids (rows, tokens), the same for everyone."""
    draw = random.Random(tokens)
    return [[draw.randrange(vocabulary) for _ in range(tokens)] for _ in range(rows)]


class Torch:
    """What the PyTorch ones share. A subclass fills caches, goes back in them, and steps."""

    model: Any
    vocabulary: int
    how = ""

    def __init__(self) -> None:
        self.caches: dict[tuple[Any, ...], Any] = {}
        self.chosen: dict[tuple[int, int], str] = {}

    def ids(self, rows: int, tokens: int) -> Any:
        import torch

        return torch.tensor(seeded_ids(rows, tokens, self.vocabulary))

    def kinds(self) -> list[str]:
        """Of the caches that it offers."""
        return [""]

    def filled(self, kind: str, context: int, rows: int, more: int) -> Any:
        """A cache of this kind that holds `context` tokens in each row, with room for more."""
        raise NotImplementedError

    def back(self, cache: Any, context: int) -> None:
        """Forget what came behind the context."""
        raise NotImplementedError

    def logits(self, ids: Any, cache: Any) -> Any:
        """(b, t) -> (b, V) of the last token, the cache taking up t columns."""
        raise NotImplementedError

    def _decode(self, kind: str, context: int, rows: int, steps: int) -> float:
        import torch

        with torch.inference_mode():
            key = (kind, context, rows)
            if key not in self.caches:
                self.caches[key] = self.filled(kind, context, rows, steps)
            cache = self.caches[key]
            ids = self.ids(rows, 1)
            start = time.perf_counter()
            for _ in range(steps):
                ids = self.logits(ids, cache).argmax(dim=-1, keepdim=True)
            seconds = time.perf_counter() - start
            self.back(cache, context)
            return seconds

    def decode(self, context: int, rows: int, steps: int) -> float:
        """Seconds of so many steps; the quicker kind of cache is found in the first turn and kept."""
        if (context, rows) not in self.chosen:
            kinds, seconds = self.kinds(), {}
            for kind in kinds if len(kinds) > 1 else []:
                self._decode(kind, context, rows, steps)
                seconds[kind] = self._decode(kind, context, rows, steps)
            kept = min(seconds, key=lambda kind: seconds[kind], default=kinds[0])
            for kind in set(kinds) - {kept}:
                del self.caches[kind, context, rows]
            self.chosen[context, rows] = kept
        return self._decode(self.chosen[context, rows], context, rows, steps)

    def prefill(self, tokens: int) -> float:
        """Seconds of one pass over a prompt, from an empty cache."""
        import torch

        ids = self.ids(1, tokens)
        with torch.inference_mode():
            return timed(lambda: self.logits(ids, self.empty(tokens)))

    def empty(self, tokens: int) -> Any:
        """A cache with room for so many tokens."""
        raise NotImplementedError

    def moe(self, tokens: int, passes: int) -> float:
        """Seconds of some passes of so many tokens through the experts of layer 0, router and all. Each pass
        has tokens of its own: the same few experts again would come from a cache."""
        import torch

        generator, size = torch.Generator().manual_seed(tokens), self.model.config.hidden_size
        rows = torch.randn(passes, 1, tokens, size, generator=generator).to(self.model.dtype)
        with torch.inference_mode():
            return sum(self.through_experts(x) for x in rows)

    def through_experts(self, x: Any) -> float:
        layer = self.model.model.layers[0].mlp
        return timed(lambda: layer(x))

    def about(self) -> str:
        """How it was run, where there was a choice."""
        chosen = sorted(set(filter(None, self.chosen.values())))
        return "; ".join(filter(None, [self.how, ", ".join(chosen)]))


class Ours(Torch):
    """`Qwen3.from_pretrained(directory, precision=...)`; "plain": without, as it is trained."""

    def __init__(self, directory: str, precision: str) -> None:
        from qwen3_ref.model import Qwen3

        super().__init__()
        load: Any = Qwen3.from_pretrained
        self.directory = directory
        self.model = load(directory, **({} if precision == "plain" else {"precision": precision}))
        self.vocabulary = self.model.config.vocab_size
        if precision == "auto":
            self.how = f"chose {self.model.choice.precision}"

    def empty(self, tokens: int, rows: int = 1) -> Any:
        from qwen3_ref.cache import KVCache

        return KVCache(self.model.config, rows, tokens, self.model.dtype)

    def filled(self, kind: str, context: int, rows: int, more: int) -> Any:
        import torch

        cache, c = self.empty(context + more, rows), self.model.config
        ids = self.ids(rows, context)
        if context * rows <= REAL:
            self.logits(ids, cache)
            return cache
        cache.require_fit(c, self.model.model.embed_tokens.weight)
        cache.begin(ids, torch.ones_like(ids, dtype=torch.bool))
        for layer in range(c.num_hidden_layers):
            noise = torch.randn(2, rows, c.num_key_value_heads, context, c.head_dim).to(self.model.dtype)
            cache.append(layer, noise[0], noise[1])
        cache.commit()
        return cache

    def back(self, cache: Any, context: int) -> None:
        cache.truncate(context)

    def logits(self, ids: Any, cache: Any) -> Any:
        return self.model(ids, cache=cache, logits_to_keep=1)[:, -1]

    def rollouts(self, prompts: list[list[int]], most: int, seed: int) -> tuple[float, int]:
        """Seconds, and tokens drawn, of one reply to each prompt at temperature 1."""
        import torch

        from qwen3_ref.tokenizer import Tokenizer
        from qwen3_ref.train.rollout import sample_replies

        tokenizer, generator = Tokenizer.from_pretrained(self.directory), torch.Generator().manual_seed(seed)
        start = time.perf_counter()
        replies = sample_replies(self.model, tokenizer, prompts, most, generator)
        return time.perf_counter() - start, sum(map(len, replies))


class Transformers(Torch):
    """`AutoModelForCausalLM` in a dtype: its own steps, its own caches, its own dispatch of experts."""

    def __init__(self, directory: str, precision: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        super().__init__()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        dtype = getattr(torch, precision)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self.vocabulary = self.model.config.vocab_size
        self.experts: dict[int, str] = {}

    def kinds(self) -> list[str]:
        return ["DynamicCache", "StaticCache"]

    def empty(self, tokens: int, kind: str = "DynamicCache") -> Any:
        from transformers import DynamicCache, StaticCache

        c = self.model.config
        if kind == "StaticCache":
            return StaticCache(config=c, max_cache_len=tokens)
        return DynamicCache(config=c)

    def filled(self, kind: str, context: int, rows: int, more: int) -> Any:
        import torch

        cache, c = self.empty(context + more, kind), self.model.config
        if context * rows <= REAL:
            self.logits(self.ids(rows, context), cache)
            return cache
        for layer in range(c.num_hidden_layers):
            noise = torch.randn(2, rows, c.num_key_value_heads, context, c.head_dim).to(self.model.dtype)
            cache.update(noise[0], noise[1], layer)
        return cache

    def back(self, cache: Any, context: int) -> None:
        if hasattr(cache.layers[0], "cumulative_length"):
            for layer in cache.layers:
                layer.cumulative_length.fill_(context)
        elif more := cache.get_seq_length() - context:
            cache.crop(-more)

    def logits(self, ids: Any, cache: Any) -> Any:
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def through_experts(self, x: Any) -> float:
        tokens, run = x.shape[1], super().through_experts
        if tokens not in self.experts:
            seconds = {}
            for name in ("eager", "batched_mm", "grouped_mm"):
                if name == "batched_mm" and tokens > 64:
                    continue  # it copies the weights of every pick: 12 GB for 256 tokens
                with suppress(Exception):
                    self.model.set_experts_implementation(name)
                    run(x)
                    seconds[name] = min(run(x), run(x))
            self.experts[tokens] = min(seconds, key=lambda name: seconds[name])
        self.model.set_experts_implementation(self.experts[tokens])
        return run(x)

    def rollouts(self, prompts: list[list[int]], most: int, seed: int) -> tuple[float, int]:
        """Seconds, and tokens drawn, of `generate` at temperature 1 without filters, left-padded."""
        import torch

        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        torch.manual_seed(seed)
        ends = self.model.generation_config.eos_token_id
        start = time.perf_counter()
        out = self.model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=most, pad_token_id=0,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        stops = torch.tensor([ends] if isinstance(ends, int) else ends)
        ended = torch.isin(out[:, longest:], stops)
        before = ended.int().cumsum(dim=1) - ended.int()
        return seconds, int((before == 0).sum())

    def about(self) -> str:
        dispatch = ", ".join(f"{n}: {name}" for n, name in self.experts.items())
        return "; ".join(filter(None, [super().about(), dispatch]))


class FromScratch(Torch):
    """The teaching implementations with a KV cache: llms-from-scratch and reasoning-from-scratch."""

    def __init__(self, library: str, directory: str, precision: str) -> None:
        from importlib import import_module

        import torch
        from safetensors.torch import load_file

        from benchmarks.models import read_config

        super().__init__()
        c: dict[str, Any] = read_config(directory)
        if library == "llms_from_scratch":
            code = import_module("llms_from_scratch.kv_cache.qwen3")
            fill = code.load_weights_into_qwen
        else:
            code = import_module("reasoning_from_scratch.qwen3")
            fill = code.load_hf_weights_into_qwen
        self.code, self.layers, self.vocabulary = code, c["num_hidden_layers"], c["vocab_size"]
        self.shape = c["num_key_value_heads"], c["head_dim"]
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        self.dtype = getattr(torch, precision)
        config = {
            "vocab_size": c["vocab_size"], "context_length": c["max_position_embeddings"],
            "emb_dim": c["hidden_size"], "n_heads": c["num_attention_heads"], "n_layers": self.layers,
            "hidden_dim": c["intermediate_size"], "head_dim": c["head_dim"], "qk_norm": True,
            "n_kv_groups": c["num_key_value_heads"], "rope_base": theta, "dtype": self.dtype,
        }  # fmt: skip
        self.model = code.Qwen3Model(config).eval()
        weights = load_file(f"{directory}/model.safetensors")
        fill(self.model, config, {k: v.to(self.dtype) for k, v in weights.items()})

    def empty(self, tokens: int) -> Any:
        self.model.reset_kv_cache()
        return self.code.KVCache(self.layers)

    def filled(self, kind: str, context: int, rows: int, more: int) -> Any:
        import torch

        cache, (g, d) = self.empty(context), self.shape
        if context * rows <= REAL:
            self.logits(self.ids(rows, context), cache)
            return cache
        for layer in range(self.layers):
            cache.update(layer, tuple(torch.randn(2, rows, g, context, d).to(self.dtype)))
        self.model.current_pos = context
        return cache

    def back(self, cache: Any, context: int) -> None:
        for layer in range(self.layers):
            k, v = cache.get(layer)
            cache.update(layer, (k[:, :, :context], v[:, :, :context]))
        self.model.current_pos = context

    def _decode(self, kind: str, context: int, rows: int, steps: int) -> float:
        self.model.current_pos = context  # which belongs to the model and not to the cache
        return super()._decode(kind, context, rows, steps)

    def logits(self, ids: Any, cache: Any) -> Any:
        return self.model(ids, cache=cache)[:, -1]


class Llama:
    """llama.cpp through `xllamacpp`'s server, in this process; its own clock, which starts behind the
    prompt. What it does besides (sampling greedily, text) is small."""

    def __init__(self, file: str, context: int, rows: int, threads: int) -> None:
        import xllamacpp

        p = xllamacpp.CommonParams()
        p.model.path = file
        each = -(-context // 256) * 256
        p.n_ctx, p.n_parallel = each * rows, rows
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
        p.warmup = False
        self.server, self.vocabulary = xllamacpp.Server(p), 500
        self.how = f"xllamacpp {xllamacpp.__version__}"

    def _ask(self, ids: list[int], new: int, keep: bool) -> dict[str, float]:
        """Its clock's numbers for one reply of so many tokens."""
        reply = self.server.handle_completions(
            {"prompt": ids, "n_predict": new, "ignore_eos": True, "temperature": 0, "cache_prompt": keep}
        )
        if "timings" not in reply:
            raise RuntimeError(str(reply.get("error", reply))[:200])
        clock: dict[str, float] = reply["timings"]
        return clock

    def decode(self, context: int, rows: int, steps: int) -> float:
        """Seconds of so many steps; rows are requests at the same time, and their clocks' median counts."""
        found: list[float] = []

        def one(ids: list[int]) -> None:
            clock = self._ask(ids, steps + 1, True)
            found.append(clock["predicted_ms"] / 1000)

        threads = [Thread(target=one, args=(ids,)) for ids in seeded_ids(rows, context, self.vocabulary)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(found) < rows:
            raise RuntimeError("a request failed")
        return sorted(found)[rows // 2]

    def prefill(self, tokens: int) -> float:
        """Seconds of one prompt."""
        (ids,) = seeded_ids(1, tokens, self.vocabulary)
        return self._ask(ids, 1, False)["prompt_ms"] / 1000

    def about(self) -> str:
        return self.how


class Machine:
    """What the processor can do at most: bytes read and products made in a second."""

    def __init__(self, quick: bool) -> None:
        import torch

        self.array = torch.ones(500_000 if quick else 200_000_000)  # 0.8 GB: no cache holds it
        self.size = 64 if quick else 2048

    def read(self) -> float:
        """Bytes a second, of adding up a large array."""
        return self.array.nbytes / timed(self.array.sum)

    def products(self, kind: str) -> float:
        """Operations a second, of the product of two square matrices."""
        import torch

        n = self.size
        x = torch.randn(n, n)
        run: Callable[[], object]
        if kind == "int8":  # activations are rounded on the way, a small part of it
            from qwen3_ref.fast.products import product_of

            product = product_of("int8")(torch.randn(n, n))
            run = lambda: product(x)  # noqa: E731
        else:
            x = x.to(getattr(torch, kind))
            run = lambda: x @ x  # noqa: E731
        run()
        return 2 * n**3 / min(timed(run), timed(run))

    def about(self) -> str:
        return ""


def contestant(kind: str, arguments: dict[str, Any]) -> Any:
    """One of them by name."""
    made: dict[str, Callable[..., Any]] = {
        "ours": Ours, "transformers": Transformers, "from_scratch": FromScratch, "llama": Llama,
        "machine": Machine,
    }  # fmt: skip
    return made[kind](**arguments)
