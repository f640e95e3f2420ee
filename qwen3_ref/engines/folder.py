"""The official layout, which transformers, vLLM, SGLang and MLX load as it is, and CTranslate2's, which its
own converter makes of it."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

from qwen3_ref.engines.source import DTYPES, Source, as_stored
from qwen3_ref.store.checkpoint import write_checkpoint

SHARD = 2 * 10**9
"""Bytes of weights in one file, and in memory, at most."""
CT2_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "int8": "int8"}
"""How CTranslate2 spells them."""
ATTENTION_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The head_dim that vLLM 0.33 has CPU kernels for (`v1/attention/backends/cpu_attn.py`)."""


def write_folder(source: Source, folder: Path, type: str) -> None:
    """config.json, safetensors, tokenizer, template and generation settings, in the official layout."""
    dtype = DTYPES[type]
    shapes = source.config.tensor_shapes()
    sizes = {name: dtype.itemsize * _count(shape) for name, shape in shapes.items()}

    def write(names: list[str], file: Path) -> None:
        shard = {name: source.tensor(name, dtype) for name in names}
        save_file(shard, file, metadata={"format": "pt"})

    write_checkpoint(folder, sizes, as_stored(source.config, type).to_json, write, SHARD)
    for name, content in source.files.items():
        (folder / name).write_bytes(content)


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def hf(source: Source, folder: Path, type: str, out: Path) -> str:
    """For transformers."""
    write_folder(source, folder, type)
    asked = "'Once'" if source.profile.base else "[{'role': 'user', 'content': 'Hi'}]"
    code = f"from transformers import pipeline; print(pipeline('text-generation', '{out}')({asked}))"
    return f"python -c {shlex.quote(code)}"


def mlx(source: Source, folder: Path, type: str, out: Path) -> str:
    """For MLX-LM, whose settings of sampling are flags."""
    write_folder(source, folder, type)
    flags = {"temperature": "temp", "top_p": "top-p", "top_k": "top-k", "min_p": "min-p"}
    sampling = next(iter(source.settings(type)["sampling"].values()))
    said = " ".join(f"--{flags[name]} {value}" for name, value in sampling.items() if name in flags)
    plain = " --ignore-chat-template" if source.profile.base else ""
    return f"mlx_lm.generate --model {shlex.quote(str(out))} --prompt Hi{plain} --max-tokens 1024 {said}"


def vllm(source: Source, folder: Path, type: str, out: Path) -> str:
    """For vLLM, which takes sampling and ends from generation_config.json, and parsers as flags."""
    write_folder(source, folder, type)
    settings = source.settings(type)
    flags = f"--dtype {str(DTYPES[type]).removeprefix('torch.')}"
    if settings["reasoning_parser"]:
        flags += f" --reasoning-parser {settings['reasoning_parser']}"
    if settings["tool_parser"]:
        flags += f" --enable-auto-tool-choice --tool-call-parser {settings['tool_parser']}"
    at = shlex.quote(str(out))
    command = f"python -m vllm.entrypoints.openai.api_server --model {at} --served-model-name {source.name}"
    if source.config.head_dim not in ATTENTION_HEADS:
        flags += f"  # needs a GPU: its CPU kernels have no head_dim {source.config.head_dim}"
    return f"{command} {flags}"


_RUN_CT2 = '''\
"""python run.py TEXT: one reply of CTranslate2, greedily."""
import sys
from pathlib import Path

import ctranslate2
import tokenizers

here = Path(__file__).parent
tokenizer = tokenizers.Tokenizer.from_file(str(here / "tokenizer.json"))
text = {before!r} + " ".join(sys.argv[1:]) + {after!r}
tokens = tokenizer.encode(text).tokens
generator = ctranslate2.Generator(str(here), compute_type={type!r})
found = generator.generate_batch([tokens], max_length=512, sampling_topk=1, include_prompt_in_result=False,
                                 end_token={stop!r})
print(tokenizer.decode(found[0].sequences_ids[0], skip_special_tokens=False))
'''


def ct2(source: Source, folder: Path, type: str, out: Path) -> str:
    """For CTranslate2, by its own converter, which reads the official layout through transformers."""
    converters = import_module("ctranslate2.converters")
    with TemporaryDirectory(dir=folder) as place:
        plain = type if type in DTYPES else source.type
        write_folder(source, Path(place), plain)
        converter = converters.TransformersConverter(place, load_as_float16=False)
        converter.convert(str(folder), quantization=CT2_TYPES[type], force=True)
    for name, content in source.files.items():
        (folder / name).write_bytes(content)
    chat = not source.profile.base
    words = {
        "before": "<|im_start|>user\n" if chat else "",
        "after": "<|im_end|>\n<|im_start|>assistant\n" if chat else "",
        "type": CT2_TYPES[type],
        "stop": source.settings(type)["stop"],
    }
    (folder / "run.py").write_text(_RUN_CT2.format(**words), encoding="utf-8")
    return f"python {shlex.quote(str(out / 'run.py'))} Hi"
