"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any

from benchmarks import load, report
from benchmarks.models import BITS, dense, made, matrices, one_moe_layer, seeded
from benchmarks.race import ROOT, Entrant, Task, race
from qwen3_ref.config import Qwen3Config
from qwen3_ref.store.files import write_atomically

NAMES = ("decode", "prefill", "context", "moe", "batch", "load", "rollouts", "notebooks")
OURS = ("auto", "float32", "float16", "bfloat16", "int8", "int4")
DTYPES = ("float32", "float16", "bfloat16")
PEERS = ("transformers", "llms-from-scratch", "reasoning-from-scratch", "llama.cpp")
GGUF = ("q8_0", "f16", "q4_0")
_OWN = 0.3e9  # bytes that a process holds beside its weights
_HELP = """\
decode      one row, behind 32 tokens
prefill     a prompt of 512 tokens
context     decoding behind 32, 2,048 and 8,192 tokens
moe         one layer of Qwen3-30B-A3B: 1, 16, 256 and 1,024 tokens through its experts
batch       1, 4 and 16 rows, behind 32 tokens
load        peak memory and time to first token, in fresh processes; `info` on the command line
rollouts    64 replies of the nano, sampled
notebooks   the course under nbval, once
all         everything"""


@dataclass
class Bench:
    """What the command line asked for."""

    quick: bool
    runs: int
    threads: int
    folder: Path
    ours: Sequence[str]
    peers: Sequence[str]
    llama_python: str

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def missing(self, peer: str) -> str | None:
        """Why a peer cannot run, or None."""
        if peer != "llama.cpp":
            there = util.find_spec(peer.replace("-", "_")) is not None
            return None if there else "not installed"
        for python, name in ((self.llama_python, "xllamacpp"), (sys.executable, "gguf")):
            if not self.has(python, name):
                return f"not installed ({name})"
        return None

    def has(self, python: str, module: str) -> bool:
        command = [
            python,
            "-c",
            f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)",
        ]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def run(
        self, entrants: Sequence[Entrant], tasks: Callable[[Entrant], list[Task]], config: Qwen3Config
    ) -> dict[str, Any]:
        """A race, as a part of the report. If the memory has no room for all at once, float32 and the
        teaching implementations, which need the most, run in a second heat, by themselves."""
        results: list[report.Result] = []
        missing = {peer: why for peer in self.peers if (why := self.missing(peer))}
        for heat in self.heats(entrants, config):
            machine = Entrant("machine", "", "machine", {"quick": self.quick})
            found, failed = race(
                [machine, *heat], tasks, runs=self.runs, threads=self.threads, directory=self.folder,
                inside=self.quick, say=self.say,
            )  # fmt: skip
            missing |= failed
            known = {r.task: r for r in results if r.family == "machine"}
            for r in found:
                if r.family == "machine" and r.task in known:
                    known[r.task].rates += r.rates
                else:
                    results.append(r)
        return {"results": results, "missing": missing}

    def heats(self, entrants: Sequence[Entrant], config: Qwen3Config) -> list[Sequence[Entrant]]:
        """Who is loaded at the same time. Raises ValueError if the memory has no room for them."""
        large = [e for e in entrants if e.precision in ("float32", "plain") or e.kind == "from_scratch"]
        small = [e for e in entrants if e not in large]
        free = available() or float("inf")
        for heats in ([entrants], [small, large]):
            need = max(sum(_OWN + config.num_parameters() * _bytes(e) for e in heat) for heat in heats)
            if self.quick or need < free:
                return [heat for heat in heats if heat]
        raise ValueError(
            f"the contestants need about {need / 1e9:.0f} GB at the same time and {free / 1e9:.0f} are free; "
            f"name fewer with --ours and --peers."
        )

    def entrants(self, directory: Path, *, context: int = 600, rows: int = 1, peers: Sequence[str] = PEERS,
                 gguf: Sequence[str] = GGUF, dtypes: Sequence[str] = DTYPES) -> list[Entrant]:  # fmt: skip
        """Ours and the peers that are installed, on the checkpoint of a directory."""
        at = str(directory)
        found = [Entrant("ours", p, "ours", {"directory": at, "precision": p}) for p in self.ours]
        for peer in (p for p in peers if p in self.peers and self.missing(p) is None):
            if peer == "transformers":
                found += [Entrant(peer, p, peer, {"directory": at, "precision": p}) for p in dtypes]
            elif peer == "llama.cpp":
                for kind in gguf:
                    given = {"file": self.gguf(directory, kind), "context": context, "rows": rows}
                    given["threads"] = self.threads
                    found.append(Entrant(peer, kind, "llama", given, self.llama_python))
            else:
                library = peer.replace("-", "_")
                given = {"library": library, "directory": at, "precision": "bfloat16"}
                found.append(Entrant(peer, "bfloat16", "from_scratch", given))
        return found

    def gguf(self, directory: Path, kind: str) -> str:
        """The file for llama.cpp, written unless it is there."""
        file = directory / f"seeded-{kind}.gguf"
        if not file.exists():
            self.say(f"writing {file.name}")
            from qwen3_ref.engines.gguf import write

            # The head, too, in the one format, as ours has it; all but a few hundred ids have no text.
            write(seeded(directory), directory, kind, head=kind)
        return str(file)


def available() -> int | None:
    """Bytes of memory that may be taken, where the system says so."""
    file = Path("/proc/meminfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return 1024 * int(found[1]) if found else None


def _bytes(e: Entrant) -> float:
    """Of a weight, at most; a tied head may be stored twice."""
    return BITS.get(e.precision, 32 if e.precision == "plain" else 16) / 8 * 1.25


def single(b: Bench, directory: Path, config: Qwen3Config, names: Sequence[str]) -> dict[str, Any]:
    """decode and prefill, which share their contestants."""
    context, tokens, steps = (8, 16, 3) if b.quick else (32, 512, 16)
    decode = Task(f"decode {context} x 1", "decode", dict(context=context, rows=1, steps=steps), steps)
    prefill = Task(f"prefill {tokens}", "prefill", dict(tokens=tokens), tokens)

    def tasks(e: Entrant) -> list[Task]:
        if e.kind == "machine":
            products = [Task(f"products {kind}", "products", {"kind": kind}) for kind in (*DTYPES, "int8")]
            return [Task("read", "read")] * ("decode" in names) + products * ("prefill" in names)
        return [decode] * ("decode" in names) + [prefill] * ("prefill" in names)

    both = b.run(b.entrants(directory), tasks, config)
    found = {}
    for name, task in (("decode", decode), ("prefill", prefill)):
        if name in names:
            own = [
                r
                for r in both["results"]
                if r.task.split()[0] in (name, "read" if name == "decode" else "products")
            ]
            found[name] = both | {
                "results": own,
                "task": task.name,
                "tasks": [task.name],
                "unit": "tokens a second",
            }
    return found


def context(b: Bench, directory: Path, config: Qwen3Config) -> dict[str, Any]:
    """Decoding with more and more behind it."""
    lengths, steps = ((8, 16), 3) if b.quick else ((32, 2048, 8192), 8)
    every = [Task(f"decode {n} x 1", "decode", dict(context=n, rows=1, steps=steps), steps) for n in lengths]
    room = lengths[-1] + steps + 8  # llama.cpp keeps each length in a slot of its own
    entrants = b.entrants(
        directory, context=room, rows=len(lengths), gguf=["q8_0"], dtypes=["bfloat16"]
    )  # fmt: skip
    found = b.run(entrants, lambda e: [Task("read", "read")] if e.kind == "machine" else every, config)
    return found | {"tasks": [every[0].name, every[-1].name], "shown": [t.name for t in every],
                    "unit": "tokens a second"}  # fmt: skip


def batch(b: Bench, directory: Path, config: Qwen3Config) -> dict[str, Any]:
    """Rows that share each step's weights."""
    sizes, steps, before = ((1, 4), 3, 8) if b.quick else ((1, 4, 16), 12, 32)
    every = [
        Task(f"decode {before} x {n}", "decode", dict(context=before, rows=n, steps=steps), n * steps)
        for n in sizes
    ]
    peers = ["transformers", "llama.cpp"]
    entrants = b.entrants(directory, context=before + steps + 8, rows=sizes[-1], peers=peers)
    found = b.run(entrants, lambda e: [Task("read", "read")] if e.kind == "machine" else every, config)
    return found | {"tasks": [every[0].name, every[-1].name], "shown": [t.name for t in every],
                    "unit": "tokens a second, all rows"}  # fmt: skip


def moe(b: Bench, directory: Path, config: Qwen3Config) -> dict[str, Any]:
    """The experts of one layer."""
    passes = {1: 1, 16: 2} if b.quick else {1: 32, 16: 8, 256: 2, 1024: 1}
    every = [Task(f"moe {n}", "moe", dict(tokens=n, passes=p), n * p) for n, p in passes.items()]
    entrants = [e for e in b.entrants(directory, peers=["transformers"]) if e.precision != "auto"]
    found = b.run(entrants, lambda e: [Task("read", "read")] if e.kind == "machine" else every, config)
    return found | {"tokens": list(passes), "shown": [t.name for t in every], "unit": "tokens a second"}


def rollouts(b: Bench) -> dict[str, Any]:
    """Replies of the nano to problems of its own kind, at temperature 1, as training draws them."""
    from qwen3_ref.chat import encode_chat
    from qwen3_ref.store.shipped import find_nano
    from qwen3_ref.tasks.problems import FAMILIES, make_problems
    from qwen3_ref.tokenizer import Tokenizer

    count, most = (4, 4) if b.quick else (64, 128)
    directory = Path(str(find_nano("qwen3-nano")))
    tokenizer = Tokenizer.from_pretrained(directory)
    problems = [p for f in FAMILIES for p in make_problems(f, "train", -(-count // len(FAMILIES)), seed=0)][
        :count
    ]
    prompts = [encode_chat(tokenizer, [{"role": "user", "content": p.prompt}]) for p in problems]
    task = Task("rollouts", "rollouts", dict(prompts=prompts, most=most, seed=0))
    at = str(directory)
    entrants = [Entrant("ours", p, "ours", {"directory": at, "precision": p}) for p in ("plain", *b.ours)]
    if "transformers" in b.peers and b.missing("transformers") is None:
        given = {"directory": at, "precision": "float32"}
        entrants.append(Entrant("transformers", "float32", "transformers", given))
    config = Qwen3Config.from_pretrained(directory)
    found = b.run(entrants, lambda e: [] if e.kind == "machine" else [task], config)
    return found | {"shown": ["rollouts"], "unit": f"tokens a second, {count} rows"}


def loading(b: Bench, directory: Path) -> dict[str, Any]:
    """Fresh processes."""
    kinds = [*b.ours, "plain-float32", "plain-bfloat16", "numpy"]
    if "transformers" in b.peers and b.missing("transformers") is None:
        kinds += [f"transformers-{dtype}" for dtype in DTYPES]
    runs = b.runs
    if b.quick:
        kinds, runs = ["float32"], 1
    rows, missing = load.many(directory, kinds, runs)
    info = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "qwen3_ref", "info"], check=True, capture_output=True, cwd=ROOT)
        info.append(time.perf_counter() - start)
    return {"rows": rows, "missing": missing, "info_seconds": info}


def notebooks(b: Bench) -> dict[str, Any]:
    """The course cell by cell, as `make course` has it; --quick: a notebook of one cell."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval",
        "--nbval-current-env",
    ]
    environment = os.environ | {"QWEN3_FIGURES": "check", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                                "HF_HUB_OFFLINE": "1", "JUPYTER_PLATFORM_DIRS": "1"}  # fmt: skip
    if util.find_spec("nbval") is None:
        return {"missing": {"nbval": "not installed"}}
    where: str | Path = "notebooks"
    if b.quick:
        cell = dict(cell_type="code", execution_count=1, id="a", metadata={}, outputs=[], source="x = 1")
        kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
        where = b.folder / "one.ipynb"
        where.write_text(
            json.dumps(dict(cells=[cell], metadata=kernel, nbformat=4, nbformat_minor=5)), encoding="utf-8"
        )
        command += ["--rootdir", str(b.folder)]
    else:
        command += ["-n", "2", "--dist", "loadscope", "--nbval-cell-timeout=300"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, str(where)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    seconds = time.perf_counter() - start
    said = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
    if done.returncode:
        return {"missing": {"the course": said}}
    return {"seconds": seconds, "said": said, "missing": {}}


def measure(
    b: Bench, names: Sequence[str], model: Path | None, folder: Path, keep: Callable[[dict[str, Any]], None]
) -> None:
    """All that was asked for, one after the other; what was found so far is kept after each."""
    found: dict[str, Any] = {}
    config = dense(b.quick)
    if set(names) & {"decode", "prefill", "context", "batch", "load"}:
        b.say("making the model")
        directory = made(config, model or folder / "dense")
    if one := [n for n in ("decode", "prefill") if n in names]:
        found |= single(b, directory, config, one)
        keep(found)
    if "batch" in names:
        found["batch"] = batch(b, directory, config)
        keep(found)
    if "context" in names:
        found["context"] = context(b, directory, config)
        keep(found)
    if "moe" in names:
        layer = one_moe_layer(b.quick)
        at = made(layer, (model.with_name(f"{model.name}-moe") if model else folder / "moe"))
        found["moe"] = moe(b, at, layer)
        keep(found)
    if "load" in names:
        found["load"] = loading(b, directory)
        keep(found)
    if "rollouts" in names:
        found["rollouts"] = rollouts(b)
        keep(found)
    if "notebooks" in names:
        found["notebooks"] = notebooks(b)
        keep(found)


def processor() -> str:
    """Its name, as the system has it."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
    has = [flag for flag in known if flags and flag in flags[1].split()]
    return " ".join(
        [name[1] if name else platform.processor() or platform.machine(), f"({', '.join(has)})" * bool(has)]
    )


def versions(b: Bench) -> dict[str, str]:
    """Of Python, PyTorch and the peers."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "llms-from-scratch", "reasoning-from-scratch", "xllamacpp"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "xllamacpp" not in found and "llama.cpp" in b.peers:
        code = "from importlib.metadata import version; print(version('xllamacpp'))"
        try:
            asked = subprocess.run([b.llama_python, "-c", code], capture_output=True, text=True, check=False)
        except OSError:
            return found
        if asked.returncode == 0:
            found["xllamacpp"] = asked.stdout.strip()
    return found


def markdown(b: Bench, found: dict[str, Any], about: dict[str, Any]) -> str:
    """The whole report."""
    lines = [
        f"Measured {about['date']} on {about['processor']}, {b.threads} threads; {b.runs} rounds after a "
        "warm-up; " + ", ".join(f"{k} {v}" for k, v in about["versions"].items()) + ".",
    ]  # fmt: skip
    config = dense(b.quick)
    for name, part in found.items():
        lines += ["", f"### {name}", ""]
        for task in part.get("shown", part.get("tasks", [])):
            lines += [*report.table(config, part["results"], task, part["unit"]), ""]
        lines += report.machine(part.get("results", []))
        if name == "load":
            lines += [
                "| load | to the first token, s | load, s | model GB | peak over model | |",
                "|---|---|---|---|---|---|",
            ]
            for r in part["rows"]:
                first = report.spread(r["all_first_token_seconds"])
                first = "" if r["kind"] == "numpy" else first
                lines.append(
                    f"| {r['kind']} | {first} | {r['seconds']:.2f} | {r['model_bytes'] / 1e9:.3f} | "
                    f"{r['ratio']:.3f} | {r['how']} |"
                )
        if name == "notebooks" and "said" in part:
            lines.append(f"The course under nbval: {part['seconds']:.0f} s; {part['said']}")
        lines += [f"- {who}: {why}" for who, why in part["missing"].items()]
    if judged := report.judged(found):
        lines += ["", "### Targets", "", *judged]
    return "\n".join(lines) + "\n"


def plain(value: Any) -> Any:
    """For JSON: results as dictionaries."""
    return asdict(value) if isinstance(value, report.Result) else str(value)


def draw(config: Qwen3Config, found: dict[str, Any], about: dict[str, Any]) -> None:
    """figures/speed.png, and its numbers beside it."""
    from qwen3_ref.course.plots.style import save_figure

    figure, data = report.speed(config, found)
    decode = data["decode"]
    fastest = max(decode, key=lambda name: decode[name]["tokens_per_second"][-1])
    alt = (
        f"Tokens a second against the bytes that a token reads, ours and the peers, under the line that "
        f"{data['bandwidth_gb_per_second']:.0f} GB/s allow: {fastest} is fastest. Beside it, prefill."
    )
    command = f"python -m benchmarks {' '.join(about['names'])}"
    made_from = f"{command}, {about['date']}, {about['processor']}; seeded weights, seed 0"
    before = os.environ.get("QWEN3_FIGURES")
    os.environ["QWEN3_FIGURES"] = "write"
    try:
        save_figure("speed", figure, data, alt=alt, made_from=made_from)
    finally:
        os.environ.pop("QWEN3_FIGURES")
        if before is not None:
            os.environ["QWEN3_FIGURES"] = before


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory side by side, on the same seeded weights.",
        epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(NAMES)}, or all")
    options.add_argument(
        "--quick", action="store_true", help="a toy, in this process: shows that it runs, no more"
    )
    options.add_argument("--runs", type=int, metavar="N", help="rounds that count (5)")
    options.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "build" / "benchmarks",
                         help="where the Markdown and the JSON go (build/benchmarks)")  # fmt: skip
    options.add_argument(
        "--model", type=Path, metavar="DIR", help="keep the seeded Qwen3-0.6B here, for next time"
    )
    options.add_argument("--ours", nargs="*", metavar="PRECISION", default=list(OURS), help=", ".join(OURS))
    options.add_argument("--peers", nargs="*", metavar="PEER", default=list(PEERS), help=", ".join(PEERS))
    options.add_argument("--llama-python", metavar="PATH", default=sys.executable,
                         help="an interpreter that has xllamacpp, if this one has not")  # fmt: skip
    options.add_argument("--threads", type=int, metavar="N", default=os.cpu_count() or 1)
    options.add_argument(
        "--figure", action="store_true", help="draw figures/speed.png (`all` does, without --quick)"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 2 and a sentence for what cannot be asked."""
    asked = parser().parse_args(arguments)
    names = list(NAMES) if "all" in asked.names else asked.names
    for option, given, known in (
        ("NAME", names, NAMES), ("--ours", asked.ours, OURS), ("--peers", asked.peers, PEERS),
    ):  # fmt: skip
        for value in given:
            if value not in known:
                print(f"error: {option} {value!r} is not known; take {', '.join(known)}.", file=sys.stderr)
                return 2
    runs = asked.runs if asked.runs is not None else 2 if asked.quick else 5
    for option, number in (("--runs", runs), ("--threads", asked.threads)):
        if number < 1:
            print(f"error: {option} is {number}; give 1 or more.", file=sys.stderr)
            return 2
    figure = asked.figure or ("all" in asked.names and not asked.quick)
    if asked.figure and not {"decode", "prefill"} <= set(names):
        print("error: the figure shows decode and prefill; name both.", file=sys.stderr)
        return 2
    name = asked.names[0] if len(asked.names) == 1 else "-".join(names)
    asked.out.mkdir(parents=True, exist_ok=True)
    text = ""

    def keep(found: dict[str, Any]) -> None:
        nonlocal text
        about = {
            "date": f"{datetime.now():%Y-%m-%d %H:%M}", "processor": processor(), "versions": versions(b),
            "threads": b.threads, "runs": b.runs, "quick": b.quick, "names": names,
            "matrices": matrices(dense(b.quick)),
        }  # fmt: skip
        text = markdown(b, found, about)
        write_atomically(asked.out / f"{name}.md", text)
        targets = [
            dict(zip(("target", "measured", "wanted", "who"), t, strict=True)) for t in report.targets(found)
        ]
        record = about | {"benchmarks": found, "targets": targets}
        write_atomically(asked.out / f"{name}.json", json.dumps(record, indent=1, default=plain) + "\n")
        if figure and {"decode", "prefill"} <= set(found):
            draw(dense(b.quick), found, about)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        b = Bench(asked.quick, runs, asked.threads, folder, asked.ours, asked.peers, asked.llama_python)
        try:
            measure(b, names, asked.model, folder, keep)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
