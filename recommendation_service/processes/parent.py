"""A process that ends with the one that started it."""

import os
import threading


def end_with_parent() -> None:
    """End this process, whatever it is doing, when the one that started it is gone: its standard input then closes."""

    def wait() -> None:
        # Not through sys.stdin, whose lock this thread would hold when the process ends by itself: Python aborts then.
        while os.read(0, 1 << 10):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
