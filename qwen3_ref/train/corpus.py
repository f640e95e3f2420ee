"""Text to pre-train on, in four domains, gathered from what is installed anyway and from generators.

- `code`: the source of SymPy, NetworkX and mpmath, docstrings taken out
- `language`: the prose of those docstrings
- `maths`: generated lines of arithmetic, comparison, order and look-up
- `reasoning`: solved problems of the train split, as plain documents

PyTorch itself depends on the three packages, and they are pure Python: one version of them is the
same text on every machine and Python version (the standard library is not). None of it is committed;
`RECORDED` says what it hashed to when the shipped weights were made.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from qwen3_ref.chat import Message, render_chat
from qwen3_ref.store.progress import progress
from qwen3_ref.tasks import numbers
from qwen3_ref.tasks.documents import maths_documents, solved
from qwen3_ref.tasks.problems import FAMILIES, split_of_number
from qwen3_ref.tokenizer import Tokenizer
from qwen3_ref.train.errors import TrainingError
from qwen3_ref.train.seeds import problems

DOMAINS = ("code", "language", "maths", "reasoning")
PACKAGES = ("mpmath", "networkx", "sympy")
VOCAB_SIZE = 1280
RETRIEVAL_LINES = (20, 28, 36, 44)
_MEGABYTE = 1_000_000
_PROSE = re.compile(r"[A-Z][^>`|_\\{}*=<\[\]]{59,}\.")  # a paragraph of sentences: no markup, no code

RECORDED = {
    "packages": {"mpmath": "1.3.0", "networkx": "3.6.1", "sympy": "1.14.0"},
    "sha256": {
        "code": "275c9ae2a6782fe092f54c39d65beac1d58d6e6ed5cfe4febba68aa5fe873c43",
        "language": "095236dcd938b2c78597e32d7ef068ec1dfaac191e3644ab1c13a6f379a276fa",
        "maths": "933fa51c23a51533575ee6075b91e35158a08855c20442a28f3db9fa274e8e7d",
        "reasoning": "2ac76f461df93fd209854c8ec00fa3c316450caa3e793afcd66ffae8c3899641",
    },
}
"""The versions and the SHA-256 of each domain's documents behind the shipped weights; `python -m
qwen3_ref.train.corpus` prints what they are here."""

Corpus = dict[str, list[str]]


def gather(*, allow_other_text: bool = False) -> Corpus:
    """The documents of every domain, in a fixed order: about 12 MB.

    Raises TrainingError if a package is missing, or if a domain is not the recorded text;
    `allow_other_text` makes a warning of the latter.
    """
    corpus = {**_installed(), "maths": maths_documents(5 * _MEGABYTE), "reasoning": reasoning_documents(8000)}
    differing = [domain for domain in DOMAINS if digest(corpus[domain]) != RECORDED["sha256"][domain]]
    if differing:
        now = {name: version(name) for name in PACKAGES}
        other = [
            f"{name} {now[name]} instead of {wanted}"
            for name, wanted in RECORDED["packages"].items()
            if now[name] != wanted
        ]
        message = (
            f"the {' and '.join(differing)} text here is not the text behind the shipped weights"
            f"{' (' + ', '.join(other) + ')' if other else ''}: training works as well, but losses and "
            f"weights will differ"
        )
        if not allow_other_text:
            raise TrainingError(
                f"{message}; install requirements.lock, or go on with --allow-other-text."
            )
        warnings.warn(f"{message}.", stacklevel=2)
    return corpus


def digest(documents: Iterable[str]) -> str:
    """SHA-256 over documents, each closed by a zero byte."""
    total = hashlib.sha256()
    for document in documents:
        total.update(document.encode() + b"\0")
    return total.hexdigest()


def held_out(document: str) -> bool:
    """Whether a document is kept for measuring the loss: one in 20, by its own hash."""
    return hashlib.sha256(document.encode()).digest()[0] % 20 == 0


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """The nano tokenizer: 1,280 ids learned from the first 200 kB of each domain, from number words of
    all languages, and from the words that the chat template puts between its marks."""

    def sample() -> Iterator[str]:
        for domain in DOMAINS:
            left = 200_000
            for document in corpus[domain]:
                yield document[:left]
                left -= len(document)
                if left <= 0:
                    break
        for number in filter(lambda n: split_of_number(n) == "train", range(0, 10_000, 25)):
            yield from (f"{numbers.words(language, number)}\n" for language in numbers.LANGUAGES)
        tool = {"type": "function", "function": {"name": "calculator", "parameters": {"type": "object"}}}
        asked: Message = {"role": "user", "content": "1 /think /no_think"}
        words = render_chat([asked, {"role": "assistant", "content": "2"}], tools=[tool])
        for _ in range(200):
            yield from re.split(r"<\|?\w+\|?>|</\w+>", words)
            yield "\n\n"

    return Tokenizer.train(sample(), VOCAB_SIZE)


# -- installed text ----------------------------------------------------------------------------------


def _installed() -> Corpus:
    """`code` and `language` documents, one a source file, files in the order of their hashed names."""
    files = []
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise TrainingError(
                f"the package {package}, which comes with PyTorch, is missing; pip install {package}."
            )
        root = Path(spec.origin).parent
        for path in root.rglob("*.py"):
            name = path.relative_to(root.parent).as_posix()
            if "/tests/" not in name and path.stat().st_size < 200_000:
                files.append((hashlib.sha256(name.encode()).hexdigest(), path))
    code: list[str] = []
    language: list[str] = []
    seen: set[str] = set()
    room = 2 * _MEGABYTE
    for _, path in progress(sorted(files), "Gathering text"):
        source = path.read_text(encoding="utf-8")
        text, docstrings = split_docstrings(source)
        prose = [p for p in _paragraphs(docstrings) if p not in seen]
        seen.update(prose)
        if prose:
            language.append("\n\n".join(prose))
        if room > 0 and len(text) > 200:
            code.append(text[:room])
            room -= len(text)
    return {"code": code, "language": language}


def split_docstrings(source: str) -> tuple[str, list[str]]:
    """Python source without its docstrings and blank lines, and the docstrings.

    Only positions are taken from the parser, so the result is the same on every Python version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in other people's strings
        tree = ast.parse(source)
    lines = source.split("\n")
    docstrings = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            docstrings.append((first.lineno, first.value.value))
            for i in range(first.lineno - 1, first.end_lineno or first.lineno):
                lines[i] = ""
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    return text, [docstring for _, docstring in sorted(docstrings)]


def _paragraphs(docstrings: Iterable[str]) -> Iterator[str]:
    for docstring in docstrings:
        for block in re.split(r"\n[ \t]*\n", docstring):
            paragraph = " ".join(block.split())
            if _PROSE.fullmatch(paragraph):
                yield paragraph


# -- generated text ----------------------------------------------------------------------------------


def reasoning_documents(per_family: int) -> list[str]:
    """Solved problems of the train split, families in turn. Half of those for retrieval are as long
    as a problem asked in chat, half are longer, up to 220 tokens."""
    columns = []
    for family in FAMILIES:
        longer = RETRIEVAL_LINES if family == "retrieval" else ()
        drawn = problems("pre-training", family, per_family - per_family // 8 * len(longer), 0)
        for lines in longer:
            drawn += problems("pre-training", family, per_family // 8, 0, lines=lines)
        columns.append(sorted(drawn, key=lambda p: hashlib.sha256(p.prompt.encode()).digest()))
    return [solved(problem) for row in zip(*columns, strict=True) for problem in row]


if __name__ == "__main__":
    here: Corpus = gather(allow_other_text=True)
    for name in DOMAINS:
        print(f'"{name}": "{digest(here[name])}",')
