"""The family: text backbones of models that see and hear, and how the kinds of checkpoints differ."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch

from qwen3_ref import ConfigError, Qwen3Config, facts
from qwen3_ref.commands.line import main
from qwen3_ref.official.snapshots import find_official, official_name
from qwen3_ref.official.variants import VARIANTS, differences, size_of, template_of, variant

BACKBONES = list(facts.backbones())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_the_text_model_of_its_size(name: str) -> None:
    """Qwen3-VL's and Omni's text parts have the shapes of April's models (the 2B's: the 1.7B's), but for
    positions and, in Omni, the rows of the vocabulary."""
    size = {"2B": "1.7B"}.get(size_of(name), size_of(name))
    ours, plain = Qwen3Config.named(name), Qwen3Config.named(f"Qwen3-{size}")
    assert ours.num_non_embedding_parameters() == plain.num_non_embedding_parameters()
    assert ours == Qwen3Config.named(f"Qwen/{name}")
    assert ours.rope_scaling == {
        "rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True,
    }  # fmt: skip
    if "-VL-" in name:
        assert ours.num_parameters() == plain.num_parameters() and ours.rope_theta == 5e6
        assert ours.max_position_embeddings == 262_144


@pytest.mark.parametrize(
    ("name", "module", "config", "model"),
    [
        ("Qwen3-VL-2B-Instruct", "qwen3_vl", "Qwen3VLTextConfig", "Qwen3VLTextModel"),
        ("Qwen3-VL-30B-A3B-Instruct", "qwen3_vl_moe", "Qwen3VLMoeTextConfig", "Qwen3VLMoeTextModel"),
        ("Qwen3-Omni-30B-A3B-Instruct", "qwen3_omni_moe", "Qwen3OmniMoeTextConfig",
         "Qwen3OmniMoeThinkerTextModel"),
    ],
)  # fmt: skip
def test_transformers_text_part_has_our_parameters(name: str, module: str, config: str, model: str) -> None:
    """Their class, made of the official values on no device: as many parameters as we count."""
    theirs = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    values = {k: v for k, v in facts.backbones()[name]["config"].items() if k != "model_type"}
    with torch.device("meta"):
        built = getattr(theirs, model)(getattr(theirs, config)(**values))
    ours = Qwen3Config.named(name)
    head = 0 if ours.tie_word_embeddings else ours.vocab_size * ours.hidden_size
    assert sum(p.numel() for p in built.parameters()) + head == ours.num_parameters()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_no_checkpoint(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be run here, for want of the vision tower"):
        official_name(name)
    with pytest.raises(ConfigError, match="run it with transformers"):
        find_official(f"Qwen/{name}")


@pytest.mark.parametrize("name", BACKBONES)
def test_no_command_runs_a_backbone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fetch", "chat", "verify"):
        assert main([command, name]) == 2
        assert f"{name} cannot be run here" in capsys.readouterr().err
    assert name not in facts.known_names() and facts.suggestion(name.lower()) == f"did you mean {name}"


def test_half_a_name_leads_to_one_that_sees() -> None:
    for half in ("Qwen3-VL-8B", "qwen3-vl-8b-instruct", "Qwen/Qwen3-VL-8B-Instuct"):
        assert "Qwen3-VL-8B-Instruct" in facts.suggestion(half)
    assert facts.suggestion("Qwen/qwen3-omni") == "did you mean Qwen3-Omni-30B-A3B-Instruct"
    assert facts.suggestion("Qwen3-VL").count("Qwen3-VL-") == 3
    with pytest.raises(ConfigError, match="did you mean .*Qwen3-VL-4B-Instruct"):
        Qwen3Config.named("Qwen3-VL-4B")


def test_a_text_part_by_hand() -> None:
    values: dict[str, Any] = dict(facts.backbones()["Qwen3-VL-8B-Instruct"]["config"])
    yarn = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 262_144}
    values["rope_scaling"] = {"mrope_section": [24, 20, 20], "mrope_interleaved": True, **yarn}
    assert Qwen3Config.from_text_part(values).rope_scaling == values["rope_scaling"]
    assert Qwen3Config.from_text_part(values).context_length == 3 * 262_144
    with pytest.raises(ConfigError, match="model_type in the text part is 'qwen3'; known text parts are"):
        Qwen3Config.from_text_part({**values, "model_type": "qwen3"})
    with pytest.raises(ConfigError, match="hidden_size is missing in here"):
        Qwen3Config.from_text_part({k: v for k, v in values.items() if k != "hidden_size"}, source="here")
    values["rope_scaling"] = {"rope_type": "default", "spin": 2}
    with pytest.raises(ConfigError, match="spin"):
        Qwen3Config.from_text_part(values)


# -- info --------------------------------------------------------------------------------------------------


def test_info_says_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    for name, model in {**facts.official_models(), **facts.backbones()}.items():
        if model.get("not_here"):
            assert main(["info", name]) == 0
            assert f"Not here: {model['not_here']}" in " ".join(capsys.readouterr().out.split())
    assert main(["info", "Qwen3-8B"]) == 0 and "Not here" not in capsys.readouterr().out
    assert main(["info", "Qwen3-VL-8B-Instruct", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert "vision tower (27 layers, 1,152 wide)" in one["not_here"] and one["directory"] is None
    assert one["parameters"]["total"] == 8_190_735_360 and one["released"] == "2025-10-15"


def test_info_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    assert all(shown[name] == "*+" for name in BACKBONES)
    assert shown["Qwen3-Embedding-0.6B"] == "+" and shown["Qwen3-8B"] == "8.19B"


# -- how the kinds differ ----------------------------------------------------------------------------------


def test_every_chat_checkpoint_is_of_one_kind() -> None:
    """Twenty-four open text checkpoints: six base, two that embed and rank, and four kinds that chat."""
    sizes = {template: list(variant(template).checkpoints) for template in VARIANTS}
    assert {t: len(s) for t, s in sizes.items()} == {
        "qwen3": 8, "qwen3-instruct-2507": 3, "qwen3-thinking-2507": 3, "qwen3-coder": 2,
    }  # fmt: skip
    assert sizes["qwen3-coder"] == ["30B-A3B", "480B-A35B"]
    rest = [n for n, m in facts.official_models().items() if m["config"] and template_of(n) is None]
    assert len(rest) == 8 and sum("-Base" in name for name in rest) == 6


@pytest.mark.parametrize(
    ("template", "modes", "opening", "without", "old_text", "new", "calls", "words"),
    [
        ("qwen3", "both", "", "<think>\n\n</think>\n\n", False, True, "JSON", False),
        ("qwen3-instruct-2507", "not thinking", "", "", True, False, "JSON", False),
        ("qwen3-thinking-2507", "thinking", "<think>\n", "<think>\n", False, True, "JSON", False),
        ("qwen3-coder", "not thinking", "", "", True, False, "XML", True),
    ],
)
def test_what_the_templates_do(
    template: Any, modes: str, opening: str, without: str, old_text: bool, new: bool, calls: str, words: bool
) -> None:
    """As read in the official templates."""
    v = variant(template)
    assert (v.modes, v.opening, v.without_thinking) == (modes, opening, without)
    assert (v.old_text, v.new_thoughts, v.calls, v.tools_system) == (old_text, new, calls, words)
    assert not v.old_thoughts  # what stood in reasoning_content before the last question never comes back


def test_sampling_and_positions() -> None:
    """As published: generation_config.json, and for thinking off the documentation."""
    drawn = {template: variant(template).sampling for template in VARIANTS}
    think = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    other = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    assert drawn == {
        "qwen3": {"thinking": think, "not thinking": other},
        "qwen3-instruct-2507": {"not thinking": other},
        "qwen3-thinking-2507": {"thinking": think},
        "qwen3-coder": {"not thinking": other | {"repetition_penalty": 1.05}},
    }
    thetas = {t: variant(t).by_size("rope_theta") for t in VARIANTS}
    assert set(thetas["qwen3"].values()) == {1e6} and set(thetas["qwen3-coder"].values()) == {1e7}
    for template in ("qwen3-instruct-2507", "qwen3-thinking-2507"):
        assert thetas[template] == {"4B": 5e6, "30B-A3B": 1e7, "235B-A22B": 5e6}  # type: ignore[index]
    assert all(set(variant(t).by_size("max_position_embeddings").values()) == {262_144}
               for t in VARIANTS if t != "qwen3")  # fmt: skip


def test_what_2507_changed_in_the_configs() -> None:
    """Positions and the base of RoPE, and not one shape."""
    for template in ("qwen3-instruct-2507", "qwen3-thinking-2507"):
        changed = variant(template).changed  # type: ignore[arg-type]
        assert set(changed.values()) == {("rope_theta", "max_position_embeddings")}
    assert set(variant("qwen3").changed.values()) == {()}
    assert variant("qwen3-coder").changed["480B-A35B"] == ()  # no April model of that size


def test_the_table_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    rows = differences()
    assert all(list(cells) == list(VARIANTS.values()) for cells in rows.values())
    assert rows["modes"] == {"April 2025": "both", "Instruct-2507": "not thinking",
                             "Thinking-2507": "thinking", "Coder": "not thinking"}  # fmt: skip
    assert rows["rope_theta"]["Instruct-2507"] == "5,000,000 (4B, 235B-A22B); 10,000,000 (30B-A3B)"
    assert rows["changed from April"]["Coder"] == "max_position_embeddings, rope_theta"
    assert rows["reply opens with"]["Thinking-2507"] == "<think>\\n"
    assert main(["info", "--variants", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert main(["info", "--variants"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(cell in shown for cells in rows.values() for cell in cells.values())
    assert main(["info", "--variants", "Qwen3-8B"]) == 2
    assert "--variants is about all of the family" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "size"), [("Qwen3-8B", "8B"), ("Qwen3-0.6B-Base", "0.6B"),
                                            ("Qwen3-Coder-480B-A35B-Instruct", "480B-A35B"),
                                            ("Qwen3-VL-2B-Instruct", "2B")])  # fmt: skip
def test_sizes(name: str, size: str) -> None:
    assert size_of(name) == size
