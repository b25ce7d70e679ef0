"""What many tests begin with and none changes is made once for a run, and copied: all its workers share a folder.

Where no folder is set, as for benchmarks, each is made anew.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

folder: Path | None = None  # tests/conftest.py sets it


def copy_of_made_once(name: str, make: Callable[[Path], None], target: Path) -> None:
    """``target``, which is not there yet, becomes what ``make`` writes: a file, or a folder.

    ``name`` stands for everything on which that depends. Whoever comes while it is made waits for it.
    """
    if folder is None:
        make(target)
        return
    kept = folder / name
    with open(folder / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            unfinished = folder / f"{name}.unfinished"  # of a worker that was killed, where it exists
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(kept)
    if kept.is_dir():
        shutil.copytree(kept, target)
    else:
        shutil.copyfile(kept, target)
