"""What a conversation hands on, and what it keeps: on the scripted model of a few ids, and a real one."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rich.console import Console

from qwen3_ref.cache import KVCache
from qwen3_ref.chat import encode_chat
from qwen3_ref.commands import chat
from qwen3_ref.commands.line import main
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode import dialogue as module
from qwen3_ref.decode.budget import Budget
from qwen3_ref.decode.dialogue import Dialogue
from qwen3_ref.decode.generation import generate, stream
from qwen3_ref.decode.profile import Profile
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.model import Qwen3
from qwen3_ref.store.shipped import find_nano
from qwen3_ref.tokenizer import Tokenizer

TOK = Tokenizer.train(["hello there, how are you? What is it?"], 320)
CONTROL = TOK.control_tokens
END = CONTROL["<|im_end|>"]


def small_model() -> Qwen3:
    config = Qwen3Config(
        vocab_size=TOK.num_ids + 5, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, rope_theta=1e6,
        tie_word_embeddings=True, max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    return Qwen3(config)


@contextmanager
def says(*texts: str) -> Iterator[list[dict[str, Any]]]:
    """In here the model says these texts, one a turn; gives what each turn was asked with."""
    asked: list[dict[str, Any]] = []

    def scripted(model: Any, prompt: list[int], **options: Any) -> Iterator[int]:
        asked.append(options | {"prompt": prompt})
        tok, ids = options["tokenizer"], []
        for n, text in enumerate(texts[len(asked) - 1].split("~<")):
            ids += tok.encode(f"<{text.partition('>')[0]}>") if n else []  # "~<mark>": typed out, no token
            ids += tok.encode(text.partition(">")[2] if n else text, allow_control_tokens=True)
        return iter(ids)

    with mock.patch.object(module, "stream", scripted):
        yield asked


def talk(**options: Any) -> Dialogue:
    profile = options.pop("profile", None) or Profile.of(TOK)
    return Dialogue(small_model(), TOK, profile, torch.Generator().manual_seed(0), **options)


THINKING, QUIET = Sampling(temperature=0.5), Sampling(temperature=0.25)
OWN = Profile("qwen3", frozenset({END}), THINKING, QUIET, early_stop="enough</think>")


@pytest.mark.parametrize("thinking", [True, False])
def test_everything_it_was_given_reaches_the_generation(thinking: bool) -> None:
    d = talk(profile=OWN, enable_thinking=thinking, thinking_budget=3, max_new_tokens=9)
    with says("a<|im_end|>", "b<|im_end|>") as asked:
        list(d.ask("hello"))
        d.enable_thinking, d.thinking_budget = not thinking, Budget(5, "now</think>")
        list(d.ask("again"))
    options = asked[0]
    assert options["sampling"] == (THINKING if thinking else QUIET)
    assert options["thinking_budget"] == Budget(3, "enough</think>")
    assert options["stop_ids"] == {END} and options["max_new_tokens"] == 9
    assert options["generator"] is d.generator and options["tokenizer"] is TOK
    assert asked[1]["sampling"] == (QUIET if thinking else THINKING)
    assert asked[1]["thinking_budget"] == Budget(5, "now</think>")


def test_a_budget_cuts_with_the_checkpoints_own_text() -> None:
    """On the nano itself: its early stop, not the official sentence, and within the budget."""
    tok, model = Tokenizer.from_pretrained("qwen3-nano"), Qwen3.from_pretrained("qwen3-nano")
    profile = Profile.from_pretrained("qwen3-nano", tok)
    d = Dialogue(model, tok, profile, torch.Generator(), thinking_budget=4, max_new_tokens=60)
    said = tok.decode(d.ask("12+34-56 mod 100 /think"))
    assert "\n</think>\n\n" in said and "limited time" not in said
    thought = said.removeprefix("<think>").split("\n</think>")[0]
    assert len(tok.encode(thought)) == 4


@pytest.mark.parametrize(
    ("thinking", "reply", "message"),
    [
        (True, "<think>\nhm\n</think>\n\nyes<|im_end|>", {"reasoning_content": "hm", "content": "yes"}),
        (True, "yes<|im_end|>", {"content": "yes"}),
        (True, "<think>\nhm", {"reasoning_content": "hm", "content": ""}),
        (False, "so: </think> closes.<|im_end|>", {"content": "so: </think> closes."}),
        (False, "a <think> b<|im_end|>", {"content": "a <think> b"}),
    ],
)
def test_a_reply_is_read_in_the_mode_it_was_asked_in(
    thinking: bool, reply: str, message: dict[str, str]
) -> None:
    d = talk(enable_thinking=thinking)
    with says(reply, "next<|im_end|>"):
        for n, _ in enumerate(d.ask("hello")):
            if n == 0:
                d.enable_thinking = not thinking  # for the next message; this one is under way
        turn = d.messages[-1]
        list(d.ask("again"))
    got = {k: v for k, v in turn.items() if k not in ("role", "tool_calls") and v is not None}
    got = {k: v for k, v in got.items() if v or k == "content"}
    assert got == message
    assert TOK.encode(message["content"]) == [] or message["content"] in TOK.decode(d.prompt())


@pytest.mark.parametrize(
    "reply",
    [
        "<think>\nhm\n</think>\n\nFirst </think> then.",
        "<think>\n</think>\n\nFirst ~</think> ~<|im_end|> then ~<tool_call> ~<think> on.",
        "Write ~</think> to ~<|im_end|> close.",
        "<tool_call>\nnot a call\n</tool_call> and more",
        "a\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>",
        "two\n\nlines ",
    ],
)
@pytest.mark.parametrize("thinking", [True, False])
def test_a_reply_that_is_put_back_loses_no_word(reply: str, thinking: bool) -> None:
    """Of the answer; earlier thoughts are dropped by the template."""
    d = talk(enable_thinking=thinking)
    with says(reply + "<|im_end|>", "next<|im_end|>"):
        list(d.ask("hello"))
        list(d.ask("again"))
    answer = reply.split("</think>", 1)[1] if reply.startswith("<think>") else reply
    text = TOK.decode(d.prompt())
    said = answer.replace("~", "").strip()
    parts = said.split() if '"f"' in said else [said]  # the template writes a call in its own way
    assert all(part in text for part in parts), text
    assert d.prompt().count(END) == 4, "what was typed out ends no turn"


def test_an_interrupt_in_mid_reply_keeps_what_was_said(monkeypatch: Any) -> None:
    def interrupted(model: Any, prompt: list[int], **options: Any) -> Iterator[int]:
        yield from TOK.encode("<think>\nhm\n</think>\n\nhalf a", allow_control_tokens=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "stream", interrupted)
    d = talk()
    with pytest.raises(KeyboardInterrupt):
        list(d.ask("hello"))
    assert [m["role"] for m in d.messages] == ["user", "assistant"]
    assert (d.messages[1]["reasoning_content"], d.messages[1]["content"]) == ("hm", "half a")
    reply = d.ask("again")
    with pytest.raises(KeyboardInterrupt):
        next(reply)
        reply.throw(KeyboardInterrupt)
    assert [m["role"] for m in d.messages] == ["user", "assistant"] * 2


def test_what_fails_before_a_word_is_said_is_not_kept() -> None:
    d = talk(max_new_tokens=4)
    list(d.ask("hello"))
    held, sampling = [dict(m) for m in d.messages], d.profile
    d.thinking_budget = -1
    with pytest.raises(ValueError, match="thinking_budget is -1"):
        list(d.ask("again"))
    assert d.messages == held and sampling is d.profile
    d.thinking_budget = None
    with torch.no_grad():
        good = d.model.model.norm.weight.clone()
        d.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the logits hold NaN or infinity"):
        list(d.ask("again"))
    assert d.messages == held
    with torch.no_grad():
        d.model.model.norm.weight.copy_(good)
    prompt = encode_chat(TOK, [*held, {"role": "user", "content": "again"}])
    want = generate(
        d.model, [prompt], max_new_tokens=4, stop_ids=d.profile.stop_ids, tokenizer=TOK,
        sampling=Sampling.greedy(),
    )  # fmt: skip
    d.profile = Profile("qwen3", d.profile.stop_ids, Sampling.greedy(), Sampling.greedy())
    assert list(d.ask("again")) == want[0], "the cache is none the worse"


def test_a_turn_that_repeats_the_whole_prompt_computes_its_last_token() -> None:
    """History shares all of the prompt when the same message is asked again after /new."""
    greedy = Profile("qwen3", frozenset({END}), Sampling.greedy(), Sampling.greedy())
    d = talk(max_new_tokens=5, profile=greedy)
    first = list(d.ask("hello"))
    before = d.prefilled
    d.messages.clear()
    assert list(d.ask("hello")) == first and d.prefilled == before + 1


def test_the_cache_grows_with_the_conversation() -> None:
    d = talk(max_new_tokens=3)
    list(d.ask("hi"))
    assert d.cache is not None
    first, small = d.cache, d.cache.capacity
    list(d.ask("hello there, how are you? " * 2))
    assert d.cache is first and small < d.cache.capacity <= 256
    d.max_new_tokens = 10_000
    list(d.ask("hi"))
    assert d.cache.capacity <= 256 and d.cache.length < 256


# -- one prompt on a cache ------------------------------------------------------------------------------


def test_a_cache_that_is_given_grows() -> None:
    model, prompt = small_model(), TOK.encode("how are you?")
    cache = KVCache(model.config, 1, 4)
    try:
        said = list(stream(model, prompt, cache=cache, max_new_tokens=6, tokenizer=TOK))
    except ValueError as error:
        pytest.fail(str(error))
    assert len(said) == 6 and cache.capacity == len(prompt) + 5 == cache.length


def test_the_same_prompt_again_on_its_cache() -> None:
    """"Regenerate": the same ids, and one token computed anew; more of the text goes on from there."""
    model, prompt = small_model(), TOK.encode("how are you?")
    cache = KVCache(model.config, 1, 64)
    ask = {"max_new_tokens": 6, "tokenizer": TOK}
    first = list(stream(model, prompt, cache=cache, **ask))  # type: ignore[arg-type]
    assert cache.length == len(prompt) + 5
    assert list(stream(model, prompt, cache=cache, **ask)) == first == generate(model, [prompt], **ask)[0]  # type: ignore[arg-type]
    longer = [*prompt, *first[:3]]
    assert list(stream(model, longer, cache=cache, max_new_tokens=3, tokenizer=TOK)) == first[3:]
    with pytest.raises(ValueError, match="the cache holds another text than this prompt"):
        stream(model, [*prompt[:-1], prompt[0]], cache=cache, max_new_tokens=3)
    assert list(stream(model, prompt, cache=cache, **ask)) == first, "a refusal changes nothing"  # type: ignore[arg-type]


def test_a_stream_that_is_left_or_interrupted_leaves_the_cache_whole(monkeypatch: Any) -> None:
    model, prompt = small_model(), TOK.encode("how are you?")
    whole = generate(model, [prompt], max_new_tokens=8, tokenizer=TOK)[0]
    cache = KVCache(model.config, 1, 32)
    going = stream(model, prompt, max_new_tokens=8, tokenizer=TOK, cache=cache)
    assert [next(going) for _ in range(3)] == whole[:3]
    going.close()  # type: ignore[attr-defined]
    assert not torch.is_inference_mode_enabled()
    assert cache.ids[0].tolist() == [*prompt, *whole[:2]]
    layer, calls = model.model.layers[1], [0]
    forward = layer.forward

    def interrupt(*arguments: Any, **options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        result: torch.Tensor = forward(*arguments, **options)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(stream(model, prompt, max_new_tokens=8, tokenizer=TOK, cache=cache))
    assert list(stream(model, prompt, max_new_tokens=8, tokenizer=TOK, cache=cache)) == whole


# -- in the terminal -------------------------------------------------------------------------------------


def shown(reply: str, template: Any = "qwen3", **console: Any) -> str:
    """What `chat` writes of a reply."""
    out = io.StringIO()
    with says(reply):
        chat._show(talk(profile=Profile.of(TOK, template)), "hello", Console(file=out, **console))
    return out.getvalue()


PLAIN: list[dict[str, Any]] = [
    {},
    {"force_terminal": True, "color_system": None},  # what rich makes of TERM=dumb
    {"force_terminal": True, "color_system": "standard", "no_color": True},
]


@pytest.mark.parametrize("console", PLAIN)
def test_where_nothing_can_be_dimmed_the_marks_tell_thought_from_answer(console: dict[str, Any]) -> None:
    reply = "<think>\nhm\n</think>\n\nyes<|im_end|>"
    assert shown(reply, **console) == "<think>\nhm\n</think>\n\nyes\n"
    opened = shown(reply.removeprefix("<think>\n"), "qwen3-thinking-2507", **console)
    assert opened == "<think>\nhm\n</think>\n\nyes\n", "the prompt has opened it: said here"
    assert shown("yes", "qwen3-instruct-2507", **console) == "yes\n"


def test_a_dumb_terminal_is_one_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert Console(force_terminal=True).color_system is None
    monkeypatch.setenv("TERM", "xterm-256color")
    assert Console(force_terminal=True).color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert Console(force_terminal=True).no_color


def test_chat_says_what_it_guessed_and_only_that(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On stderr, so that a pipe's output is the reply alone; a template that is given is no guess."""
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(find_nano("qwen3-nano") / file, tmp_path / file)
    guessed = ["It has no chat template; qwen3 is taken, being the commonest.",
               "It says nothing of sampling; the official setting of qwen3 is taken."]  # fmt: skip
    for name, options, want in (
        ("qwen3-nano", [], []),
        (str(tmp_path), [], guessed),
        (str(tmp_path), ["--template", "qwen3"], guessed[1:]),
    ):
        with mock.patch("sys.stdin", io.StringIO("hi\n")), says("hm<|im_end|>"):
            assert main(["chat", name, "--max-new-tokens", "2", *options]) == 0
        out, err = capsys.readouterr()
        assert out == "hm\n" and err.splitlines() == want


def test_a_temperature_from_the_command_line_holds_in_both_modes() -> None:
    for switch, setting in (([], Sampling.thinking()), (["--no-think"], Sampling.non_thinking())):
        with mock.patch("sys.stdin", io.StringIO("hi\n")), says("hm<|im_end|>") as asked:
            options = ["--temperature", "0.3", "--thinking-budget", "4", *switch]
            assert main(["chat", "qwen3-nano", *options]) == 0
        assert asked[0]["sampling"] == replace(setting, temperature=0.3)
        assert asked[0]["thinking_budget"] == Budget(4, "\n</think>\n\n")


def test_a_closed_stderr_is_no_obstacle() -> None:
    with mock.patch("sys.stdin", io.StringIO("hi\n")), mock.patch("sys.stderr", None), says("hm<|im_end|>"):
        assert main(["chat", "qwen3-nano-base"]) == 0
