"""transformers: the official modelling code."""

from __future__ import annotations

from typing import Any

from qwen3_ref.engines.runners.texts import Texts


class Engine(Texts):
    """A folder in the official layout, as transformers loads it."""

    def __init__(self, source: str, files: str, type: str, context: int, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.torch = torch
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[type]
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(source, dtype=dtype, local_files_only=True).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}

    def generate(self, ids: list[int], most: int, ends: list[int]) -> list[int]:
        """Greedy ids, the end included."""
        given = self.torch.tensor([ids])
        out = self.model.generate(
            given, attention_mask=self.torch.ones_like(given), do_sample=False, temperature=None, top_p=None,
            top_k=None, max_new_tokens=most, eos_token_id=ends, pad_token_id=ends[0],
        )  # fmt: skip
        found: list[int] = out[0, len(ids) :].tolist()
        return found

    def margin(self, ids: list[int], ours: int, theirs: int) -> float:
        """By how much, in logits, `theirs` is preferred to `ours` behind these ids."""
        with self.torch.inference_mode():
            logits = self.model(self.torch.tensor([ids])).logits[0, -1].float()
        return float(logits[theirs] - logits[ours])
