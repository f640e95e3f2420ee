"""How the April models, Instruct-2507, Thinking-2507 and Coder differ: every cell is computed, from the
published configs and from prompts that the templates write.

Sources: `facts.official_models()`, and `chat.render_chat`, which is tested against the official templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from qwen3_ref import facts
from qwen3_ref.chat import Message, Template, render_chat
from qwen3_ref.config import Qwen3Config

VARIANTS: dict[Template, str] = {
    "qwen3": "April 2025",
    "qwen3-instruct-2507": "Instruct-2507",
    "qwen3-thinking-2507": "Thinking-2507",
    "qwen3-coder": "Coder",
}
"""What each chat template's models are called."""
_SUFFIXES: dict[str, Template] = {
    "-Instruct-2507": "qwen3-instruct-2507",
    "-Thinking-2507": "qwen3-thinking-2507",
}
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
_USER: Message = {"role": "user", "content": "Q"}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_CALL: Message = {
    "role": "assistant", "content": "", "reasoning_content": "THOUGHT",
    "tool_calls": [{"name": "f", "arguments": {}}],
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One kind of post-trained checkpoint.

    checkpoints: size -> name. opening: what the prompt ends in behind the assistant's mark. without_thinking:
    the same with enable_thinking=False. old_thoughts, new_thoughts: whether a thought before the last
    question, or after it (in a chain of tool calls), is in the next prompt. old_text: whether the template
    leaves a written out "<think>...</think>" of an earlier turn where it is. calls: "JSON" or "XML".
    tools_system: whether the template adds a system sentence of its own when there are tools. sampling: by
    mode. changed: fields of the config that differ from the April model of the same size, by size.
    """

    template: Template
    checkpoints: dict[str, str]
    released: tuple[str, str]
    opening: str
    without_thinking: str
    old_thoughts: bool
    old_text: bool
    new_thoughts: bool
    calls: str
    tools_system: bool
    sampling: dict[str, dict[str, float]]
    changed: dict[str, tuple[str, ...]]

    @property
    def modes(self) -> str:
        """Which modes a prompt can ask for: "both", "thinking" or "not thinking"."""
        if self.opening != self.without_thinking:
            return "both"
        return "thinking" if self.opening == "<think>\n" else "not thinking"

    def by_size(self, field: str) -> dict[str, Any]:
        """A field of the config for each size."""
        return {size: getattr(Qwen3Config.named(name), field) for size, name in self.checkpoints.items()}


def template_of(name: str) -> Template | None:
    """The chat template of an official checkpoint by its name; None if it was not trained to chat."""
    if name.endswith("-Base") or "-Embedding-" in name or "-Reranker-" in name:
        return None
    if "-Coder-" in name:
        return "qwen3-coder"
    found: Template = next((t for suffix, t in _SUFFIXES.items() if name.endswith(suffix)), "qwen3")
    return found


def size_of(name: str) -> str:
    """The size in an official name: "30B-A3B" of "Qwen3-Coder-30B-A3B-Instruct"."""
    return "-".join(part for part in name.split("-") if part[-1:] == "B" and part[-2:-1].isdigit())


def variant(template: Template) -> Variant:
    """All that is known of one, computed. Raises ValueError for an unknown template, as render_chat does."""
    models = {n: m for n, m in facts.official_models().items() if m["config"] and template_of(n) == template}
    names = {size_of(name): name for name in models}

    def asked(messages: Sequence[Message], **more: Any) -> str:
        return render_chat(messages, template=template, **more)

    start = "<|im_start|>assistant\n"
    told = {"role": "assistant", "content": "A", "reasoning_content": "THOUGHT"}
    written = {"role": "assistant", "content": "<think>\nTHOUGHT\n</think>\n\nA"}
    with_tools = asked([_USER], tools=[_TOOL])
    chain = asked([_USER, _CALL, {"role": "tool", "content": "R"}])
    return Variant(
        template=template,
        checkpoints=names,
        released=(min(m["released"] for m in models.values()), max(m["released"] for m in models.values())),
        opening=asked([_USER]).rpartition(start)[2],
        without_thinking=asked([_USER], enable_thinking=False).rpartition(start)[2],
        old_thoughts="THOUGHT" in asked([_USER, told, _USER]),
        old_text="THOUGHT" in asked([_USER, written, _USER]),
        new_thoughts="THOUGHT" in chain,
        calls="JSON" if '{"name": "f"' in chain else "XML",
        tools_system=not with_tools.startswith("<|im_start|>system\n# Tools"),
        sampling=_sampling(template, models),
        changed={size: _changed(size, name) for size, name in names.items()},
    )


def _sampling(template: Template, models: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By mode, from the generation_config of the checkpoints, which agree where more than one is known;
    the mode that the April files do not state, from the documentation."""
    known = [m["generation_config"]["values"] for m in models.values()]
    found = [{k: values[k] for k in _SAMPLING if k in values} for values in known if "temperature" in values]
    if any(one != found[0] for one in found):
        raise AssertionError(f"the checkpoints of {template} do not agree on sampling")
    if template in ("qwen3-instruct-2507", "qwen3-coder"):
        return {"not thinking": found[0]}
    if template == "qwen3-thinking-2507":
        return {"thinking": found[0]}
    other = facts.about()["sampling_defaults"]["non_thinking"]
    return {"thinking": found[0], "not thinking": {k: other[k] for k in _SAMPLING if k in other}}


def _changed(size: str, name: str) -> tuple[str, ...]:
    """Fields of a config that differ from the April model's of that size; () where there is none."""
    before = f"Qwen3-{size}"
    if before not in facts.official_models():
        return ()
    old, new = Qwen3Config.named(before), Qwen3Config.named(name)
    return tuple(f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name))


def differences() -> dict[str, dict[str, str]]:
    """The table: heading -> variant's name -> cell, for people."""
    found = {name: variant(template) for template, name in VARIANTS.items()}
    rows: dict[str, dict[str, str]] = {}
    for name, v in found.items():
        first, last = v.released
        cells = {
            "sizes": ", ".join(v.checkpoints),
            "released": first if first == last else f"{first} to {last}",
            "modes": v.modes,
            "reply opens with": _shown(v.opening),
            "enable_thinking=False": _shown(v.without_thinking) if v.modes == "both" else "no such switch",
            "thoughts of earlier turns": "dropped" if not v.old_text else "left as written",
            "thoughts since the question": "kept" if v.new_thoughts else "ignored",
            "tool calls": v.calls,
            "its own words before tools": "yes" if v.tools_system else "no",
            "positions": _each(v.by_size("max_position_embeddings")),
            "rope_theta": _each(v.by_size("rope_theta")),
            "changed from April": ", ".join(sorted({f for c in v.changed.values() for f in c})) or "nothing",
        }
        for mode in ("thinking", "not thinking"):
            drawn = v.sampling.get(mode)
            words = [f"{k} {value:g}" for k, value in (drawn or {}).items()]
            cells[f"sampling, {mode}"] = ", ".join(words) or "no such mode"
        for heading, cell in cells.items():
            rows.setdefault(heading, {})[name] = cell
    return rows


def _shown(text: str) -> str:
    """A piece of prompt on one line."""
    return text.replace("\n", "\\n") or "nothing"


def _each(values: dict[str, float]) -> str:
    """One number if it is the same for all sizes, else each with its sizes."""
    by_number: dict[float, list[str]] = {}
    for size, number in values.items():
        by_number.setdefault(number, []).append(size)
    if len(by_number) == 1:
        return f"{next(iter(by_number)):,.0f}"
    return "; ".join(f"{number:,.0f} ({', '.join(sizes)})" for number, sizes in by_number.items())
