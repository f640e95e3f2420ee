"""A dense checkpoint as GGUF, for llama.cpp: `python benchmarks/gguf_file.py DIR f16|q8_0|q4_0 FILE`.

Needs NumPy and the package `gguf`, no PyTorch, so that the interpreter of the peer can run it. Every matrix,
the tied head too, is in the one format; norms are float32. The vocabulary is made up (`t0`, `t1`, ...),
since speed does not hang on what ids mean. Keys: llama.cpp's `src/models/qwen3.cpp`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(directory: Path) -> Any:
    """(official name, float32 array) of a single safetensors file in bfloat16."""
    file = directory / "model.safetensors"
    raw = np.memmap(file, dtype=np.uint8, mode="r")
    size = int.from_bytes(raw[:8].tobytes(), "little")
    for name, entry in json.loads(raw[8 : 8 + size].tobytes()).items():
        if name != "__metadata__":
            start, stop = (8 + size + offset for offset in entry["data_offsets"])
            half = np.frombuffer(raw[start:stop].tobytes(), dtype="<u2").astype(np.uint32)
            yield name, (half << 16).view(np.float32).reshape(entry["shape"])


def write(directory: Path, kind: str, target: Path) -> None:
    """Write the checkpoint to a GGUF file in one format."""
    c = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(target, "qwen3")
    writer.add_name("seeded")
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c.get("rope_theta") or c["rope_parameters"]["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{i}" for i in range(c["vocab_size"])])
    writer.add_token_types([1] * c["vocab_size"])
    writer.add_token_merges(["t 1"])  # one has to be there
    writer.add_eos_token_id(c["vocab_size"] - 1)
    writer.add_add_bos_token(False)
    stored = gguf.GGMLQuantizationType[kind.upper()]
    for name, array in tensors(directory):
        stem = name.removesuffix(".weight")
        parts = stem.split(".", 3)
        new = TOP.get(stem) or f"blk.{parts[2]}.{NAMES[parts[3]]}"
        if array.ndim == 1:
            writer.add_tensor(f"{new}.weight", array)
        elif kind == "f16":
            writer.add_tensor(f"{new}.weight", array.astype(np.float16))
        else:
            writer.add_tensor(f"{new}.weight", gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, format_, file = sys.argv[1:]
    unfinished = Path(f"{file}.tmp")
    write(Path(source), format_, unfinished)
    os.replace(unfinished, file)
