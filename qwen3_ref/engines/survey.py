"""One engine beside ours on one checkpoint: the same questions, the answers compared, a row of the table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import is_normalized

import torch

from qwen3_ref.chat import render_chat
from qwen3_ref.decode.generation import generate
from qwen3_ref.decode.profile import Profile
from qwen3_ref.engines.catalog import Engine
from qwen3_ref.engines.environments import interpreter
from qwen3_ref.engines.peer import Peer, PeerError
from qwen3_ref.engines.questions import Question, conversations, questions, texts
from qwen3_ref.engines.verdict import Verdict, alike, judge, parting
from qwen3_ref.model import Qwen3
from qwen3_ref.tokenizer import Tokenizer

SMALL = 256
"""Up to this hidden_size one thread is quicker than several."""
NO_EXPERTS = "takes no mixture of experts"
Row = dict[str, Any]


@dataclass
class Ours:
    """A checkpoint and what our model says to the questions, one after the other, in float32."""

    name: str
    source: Path
    model: Qwen3
    tokenizer: Tokenizer
    profile: Profile
    asked: list[Question]

    @classmethod
    def of(cls, name: str, source: Path, each: int | None = None) -> Ours:
        """Load it. `each`: problems of a family in each mode, if not the usual number."""
        tokenizer = Tokenizer.from_pretrained(source)
        profile = Profile.from_pretrained(source, tokenizer)
        asked = questions(tokenizer, profile) if each is None else questions(tokenizer, profile, each)
        model = Qwen3.from_pretrained(source)
        return cls(name, source, model, tokenizer, profile, asked)

    @property
    def ends(self) -> list[int]:
        """The stop ids."""
        return sorted(self.profile.stop_ids)

    @property
    def threads(self) -> int:
        return 1 if self.model.config.hidden_size <= SMALL else os.cpu_count() or 1

    @property
    def room(self) -> int:
        """Columns that the longest question and its answer need, and a few."""
        most = max(len(q.ids) + q.most for q in self.asked)
        return min(self.model.config.context_length, -(-most // 256) * 256)

    @cached_property
    def answers(self) -> list[list[int]]:
        """The ids that follow each question, a stop id included."""
        torch.set_num_threads(self.threads)
        return [
            list(generate(self.model, [q.ids], max_new_tokens=q.most, stop_ids=self.ends)[0])
            for q in self.asked
        ]

    @torch.inference_mode()
    def margin(self, ids: Sequence[int], ours: int, theirs: int) -> float:
        """By how much, in logits, `ours` is preferred to `theirs` behind these ids."""
        logits = self.model(torch.tensor([list(ids)]), logits_to_keep=1)[0, -1]
        return float(logits[ours] - logits[theirs])


def compared(ours: Ours, theirs: Sequence[Sequence[int]], peer: Peer) -> list[Verdict]:
    """A verdict for each question; where texts part, both sides are asked for their margin."""
    verdicts = []
    for question, mine, other in zip(ours.asked, ours.answers, theirs, strict=True):
        at = parting(mine, other, ours.ends)
        margins: tuple[float | None, float | None] = (None, None)
        if at is not None and at < min(len(mine), len(other)):
            ids = [*question.ids, *mine[:at]]
            margins = (
                ours.margin(ids, mine[at], other[at]),
                peer.ask("margin", ids=ids, ours=mine[at], theirs=other[at]),
            )
        verdicts.append(judge(at, *margins))
    return verdicts


def row(engine: Engine, ours: Ours, kind: str, say: Callable[[str], None] = lambda _: None) -> Row:
    """Ask one engine everything. What cannot be asked is a row with `missing`, a sentence why, and
    `installed`: whether the engine is here at all."""
    head: Row = {"engine": engine.name, "model": ours.name, "type": kind, "date": time.strftime("%Y-%m-%d")}
    python = interpreter(engine)
    if python is None:
        return head | {"installed": False, "missing": "not installed"}
    if ours.model.config.num_experts and not engine.moe:
        return head | {"installed": True, "missing": NO_EXPERTS}
    try:
        with tempfile.TemporaryDirectory(prefix="qwen3_ref-") as work:
            say(f"{engine.name}: {ours.name} as {kind}")
            given = {"source": str(ours.source), "files": work, "type": kind, "context": ours.room}
            with Peer(python, engine.runner, threads=ours.threads, **given) as peer:
                return head | _asked(engine, ours, peer)
    except (PeerError, ValueError, OSError) as error:
        return head | {"installed": True, "missing": str(error)}


def _asked(engine: Engine, ours: Ours, peer: Peer) -> Row:
    theirs = [peer.ask("generate", ids=list(q.ids), most=q.most, ends=ours.ends) for q in ours.asked]
    verdicts = compared(ours, theirs, peer)
    parted = [
        {"prompt": q.prompt, "mode": q.mode, "verdict": v.kind, "at": v.at, "ours": v.ours,
         "theirs": v.theirs}
        for q, v in zip(ours.asked, verdicts, strict=True)
        if v.kind != "equal"
    ]  # fmt: skip
    found: Row = {
        "versions": peer.about,
        "prompts": len(verdicts),
        "tokens": sum(map(len, ours.answers)),
        "equal": sum(v.kind == "equal" for v in verdicts),
        "ties": sum(v.kind == "tie" for v in verdicts),
        "parted": parted,
    }
    cut = [text for text in texts() if engine.normalizes or is_normalized("NFC", text)]
    ids = peer.ask("encode", texts=cut)
    if ids is not None:
        mine = [ours.tokenizer.encode(text, allow_control_tokens=True) for text in cut]
        found["tokenization"] = _alike(cut, mine, ids)
    spoken = conversations()
    prompts = peer.ask("render", conversations=spoken)
    if prompts is not None:
        wanted = [
            render_chat(one["messages"], tools=one["tools"], enable_thinking=one["thinking"],
                        template=ours.profile.template)
            for one in spoken
        ]  # fmt: skip
        found["template"] = _alike([str(one) for one in spoken], wanted, prompts)
    return found


def _alike(asked: Sequence[str], ours: Sequence[Any], theirs: Sequence[Any]) -> Row:
    same, first = alike(ours, theirs)
    found: Row = {"same": same, "of": len(ours)}
    if first is not None:
        found["first"] = {"asked": asked[first], "ours": ours[first], "theirs": theirs[first]}
    return found


def failed(row: Row) -> bool:
    """Whether the engine said something else than ours in float32, ties aside. An engine that did not run
    has not failed: nothing was checked."""
    if "missing" in row or row["type"] != "f32":
        return False
    parts = [row[name] for name in ("tokenization", "template") if name in row]
    texts_differ = any(part["same"] < part["of"] for part in parts)
    return bool(row["equal"] + row["ties"] < row["prompts"] or texts_differ)
