"""Print the kill table: `python -m tests.faults [--json FILE]`.

Fault, the rows of the list of known bugs that it stands for, the first check that catches it, and
whether a parity test in the usual fashion (fresh weights, 8 tokens: checks.weak_test_passes) sees it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from qwen3_ref.store.files import write_atomically
from tests.faults import EQUIVALENT, FAULTS
from tests.faults.checks import FAST, caught_by, weak_test_passes
from tests.faults.rows import ABSENT


def table() -> dict[str, Any]:
    """Every fault with its verdicts, the equivalent mutants, and the rows without a fault."""
    return {
        "faults": [
            {
                "name": fault.name,
                "rows": fault.rows,
                "words": fault.words,
                "module": fault.module,
                "caught_by": caught_by(fault),
                "weak_test": "passes" if weak_test_passes(fault) else "fails",
            }
            for fault in FAULTS
        ],
        "equivalent": [{"name": f.name, "rows": f.rows, "why": f.words} for f in EQUIVALENT],
        "absent": ABSENT,
    }


def weak_share(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """(let through by the weak test, all) among the faults that a hardened test of the same kind catches:
    one forward pass, logits compared. Caches, sampling and text are beyond both, so they do not count."""
    comparable = [row for row in rows if (row["caught_by"] or "").startswith("logits_")]
    return sum(row["weak_test"] == "passes" for row in comparable), len(comparable)


def main() -> int:
    """Print the table, write it if asked; 1 if a fault survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    target: Path | None = parser.parse_args().json
    result = table()
    print(f"{'fault':<46} {'rows':<13} {'caught by':<58} weak test")
    for row in result["faults"]:
        caught = row["caught_by"] or "NOTHING"
        print(f"{row['name']:<46} {row['rows']:<13} {caught:<58} {row['weak_test']}")
    survivors = [row["name"] for row in result["faults"] if row["caught_by"] is None]
    total, seen = len(result["faults"]), weak_share(result["faults"])
    print(
        f"\n{total - len(survivors)} of {total} faults caught, by named tests and {len(FAST)} parity checks."
    )
    print(f"Of the {seen[1]} that a hardened comparison of logits reveals, the weak one lets {seen[0]} pass.")
    print("\nEquivalent mutants (the suite must pass with them on):")
    for row in result["equivalent"]:
        print(f"  {row['name']} (rows {row['rows']}): {row['why']}")
    print("\nRows without a fault:")
    for number, why in result["absent"].items():
        print(f"  {number}: {why}")
    if target is not None:
        write_atomically(target, json.dumps(result, indent=1) + "\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
