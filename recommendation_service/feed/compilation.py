"""Compiling all kernels, on a catalog of nothing: at a first start, or when an image is built.

It takes a processor half a minute and more, so several processes share it (``compile_apart``), and each kernel
that is done leaves a file by which everybody can see how far it is.

    python -m recommendation_service.feed.compilation [KERNEL…]
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.registry import cpu_target

from recommendation_service.model.columns import COLUMNS, EMPTY, CatalogArrays
from recommendation_service.model.features import FEATURES
from recommendation_service.model.kinds import KINDS
from recommendation_service.policies.policy import load_policy
from recommendation_service.processes.parent import end_with_parent
from recommendation_service.ranking.compiled import entry_for, kernel_folder
from recommendation_service.ranking.frame import Frame
from recommendation_service.ranking.places import find
from recommendation_service.ranking.request import ANONYMOUS_ROW, RankingRequest
from recommendation_service.ranking.seen import merge_entries, remember_events
from recommendation_service.ranking.shadows import make_shadow_memory, stack_shadows, weigh_shadows
from recommendation_service.ranking.slate_body import join_items, join_named_items
from recommendation_service.ranking.slate_decision import make_decision_memory, pack_decision
from recommendation_service.ranking.slate_withheld import collect_withheld, make_withheld_memory, pack_withheld
from recommendation_service.ranking.stages import STAGES, rank
from recommendation_service.ranking.summary import summarise
from recommendation_service.ranking.working_memory import make_working_memory

Told = Callable[[int, int], None]  # kernels that are compiled, of how many

POLL_SECONDS = 0.2
_FEW = ("find", "remember", "merge", "body", "named body", "frame")
NAMES = (*_FEW, *(name for name, _ in STAGES), "decision", "withheld", "packed withheld", "summary", "shadows", "rank")
# Which process compiles what, by how many there are: about as much to do for each (slate, candidates, user and describe
# take two thirds of the time; "rank", all stages in one, has to come last and is left to the end).
_SHARES: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (),
    2: (
        (*_FEW, "slate", "describe", "features", "scores", "packed withheld", "shadows"),
        ("candidates", "user", "decision", "withheld", "summary"),
    ),
    3: (
        ("slate", "describe", "packed withheld"),
        ("candidates", "decision", "withheld", "summary", "shadows"),
        (*_FEW, "user", "features", "scores"),
    ),
}


def kernels_are_compiled() -> bool:
    """Whether this machine already has the machine code of these very sources, for its processor."""
    folder = kernel_folder()
    try:
        files = json.loads((folder / f"compiled-{_processor()}").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(files, list) and all((folder / file).exists() for file in files)


def compile_kernels(names: Sequence[str] = ()) -> None:
    """Have ``names`` (default: all) as machine code in this process: read from ``kernel_folder``, or compiled and kept
    there."""
    folder, processor = kernel_folder(), _processor()
    calls = _calls()
    for name in names or NAMES:
        calls[name]()
        _write(folder / f"{name}-{processor}.done", "")
    if not names and not kernels_are_compiled():
        files = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.nbc"))
        _write(folder / f"compiled-{processor}", json.dumps(files))


def compile_apart(told: Told) -> None:
    """Have all kernels compiled by processes that end: the compiler leaves hundreds of MB behind, which this process
    would keep. Whoever finds that another process is at it waits for that one.

    Blocks, until they are compiled or cannot be: then whoever calls them compiles by itself.
    """
    folder = kernel_folder()
    try:
        lock = open(folder / "compiling.lock", "w")  # noqa: SIM115
    except OSError:
        return
    with lock:
        while not kernels_are_compiled():
            told(*progress())
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
            else:
                if not kernels_are_compiled():
                    _compile_in_processes(told)
                return


def _compile_in_processes(told: Told) -> None:
    shares = _SHARES[min(3, max(1, len(os.sched_getaffinity(0))))]
    for part in (shares, ((),)):  # the last one finds the others' work done, and is told no name: all
        running = [_start(names) for names in part]
        try:
            while any(process.poll() is None for process in running):
                told(*progress())
                time.sleep(POLL_SECONDS)
        finally:
            for process in running:
                assert process.stdin is not None  # noqa: S101
                process.stdin.close()
                process.wait()
    told(*progress())


def _start(names: Sequence[str]) -> "subprocess.Popen[bytes]":
    """It ends when its pipe closes, which it does with this process; a Ctrl-C is for this process alone."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", __name__, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        process_group=0,
        env={**os.environ, "NUMBA_CACHE_DIR": str(kernel_folder().parent)},
    )


def progress() -> tuple[int, int]:
    """How many kernels are compiled, of how many."""
    folder, processor = kernel_folder(), _processor()
    return sum((folder / f"{name}-{processor}.done").exists() for name in NAMES), len(NAMES)


@cache
def _calls() -> dict[str, Callable[[], Any]]:
    """What compiles each kernel, by its name."""
    arrays, policy = _empty_catalog(), load_policy().arrays
    memory = make_working_memory(arrays, policy, [(0, 0)] * len(policy.pool))
    frame, candidates = Frame(arrays, policy, memory), len(memory.pool_items)
    request = RankingRequest(ANONYMOUS_ROW, 1, 0, 0, np.zeros(0, np.int64))
    shadows, decision = stack_shadows([policy]), make_decision_memory(arrays, policy)
    withheld = make_withheld_memory(1)
    entries, keys = memory.seen_entries, np.zeros(1, np.int64)
    events = (np.ones(1, np.uint8), np.zeros(1, np.int32), np.zeros(1, np.uint8), 0)
    limits = (memory.lifetimes, memory.live_sessions, memory.remembered)
    blob = np.frombuffer(b" ", np.uint8)
    body = (blob, arrays.creator_offsets, memory.slot_item[:0], memory.slot_number[:0], 0, np.zeros(64, np.uint8))
    return {
        "find": partial(find, arrays.user_id, 1, 0, 0),
        "remember": partial(remember_events, entries, 0, keys, *events, *limits),
        "merge": partial(merge_entries, entries[:1], entries[:1]),
        "body": partial(join_items, *body),
        "named body": partial(join_named_items, *body[:3], *body[4:]),
        "frame": partial(getattr, frame, "address"),
        **{name: partial(entry_for, stage, frame, request) for name, stage in STAGES},
        "decision": partial(entry_for, pack_decision, frame, decision),
        "withheld": partial(entry_for, collect_withheld, frame, decision, keys, 0, withheld),
        "packed withheld": partial(entry_for, pack_withheld, withheld, 0),
        "summary": partial(entry_for, summarise, frame, request),
        "shadows": partial(entry_for, weigh_shadows, frame, shadows, make_shadow_memory(shadows, candidates)),
        "rank": partial(entry_for, rank, frame, request),
    }


@cache
def _processor() -> str:
    """Names the machine code that runs here: Numba's own key of it, and its version."""
    parts = (numba.__version__, sys.version_info[:2], cpu_target.target_context.codegen().magic_tuple())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _write(path: Path, text: str) -> None:
    """Where the folder cannot be written, everything is there, or nobody is helped by a mark."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text)
        unfinished.replace(path)
    except OSError:
        return


def _empty_catalog() -> CatalogArrays:
    """Columns without rows, read-only like those of a mapped catalog: the machine code is for that type."""
    columns = {}
    for name, (kind, dimensions) in COLUMNS.items():
        shape: tuple[int, ...] = (
            (0,) if dimensions == 1 else (0, {"features": FEATURES, "hand": len(KINDS)}.get(name, 14))
        )
        if name.endswith("_offsets"):
            shape = (len(KINDS) + 1,)
        columns[name] = np.zeros(shape, kind)
    columns["type_offsets"] = np.zeros(1, np.int64)
    columns["neighbour_offsets"] = np.zeros(1, np.int64)
    columns["hash_key"], columns["hash_item"] = np.full(8, EMPTY, np.int64), np.zeros(8, np.int32)
    columns["token_kind"] = np.full(1, 255, np.uint8)
    for column in columns.values():
        column.flags.writeable = False
    return CatalogArrays(**columns, worded=0, creators=0, cities=1)


if __name__ == "__main__":
    end_with_parent()
    compile_kernels(sys.argv[1:])
