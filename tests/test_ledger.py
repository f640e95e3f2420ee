"""The ledger: every number that can be computed is, and every verdict that follows from numbers does."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from qwen3_ref import facts
from qwen3_ref.commands.line import main
from qwen3_ref.config import Qwen3Config
from qwen3_ref.official import ledger

CLAIMS = {c.id: c for c in ledger.claims()}
COMPUTED = [name for name, c in CLAIMS.items() if c.computed_by]
NUMBERS = [name for name, c in CLAIMS.items() if c.said is not None]


@pytest.mark.parametrize("name", COMPUTED)
def test_what_computes_a_claim_gives_its_number(name: str) -> None:
    found = ledger.compute(CLAIMS[name])
    assert found == CLAIMS[name].number and json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", NUMBERS)
def test_a_verdict_on_a_number_follows_from_it(name: str) -> None:
    one = CLAIMS[name]
    assert one.said is not None and ledger.judged(one.said, one.number) == one.verdict


def test_every_claim_is_whole() -> None:
    assert len(CLAIMS) == len(facts.ledger()) >= 100
    for c in CLAIMS.values():
        assert c.group in ledger.GROUPS and c.verdict in ledger.VERDICTS, c.id
        assert c.source and set(c.source) <= set(facts.ledger_sources()), c.id
        assert c.claim.endswith((".", "?")) and c.finding.endswith("."), c.id
        assert (c.number is not None) or c.computed_by is None, c.id
        assert bool(c.given) <= (c.computed_by is not None), c.id
        assert c.verdict != "cannot be known" or c.computed_by is None, c.id
        assert re.fullmatch(r"(\d+(-\d+)?(, )?)*", c.lines), c.id
    assert {c.computed_by for c in CLAIMS.values() if c.computed_by} == set(ledger.FUNCTIONS)
    keys = {key for c in CLAIMS.values() for key in (*c.source, c.origin)}
    assert set(facts.ledger_sources()) <= keys, "a source that no claim rests on"


def test_by_hand() -> None:
    """The numbers that the card had most wrong, worked without the package."""
    assert CLAIMS["kv-235b"].number == pytest.approx(2 * 94 * 4 * 128 * 2 * 32_768 / 1e9, abs=5e-4)
    assert CLAIMS["kv-8b"].number == pytest.approx(2 * 36 * 8 * 128 * 2 * 32_768 / 1e9, abs=5e-4)
    assert CLAIMS["vocabulary"].number == [151_643 + 26, 151_936, 151_936 - 151_643 - 26]
    assert CLAIMS["vram-14b"].number == pytest.approx(28_402 * 1.048576 / 1000, abs=5e-4)
    assert CLAIMS["six-cards-heads"].number == 64 - 6 * 10
    attention = 4096 * 128 * (64 + 64 + 4 + 4)
    each = attention + 256 + 2 * 4096 + 128 * 4096 + 8 * 3 * 4096 * 1536
    active = 94 * each + 4096 + 2 * 151_936 * 4096
    assert CLAIMS["active-235b-gb"].number == pytest.approx(2 * active / 1e9, abs=5e-4)
    assert CLAIMS["active-235b-share"].number == pytest.approx(100 * active / 235_093_634_560, abs=5e-3)


def test_the_text_of_the_report_against_its_tables() -> None:
    """What the report counts in words: five of six counts are right, and one is one too high."""
    said = facts.technical_report()["counts_in_words"]["said"]
    found = [ledger.ahead(*row[:3]) for row in said]
    assert [[a, n] for *_, a, n in said][:3] == found[:3] and [[a, n] for *_, a, n in said][4:] == found[4:]
    assert said[3][3:] == [15, 15] and found[3] == [14, 15]


@pytest.mark.parametrize("table", ["3_base_235b", "4_base_32b", "5_base_14b", "11_thinking_235b",
                                   "12_non_thinking_235b"])  # fmt: skip
def test_tables_of_benchmarks_are_whole(table: str) -> None:
    data = facts.technical_report()[f"table_{table}"]
    width = len(data["columns"])
    assert all(len(row) == width for row in data["rows"].values()) and data["measured_by"]
    assert len(data["rows"]) == (15 if "base" in table else 23)
    for name in ("total_parameters_billions", "activated_parameters_billions", "codeforces_percentile"):
        assert len(data.get(name, data["columns"])) == width
    for row in data["rows"].values():  # ratings of CodeForces alone are above 100
        assert all(v is None or 0 < v <= 100 or isinstance(v, int) and v > 700 for v in row)


def test_scores_agree_with_what_other_tables_say() -> None:
    """AIME'24 without thinking and with a budget's end stand in Figure 2 as well; 32B in Table 22."""
    report = facts.technical_report()
    figure = report["figure_2_thinking_budget"]
    for name in ("AIME'24", "AIME'25", "LiveCodeBench v5"):
        wanted = ledger.score("table_12_non_thinking_235b", "Qwen3-235B-A22B", name)
        assert figure["non_thinking"][name] == wanted
    shared = set(report["table_3_base_235b"]["rows"]) & set(report["table_4_base_32b"]["rows"])
    for name in shared:  # Qwen2.5-72B-Base is in both, measured once
        both = [ledger.score(t, "Qwen2.5-72B-Base", name) for t in ("table_3_base_235b", "table_4_base_32b")]
        assert both[0] == both[1]
        both = [ledger.score(t, "Qwen2.5-32B-Base", name) for t in ("table_4_base_32b", "table_5_base_14b")]
        assert both[0] == both[1]


@pytest.mark.parametrize(
    ("said", "number", "verdict"),
    [
        ("44", 44.38, "true"),
        ("44", 44.5, "true"),
        ("44", 44.51, "imprecise"),
        ("44.0", 44.38, "imprecise"),
        ("9", 8.0, "imprecise"),
        ("9", 7.99, "false"),
        ("7", 8.0, "imprecise"),
        ("128,000", 131_072, "imprecise"),
        ("2", 4.832, "false"),
        ("5 to 10", 5, "true"),
        ("5 to 10", 10, "true"),
        ("5 to 10", 11.4, "imprecise"),
        ("5 to 10", 4.5, "imprecise"),
        ("5 to 10", 4.4, "false"),
        ("85 to 86", 87.81, "imprecise"),
        ("0.33", 0.585, "false"),
    ],
)  # fmt: skip
def test_judging(said: str, number: float, verdict: str) -> None:
    assert ledger.judged(said, number) == verdict


@pytest.mark.parametrize("said", ["", "about 5", "5 to", "1 to 2 to 3", "-1", "5 GB"])
def test_what_is_no_number(said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{said!r} is no number and no range")):
        ledger.judged(said, 1.0)


def test_claims_are_found_by_words() -> None:
    wrong = ledger.claims("memory", "false")
    assert {c.id for c in wrong} >= {"kv-8b", "kv-235b"} and {c.group for c in wrong} == {"memory"}
    assert {c.verdict for c in wrong} == {"false"}
    assert {c.verdict for c in ledger.claims("unknown")} == {"cannot be known"}
    assert {c.id for c in ledger.claims("THETA")} >= {"rope-theta", "rope-theta-2507"}
    assert ledger.claims("TR")[0].id and not ledger.claims("nothing of the kind")
    assert ledger.claim("kv-8b") == CLAIMS["kv-8b"]
    with pytest.raises(ValueError, match="there is no claim 'kv-9b' in the ledger; `ledger WORD` finds"):
        ledger.claim("kv-9b")
    with pytest.raises(ValueError, match="nothing here computes z-loss; it rests on TR, TF"):
        ledger.compute(CLAIMS["z-loss"])


def test_counts_add_up() -> None:
    found = ledger.counts(ledger.claims())
    assert tuple(found) == ledger.GROUPS
    assert sum(sum(row.values()) for row in found.values()) == len(CLAIMS)
    assert ledger.counts([CLAIMS["kv-8b"]]) == {"memory": {v: int(v == "false") for v in ledger.VERDICTS}}


def test_missing_scores_are_no_losses() -> None:
    """Grok has four scores in Table 11; of one it has none."""
    assert ledger.ahead("table_11_thinking_235b", "Qwen3-235B-A22B", "Grok-3-Beta (Think)") == [3, 4]
    lost = ledger.not_ahead("table_11_thinking_235b", "Qwen3-235B-A22B", "Grok-3-Beta (Think)")
    assert lost == ["GPQA-Diamond"]
    assert ledger.in_front("table_11_thinking_235b", "Qwen3-235B-A22B", "AIME'24") == ["Gemini2.5-Pro"]


def test_an_equal_score_is_not_ahead() -> None:
    assert ledger.ahead("table_3_base_235b", "Qwen2.5-Plus-Base", "DeepSeek-V3-Base")[1] == 15
    same = ledger.ahead("table_3_base_235b", "DeepSeek-V3-Base", "DeepSeek-V3-Base")
    assert same == [0, 15]  # also GPQA, 41.92 of both, is nobody's win


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (last,) = [line.split() for line in lines if line.strip().startswith("all ")]
    assert int(last[-2]) == len(CLAIMS) == sum(map(int, last[1:5])) and int(last[-1]) == len(COMPUTED)
    assert max(map(len, lines)) <= 80


def test_the_command_tells_all_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "kv-235b"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    pieces = ("false", "said 40 GB", "number 6.308 GB", "lines 1395", "kv_cache_gb(model=", "length=32768")
    for piece in pieces:
        assert piece in said


def test_the_command_computes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["ledger", "kv-235b", "--compute"]) == 0
    assert "kv-235b: 6.308 GB, as stated\n1 of 1 as stated." in capsys.readouterr().out
    wrong = [{**row, "number": 7.0} if row["id"] == "kv-235b" else row for row in facts.ledger()]
    monkeypatch.setattr(facts, "ledger", lambda: wrong)
    assert main(["ledger", "memory", "--compute"]) == 1
    assert "kv-235b: 6.308 GB, NOT as stated (7.0)" in capsys.readouterr().out


def test_the_command_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "architecture", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == [c.id for c in ledger.claims("architecture")]
    assert main(["ledger", "rope-theta", "--json", "--compute"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["computed"] == row["number"] == 1_000_000


def test_the_command_is_misused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "swordfish"]) == 2
    assert "no claim has 'swordfish'; groups are architecture" in capsys.readouterr().err
    assert main(["ledger", "z-loss", "--compute"]) == 2
    assert "nothing here computes z-loss; leave --compute out" in capsys.readouterr().err


def test_one_fact_is_stated_once() -> None:
    """Two claims with one computation would be one fact in two places, unless they judge different words."""
    calls = [c.call for c in CLAIMS.values() if c.computed_by]
    twice = {call for call in calls if calls.count(call) > 1}
    assert twice == {"switches()"}  # of the card and of an engine's documentation


def test_tensor_parallelism_by_hand() -> None:
    """Of 64 heads, 1, 2, 4, 8, ... cards may have a part; six cards would hold the weights."""
    c = Qwen3Config.named("Qwen3-235B-A22B")
    assert [n for n in range(1, 17) if c.num_attention_heads % n == 0] == [1, 2, 4, 8, 16]
    assert c.weight_bytes() < 6 * 80e9
    assert replace(CLAIMS["six-cards"], given={}).call == "cards_needed()"
