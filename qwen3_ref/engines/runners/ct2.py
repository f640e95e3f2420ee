"""CTranslate2: its own converter reads the folder."""

from __future__ import annotations

import json
from pathlib import Path


class Engine:
    """The folder is converted to `files`. Texts stay with our tokenizer: the
    converted model holds a list of tokens and no rules."""

    def __init__(self, source: str, files: str, type: str, context: int, threads: int) -> None:
        import ctranslate2

        kind = {"f32": "float32", "int8": "int8"}[type]
        ctranslate2.converters.TransformersConverter(source).convert(files, quantization=kind, force=True)
        self.model = ctranslate2.Generator(
            files, device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
        )
        self.names = json.loads((Path(files) / "vocabulary.json").read_text(encoding="utf-8"))
        self.versions = {"ctranslate2": ctranslate2.__version__}

    def generate(self, ids: list[int], most: int, ends: list[int]) -> list[int]:
        """Greedy ids, the end included."""
        (found,) = self.model.generate_batch(
            [[self.names[i] for i in ids]], max_length=most, sampling_topk=1, end_token=ends,
            return_end_token=True, include_prompt_in_result=False,
        )  # fmt: skip
        new: list[int] = found.sequences_ids[0]
        return new

    def margin(self, ids: list[int], ours: int, theirs: int) -> float:
        """By how much, in logits, `theirs` is preferred to `ours` behind these ids."""
        import numpy as np

        logits = np.array(self.model.forward_batch([[self.names[i] for i in ids]]))[0, -1]
        return float(logits[theirs]) - float(logits[ours])
