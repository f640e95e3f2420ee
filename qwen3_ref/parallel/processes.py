"""Ranks as processes of this machine: started, watched, and none left behind.

Tests and lessons start two or four so; training on real cards is started by `torchrun`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from qwen3_ref.arrays import require_whole

TIMEOUT = 60.0
"""Seconds that a rank waits for the others in one collective."""
MOST = 64


class RankFailed(RuntimeError):
    """A rank raised, died or did not end; the sentence says which, and the traceback of the first one."""


def run_ranks(
    world: int, function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT, limit: float = 300.0
) -> list[Any]:
    """`function(rank, *arguments)` in `world` processes that form one gloo group, one thread each; what it
    returned on each rank, by rank.

    The function has to be one that a module holds (a notebook's own cannot be found by another process),
    and arguments and results what goes through a pipe. timeout: seconds that a collective waits; limit:
    seconds for all.
    Raises RankFailed with the first rank's traceback if one raises or dies: the others are ended, and
    nothing is left running. ValueError for a number of ranks that is none.
    """
    world = require_whole("world", world, 1)
    if world > MOST:
        raise ValueError(f"world is {world:,}; this machine's processes can stand for at most {MOST} ranks.")
    store = dist.TCPStore("127.0.0.1", 0, world + 1, is_master=True, wait_for_workers=False)  # a free port
    context = _context()
    ends: list[Connection] = []
    started: list[Any] = []
    try:
        for rank in range(world):
            mine, theirs = context.Pipe(duplex=False)
            work = (theirs, rank, world, store.port, timeout, function, arguments)
            process = context.Process(target=_rank, args=work, daemon=True)
            process.start()
            theirs.close()
            ends.append(mine)
            started.append(process)
        return _collect(ends, started, time.monotonic() + limit, limit)
    finally:
        for process in started:
            process.join(0.0 if process.exitcode is None else None)
            if process.is_alive():
                process.kill()
            process.join()
        for end in ends:
            end.close()


def _context() -> Any:
    """Where processes come from: a server that has imported everything once, and that forks; Windows has
    none, and imports anew for each."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["qwen3_ref.parallel.warm"])
    return context


def _collect(ends: list[Connection], started: list[Any], until: float, limit: float) -> list[Any]:
    """Each rank's result. The first to fail is the one to tell of: the others fail because of it."""
    results: dict[int, Any] = {}
    waiting = dict(enumerate(ends))
    while waiting:
        ready = wait(list(waiting.values()), timeout=max(0.0, until - time.monotonic()))
        if not ready:
            ranks = ", ".join(map(str, waiting))
            raise RankFailed(f"rank {ranks} did not end within {limit:g} seconds; it was stopped.")
        for rank in [rank for rank, end in waiting.items() if end in ready]:
            try:
                fine, value = pickle.loads(waiting.pop(rank).recv_bytes())
            except EOFError:
                started[rank].join()
                code = started[rank].exitcode
                raise RankFailed(f"rank {rank} died (exit code {code}); the others were stopped.") from None
            if not fine:
                raise RankFailed(f"rank {rank} failed, and the others were stopped:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(ends))]


def _rank(
    end: Connection,
    rank: int,
    world: int,
    port: int,
    timeout: float,
    function: Callable[..., Any],
    given: tuple[Any, ...],
) -> None:
    """What each process does; its result or its traceback goes through the pipe."""
    torch.set_num_threads(1)
    try:
        store = dist.TCPStore("127.0.0.1", port, world + 1, is_master=False)
        wait_for = timedelta(seconds=timeout)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=wait_for)
        result: tuple[bool, Any] = True, function(rank, *given)
    except BaseException:
        result = False, traceback.format_exc()
    try:  # by value: PyTorch would lend its memory, which ends with the process
        end.send_bytes(pickle.dumps(result))
    finally:
        end.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # without waiting for the group: one that lacks a rank would not end
