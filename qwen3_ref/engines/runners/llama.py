"""llama.cpp, through the server that the package xllamacpp holds: the same that `llama-server` starts."""

from __future__ import annotations

import json
import urllib.request
from importlib.metadata import version
from typing import Any


class Engine:
    """A GGUF file that our exporter writes to `files`. Cache and attention are float32 where the
    weights are; else they are what the server takes when it is not told."""

    def __init__(self, source: str, files: str, type: str, context: int, threads: int) -> None:
        import xllamacpp

        from qwen3_ref.engines.export import export

        (file,) = export(source, "gguf", files, type).glob("*.gguf")
        p = xllamacpp.CommonParams()
        p.model.path = str(file)
        p.n_ctx, p.n_parallel = context, 1
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
        p.warmup, p.port = False, 0
        if type == "f32":
            p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(p)
        self.address = self.server.listening_address
        self.versions = {"xllamacpp": version("xllamacpp")}

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """One request; the JSON of the answer."""
        request = urllib.request.Request(
            self.address + path, json.dumps(given).encode() if given else None,
            {"Content-Type": "application/json"}, method=method,
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())

    def generate(self, ids: list[int], most: int, ends: list[int]) -> list[int]:
        """Greedy ids, the end included where the server hands it out."""
        found = self.ask(
            "POST", "/completion", prompt=ids, n_predict=most, temperature=0, top_k=1, samplers=["top_k"],
            return_tokens=True, cache_prompt=False,
        )  # fmt: skip
        tokens: list[int] = found["tokens"]
        return tokens

    def margin(self, ids: list[int], ours: int, theirs: int) -> float | None:
        """By how much, in logits, `theirs` is preferred to `ours` behind these ids, if both are near."""
        found = self.ask(
            "POST", "/completion", prompt=ids, n_predict=1, temperature=0, n_probs=20, cache_prompt=False,
            post_sampling_probs=False,
        )  # fmt: skip
        top = {one["id"]: one["logprob"] for one in found["completion_probabilities"][0]["top_logprobs"]}
        return float(top[theirs] - top[ours]) if ours in top and theirs in top else None

    def think(self, content: str, most: int, budget: int | None, message: str) -> list[int]:
        """The ids of a reply to one user's turn, the server's own budget on its thought."""
        limit = {} if budget is None else {"thinking_budget_tokens": budget}
        said = {"reasoning_budget_message": message} if message else {}
        found = self.ask(
            "POST", "/v1/chat/completions", messages=[{"role": "user", "content": content}], temperature=0,
            max_tokens=most, logprobs=True, **limit, **said,
        )  # fmt: skip
        return [one["id"] for one in found["choices"][0]["logprobs"]["content"]]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, control tokens recognised."""
        given = {"add_special": False, "parse_special": True}
        return [self.ask("POST", "/tokenize", content=text, **given)["tokens"] for text in texts]

    def render(self, conversations: list[dict[str, Any]]) -> list[str]:
        """The prompt of each conversation."""
        return [
            self.ask(
                "POST", "/apply-template", messages=one["messages"],
                **({"tools": one["tools"]} if one["tools"] else {}),
                chat_template_kwargs={"enable_thinking": one["thinking"]},
            )["prompt"]
            for one in conversations
        ]  # fmt: skip
