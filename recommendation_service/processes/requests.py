"""Asking a leased process for something: a token in its request file, and the same or a later one in its status."""

import json
from pathlib import Path

from recommendation_service.core.clock import later_token
from recommendation_service.core.files import locked, write_whole
from recommendation_service.processes.registry import LeasedProcess


def ask(process: LeasedProcess, folder: Path) -> str:
    """Ask for it now; once it is done, the process's status bears this token or a later one. Raises OSError."""
    path = folder / process.request_file
    with locked(path.with_name(f"{path.name}.lock")):
        # Tokens are written in their order, so that one answer is for all who asked before it.
        token = later_token(max(asked(process, folder), answered(process, folder)))
        write_whole(path, token)
    return token


def asked(process: LeasedProcess, folder: Path) -> str:
    """The token of the last request; empty where there was none, or it cannot be read."""
    try:
        return (folder / process.request_file).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def answered(process: LeasedProcess, folder: Path) -> str:
    """The token of the last request that was carried out; empty where there was none, or it cannot be read."""
    try:
        return str(json.loads((folder / process.status_file).read_bytes()).get(process.answer) or "")
    except (OSError, ValueError, AttributeError):
        return ""
