"""How long `make run` takes to its first feed, and whether it then stops cleanly: run where nothing is installed yet.

    python3 scripts/first_answer.py [SECONDS]

Exit status 1 where no feed of 24 came within SECONDS (300), or the service did not stop. Standard library only.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


def main() -> int:
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    # A group of its own, as a shell gives to a job: Ctrl-C goes to all of it.
    service = subprocess.Popen(["make", "run", f"PORT={port}"], start_new_session=True)  # noqa: S603, S607
    alive = feed = None
    try:
        while feed is None and service.poll() is None and time.monotonic() - started < limit:
            time.sleep(0.1)
            if alive is None and _answer(port, "/health") is not None:
                alive = time.monotonic() - started
            body = {"SELF_ID": 178, "N_VIDEOS": 24}
            answer = _answer(port, "/api/search/total", body) if alive else None
            if answer is not None and len(answer["body"]["items"]) == 24:
                feed = time.monotonic() - started
    finally:
        if service.poll() is None:
            os.killpg(service.pid, signal.SIGINT)
    try:
        status = service.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(service.pid, signal.SIGKILL)
        print("`make run` did not stop within 30 s of Ctrl-C")
        return 1
    if alive is None or feed is None:
        print(f"no feed within {limit:g} s; `make run` ended with status {status}")
        return 1
    print(f"alive after {alive:.1f} s, first feed of 24 after {feed:.1f} s, stopped by Ctrl-C with status {status}")
    return 0


def _answer(port: int, path: str, body: dict[str, int] | None = None) -> dict[str, dict[str, list[object]]] | None:
    """None: not (yet) 200."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            found: dict[str, dict[str, list[object]]] = json.load(answer)
            return found
    except (OSError, urllib.error.HTTPError):
        return None


if __name__ == "__main__":
    sys.exit(main())
