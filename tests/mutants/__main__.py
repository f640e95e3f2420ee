"""Mistakes put into the package at random, one at a time: which does no test notice?

    python -m tests.mutants --count 200 --seed 1
    python -m tests.mutants --module train/stages.py --count 30

A mistake is noticed if one of the tests that run its line fails, and passes without it, or takes three
times as much work as the longest test of its file, and 20 seconds more: then it hangs. Times are of the
processor's work, so that what else runs on the machine decides nothing. Which tests run a line is known
from a recording of the suite, made at the first call and kept (ten minutes; later only test files that
have changed). What changes nothing is in equivalent.json, with the reason, and does not count. Drawing
(course/plots) is left out unless asked for: what a figure shows is compared with its numbers by the
notebooks' tests.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3_ref.measure.statistics import wilson
from qwen3_ref.store.files import write_atomically
from tests.mutants import coverage_map, running
from tests.mutants.coverage_map import ROOT
from tests.mutants.mutations import Mutant, mutants

EQUIVALENT = Path(__file__).parent / "equivalent.json"
LEFT_OUT = "course/plots/"


def everything(module: str | None = None) -> list[Mutant]:
    """Every mistake of the package, or of the files whose path begins so."""
    found: list[Mutant] = []
    for path in sorted((ROOT / "qwen3_ref").rglob("*.py")):
        file = path.relative_to(ROOT / "qwen3_ref").as_posix()
        if file.startswith(module) if module else not file.startswith(LEFT_OUT):
            found += mutants(file, path.read_text(encoding="utf-8"))
    return found


def equivalents() -> dict[tuple[str, str, str], str]:
    """The reason why a mistake changes nothing, by (file, line before, line after)."""
    entries = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    return {(e["file"], e["before"], e["after"]): e["why"] for e in entries}


def room(file: str) -> str:
    return file.rpartition("/")[0] or "core"


def report(results: list[dict[str, Any]]) -> str:
    """The share noticed, by room, and of all with its 95% interval (Wilson)."""
    rows: dict[str, Counter[str]] = {}
    for result in results:
        for name in (room(result["file"]), "all"):
            rows.setdefault(name, Counter())[result["verdict"].split()[0]] += 1
    lines = [f"{'':<24}{'mistakes':>9}{'noticed':>9}{'share':>8}{'equivalent':>12}"]
    for name in sorted(rows, key=lambda n: (n == "all", n)):
        row = rows[name]
        count = row["noticed"] + row["survived"]
        share = f"{row['noticed'] / count:.1%}" if count else "-"
        lines.append(f"{name:<24}{count:>9}{row['noticed']:>9}{share:>8}{row['equivalent']:>12}")
    count, noticed = (rows["all"][word] if rows else 0 for word in ("survived", "noticed"))
    if count := count + noticed:
        low, high = wilson(noticed / count, count)
        lines.append(f"{noticed} of {count}: {noticed / count:.1%} ({low:.1%} to {high:.1%})")
    return "\n".join(lines)


def main() -> int:
    """Draw, run, print; 1 if less than 95 in 100 are noticed."""
    words = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=words[0], epilog=words[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--module", help="only files of the package whose path begins so")
    parser.add_argument("--count", type=int, default=40, help="how many to draw (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="which to draw (default 0)")
    parser.add_argument("--limit", type=float, default=60, help="seconds of work for one (default 60)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default 2)")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    parser.add_argument("--remap", action="store_true", help="record the whole suite again")
    options = parser.parse_args()
    coverage_map.bring_up_to_date(afresh=options.remap)
    places = everything(options.module)
    drawn = random.Random(options.seed).sample(places, min(options.count, len(places)))
    same = equivalents()
    results: list[dict[str, Any]] = []

    def add(mutant: Mutant, verdict: str, said: str) -> None:
        names = ("file", "line", "scope", "kind", "before", "after")
        results.append({name: getattr(mutant, name) for name in names} | {"verdict": verdict, "said": said})
        print(f"{verdict:<10} {mutant.file}:{mutant.line} {mutant.kind}", flush=True)
        if verdict not in (running.NOTICED, running.HANGS):
            print(f"    {mutant.before}\n    {mutant.after}\n    {said}".rstrip(), flush=True)
        if options.json:
            write_atomically(options.json, json.dumps(results, indent=1) + "\n")

    began = time.monotonic()
    todo = []
    for mutant in drawn:
        why = same.get((mutant.file, mutant.before, mutant.after))
        if why is None:
            todo.append(mutant)
        else:
            add(mutant, "equivalent", why)
    tests = list(coverage_map.tests())
    for nothing in todo[:1]:  # the control: with no mistake at all the tests must pass
        source = (ROOT / "qwen3_ref" / nothing.file).read_text(encoding="utf-8")
        right = replace(nothing, new=source[nothing.start : nothing.end])
        for _, verdict, said in running.run([right], tests, jobs=1, limit=options.limit):
            if verdict.startswith("noticed"):
                raise SystemExit(f"the tests fail without any mistake in {right.file}: {said}")
    for mutant, verdict, said in running.run(todo, tests, jobs=options.jobs, limit=options.limit):
        add(mutant, verdict, said)
    ids = {result["said"].removeprefix("FAILED ").partition(" - ")[0] for result in results}
    wrong = running.failing(ids, tests)
    for result in results:
        if result["said"].removeprefix("FAILED ").partition(" - ")[0] in wrong:
            print(f"{result['file']}:{result['line']}: {result['said']}, and so it does without the mistake")
            result["verdict"] = running.SURVIVED
    print(f"\n{len(places):,} places for a mistake, {len(drawn)} drawn, {time.monotonic() - began:.0f} s\n")
    print(report(results))
    counted = [r for r in results if r["verdict"] != "equivalent"]
    return int(sum(r["verdict"].startswith("noticed") for r in counted) < 0.95 * len(counted))


if __name__ == "__main__":
    sys.exit(main())
