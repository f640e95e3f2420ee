"""The process of one engine: `python -P worker.py RUNNER`, started by `peer`.

A line of JSON is a question, [name, arguments]; the answer is a line, {"value": ...} or {"error": ...}.
The first question, "about", makes the engine. The package is imported from where this file lies without
being on the path, so that the interpreter's own packages are those of its environment; a runner may use
what its environment has the packages for.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module, util
from pathlib import Path
from typing import Any

PACKAGE = "qwen3_ref"


def find_package() -> None:
    """Make the package importable from its own folder, and nothing that lies beside it."""
    folder = Path(__file__).resolve().parents[1]
    spec = util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def sentence(error: BaseException) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    find_package()
    engine: Any = None
    for line in sys.stdin:
        question, given = json.loads(line)
        try:
            if question == "about":
                engine = import_module(f"{PACKAGE}.engines.runners.{sys.argv[1]}").Engine(**given)
                answer = {"value": engine.versions}
            elif not hasattr(engine, question):
                answer = {"value": None}
            else:
                answer = {"value": getattr(engine, question)(**given)}
        except Exception as error:
            answer = {"error": sentence(error)}
        print(json.dumps(answer), file=answers, flush=True)
    answers.close()
    os._exit(0)  # servers inside leave threads that nobody waits for


if __name__ == "__main__":
    main()
