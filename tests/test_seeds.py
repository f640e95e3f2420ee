"""One named seed for each use, and no two stages that draw the same problem unless the recipe says so."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qwen3_ref.reply import Reply
from qwen3_ref.tasks.problems import FAMILIES, make_problems, place
from qwen3_ref.train import corpus, rollout, seeds, stages
from qwen3_ref.train.recipes import distill, grpo, sft
from qwen3_ref.train.run import Run
from tests.helpers import TOKENIZER, hard_model


def test_a_seed_is_a_hash_of_its_name_and_the_run() -> None:
    want = int(hashlib.sha256(b"GRPO: replies 7").hexdigest()[:8], 16)
    assert seeds.seed(7, "GRPO: replies") == want
    found = [seeds.seed(run, name) for run in range(20) for name in seeds.SEEDS]
    assert len(set(found)) == len(found)
    with pytest.raises(ValueError, match="no seed named 'luck'; there are weights, rows"):
        seeds.seed(0, "luck")


def test_no_seed_is_made_by_adding() -> None:
    root = Path(seeds.__file__).parents[1]
    for path in [*root.glob("train/**/*.py"), *root.glob("measure/*.py"), *root.glob("commands/*.py")]:
        text = path.read_text("utf-8")
        assert not re.search(r"seed\w* *[+*] *\w|\w *[+*] *(?:run\.)?seed\b", text), path.name


def test_every_seed_is_used() -> None:
    texts = [p.read_text("utf-8") for p in Path(seeds.__file__).parents[1].rglob("*.py") if p.stem != "seeds"]
    for name in seeds.SEEDS:
        use, _, what = name.partition(": ")
        if what == "problems":
            used = any(f'"{use}"' in text for text in texts)
        elif what == "order":
            used = use.replace(" ", "-") in stages.STAGES
        else:
            used = any(f'"{name}"' in text for text in texts)
        assert used, name


def test_the_shares_are_all_places_once() -> None:
    assert sorted(itertools.chain(*seeds.SHARES.values())) == list(range(256))
    for use in seeds.SHARES:
        for family in FAMILIES:
            assert {place(p.prompt) for p in seeds.problems(use, family, 40, 3)} <= set(seeds.SHARES[use])


def drawn() -> dict[str, Counter[str]]:
    """What each stage draws of the train split through its own code, by stage; nothing is trained."""
    found: dict[str, Counter[str]] = {}
    now = [""]

    def watched(family: str, split: str, count: int, *rest: Any, **options: Any) -> Any:
        problems = make_problems(family, split, count, *rest, **options)
        if split == "train":
            found.setdefault(now[0], Counter()).update(p.prompt for p in problems)
        return problems

    def wordless(model: object, tokenizer: object, asked: list[Any], **_: Any) -> list[Reply]:
        return [Reply(None, "")] * len(asked)

    run = Run(Path("nowhere"), scale=0.1)
    vars(run)["tokenizer"] = TOKENIZER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "make_problems", watched)
        patch.setattr(rollout, "mean_rewards", lambda model, tok, asked, **_: [0.5] * len(asked))
        patch.setattr(grpo, "train_on_rewards", lambda *_, **__: None)
        patch.setattr(distill, "train_on_teacher", lambda *_, **__: None)
        patch.setattr(distill, "teacher_conversations", lambda *_, **__: ([], {}))
        patch.setattr(sft, "replies_to", wordless)
        patch.setattr(sft, "encode_example", lambda *_, **__: None)
        patch.setattr(stages, "_learn", lambda *_: None)
        patch.setattr(Run, "model", lambda *_: hard_model())
        now[0] = "pre-training"
        corpus.reasoning_documents(800)
        for name, stage in stages.STAGES.items():
            if stage.mix is None:
                now[0] = name
                stage.loss(stage, run, hard_model())
    return found


def meetings(drawn: dict[str, Counter[str]]) -> set[tuple[str, str]]:
    """Pairs of stages that have a problem in common."""
    pairs = itertools.combinations(drawn, 2)
    return {(one, other) for one, other in pairs if drawn[one].keys() & drawn[other].keys()}


def test_stages_meet_where_the_recipe_says_so() -> None:
    """Fusion asks the queries of the cold start again (report, section 4.3); no other two meet."""
    found = drawn()
    after = [name for name, stage in stages.STAGES.items() if stage.mix is None]
    assert list(found) == ["pre-training", *after] and all(len(c) > 100 for c in found.values())
    assert meetings(found) == {("cold-start", "fusion")}
    again = found["fusion"].keys() & found["cold-start"].keys()
    assert 0.2 < len(again) / len(found["fusion"]) < 0.6


def test_without_shares_stages_meet_by_chance() -> None:
    """The fault that was here: seeds alone keep no two draws of a small kind apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "SHARES", dict.fromkeys(seeds.SHARES, range(256)))
        assert len(meetings(drawn())) > 10


def test_places_are_hashed_not_added() -> None:
    one, other = seeds.seeded(0, 1_000_003), seeds.seeded(1, 0)
    assert one.initial_seed() != other.initial_seed()
    assert seeds.seeded(3, 4, "x").initial_seed() == seeds.seeded(3, 4, "x").initial_seed()
