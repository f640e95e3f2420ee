"""`OUT/family`: the nano family as the package has it, with what other programs look for beside it; and
the way back, from what ships to a run directory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.budget import NANO_EARLY_STOP
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.store.files import write_atomically
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.names import FAMILY
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.run import Run
from qwen3_ref.train.stages import BASES, EXTRA, SHIPPED, STAGES


def export(run: Run) -> None:
    """Write `OUT/family`, as the package has it: the checkpoints in bfloat16 with tokenizer, chat
    template and generation settings, the logs of every stage that has run, and what was measured."""
    family = run.out / FAMILY
    models = {name: run.model(stage) for name, stage in SHIPPED.items()}  # all there, or nothing is written
    for name, model in models.items():
        model.bfloat16().save_pretrained(family / name)
        run.tokenizer.save_pretrained(family / name)
        finish_nano(family / name)
    for path in (run.out / "measured").glob("*.json"):
        (family / "measured").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, family / "measured" / path.name)
    for stage in STAGES | EXTRA:
        for file in ("log.csv", "held_out.csv", "summary.json"):
            if (run.out / stage / file).exists():
                (family / "logs" / stage).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.out / stage / file, family / "logs" / stage / file)


def unpack(out: Path) -> None:
    """Lay the shipped family out as the run directory that it came from: the four checkpoints where their
    stages left them, with their logs. The other stages do not ship, and are left to `train`; what is there
    already stays, whoever made it."""
    for name, stage in SHIPPED.items():
        folder, shipped = out / stage, find_nano(name)
        if (folder / "model" / "config.json").exists():
            continue
        shutil.rmtree(folder / "model.tmp", ignore_errors=True)  # of a call that was stopped
        shutil.copytree(shipped, folder / "model.tmp")
        for file in (shipped.parent / "logs" / stage).iterdir():
            shutil.copyfile(file, folder / file.name)
        (folder / "model.tmp").rename(folder / "model")
    if not (out / "tokenizer" / "tokenizer.json").exists():
        Tokenizer.from_pretrained("qwen3-nano-base").save_pretrained(out / "tokenizer")


def nano_chat_template() -> str:
    """The Jinja template of the nano family, `chat_template.jinja` beside each of its checkpoints."""
    path = Path(__file__).resolve().parents[1] / "data" / "nano_chat_template.jinja"
    return path.read_text(encoding="utf-8")


def finish_nano(directory: Path) -> None:
    """Add what other programs look for beside a nano checkpoint, as official ones have it: the chat
    template, the length of the context (of a base model that of S3, else with room for a reply), the
    setting of sampling, and the ids that end a reply (of a base model the one that ends a document), in
    config.json too; and, which official ones do not have, `early_stop_text`, which `Profile` reads.

    Which are base models, the directory's name tells. Raises OSError in one sentence.
    """
    ids = Tokenizer.from_pretrained(directory).control_tokens
    turn, text = ids["<|im_end|>"], ids["<|endoftext|>"]
    base = directory.name in BASES
    settings: dict[str, Any]
    model = Qwen3Config.from_pretrained(directory)
    if base:
        length = pretrain.MIXES["s3"].context
        model = replace(model, max_position_embeddings=length)
        settings = {"do_sample": False, "eos_token_id": text, "max_new_tokens": length // 16}
    else:
        recommended = Sampling.thinking()
        settings = {
            "do_sample": True,
            "eos_token_id": [turn, text],
            "pad_token_id": text,
            "temperature": recommended.temperature,
            "top_k": recommended.top_k,
            "top_p": recommended.top_p,
        }
    settings |= {"bos_token_id": text, "early_stop_text": NANO_EARLY_STOP}
    settings["transformers_version"] = model.to_dict()["transformers_version"]
    settings = dict(sorted(settings.items()))
    write_atomically(directory / "generation_config.json", json.dumps(settings, indent=2) + "\n")
    model = replace(model, bos_token_id=text, eos_token_id=text if base else turn)
    model.to_json(directory / "config.json")
    named = directory / "tokenizer_config.json"
    config = json.loads(named.read_text(encoding="utf-8"))
    config |= {
        "chat_template": nano_chat_template(),
        "eos_token": "<|endoftext|>" if base else "<|im_end|>",
        "model_max_length": model.max_position_embeddings,
    }
    config = dict(sorted(config.items()))
    write_atomically(named, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomically(directory / "chat_template.jinja", nano_chat_template())
