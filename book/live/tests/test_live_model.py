"""qwen3.js against the PyTorch model: ids, logits, attention, routing, tokenizer, template, sampling, budget.

Expectations are made by the package when the test runs; JavaScript runs in node.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import random
import sys
import unicodedata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from live_node import LIVE, NANOS, ask

from qwen3_ref import facts, memory
from qwen3_ref.chat import encode_chat
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.budget import NANO_EARLY_STOP, Budget
from qwen3_ref.decode.generation import Generated, generate
from qwen3_ref.decode.sampling import Sampling, probabilities
from qwen3_ref.measure.accuracy import evaluate
from qwen3_ref.measure.experts import by_layer
from qwen3_ref.model import Qwen3, Trace
from qwen3_ref.rope import frequencies
from qwen3_ref.tasks.problems import FAMILIES, TEST_SEED, make_problems
from qwen3_ref.tokenizer import Tokenizer, byte_to_unicode
from qwen3_ref.train.recipes import pretrain

NAMES = ("qwen3-nano", "qwen3-nano-base", "qwen3-nano-student", "qwen3-nano-moe")
CLOSE = 1e-3
"""Largest difference of a logit that the pages promise."""
NEW = 40


@functools.cache
def pytorch(name: str) -> tuple[Qwen3, Tokenizer]:
    return Qwen3.from_pretrained(name), Tokenizer.from_pretrained(name)


@functools.cache
def prompts(name: str) -> list[list[int]]:
    """60 beginnings: problems as a user asks them, and for those that never learned to talk as documents."""
    tokenizer = pytorch(name)[1]
    problems = [p for family in FAMILIES for p in make_problems(family, "test", 12, seed=TEST_SEED)]
    if name in ("qwen3-nano-base", "qwen3-nano-moe"):
        return [tokenizer.encode(p.prompt + "\n") for p in problems]
    talks = [[{"role": "user", "content": p.prompt}] for p in problems]
    return [encode_chat(tokenizer, talk, enable_thinking=i % 4 > 0) for i, talk in enumerate(talks)]


def test_greedy_ids_are_pytorchs() -> None:
    """60 prompts for each of four checkpoints, dense and MoE."""
    wanted = []
    for name in NAMES:
        model, tokenizer = pytorch(name)
        options: dict[str, Any] = {"stop_ids": tokenizer.stop_ids, "tokenizer": tokenizer}
        wanted.append(generate(model, prompts(name), max_new_tokens=NEW, **options))
    jobs = [
        {"does": "generate", "folder": str(NANOS / name), "prompts": prompts(name), "maxNewTokens": NEW}
        for name in NAMES
    ]
    for name, found, replies in zip(NAMES, ask(*jobs), wanted, strict=True):
        ids = [[token["id"] for token in row] for row in found]
        assert len(ids) >= 50 and sum(map(len, ids)) > 500
        assert ids == [list(reply) for reply in replies], name


@pytest.mark.parametrize("name", NAMES)
def test_logits_within_a_thousandth(name: str) -> None:
    """Of every position, in one pass and in pieces through the cache."""
    model, _ = pytorch(name)
    texts = prompts(name)[::6]
    (found,) = ask({"does": "logits", "folder": str(NANOS / name), "texts": texts})
    for ids, logits in zip(texts, found, strict=True):
        with torch.inference_mode():
            wanted = model(torch.tensor([ids]))[0].flatten()
        for way in ("whole", "pieces"):
            difference = (torch.tensor(logits[way]) - wanted).abs().max().item()
            assert difference < CLOSE, f"{name}, {way}: {difference:.1e}"


SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rope_theta": 5e4,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-5,
}
EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
YARN = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "untied": {},
    "one group": {"num_key_value_heads": 6},
    "one KV head": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "yarn": {"rope_scaling": YARN},
    "yarn with its own factor": {"rope_scaling": YARN | {"attention_factor": 1.3, "beta_fast": 8.0}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "experts": EXPERTS | {"norm_topk_prob": True},
    "experts, weights as they are": EXPERTS | {"norm_topk_prob": False},
    "every second layer": EXPERTS | {"norm_topk_prob": True, "decoder_sparse_step": 2},
    "dense by name": EXPERTS | {"norm_topk_prob": True, "mlp_only_layers": [0]},
}


def small(case: str) -> Qwen3Config:
    """A config that has what the nano family lacks."""
    changes = CONFIGS[case]
    kind = "qwen3_moe" if "num_experts" in changes else "qwen3"
    return Qwen3Config.from_dict({"model_type": kind} | SMALL | changes)


@pytest.mark.parametrize("case", CONFIGS)
def test_other_configs(case: str, tmp_path: Path) -> None:
    """Random weights in float32, with all that the nano family does not have."""
    model = Qwen3(small(case), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):  # gains of 1 would hide one that is not applied
                weight.copy_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(4)) + 0.5)
    model.save_pretrained(tmp_path)
    ids = torch.randint(96, (120,), generator=torch.Generator().manual_seed(5)).tolist()
    (found,) = ask({"does": "logits", "folder": str(tmp_path), "texts": [ids]})
    with torch.inference_mode():
        wanted = model(torch.tensor([ids]))[0].flatten()
    assert wanted.std() > 0.5
    for way in ("whole", "pieces"):
        assert (torch.tensor(found[0][way]) - wanted).abs().max() < CLOSE, way


def test_attention_and_routing_are_what_the_model_does() -> None:
    name = "qwen3-nano-moe"
    model, _ = pytorch(name)
    ids, trace = prompts(name)[7], Trace()
    with torch.inference_mode():
        model(torch.tensor([ids]), trace=trace)
    (found,) = ask({"does": "trace", "folder": str(NANOS / name), "ids": ids})
    assert len(found["attention"]) == len(found["experts"]) == model.config.num_hidden_layers
    for layer, drawn in enumerate(found["attention"]):
        weights = torch.tensor(drawn["data"]).view(drawn["shape"])
        assert (weights - trace.attentions[layer][0]).abs().max() < 1e-4
        chosen = [[pick["expert"] for pick in row] for row in found["experts"][layer]]
        assert chosen == trace.expert_ids[layer][0].tolist()
        shares = torch.tensor([[pick["weight"] for pick in row] for row in found["experts"][layer]])
        assert (shares - trace.expert_weights[layer][0]).abs().max() < 1e-4


# -- text ------------------------------------------------------------------------------------------------

SCRIPTS = {
    "Latin": (0x20, 0x24F), "IPA": (0x250, 0x2AF), "combining": (0x300, 0x36F), "Greek": (0x370, 0x3FF),
    "Cyrillic": (0x400, 0x4FF), "Armenian": (0x531, 0x58A), "Hebrew": (0x591, 0x5F4),
    "Arabic": (0x600, 0x6FF), "Syriac": (0x700, 0x74F), "Thaana": (0x780, 0x7B1),
    "Devanagari": (0x900, 0x97F), "Bengali": (0x980, 0x9FE), "Tamil": (0xB82, 0xBFA),
    "Telugu": (0xC00, 0xC7F), "Thai": (0xE01, 0xE5B), "Lao": (0xE81, 0xEDF),
    "Tibetan": (0xF00, 0xFDA), "Myanmar": (0x1000, 0x109F), "Georgian": (0x10A0, 0x10FF),
    "Hangul parts": (0x1100, 0x11FF), "Ethiopic": (0x1200, 0x137C), "Khmer": (0x1780, 0x17F9),
    "Mongolian": (0x1800, 0x18AA), "punctuation": (0x2000, 0x206F), "letter-like": (0x2100, 0x218B),
    "mathematics": (0x2200, 0x22FF), "kana": (0x3040, 0x30FF), "Chinese": (0x4E00, 0x9FFF),
    "Hangul": (0xAC00, 0xD7A3), "ligatures": (0xFB00, 0xFB4F), "wide forms": (0xFF01, 0xFFEE),
    "Gothic": (0x10330, 0x1034A), "mathematical letters": (0x1D400, 0x1D7FF), "emoji": (0x1F300, 0x1FAFF),
}  # fmt: skip
GLUE = [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'ſ", "1234", "٣٤", "\u0085", "\ufeff", "\u00a0",
        "\u200d", "\u2028", "\x1c", "\x0b", "…", "!?\n", "e\u0301", "\x00", "<think>", "<|im_end|>", "_x",
        "²", "aaa", "'ſa"]  # fmt: skip


def texts(count: int = 1000) -> list[str]:
    """Made texts in many scripts, with what tokenizers stumble over between the words."""
    rng = random.Random("texts in many scripts")
    made = []
    for i in range(count):
        low, high = list(SCRIPTS.values())[i % len(SCRIPTS)]
        words = []
        for _ in range(rng.randrange(1, 9)):
            letters = [chr(rng.randrange(low, high + 1)) for _ in range(rng.randrange(1, 8))]
            words.append("".join(c for c in letters if unicodedata.category(c) not in ("Cn", "Cs")))
            words.append(rng.choice(GLUE) if rng.random() < 0.7 else " ")
        made.append("".join(words))
    return made


@pytest.mark.parametrize("control", [False, True])
def test_the_tokenizer_is_the_librarys(control: bool) -> None:
    """1,000 texts against `tokenizers`, which reads the same tokenizer.json."""
    folder = NANOS / "qwen3-nano"
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    own = pytorch("qwen3-nano")[1]
    given = texts()
    (found,) = ask({"does": "encode", "folder": str(folder), "texts": given, "control": control})
    for text, answer in zip(given, found, strict=True):
        wanted = library.encode(text, add_special_tokens=False).ids if control else own.encode(text)
        assert answer["ids"] == wanted, repr(text)
        assert answer["back"] == own.decode(wanted), repr(text)


def test_every_character_is_cut_as_the_library_cuts_it() -> None:
    """All that Python's Unicode knows: one after a letter, one after a space, and one twice."""
    own = pytorch("qwen3-nano")[1]
    unknown = ("Cn", "Cs", "Co")
    known = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in unknown]
    rows = ["".join(f"a{c} {c}{c}1{c}\n" for c in known[i : i + 500]) for i in range(0, len(known), 500)]
    (found,) = ask({"does": "encode", "folder": str(NANOS / "qwen3-nano"), "texts": rows})
    wrong = [row for row, answer in zip(rows, found, strict=True) if answer["ids"] != own.encode(row)]
    assert not wrong, f"{len(wrong)} of {len(rows)} rows"


def eager(folder: Path) -> Tokenizer:
    """A tokenizer that merges whatever stands together, so that a cut in a wrong place shows."""
    letters = ["1", "2", "3", "4", "a", "b", "ſ", "s", "S", "'", " ", "\n", "\u0085", "\ufeff", "!", "٣", "٤"]
    pieces = [letter.encode() for letter in letters]
    joins = [(bytes([piece[0]]), piece[1:]) for piece in pieces if len(piece) == 2]
    joins += [(b"\xef", b"\xbb"), (b"\xef\xbb", b"\xbf")]
    joins += [(a, b) for a in pieces for b in pieces]
    joins += [(a + b, c) for a in pieces[:6] for b in pieces[:6] for c in pieces[:6]]
    vocab = dict.fromkeys([*(bytes([b]) for b in byte_to_unicode()), *(a + b for a, b in joins)])
    control = {"<|im_end|>": len(vocab)}
    made = Tokenizer({token: i for i, token in enumerate(vocab)}, joins, control)
    made.save_pretrained(folder)
    return made


def crowded() -> list[str]:
    """Texts in which those pieces stand side by side in many ways."""
    rng, pieces = random.Random("side by side"), "1234ab'ſsS \n\u0085\ufeff!٣٤"
    return ["".join(rng.choice(pieces) for _ in range(30)) for _ in range(1000)]


def test_where_words_are_cut_and_pairs_are_joined(tmp_path: Path) -> None:
    own = eager(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    (found,) = ask({"does": "encode", "folder": str(tmp_path), "texts": crowded()})
    for text, answer in zip(crowded(), found, strict=True):
        assert answer["ids"] == library.encode(text).ids == own.encode(text), repr(text)


def test_decoding_what_is_no_text() -> None:
    own = pytorch("qwen3-nano")[1]
    rng = random.Random("ids")
    rows = [[rng.randrange(1280) for _ in range(rng.randrange(30))] for _ in range(300)]
    (found,) = ask({"does": "decode", "folder": str(NANOS / "qwen3-nano"), "rows": rows})
    assert found == [own.decode(row) for row in rows]


def test_the_chat_template() -> None:
    """Turns of all three roles, thoughts, empty ones, marks that a user types: as `encode_chat`."""
    own = pytorch("qwen3-nano")[1]
    rng = random.Random("talks")
    words = ["12+34", "\n", " ", "Привет", "<|im_end|>", "<think>", "七", "ok.", "\n\n", "user"]

    def some() -> str:
        return "".join(rng.choice(words) for _ in range(rng.randrange(0, 5)))

    talks: list[tuple[list[dict[str, str]], bool]] = []
    for _ in range(200):
        talk = [{"role": "system", "content": some()}] if rng.random() < 0.4 else []
        for _ in range(rng.randrange(1, 4)):
            talk.append({"role": "user", "content": some()})
            for _ in range(rng.randrange(0, 3)):
                said = {"role": "assistant", "content": some()}
                if rng.random() < 0.6:
                    said["reasoning_content"] = some()
                talk.append(said)
        talks.append((talk, rng.random() < 0.5))
    (found,) = ask({"does": "chat", "folder": str(NANOS / "qwen3-nano"), "talks": talks})
    for (talk, thinking), ids in zip(talks, found, strict=True):
        assert ids == encode_chat(own, talk, enable_thinking=thinking), talk


# -- drawing and the budget ------------------------------------------------------------------------------


def test_sampling_is_the_packages() -> None:
    """Distributions to 1e-9 and the draw at the same uniform number, ties included."""
    rng = np.random.default_rng(6)
    rows = []
    for i in range(300):
        logits = np.round(rng.normal(0, 3, 50), 1 if i % 2 else 8)  # rounded ones tie
        sampling = Sampling(
            temperature=float(rng.choice([0.0, 1e-3, 0.6, 1.0, 1.7])),
            top_k=[None, 1, 5, 20, 49, 60][int(rng.integers(6))],
            top_p=float(rng.choice([1.0, 0.95, 0.5, 1e-6])),
            min_p=float(rng.choice([0.0, 0.05, 0.5, 1.0])),
        )
        rows.append({"logits": logits.tolist(), "sampling": asdict(sampling), "u": float(rng.random())})
    for row in rows:
        row["sampling"]["top_k"] = row["sampling"]["top_k"] or 0
    (found,) = ask({"does": "distribution", "rows": rows})
    for row, answer in zip(rows, found, strict=True):
        given = row["sampling"] | {"top_k": row["sampling"]["top_k"] or None}
        p = probabilities(torch.tensor([row["logits"]], dtype=torch.float64), Sampling(**given))[0]
        assert np.abs(np.array(answer["p"]) - p.numpy()).max() < 1e-9, row["sampling"]
        drawn = int(torch.searchsorted(p.cumsum(-1), torch.tensor(row["u"], dtype=torch.float64), right=True))
        assert answer["id"] == drawn, row["sampling"]


def test_the_random_numbers_are_uniform_and_seeded() -> None:
    jobs = [{"does": "random", "seed": seed, "count": 20_000} for seed in (0, 1, 0)]
    first, second, again = (np.array(a) for a in ask(*jobs))
    assert (first == again).all() and (first != second).mean() > 0.99
    for numbers in (first, second):
        assert 0 <= numbers.min() and numbers.max() < 1
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square of 19, 99.9%
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def parts(reply: Generated, tokenizer: Tokenizer) -> list[str]:
    """What generate's own bookkeeping says of each id of a reply."""
    marks = [tokenizer.control_tokens[mark] for mark in ("<think>", "</think>")]
    found, thinking = [], False
    for i, token in enumerate(reply):
        if i == len(reply) - 1 and reply.ended == "stop":
            found.append("end")
        elif token in marks and token == marks[thinking]:
            found.append("mark")
            thinking = not thinking
        else:
            found.append("reasoning" if thinking else "answer")
    return found


def test_the_budget_cuts_as_the_package_does() -> None:
    """Ids, parts and forced places at every budget from 0 on, and in non-thinking mode."""
    name = "qwen3-nano"
    model, tokenizer = pytorch(name)
    asked = [prompt for prompt in prompts(name)[1:30] for _ in range(2)]
    budgets: list[int | None] = [i % 14 if i % 9 else None for i in range(len(asked))]
    (found,) = ask({
        "does": "generate", "folder": str(NANOS / name), "prompts": asked, "budgets": budgets,
        "maxNewTokens": 160,
    })  # fmt: skip
    cut = 0
    for prompt, budget, row in zip(asked, budgets, found, strict=True):
        (reply,) = generate(
            model,
            [prompt],
            max_new_tokens=160,
            stop_ids=tokenizer.stop_ids,
            thinking_budget=Budget(budget, NANO_EARLY_STOP),
            tokenizer=tokenizer,
        )
        assert [token["id"] for token in row] == list(reply)
        assert [i for i, token in enumerate(row) if token["forced"]] == reply.forced
        assert [i for i, token in enumerate(row) if token["part"] == "answer"] == [
            i for i, part in enumerate(parts(reply, tokenizer)) if part == "answer"
        ]
        assert sum(t["part"] == "reasoning" and not t["forced"] for t in row) == reply.thinking_tokens
        cut += reply.thinking_ended == "budget"
    assert cut > 20


@pytest.mark.parametrize("name", ["qwen3-nano", "qwen3-nano-student"])
def test_the_curve_of_the_page_is_evaluates(name: str) -> None:
    """Right or wrong, problem by problem, at every budget of the budget page."""
    model, tokenizer = pytorch(name)
    problems = [p for family in FAMILIES for p in make_problems(family, "test", 6, seed=TEST_SEED)]
    budgets = (0, 8, 16, 24, 32, 48, None)
    rows = evaluate(model, tokenizer, problems, budgets=budgets, early_stop=NANO_EARLY_STOP)
    wanted = {(row.problem, row.budget): row.correct for row in rows}
    questions = [p.prompt for p in problems]
    job = {"does": "thoughts", "folder": str(NANOS / name), "questions": questions, "budgets": budgets}
    (found,) = ask(job)
    right = {
        (i, budget): answer["finished"] and answer["text"] == problems[i].answer
        for i, answers in enumerate(found)
        for budget, answer in zip(budgets, answers, strict=True)
    }
    assert {key: (right[key], wanted[key]) for key in wanted if right[key] != wanted[key]} == {}
    assert 20 < sum(wanted.values()) < len(wanted) - 20


def test_yarn_frequencies() -> None:
    nano = Qwen3Config.from_pretrained("qwen3-nano").to_dict()
    scalings: list[dict[str, Any] | None] = [
        None,
        {"rope_type": "linear", "factor": 4.0},
        *({"type": "yarn", "factor": f, "original_max_position_embeddings": n}
          for f in (1.0, 2.0, 4.0, 8.0) for n in (256, 1024, 32_768)),
    ]  # fmt: skip
    configs = [nano | {"rope_scaling": s, "rope_theta": t} for s in scalings for t in (1e4, 1e6)]
    (found,) = ask({"does": "frequencies", "configs": configs})
    for config, answer in zip(configs, found, strict=True):
        given = (config[n] for n in ("head_dim", "rope_theta", "rope_scaling", "max_position_embeddings"))
        turns, factor = frequencies(*given)
        assert np.allclose(answer["turns"], turns, rtol=1e-12) and abs(answer["factor"] - factor) < 1e-12


@pytest.mark.parametrize("changes", [{}, {"rope_scaling": YARN | {"factor": 4.0}}], ids=["plain", "yarn"])
def test_looking_up_is_the_packages(changes: dict[str, Any]) -> None:
    """Which of 20 questions behind a list of 1,300 tokens, 1,024 having been trained, are answered."""
    name = "qwen3-nano-base"
    model, tokenizer = pytorch(name)
    if changes:
        changes["rope_scaling"]["original_max_position_embeddings"] = 1024
    (one,) = pretrain.haystacks(tokenizer, 1300, 1, "test", TEST_SEED)
    config = model.config.to_dict() | {"max_position_embeddings": 2048} | changes
    longer = Qwen3(Qwen3Config.from_dict(config))
    longer.load_state_dict(model.state_dict())
    wanted = pretrain.look_up(longer, tokenizer, one, one.asked)
    asked = [{"key": key, "value": value} for key, value in one.asked]
    (found,) = ask({
        "does": "lookUp", "live": str(LIVE), "folder": str(NANOS / name), "changes": changes,
        "list": {"lines": one.lines, "asked": asked},
    })  # fmt: skip
    assert found == wanted and len(found) == 20 and any(found)


def test_the_lists_of_the_page_hold_what_they_ask() -> None:
    tokenizer = pytorch("qwen3-nano-base")[1]
    for length in (512, 3072):
        job = {"does": "makeList", "live": str(LIVE), "folder": str(NANOS / "qwen3-nano-base")}
        (found, again) = ask(job | {"length": length, "seed": 1}, job | {"length": length, "seed": 2})
        assert found != again
        lines = found["lines"]
        assert length - 30 < len(tokenizer.encode("\n".join(lines))) <= length
        for one in found["asked"]:
            line = f"{one['key']}={one['value']}"
            assert [other for other in lines if other[:3] == line[:3]] == [line]
            assert abs(lines.index(line) / (len(lines) - 1) - one["depth"]) < 0.06


@functools.cache
def build() -> Any:
    """book/live/build.py as a module."""
    spec = importlib.util.spec_from_file_location("live_build", LIVE / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_modules_made_from_the_package_are_up_to_date() -> None:
    for name, make in build().DATA.items():
        same = make() == (LIVE / name).read_text(encoding="utf-8")
        assert same, f"{name}: run python book/live/build.py --data"


def test_the_official_merges_are_whole() -> None:
    """Unpacked again, they are the official tokenizer's."""
    script = build().merges_script()
    packed = base64.b64decode(script.split('"')[1])
    numbers = [int.from_bytes(packed[i : i + 3], "little") for i in range(0, len(packed), 3)]
    official = Tokenizer.official()
    names = [official.token_bytes(i) for i in range(256)]
    for left, right in zip(numbers[::2], numbers[1::2], strict=True):
        names.append(names[left] + names[right])
    assert len(names) == 151_643 and names == [official.token_bytes(i) for i in range(len(names))]


def test_memory_is_counted_as_the_package_counts_it() -> None:
    """Needs, cards and speeds of every open model, at random lengths and batches."""
    rng = random.Random("memory")
    rows = []
    for name, row in facts.official_models().items():
        if row.get("config") is None:
            continue
        for _ in range(20):
            rows.append({
                "model": name, "length": rng.choice([1, 100, 2048, 32_768, 262_144]),
                "batch": rng.choice([1, 2, 64]), "kind": rng.choice(list(memory.FORMATS)),
                "cache": rng.choice(list(memory.KV_FORMATS)), "card": rng.randrange(len(memory.cards())),
            })  # fmt: skip
    (found,) = ask({"does": "memory", "folder": str(LIVE), "rows": rows})
    for row, answer in zip(rows, found, strict=True):
        config, card = Qwen3Config.named(row["model"]), list(memory.cards().values())[row["card"]]
        wanted = memory.need(config, row["length"], row["batch"], row["kind"], row["cache"])
        assert answer["total"] == wanted.total, row
        n = memory.cards_needed(config, wanted, card)
        assert answer["cards"] == n, row
        speed = memory.tokens_per_second(config, row["length"], card, n or 1, row["kind"], row["cache"])
        assert answer["speed"] == pytest.approx(speed, rel=1e-9)


def test_specialisation_is_the_packages() -> None:
    rng = np.random.default_rng(8)
    counts = rng.integers(0, 9, (5, 3, 16)) * rng.integers(0, 2, (5, 1, 16))
    (found,) = ask({"does": "specialisation", "folder": str(LIVE), "counts": counts.tolist()})
    assert np.allclose(found, by_layer(torch.tensor(counts)), atol=1e-9)


# -- files that are not whole ----------------------------------------------------------------------------


def test_a_broken_checkpoint_is_told_in_one_sentence() -> None:
    folder = str(NANOS / "qwen3-nano-student")
    size = (NANOS / "qwen3-nano-student" / "model.safetensors").stat().st_size
    tensor = "model.layers.1.self_attn.k_norm.weight"
    cases: list[tuple[dict[str, Any], str]] = [
        *(({"keep": n}, "model.safetensors is not whole") for n in (0, 7, 8, 2000, size // 2, size - 1)),
        ({"drop": tensor}, f"lacks {tensor}"),
        ({"changes": {"hidden_size": 128}}, "do not belong together"),
        ({"changes": {"rope_scaling": {"rope_type": "longrope"}}}, "longrope"),
        ({"tokens": {"model": {"type": "WordPiece"}}}, "tokenizer.json"),
        ({"text": "a\ud800b"}, "lone surrogate"),
    ]
    (found,) = ask({"does": "broken", "cases": [{"folder": folder} | case for case, _ in cases]})
    for (case, words), answer in zip(cases, found, strict=True):
        assert answer and answer["kind"] == "Trouble" and words in answer["message"], (case, answer)
    assert ask({"does": "broken", "cases": [{"folder": folder}]}) == [[None]]


def test_at_least_a_hundred_tokens_a_second() -> None:
    """Of processor time, so that a busy machine makes no difference."""
    for name in ("qwen3-nano", "qwen3-nano-moe"):
        (rate,) = ask({"does": "speed", "folder": str(NANOS / name)})
        print(f"{name}: {rate:.0f} tokens a second of processor time in node")
        assert rate >= 100


# -- known bugs: each must be noticed --------------------------------------------------------------------

FAULTS: dict[str, tuple[str, str]] = {
    "no QK-Norm": (" rmsNorm(k, layer.kNorm, d, eps, k);", ""),
    "rotated the other way": ("x[at] = first * cos - second * sin;", "x[at] = first * cos + second * sin;"),
    "neighbours turn together": (
        "const at = (i * heads + head) * d + j, first = x[at], second = x[at + half];\n"
        "        x[at] = first * cos - second * sin;\n        x[at + half] =",
        "const at = (i * heads + head) * d + 2 * j, first = x[at], second = x[at + 1];\n"
        "        x[at] = first * cos - second * sin;\n        x[at + 1] =",
    ),
    "heads share in turn": ("Math.floor(head * groups / heads) * d;", "(head % groups) * d;"),
    "positions begin again with each piece": ("(start + i) * turns[j]", "i * turns[j]"),
    "no scale": ("scores[j] = (a + b) / Math.sqrt(d);", "scores[j] = a + b;"),
    "scaled by hidden_size": ("(a + b) / Math.sqrt(d)", "(a + b) / Math.sqrt(D)"),
    "a token does not see itself": ("const seen = start + i + 1;", "const seen = Math.max(start + i, 1);"),
    "gate and up exchanged": (
        "inner[i] / (1 + Math.exp(-inner[i])) * other[i]",
        "other[i] / (1 + Math.exp(-other[i])) * inner[i]",
    ),
    "GELU's slope": ("Math.exp(-inner[i])", "Math.exp(-1.702 * inner[i])"),
    "another eps": ("Math.sqrt(squares / size + eps)", "Math.sqrt(squares / size + 0.01)"),
    "no final norm": ("rmsNorm(x.subarray(from * D), this.norm, D, eps)", "x.slice(from * D)"),
    "top-k never renormalised": ("normalize ? chosen.reduce", "false ? chosen.reduce"),
    "top-k always renormalised": ("normalize ? chosen.reduce", "true ? chosen.reduce"),
    "a head is always tied": ("c.tie_word_embeddings ? this.embedding", "true ? this.embedding"),
    "YaRN without its factor": ("0.1 * Math.log(stretch) + 1 : 1", "1 : 1"),
    "YaRN's ramp turned": ("(1 - slowed) * turn + slowed * turn", "slowed * turn + (1 - slowed) * turn"),
    "position interpolation forgotten": ("keep.map((turn) => turn / scaling.factor)", "keep"),
    "every layer is sparse": ("(i + 1) % (c.decoder_sparse_step ?? 1) === 0", "true"),
    "mlp_only_layers ignored": ("!(c.mlp_only_layers ?? []).includes(i)", "true"),
    "bfloat16's bits one too low": ("upper[i] << 16", "upper[i] << 15"),
    "digits by threes": ('"|\\\\p{N}"', '"|\\\\p{N}{1,3}"'),
    "JavaScript's white space": (
        '"|\\\\p{White_Space}+(?!\\\\P{White_Space})|\\\\p{White_Space}+"',
        '"|\\\\s+(?!\\\\S)|\\\\s+"',
    ),
    "no long s": ("[sSſtTmMdD]", "[sStTmMdD]"),
    "no NFC": ('text.normalize("NFC")', "text"),
    "merges from the right": ("if (rank < least &&", "if (rank <= least &&"),
    "a user ends his own turn": (
        "ids.push(...tokenizer.encode(text), ",
        "ids.push(...tokenizer.encode(text, { control: true }), ",
    ),
    "words joined too early": ("text += words;", "ids.push(...tokenizer.encode(words));"),
    "old thoughts kept": ("i > asked && (thought", "(thought"),
    "a last reply without its thought": ("(thought || i === messages.length - 1)", "thought"),
    "top-p drops what crosses": ("if (before >= topP)", "if (before + own >= topP)"),
    "top-k cuts ties": ("if (x[i] < least) x[i] = -Infinity", "if (x[i] <= least) x[i] = -Infinity"),
    "min-p is absolute": ("minP * x[best[0]]", "minP"),
    "top-p before temperature": ("x[i] = (x[i] - top) / temperature", "x[i] = x[i] - top"),
    "greedy takes the last of equals": ("if (x[i] > x[best]) best = i", "if (x[i] >= x[best]) best = i"),
    "the draw stops one early": ("if (sum > aim) return i;", "if (sum > aim) return Math.max(i - 1, 0);"),
    "the budget is one late": ("spent >= budget && id", "spent > budget && id"),
    "forced ids are paid for": ("if (inside && !fed) spent++", "if (inside) spent += 2"),
    "the id drawn is not dropped": ("if (fed) id = forced.shift();", "if (fed) forced.shift();"),
    "an empty thought counts as open": ("turn.lastIndexOf(opening) > turn.lastIndexOf(closing)", "true"),
    "a control token inside of words": ("this.control.has(piece) ?", "false ?"),
}  # fmt: skip


def test_every_known_bug_is_noticed(tmp_path: Path) -> None:
    """Each changes the answers to some small jobs, whose right ones the tests above hold against PyTorch."""
    name, rng = "qwen3-nano", np.random.default_rng(7)
    model, tokenizer = pytorch(name)
    folders = {}
    for case in ("yarn", "linear", "untied", "experts", "experts, weights as they are", "every second layer",
                 "dense by name"):  # fmt: skip
        folders[case] = tmp_path / case.replace(",", "")
        drawn = Qwen3(small(case), generator=torch.Generator().manual_seed(3))
        drawn.save_pretrained(folders[case])
    ids = torch.randint(96, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    talk = [
        {"role": "user", "content": "a<|im_end|> \n"},
        {"role": "assistant", "content": " b", "reasoning_content": "c"},
        {"role": "user", "content": "\n d"},
        {"role": "assistant", "content": "e"},
    ]
    logits = [*rng.normal(0, 3, (3, 30)).tolist(), [2.0, 1.0, 1.0, 1.0, 0.5], [1.0, 3.0, 3.0]]
    samplings = [{"temperature": 0.7, "top_p": 0.6}, {"temperature": 1.5, "top_p": 0.9, "min_p": 0.2},
                 {"temperature": 1.0, "top_k": 2}, {}]  # fmt: skip
    own = str(NANOS / name)
    eager(tmp_path / "eager")
    jobs: list[dict[str, Any]] = [
        *({"does": "logits", "folder": str(folder), "texts": [ids]} for folder in folders.values()),
        {"does": "logits", "folder": own, "texts": [prompts(name)[1]]},
        {"does": "trace", "folder": str(folders["experts"]), "ids": ids},
        {"does": "encode", "folder": own, "texts": texts(150)},
        {"does": "encode", "folder": str(tmp_path / "eager"), "texts": crowded()},
        {"does": "encode", "folder": own, "texts": ["a<think>b", "12345", "e\u0301 aaa"], "control": True},
        {"does": "chat", "folder": own, "talks": [[talk, True], [talk[:2], False], [talk[:3], True]]},
        {"does": "distribution", "rows": [{"logits": x, "sampling": s, "u": u}
                                          for x in logits for s in samplings for u in (0.2, 0.9, 0.999)]},
        {"does": "generate", "folder": own, "prompts": prompts(name)[:5] * 2, "maxNewTokens": 60,
         "budgets": [3, 6, None, 0, 4, 1, 2, 3, 10, 9]},
    ]  # fmt: skip
    right = ask(*jobs)
    source = (LIVE / "qwen3.js").read_text(encoding="utf-8")
    module = tmp_path / "qwen3.mjs"
    missed = []
    for fault, (line, wrong) in FAULTS.items():
        assert source.count(line) == 1, f"{fault}: {source.count(line)} places"
        module.write_text(source.replace(line, wrong), encoding="utf-8")
        try:
            found = ask(*jobs, module=module)
        except AssertionError:  # it does not even run
            continue
        if apart(found, right) < CLOSE:
            missed.append(fault)
    assert not missed


def apart(one: Any, other: Any) -> float:
    """How far two answers differ: the largest difference of their numbers, infinity for anything else."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        if one and all(isinstance(x, float | int) for x in (*one, *other)):
            return float(np.nan_to_num(np.abs(np.subtract(one, other, dtype=float)), nan=np.inf).max())
        return max(map(apart, one, other), default=0.0)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


THOUGHT_FAULTS = {
    "what the last answer wrote is taken for the thought": (
        "this.cache.length = this.intact = Math.min(this.intact,",
        "this.cache.length = Math.min(this.cache.length,",
    ),
    "the thought is kept whole": ("slice(0, first + budget);", "slice(0, first + this.length);"),
    "the cut is one early": ("first + budget)", "first + Math.max(budget - 1, 0))"),
}


@pytest.mark.parametrize("fault", THOUGHT_FAULTS)
def test_bugs_of_the_curve_are_noticed(fault: str, tmp_path: Path) -> None:
    name, budgets = "qwen3-nano", (0, 4, 8, 12, 16, None)
    problems = [p for family in FAMILIES for p in make_problems(family, "test", 2, 2, seed=TEST_SEED)]
    questions = [p.prompt for p in problems]
    job = {"does": "thoughts", "folder": str(NANOS / name), "questions": questions, "budgets": budgets}
    source, (line, wrong) = (LIVE / "thought.js").read_text(encoding="utf-8"), THOUGHT_FAULTS[fault]
    assert source.count(line) == 1
    (tmp_path / "qwen3.js").write_text((LIVE / "qwen3.js").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (tmp_path / "thought.js").write_text(source.replace(line, wrong), encoding="utf-8")
    assert ask(job, thought=tmp_path / "thought.js") != ask(job)
