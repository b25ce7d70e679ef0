"""The service, which notes what its workers are at while they are asked to: run by parts.py, here and in other commits.

A timer counts each worker's processor time, and interrupts it every few milliseconds of it (as finely as the kernel's
ticks are): what Python executes then is counted. Machine code without frames, as compiled kernels and libuv have,
counts for the line that called it. This needs no permission and no other program, and costs a thousandth. Only the
standard library is imported here, since the service of any commit may stand beside.
"""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

from api.server import app  # noqa: F401 - what Gunicorn serves

BEGIN, END = signal.SIGRTMIN, signal.SIGRTMIN + 1
EVERY_SECONDS = 0.001
MOST_FRAMES = 40
_stacks: Counter[tuple[tuple[CodeType, int | None], ...]] = Counter()


def _begin(_signal: int, _frame: FrameType | None) -> None:
    _stacks.clear()
    signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)


def _count(_signal: int, frame: FrameType | None) -> None:
    stack: list[tuple[CodeType, int | None]] = []
    while frame is not None and len(stack) < MOST_FRAMES:
        stack.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    _stacks[tuple(stack)] += 1


def _end(_signal: int, _frame: FrameType | None) -> None:
    """Write what was counted: of each stack file, function, line and first line of its frames, the innermost first."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    found = [
        ([(code.co_filename, code.co_name, line, code.co_firstlineno) for code, line in stack], times)
        for stack, times in _stacks.items()
    ]
    path = Path(os.environ["SAMPLES_FOLDER"]) / f"{os.getpid()}.json"
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").rename(path)


# Handlers outlive a fork, and timers do not: whoever is forked is asked by its own signal.
for _number, _handler in ((BEGIN, _begin), (END, _end), (signal.SIGPROF, _count)):
    signal.signal(_number, _handler)
