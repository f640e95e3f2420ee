"""For llama.cpp, and for Ollama, which runs llama.cpp's files with a Modelfile and a Go template beside."""

from __future__ import annotations

import shlex
from pathlib import Path

from qwen3_ref.chat import Template
from qwen3_ref.engines import gguf
from qwen3_ref.engines.source import Source

_FLAGS = {"temperature": "temp", "top_p": "top-p", "top_k": "top-k", "min_p": "min-p",
          "repetition_penalty": "repeat-penalty"}  # fmt: skip


def llama_cpp(source: Source, folder: Path, type: str, out: Path) -> str:
    """For llama.cpp. Its context shift, which forgets the beginning in silence, is off, as the official
    commands have it."""
    file = shlex.quote(str(out / gguf.write(source, folder, type).name))
    settings = source.settings(type)
    sampling = next(iter(settings["sampling"].values()))
    flags = " ".join(f"--{_FLAGS[name]} {value}" for name, value in sampling.items())
    context = f"--ctx-size {min(settings['context_length'], 32_768)} --no-context-shift"
    if source.profile.base:
        return f"llama-completion -m {file} -p Once -no-cnv {context} {flags}"
    thoughts = " --reasoning-format deepseek" if settings["reasoning_parser"] else ""
    return f"llama-server -m {file} --jinja{thoughts} {context} {flags}"


def ollama(source: Source, folder: Path, type: str, out: Path) -> str:
    """For Ollama: a GGUF file, and a Modelfile with the template in Go, sampling, stops and the context,
    whose default would cut a thought short."""
    file = gguf.write(source, folder, type)
    settings = source.settings(type)
    template = "{{ .Prompt }}" if source.profile.base else go_template(source.profile.template)
    lines = [f"FROM ./{file.name}", f'TEMPLATE """{template}"""']
    names = {"repetition_penalty": "repeat_penalty"}
    sampling = {"repetition_penalty": 1.0, **next(iter(settings["sampling"].values()))}
    for name, value in sampling.items():
        lines.append(f"PARAMETER {names.get(name, name)} {value}")
    lines += [f'PARAMETER stop "{text}"' for text in settings["stop"]]
    lines.append(f"PARAMETER num_ctx {min(settings['context_length'], 32_768)}")
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    at = shlex.quote(str(out / "Modelfile"))
    return f"ollama create {source.name} -f {at} && ollama run {source.name}"


# Between actions a line end is cut off by the dashes; beside text there are none, so that every line end
# in the text is one of the prompt.
_GO = """\
{{- $asked := -1 }}{{ $before := "" }}
{{- range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $asked = $i }}{{ end }}{{ end }}
{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- if .Tools }}{{ if .System }}

{{ end }}# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{{- range .Tools }}
{{ . }}
{{- end }}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if and (eq $before "tool") (ne $m.Role "tool") }}<|im_end|>
{{ end }}
{{- if eq $m.Role "user" }}<|im_start|>user
{{ $m.Content }}<|im_end|>
{{ else if eq $m.Role "assistant" }}<|im_start|>assistant
{{ THOUGHT }}{{ $m.Content }}
{{- range $j, $call := $m.ToolCalls }}{{ if or $m.Content $j }}
{{ end }}<tool_call>
{"name": "{{ $call.Function.Name }}", "arguments": {{ $call.Function.Arguments }}}
</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq $m.Role "tool" }}{{ if ne $before "tool" }}<|im_start|>user{{ end }}
<tool_response>
{{ $m.Content }}
</tool_response>
{{- end }}
{{- $before = $m.Role }}
{{- end }}
{{- if eq $before "tool" }}<|im_end|>
{{ end }}
{{- if ne $before "assistant" }}<|im_start|>assistant
{{ PROMPT }}{{ end }}"""
_THOUGHT = """if and (gt $i $asked) (or $last $m.Thinking) }}<think>
{{ $m.Thinking }}
</think>

{{ end"""
_QUIET = """if and .IsThinkSet (not .Think) }}<think>

</think>

{{ end"""
_NOTHING = '""'


def go_template(template: Template) -> str:
    """A chat template in Go, as Ollama executes it: the official prompt wherever no tool is defined.

    With tools it differs by Ollama's hand: definitions and arguments are written without spaces. Coder's
    XML of tools has no Go form here; its prompts are right without them.
    """
    thinks = template in ("qwen3", "qwen3-thinking-2507")
    prompt = {"qwen3": _QUIET, "qwen3-thinking-2507": '"<think>\\n"'}.get(template, _NOTHING)
    return _GO.replace("THOUGHT", _THOUGHT if thinks else _NOTHING).replace("PROMPT", prompt)
