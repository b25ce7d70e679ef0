"""The Dockerfile's stages, and what of the repository it gets."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
IGNORE = (ROOT / ".dockerignore").read_text("utf-8")
PYTHON = "/app/.venv/bin/python"


def instructions(text: str = DOCKERFILE) -> Iterator[tuple[str, str]]:
    """Each instruction with what follows it, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


BUILD, FINAL = stages()


def environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    """Variables that a stage sets."""
    return dict(pair.split("=", 1) for word, rest in stage if word == "ENV" for pair in rest.split())


def commands(stage: list[tuple[str, str]], word: str = "RUN") -> list[list[str]]:
    """Those that are lists of words, which no shell reads."""
    return [json.loads(rest) for name, rest in stage if name == word and rest.startswith("[")]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last line that fits decides, for the file or a folder above it."""
    ignored = False
    parts = path.split("/")
    above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    for line in IGNORE.splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/")
        tail = pattern.removeprefix("**/")
        if any(
            fnmatch.fnmatch(name, pattern) if tail == pattern else fnmatch.fnmatch(Path(name).name, tail)
            for name in above
        ):
            ignored = not line.startswith("!")
    return ignored


def tracked_files() -> list[str]:
    """Of this checkout, whether it is a repository or a copy of one."""
    skipped = {".git", ".venv", "var"}
    return [
        path.relative_to(ROOT).as_posix()
        for top in ROOT.iterdir()
        if top.name not in skipped
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file()
    ]
