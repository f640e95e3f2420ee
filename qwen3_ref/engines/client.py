"""A client of any server that speaks OpenAI's interface: streams thoughts and answer, switches modes, sets a
budget, runs a tool. Nothing but the standard library:

    python -m qwen3_ref.engines.client http://127.0.0.1:8080 "17+25-38 mod 100" --budget 16 --tool

What differs between servers is in SERVERS: the field that a thinking budget has in a request, and the one in
which thoughts come back. Sources: llama.cpp `tools/server/README.md` (October 2026), vLLM 0.33
`entrypoints/openai`, SGLang 0.5.23 `srt/entrypoints/openai`; of these llama.cpp was run here.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from qwen3_ref.tasks.calculator import CALCULATOR, run_tool

SERVERS = {
    "llama.cpp": "thinking_budget_tokens", "vllm": "thinking_token_budget", "sglang": "max_thinking_tokens",
}  # fmt: skip
"""The name of a thinking budget in a request."""
THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers put thoughts: llama.cpp and SGLang, vLLM."""
ROUNDS = 3
"""Replies that may call the tool before the conversation is given up."""
Json = dict[str, Any]


def request(
    messages: Sequence[Json],
    *,
    server: str = "llama.cpp",
    thinking: bool = True,
    budget: int | None = None,
    tools: Sequence[Json] = (),
    max_tokens: int = 512,
) -> Json:
    """The body of a request. `tools`: their definitions, in the interface's own form, as `CALCULATOR` has it.

    Raises ValueError for an unknown server."""
    if server not in SERVERS:
        raise ValueError(f"there is no server {server!r}; there are {', '.join(SERVERS)}.")
    body: Json = {
        "model": "default", "messages": list(messages), "stream": True, "max_tokens": max_tokens,
        "temperature": 0, "chat_template_kwargs": {"enable_thinking": thinking},
    }  # fmt: skip
    if budget is not None:
        body[SERVERS[server]] = budget
    if tools:
        body["tools"] = list(tools)
    return body


def events(lines: Iterator[bytes]) -> Iterator[Json]:
    """The objects of a stream of server-sent events, up to "[DONE]". Raises ValueError for an error in it."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue  # a blank line ends an event, and one that begins with ":" keeps the line open
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        found: Json = json.loads(data)
        if "error" in found:
            raise ValueError(f"the server says: {found['error']}")
        yield found


class Reply:
    """One assistant's turn, put together from its deltas."""

    def __init__(self) -> None:
        self.reasoning = ""
        self.content = ""
        self.calls: list[Json] = []
        self.finish: str | None = None

    def take(self, event: Json) -> Iterator[tuple[str, str]]:
        """Add one event; yields ("reasoning" or "content", text) as it comes. A call comes in pieces: its
        name first, then its arguments, a few characters at a time; calls are told apart by their index."""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            for name in THOUGHTS:
                if text := delta.get(name):
                    self.reasoning += text
                    yield "reasoning", text
                    break
            if text := delta.get("content"):
                self.content += text
                yield "content", text
            for piece in delta.get("tool_calls") or ():
                while len(self.calls) <= piece["index"]:
                    empty = {"name": "", "arguments": ""}
                    self.calls.append({"id": "", "type": "function", "function": empty})
                call, function = self.calls[piece["index"]], piece.get("function") or {}
                call["id"] = piece.get("id") or call["id"]
                call["function"]["name"] += function.get("name") or ""
                call["function"]["arguments"] += function.get("arguments") or ""
            self.finish = choice.get("finish_reason") or self.finish

    def message(self) -> Json:
        """The turn as the next request wants it."""
        said: Json = {"role": "assistant", "content": self.content}
        if self.reasoning:
            said["reasoning_content"] = self.reasoning
        return said | ({"tool_calls": self.calls} if self.calls else {})


def results(calls: Sequence[Json]) -> Iterator[Json]:
    """The calculator's answer to each call, as messages."""
    for call in calls:
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"] or "{}")
        except ValueError:
            arguments = None
        said = run_tool({"name": function["name"], "arguments": arguments})
        yield {"role": "tool", "tool_call_id": call["id"], "content": said}


def ask(address: str, body: Json) -> Iterator[Json]:
    """Post a request and yield the events of its stream. Raises OSError, ValueError for an error in words."""
    url = f"{address.rstrip('/')}/v1/chat/completions"
    head = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head)) as answer:
            yield from events(iter(answer))
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode("utf-8", "replace")
        raise ValueError(f"{url} answers {error.code}: {said}") from None


def converse(address: str, messages: list[Json], **how: Any) -> Iterator[tuple[str, str]]:
    """Yield ("reasoning", "content", "call" or "result", text); `messages` grows by what was said. `how` is
    `request`'s."""
    for _ in range(ROUNDS):
        reply = Reply()
        for event in ask(address, request(messages, **how)):
            yield from reply.take(event)
        messages.append(reply.message())
        if not reply.calls:
            return
        for call, result in zip(reply.calls, results(reply.calls), strict=True):
            yield "call", f"{call['function']['name']}({call['function']['arguments']})"
            yield "result", result["content"]
            messages.append(result)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen3_ref.engines.client", description="Talk to a server: thoughts, answer, tools."
    )
    parser.add_argument("address", help="such as http://127.0.0.1:8080")
    parser.add_argument("question", nargs="+", help="one user turn after the other")
    parser.add_argument("--server", choices=tuple(SERVERS), default="llama.cpp")
    parser.add_argument("--no-think", action="store_true", help="without thinking")
    parser.add_argument("--budget", type=int, help="tokens of thinking")
    parser.add_argument("--tool", action="store_true", help="offer the calculator, and run it")
    args = parser.parse_args(argv)
    messages: list[Json] = []
    try:
        for question in args.question:
            messages.append({"role": "user", "content": question})
            part = ""
            for kind, text in converse(
                args.address, messages, server=args.server, thinking=not args.no_think, budget=args.budget,
                tools=[CALCULATOR] if args.tool else [],
            ):  # fmt: skip
                if kind != part or kind in ("call", "result"):
                    print(f"{chr(10) if part else ''}[{kind}] ", end="")
                    part = kind
                print(text.strip("\n") if kind == "call" else text, end="", flush=True)
            print()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
