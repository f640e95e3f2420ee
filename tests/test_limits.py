"""What a limit names is still allowed, and one more is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qwen3_ref.arrays import require_list
from qwen3_ref.calls import NESTED, _kinds
from qwen3_ref.commands import slash
from qwen3_ref.config import Qwen3Config
from qwen3_ref.decode.tools import LONGEST_RESULT, Tool, run_call
from qwen3_ref.reply import MOST_PROBLEMS, parse_reply
from qwen3_ref.store import checkpoint, files
from qwen3_ref.store.errors import meant, one_line, quoted
from qwen3_ref.tasks import numbers
from qwen3_ref.tasks.calculator import CalculatorError, calculate
from qwen3_ref.train.recipes import balance, grpo
from tests.helpers import tiny


def test_of_results_and_problems() -> None:
    for more in (0, 1):
        tool = Tool(lambda more=more: "x" * (LONGEST_RESULT + more), {"name": "f"})
        text = run_call([tool], {"name": "f", "arguments": {}})
        assert ("cut: the result has 2,001 characters" in text) == bool(more)
        reply = parse_reply("<tool_call>x</tool_call>" * (MOST_PROBLEMS + more))
        assert (reply.problems[-1] == "there are 1 more problems.") == bool(more)
        assert len(reply.problems) == MOST_PROBLEMS + more


def test_of_json_and_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert one_line("a" * 500 + "b" * 500) == "a" * 500 + "b" * 500
    assert one_line("a" * 500 + "b" + "c" * 500) == "a" * 500 + " ... " + "c" * 500
    assert quoted(2**1000 - 1, 400) == str(2**1000 - 1)
    assert quoted(2**1000) == "a whole number of more than 300 digits" == quoted(-(2**1000))[1:]
    assert quoted("x" * 78) == f"'{'x' * 78}'" and quoted("x" * 79) == f"'{'x' * 76}..."
    assert meant("zz", [*"abcdefgh"]) == "there are a, b, c, d, e, f, g, h"
    assert meant("zz", [*"abcdefghi"]) == "there are a, b, c, d, e and 4 more"
    monkeypatch.setattr(files, "_MOST_VALUES", 3)
    assert files.parse_json(b"[1,2,3]") == [1, 2, 3]
    with pytest.raises(ValueError, match="more than 3 values"):
        files.parse_json(b"[1,2,3,4]")
    monkeypatch.undo()
    save_file({"x": torch.ones(2)}, tmp_path / checkpoint.SINGLE)
    length = int.from_bytes((tmp_path / checkpoint.SINGLE).read_bytes()[:8], "little")
    monkeypatch.setattr(checkpoint, "_LONGEST_HEADER", length)
    assert list(checkpoint.open_checkpoint(tmp_path).names()) == ["x"]
    monkeypatch.setattr(checkpoint, "_LONGEST_HEADER", length - 1)
    with pytest.raises(checkpoint.CheckpointError, match=f"and more than {length - 1} are not read"):
        checkpoint.open_checkpoint(tmp_path)


def test_of_shards(tmp_path: Path) -> None:
    """A byte a file is allowed: then each tensor has its own. The index is as transformers has it."""
    model = tiny()
    model.save_pretrained(tmp_path, max_shard_bytes=1)
    count = len(dict(model.named_official_tensors()))
    assert len([*tmp_path.glob("model-*.safetensors")]) == count
    text = (tmp_path / checkpoint.INDEX).read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert len(set(json.loads(text)["weight_map"].values())) == count


def test_of_calculations_and_numbers() -> None:
    longest = "1+" * 49 + "11"
    assert len(longest) == 100 and calculate(longest) == 60
    with pytest.raises(CalculatorError, match="has 101 characters; at most 100 are read"):
        calculate(longest + "1")
    assert calculate("1000000*1000000") == 10**12 == -calculate("-1000000*1000000")
    for beyond in ("1000000*1000000+1", "0-1000000*1000000-1"):
        with pytest.raises(CalculatorError, match="larger than 1,000,000,000,000"):
            calculate(beyond)
    assert numbers.parts("en", 0) and numbers.parts("en", 9999)
    for number in (-1, 10_000):
        with pytest.raises(ValueError, match=f"the number is {number}; it must be 0 to 9,999"):
            numbers.parts("en", number)


def test_of_schemas_within_schemas() -> None:
    def kinds(depth: int) -> Any:
        schema: dict[str, Any] = {"type": "integer"}
        for _ in range(depth):
            schema = {"anyOf": [schema]}
        return _kinds(schema, schema)

    assert kinds(NESTED) == [("integer", None)] and kinds(NESTED + 1) == [("string", None)]


def test_of_a_context() -> None:
    most = replace(
        Qwen3Config.named("Qwen3-0.6B"), max_position_embeddings=2**31 - 1,
        rope_scaling={"rope_type": "linear", "factor": 1.0},
    )  # fmt: skip
    assert most.context_length == 2**31 - 1
    with pytest.raises(ValueError, match="makes a context of 2,147,483,648"):
        replace(most, max_position_embeddings=2**30, rope_scaling={"rope_type": "linear", "factor": 2.0})


def test_of_ids() -> None:
    """64 bits with a sign, as a tensor holds them."""
    ends = [-(2**63), 2**63 - 1]
    assert require_list("ids", ends) == ends
    for beyond in (-(2**63) - 1, 2**63):
        with pytest.raises(ValueError, match="which is no token id"):
            require_list("ids", [beyond])


def test_of_training() -> None:
    """An expert is dead below a tenth of a balanced share; ratios are clamped above the largest."""
    assert balance.dead_experts(torch.tensor([[1, 19], [0, 20]])) == 1
    most, zero = grpo.LARGEST_LOG_RATIO, torch.zeros(1, 1)
    for more, advantage, stops in ((0, -1.0, False), (1, -1.0, True), (1, 0.0, False)):
        stopped = grpo.surrogate(zero + most + more, zero, torch.tensor([advantage]), 0.2, 0.2)[1]
        assert stopped.tolist() == [[stops]]
    assert grpo.advantages(torch.zeros(1, 3)).tolist() == [[0.0] * 3]
    close = torch.tensor([[1e6, 1e6 - 1]], dtype=torch.float64)  # a millionth
    assert grpo.advantages(close).tolist() == [[0.0, 0.0]] and grpo.advantages(close - 1).any()


def test_a_saved_message_may_have_every_key(tmp_path: Path) -> None:
    whole = {key: "x" for key in slash._KEYS} | {"role": "assistant", "tool_calls": []}
    talk = [{"role": "user", "content": "a"}, whole]
    (tmp_path / "talk.json").write_text(json.dumps({"messages": talk}), encoding="utf-8")
    assert slash.conversation(tmp_path / "talk.json") == talk
