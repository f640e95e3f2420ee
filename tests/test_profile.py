"""The profile of a checkpoint, from what its directory holds; and what had to be guessed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_ref import facts
from qwen3_ref.decode.budget import EARLY_STOP, Budget
from qwen3_ref.decode.profile import _KNOWN, Profile
from qwen3_ref.decode.sampling import Sampling
from qwen3_ref.store.shipped import NANO, find_nano
from qwen3_ref.tokenizer import Tokenizer
from tests.conversations import GOLDENS

TOK = Tokenizer.train(["a small text"], 290)
END, TEXT = TOK.control_tokens["<|im_end|>"], TOK.control_tokens["<|endoftext|>"]
ASKS = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
OPENS = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}"
SWITCH = ASKS + "{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
HISTORY = "{{- '<|im_start|>assistant\\n<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}"
NO_TEMPLATE = "It has no chat template"
NO_SAMPLING = "It says nothing of sampling"


def profile(place: Path, *, template: Any = None, **files: Any) -> Profile:
    """The profile of a directory with these files: `tokenizer_config`, `generation_config`, `jinja`."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = place / ("chat_template.jinja" if name == "jinja" else f"{name}.json")
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Profile.from_pretrained(place, TOK, template=template)


def test_the_official_templates_are_known_by_their_hash() -> None:
    """The same four that rendered the goldens of test_chat."""
    for template, about in GOLDENS["sources"].items():
        assert [sha for sha, name in _KNOWN.items() if name == template and sha in about]
    assert len(_KNOWN) == 5


@pytest.mark.parametrize("name", NANO)
def test_the_nano_family_leaves_nothing_to_guess(name: str) -> None:
    found = Profile.from_pretrained(name)
    assert found == Profile.from_pretrained(find_nano(name)) and found.guesses == ()
    assert found.template == "qwen3" and found.early_stop == "\n</think>\n\n"
    assert found.base == (name in ("qwen3-nano-base", "qwen3-nano-moe"))
    settings = found.sampling(True), found.sampling(False)
    official = Sampling.thinking(), Sampling.non_thinking()
    assert settings == ((Sampling.greedy(),) * 2 if found.base else official), "as the official files say"
    assert found.budget(7) == Budget(7, "\n</think>\n\n") and found.budget(None).tokens is None
    assert found.budget(Budget(3, "x</think>")) == Budget(3, "x</think>")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (OPENS, "qwen3-thinking-2507"),
        (OPENS.replace("\\n", "\n"), "qwen3-thinking-2507"),
        (OPENS.replace("'", '"'), "qwen3-thinking-2507"),
        (SWITCH, "qwen3"),
        (HISTORY + SWITCH, "qwen3"),
        (HISTORY + ASKS, "qwen3-instruct-2507"),
        (SWITCH + "{%- else %}{{- '<think>\\n' }}", "qwen3-thinking-2507"),
        ("<tool_call>\n<function=example>" + ASKS, "qwen3-coder"),
        (ASKS, "qwen3-instruct-2507"),
        ("{{ '[INST]' + message.content }}", "qwen3"),
    ],
)
def test_other_templates_by_what_they_contain(template: str, found: str, tmp_path: Path) -> None:
    """Whatever the directory is called; in either of the two places; a file of its own comes first."""
    coder = tmp_path / "Qwen3-Decoder-of-Coders"
    for files in (
        {"jinja": template},
        {"tokenizer_config": {"chat_template": template}},
        {"tokenizer_config": {"chat_template": [{"name": "default", "template": template}]}},
        {"jinja": template, "tokenizer_config": {"chat_template": "<function=" + ASKS}},
    ):
        got = profile(coder / str(len(str(files))), **files)
        assert got.template == found
        assert any(f"none of the official ones; {found} is taken" in guess for guess in got.guesses)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen3-0.6B", "qwen3"),
        ("Qwen3-4B-Instruct-2507", "qwen3-instruct-2507"),
        ("Qwen3-30B-A3B-Thinking-2507-FP8", "qwen3-thinking-2507"),
        ("qwen3_coder_30b", "qwen3-coder"),
        ("qwen3-8b-decoder", "qwen3"),
        ("encoder2507", "qwen3"),
        ("rethinking-2507", "qwen3"),
        ("Coder/of-Thinking-2507/Qwen3-0.6B", "qwen3"),
        ("models--Qwen--Qwen3-4B-Thinking-2507/snapshots/0123abcd", "qwen3-thinking-2507"),
    ],
)
def test_without_a_template_the_words_of_its_name(name: str, found: str, tmp_path: Path) -> None:
    got = profile(tmp_path / name)
    assert got.template == found
    reason = "being the commonest" if found == "qwen3" else "by its name"
    assert got.guesses[0] == f"{NO_TEMPLATE}; {found} is taken, {reason}."
    told = profile(tmp_path / name, template="qwen3-instruct-2507")
    assert told.template == "qwen3-instruct-2507" and len(told.guesses) == 1, "what the caller knows"


def test_a_renamed_checkpoint_keeps_its_template(tmp_path: Path) -> None:
    assert profile(tmp_path / "My-Coder", jinja=SWITCH).template == "qwen3"
    assert profile(tmp_path / "Thinking-2507", jinja=ASKS).template == "qwen3-instruct-2507"


def test_official_settings_of_every_open_checkpoint(tmp_path: Path) -> None:
    """From the published generation_config.json files: no guess, and the recommended sampling."""
    ids = {151_643: TEXT, 151_645: END}
    seen = 0
    for name, model in facts.official_models().items():
        settings = dict((model.get("generation_config") or {}).get("values") or {})
        if not settings or "Reranker" in name:
            continue
        if (ends := settings.get("eos_token_id")) is not None:
            settings["eos_token_id"] = [ids[i] for i in ends] if isinstance(ends, list) else ids[ends]
        got = profile(tmp_path / name, generation_config=settings)
        assert not any(NO_SAMPLING in guess for guess in got.guesses), name
        assert got.stop_ids == {END, TEXT} and got.base == name.endswith("-Base")
        if "Coder" in name:
            want = Sampling.coder(), Sampling.coder()
        elif got.base:
            want = Sampling.greedy(), Sampling.greedy()
        elif "Instruct" in name:
            want = Sampling.non_thinking(), Sampling.non_thinking()
        elif "Thinking" in name:
            want = Sampling.thinking(), Sampling.thinking()
        else:
            want = Sampling.thinking(), Sampling.non_thinking()
        assert (got.sampling(True), got.sampling(False)) == want, name
        seen += 1
    assert seen >= 20


def test_a_base_model_by_its_name_alone_is_a_guess(tmp_path: Path) -> None:
    """What the directory holds comes first, and is none."""
    words = "It does not say what ends its texts; it is taken for a Base model, by its name."
    for name, settings, base, guessed in (
        ("Tiny-Base", {}, True, True),
        ("Tiny", {}, False, False),
        ("Another-Base", {"eos_token_id": TEXT}, True, False),
        ("Chat-Base", {"eos_token_id": [END, TEXT]}, False, False),
        ("Odd-Base", {"eos_token_id": "x"}, True, True),
    ):
        got = profile(tmp_path / name, generation_config=settings)
        assert (got.base, words in got.guesses) == (base, guessed), name


def test_its_own_settings_hold_in_both_modes(tmp_path: Path) -> None:
    own = {"do_sample": True, "temperature": 0.3, "top_k": -1, "top_p": 0.5, "eos_token_id": 7}
    got = profile(tmp_path, jinja=SWITCH, generation_config=own)
    assert got.sampling(True) == got.sampling(False) == Sampling(temperature=0.3, top_p=0.5)
    assert got.stop_ids == {7, END, TEXT} and not got.base
    assert len(got.guesses) == 1, "the template alone"


def test_modes_of_the_templates() -> None:
    always, never, both = (
        Profile.of(TOK, t) for t in ("qwen3-thinking-2507", "qwen3-instruct-2507", "qwen3")  # type: ignore[arg-type]
    )
    assert [p.thinks(mode) for p in (always, never, both) for mode in (True, False)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip
    assert always.sampling(False) == Sampling.thinking() and never.sampling(True) == Sampling.non_thinking()
    assert replace(both, thinking=Sampling.greedy()).sampling(False) == Sampling.non_thinking()
    assert both.early_stop == EARLY_STOP and both.stop_ids == {END, TEXT}


@pytest.mark.parametrize(
    ("files", "guess"),
    [
        (dict(generation_config="{"), "generation_config.json cannot be read and is left out"),
        (dict(generation_config=[1]), "generation_config.json is no JSON object"),
        (dict(generation_config="[" * 100_000), "generation_config.json cannot be read"),
        (dict(generation_config={"temperature": "hot"}), "temperature is 'hot'; it must be"),
        (dict(generation_config='{"temperature": 1' + "0" * 400 + "}"), "cannot be read"),
        (dict(generation_config={"top_k": 1.5}), "top_k is 1.5"),
        (dict(generation_config={"eos_token_id": 10**9}), "eos_token_id in generation_config.json"),
        (dict(generation_config={"eos_token_id": [END, True]}), "eos_token_id in generation_config.json"),
        (dict(generation_config={"eos_token_id": {"a": 1}}), "eos_token_id in generation_config.json"),
        (dict(generation_config={"early_stop_text": "enough"}), "early_stop_text does not close"),
        (dict(generation_config={"early_stop_text": 5}), "early_stop_text does not close"),
        (dict(tokenizer_config={"chat_template": 5}), NO_TEMPLATE),
        (dict(tokenizer_config="nonsense"), "tokenizer_config.json cannot be read"),
    ],
)
def test_what_a_file_says_badly_is_said(files: dict[str, Any], guess: str, tmp_path: Path) -> None:
    got = profile(tmp_path, **files)
    assert any(guess in found for found in got.guesses), got.guesses
    assert all(len(found) < 300 and "\n" not in found for found in got.guesses)
    assert (got.template, got.thinking, got.early_stop) == ("qwen3", Sampling.thinking(), EARLY_STOP)
    assert got.stop_ids == {END, TEXT}


@pytest.mark.skipif(os.name == "nt", reason="no named pipes in directories")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "generation_config.json")
    os.mkfifo(tmp_path / "chat_template.jinja")
    guesses = profile(tmp_path).guesses
    assert [g for g in guesses if "cannot be read" in g] == [
        "chat_template.jinja cannot be read and is left out.",
        "generation_config.json cannot be read and is left out.",
    ]


def test_large_and_unreadable_files_are_left_out(tmp_path: Path) -> None:
    with (tmp_path / "chat_template.jinja").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "generation_config.json").write_bytes(b"\xff\xfe")
    assert sum("cannot be read" in guess for guess in profile(tmp_path).guesses) == 2


def test_without_a_tokenizer_there_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Profile.from_pretrained(tmp_path)
