"""What the command `recs` calls first: loading the rest takes a second, in which a Ctrl-C must be no traceback."""

import gc
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended: 128 and SIGINT


def main() -> int:
    """Exit status. To stop a server is no failure: 0, of which `make run` says nothing more."""
    serving = sys.argv[1:2] == ["serve"]

    def stop(_signal: int, _frame: FrameType | None) -> None:
        os.write(2, b"stopped\n")
        os._exit(0 if serving else INTERRUPTED)

    signal.signal(signal.SIGINT, stop)
    gc.disable()  # what is loaded is all kept: looking through it takes a fifth of the time
    from recommendation_service.cli import main as run

    gc.enable()
    if not serving:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
