"""The checkpoints in the package: transformers reads them, writes the same prompts and the same replies."""

from __future__ import annotations

import functools
import io
import json
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_ref import facts
from qwen3_ref.chat import encode_chat, render_chat
from qwen3_ref.commands.line import main
from qwen3_ref.config import Qwen3Config
from qwen3_ref.course.compare import official_model
from qwen3_ref.decode.generation import generate
from qwen3_ref.model import Qwen3
from qwen3_ref.store import shipped
from qwen3_ref.tasks.problems import FAMILIES, make_problems
from qwen3_ref.tokenizer import CONTROL_TOKENS, Tokenizer
from qwen3_ref.train import export
from qwen3_ref.train.recipes import pretrain
from qwen3_ref.train.stages import BASES
from tests.conversations import GOLDENS, arguments_of, conversations, values, words

ROOT = Path(shipped.__file__).resolve().parents[1]
NANO = ROOT / "data" / "nano"
FILES = {
    "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md",
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
Talk = tuple[list[dict[str, Any]], Any]  # messages, and tools or options
TALKS: list[Talk] = [
    ([{"role": "user", "content": "12+34 mod 100 /think"}], {}),
    ([{"role": "user", "content": "12+34 mod 100 /no_think"}], {"enable_thinking": False}),
    (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "12+34 mod 100"},
            {"role": "assistant", "content": "46", "reasoning_content": "12+34=46"},
            {"role": "user", "content": "and 46-05 mod 100"},
        ],
        {"enable_thinking": True},
    ),
    (
        [
            {"role": "user", "content": "Add 1 and é."},
            {"role": "assistant", "content": "", "reasoning_content": "Use it.", "tool_calls": [CALL, CALL]},
            {"role": "tool", "content": "46"},
            {"role": "tool", "content": "47"},
        ],
        {"tools": [ADD]},
    ),
    ([{"role": "assistant", "content": "<think>\na\n</think>\n\nb"}], {"add_generation_prompt": False}),
]


@functools.cache
def auto_tokenizer(directory: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@functools.cache
def nano_tokenizer() -> Any:
    """transformers' tokenizer of the first checkpoint, with the template as this file tests it."""
    return auto_tokenizer(shipped.find_nano("qwen3-nano"))


def rendered(messages: list[dict[str, Any]], **options: Any) -> str:
    """What transformers makes of the nano family's template."""
    options = {"add_generation_prompt": True, "tokenize": False} | options
    template = export.nano_chat_template()
    text = nano_tokenizer().apply_chat_template(messages, chat_template=template, **options)
    assert isinstance(text, str)
    return text


# -- the template -----------------------------------------------------------------------------------


def test_the_template_against_the_official_one() -> None:
    """Character for character what the official template wrote in the same cases."""
    cases = [case for case in GOLDENS["cases"] if case["template"] == "qwen3"]
    assert len(cases) == 125
    for case in cases:
        options = {k: v for k, v in arguments_of(case).items() if k != "template"}
        assert rendered(case["messages"], **options) == case["rendered"]


MARKED = [
    "<think>", "</think>", "</think>\n\n", "<tool_response>", "</tool_response>", "<|im_end|>", "\n", "a",
]  # fmt: skip
odd = st.one_of(words, st.lists(st.sampled_from(MARKED), max_size=5).map("".join))
wrapped = odd.map(lambda text: f"<tool_response>{text}</tool_response>")


@st.composite
def odd_conversations(draw: st.DrawFn) -> Talk:
    """All that the format allows beyond ordinary conversations: roles in any order, marks in contents,
    no content beside calls, calls in both forms, arguments as JSON text and of every JSON type."""
    messages, tools = draw(conversations(odd))
    messages = draw(st.permutations(messages))[: draw(st.integers(1, len(messages)))]
    for message in messages:
        if message["role"] == "user" and draw(st.booleans()):
            message["content"] = draw(wrapped)
        for i, call in enumerate(message.get("tool_calls", [])):
            call["arguments"] = draw(st.dictionaries(odd, values, max_size=2))
            if draw(st.booleans()):
                call["arguments"] = json.dumps(call["arguments"], ensure_ascii=False)
            if draw(st.booleans()):
                message["tool_calls"][i] = {"type": "function", "function": call}
        if message.get("tool_calls") and draw(st.booleans()):
            message["content"] = None
    return messages, tools


@settings(max_examples=150, deadline=None)
@given(odd_conversations(), st.booleans(), st.booleans())
def test_the_template_is_render_chat(talk: Talk, ask: bool, thinking: bool) -> None:
    messages, tools = talk
    options: dict[str, Any] = {"add_generation_prompt": ask, "enable_thinking": thinking, "tools": tools}
    assert rendered(messages, **options) == render_chat(messages, **options)


@settings(max_examples=100, deadline=None)
@given(conversations(words), st.booleans())
def test_the_ids_are_those_of_encode_chat(talk: Talk, thinking: bool) -> None:
    """Where no caller's text looks like a control token: a template in Jinja cannot tell whose it is."""
    messages, tools = talk
    assert not any(mark in json.dumps(messages) for mark in CONTROL_TOKENS)
    directory = shipped.find_nano("qwen3-nano")
    theirs = nano_tokenizer().apply_chat_template(
        messages, tools=tools, enable_thinking=thinking, add_generation_prompt=True, return_dict=False,
        chat_template=export.nano_chat_template(),
    )  # fmt: skip
    ours = encode_chat(our_tokenizer(directory), messages, tools=tools, enable_thinking=thinking)
    assert theirs == ours


@functools.cache
def our_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(directory)


# -- the checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped.NANO)
def test_prompts_in_transformers(name: str) -> None:
    """From the directory alone, with the template that lies there."""
    directory = shipped.find_nano(name)
    for messages, options in TALKS:
        options = {"add_generation_prompt": True} | options
        theirs = auto_tokenizer(directory).apply_chat_template(messages, return_dict=False, **options)
        assert theirs == encode_chat(our_tokenizer(directory), messages, **options)


@pytest.mark.parametrize("name", shipped.NANO)
def test_greedy_replies_in_transformers(name: str) -> None:
    """The same ids as ours, up to the end that its own generation_config.json knows: two replies written by
    transformers, the others read by it once, each id the likeliest after those before it."""
    directory = shipped.find_nano(name)
    tok, ours = our_tokenizer(directory), Qwen3.from_pretrained(directory)
    theirs = official_model(directory)
    assert theirs.num_parameters() == ours.config.num_parameters()
    problems = [make_problems(family, "test", 1, difficulty=2)[0].prompt for family in FAMILIES]
    prompts = [encode_chat(tok, messages, **options) for messages, options in TALKS]
    prompts += [encode_chat(tok, [{"role": "user", "content": text}]) for text in problems]
    prompts += [tok.encode("def mean(values):\n"), tok.encode("The")]
    ends = theirs.generation_config.eos_token_id  # one number or two, as official ones have it
    assert theirs.config.eos_token_id in tok.stop_ids
    replies = generate(ours, prompts, max_new_tokens=40, stop_ids=ends)  # together: one at a time takes long
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        if i in (0, len(TALKS)):
            whole = theirs.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
            assert list(reply) == whole[0, len(prompt) :].tolist()
        with torch.no_grad():
            logits = theirs(torch.tensor([prompt + list(reply)])).logits[0, len(prompt) - 1 : -1]
        assert list(reply) == logits.argmax(-1).tolist()
        assert len(reply) == 40 or reply.ended == "stop"


def test_the_replies_are_worth_comparing() -> None:
    """The comparison above ends at a stop id in both, and not always with the same few ids."""
    directory = shipped.find_nano("qwen3-nano")
    tok, model = our_tokenizer(directory), Qwen3.from_pretrained(directory)
    problems = [make_problems(family, "test", 1, difficulty=2)[0].prompt for family in FAMILIES]
    prompts = [encode_chat(tok, [{"role": "user", "content": text}]) for text in problems]
    replies = generate(model, prompts, max_new_tokens=100, stop_ids=tok.stop_ids)
    assert all(reply.ended == "stop" for reply in replies) and len(set(map(tuple, replies))) == len(FAMILIES)


@pytest.mark.parametrize("name", shipped.NANO)
def test_official_file_names(name: str) -> None:
    assert {path.name for path in shipped.find_nano(name).iterdir()} == FILES


@pytest.mark.parametrize("name", shipped.NANO)
def test_a_fresh_export_is_what_the_package_has(name: str, tmp_path: Path) -> None:
    """Saved and finished as `train nano export` does it: every file but the weights, byte for byte."""
    place, directory = shipped.find_nano(name), tmp_path / name
    trained = pretrain.nano_config().max_position_embeddings
    config = Qwen3Config.from_pretrained(place)
    config = replace(config, bos_token_id=None, eos_token_id=None, max_position_embeddings=trained)
    Qwen3(config).bfloat16().save_pretrained(directory)
    Tokenizer.from_pretrained(place).save_pretrained(directory)
    export.finish_nano(directory)
    for file in FILES - {"model.safetensors", "README.md"}:  # the cards are in test_card.py
        assert (directory / file).read_bytes() == (place / file).read_bytes(), file


@pytest.mark.parametrize("name", shipped.NANO)
def test_its_settings_are_where_official_ones_are(name: str) -> None:
    """As in the official files of its kind, with its own ids: a chat model ends its turn, a base model
    its document. So other engines, which know these files alone, stop."""
    directory, tok = shipped.find_nano(name), our_tokenizer(shipped.find_nano(name))
    base = name in BASES
    official = facts.official_models()["Qwen3-0.6B-Base" if base else "Qwen3-0.6B"]
    ids = {151_643: tok.control_tokens["<|endoftext|>"], 151_645: tok.control_tokens["<|im_end|>"]}
    ours = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for key in ("bos_token_id", "eos_token_id"):
        assert ours[key] == ids[official["config"][key]], key
    length = pretrain.MIXES["s3"].context  # 32,768 of them there, and 8,192 more for a reply
    assert ours["max_position_embeddings"] * 32 == official["config"]["max_position_embeddings"]
    assert length * 32 == 32_768
    ours = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))
    values = official["generation_config"]["values"]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        own = values.get(key)
        assert ours.get(key) == ([ids[i] for i in own] if isinstance(own, list) else ids.get(own)), key
    for key in ("do_sample", "temperature", "top_k", "top_p"):
        assert ours.get(key) == values.get(key), key
    assert (ours.get("max_new_tokens") or 0) * 32 == (values.get("max_new_tokens") or 0)
    got = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert got["eos_token"] == ("<|endoftext|>" if base else "<|im_end|>")
    assert got["model_max_length"] == length * (4 if base else 5) // 4
    assert got["chat_template"] == (directory / "chat_template.jinja").read_text(encoding="utf-8")


TOKENIZER_KEYS = [
    "add_bos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "bos_token",
    "chat_template", "clean_up_tokenization_spaces", "eos_token", "errors", "model_max_length", "pad_token",
    "split_special_tokens", "tokenizer_class", "unk_token",
]  # fmt: skip
"""Of tokenizer_config.json of Qwen3-0.6B."""


@pytest.mark.parametrize("name", shipped.NANO)
def test_the_same_keys_in_the_same_order_as_official_files(name: str) -> None:
    """Of ours, `early_stop_text` alone is a key that no official file has."""
    directory = shipped.find_nano(name)
    like = "Qwen3-30B-A3B" if "moe" in name else "Qwen3-0.6B"
    official = facts.official_models()[like + ("-Base" if name in BASES else "")]

    def keys(file: str) -> list[str]:
        return list(json.loads((directory / file).read_text(encoding="utf-8")))

    assert keys("config.json") == list(official["config"])
    settings = [key for key in keys("generation_config.json") if key != "early_stop_text"]
    assert settings == list(official["generation_config"]["values"])
    assert keys("tokenizer_config.json") == TOKENIZER_KEYS


def test_shapes_that_engines_take() -> None:
    """The recipe's: heads that kernels have, rows of whole 8-bit and 4-bit blocks, and small enough."""
    shapes = [pretrain.nano_config(), pretrain.student_config(), pretrain.moe_config()]
    for config, most in zip(shapes, (1.2e6, 0.5e6, 3e6), strict=True):
        assert config.head_dim in (32, 64) and config.num_parameters() <= most
        assert config.hidden_size // config.num_attention_heads != config.head_dim, "as in Qwen3-0.6B"
        for tensor, shape in config.tensor_shapes().items():
            if len(shape) == 2 and "mlp.gate.weight" not in tensor:
                assert shape[0] % 32 == shape[1] % 32 == 0, tensor
            assert shape[-1] % 32 == 0, tensor


def test_they_are_small_and_part_of_the_package() -> None:
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["qwen3_ref"]
    packed = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert packed >= {*files, ROOT / "data" / "nano_chat_template.jinja"}


def test_every_log_says_how_it_was_made() -> None:
    """Beside each table that a run wrote lies its summary: seed, versions, time."""
    tables = list((NANO / "logs").rglob("*.csv"))
    assert tables, "the logs that made the weights are part of the package"
    for folder in {path.parent for path in tables}:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        assert isinstance(summary["seed"], int) and summary["seconds"] > 0, folder.name
        assert {"torch", "numpy", "tokenizers"} <= summary["packages"].keys(), folder.name


# -- by name ----------------------------------------------------------------------------------------


def test_names_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped.local_directory("qwen3-nano") == NANO / "qwen3-nano"
    assert shipped.local_directory(str(tmp_path)) == tmp_path
    assert shipped.local_directory("") is shipped.local_directory("Qwen3-0.6B") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen3-nano").mkdir()
    assert shipped.local_directory("qwen3-nano") == Path("qwen3-nano"), "what one has here comes first"
    with pytest.raises(ValueError, match="no nano checkpoint 'nano'; there are qwen3-nano, qwen3-nano-base"):
        shipped.find_nano("nano")


def test_on_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["info", "qwen3-nano-moe"]) == 0
    assert "16, 2 for each token" in capsys.readouterr().out
    assert main(["fetch", "qwen3-nano"]) == 2
    assert "comes with the package" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("a=x b=y count x y /no_think\na=x b=y count x y /think\n"))
    assert main(["chat", "qwen3-nano", "--temperature", "0", "--max-new-tokens", "60"]) == 0
    assert "a=x1" in capsys.readouterr().out, "it thinks a line an item"
