"""Fetching the one wheel that holds MovieLens-100K, and reading it with nothing installed or imported."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from recommendation_service.demo.loading import DemoError

REQUIREMENT = "recbole==1.2.1"
WHEEL_NAME = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
LICENCE_PATH = "recbole-1.2.1.dist-info/LICENSE"
_DATA_PATH = "recbole/dataset_example/ml-100k/ml-100k.{part}"
_PIP_TIMEOUT_SECONDS = 300


def wheel_folder() -> Path:
    """The user's cache, where a download may stay without anyone having to tidy it."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "recs"


def fetch_wheel(folder: Path, *, sha256: str = WHEEL_SHA256) -> Path:
    """The wheel in `folder`, downloaded there once by pip from whatever index pip is set to, and verified.

    A wheel with another hash is refused and left in place for whoever wants to know why.
    """
    wheel = folder / WHEEL_NAME
    if not wheel.exists():
        _download(folder)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise DemoError(
            f"{wheel} is not the wheel that this was written for: its SHA-256 is {found}, not {sha256}. "
            "Remove the file and try again; if it comes back the same, do not trust where it comes from."
        )
    return wheel


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), REQUIREMENT]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Nothing in the command comes from outside but the folder, and no shell reads it.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=_PIP_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DemoError(f"Cannot download {REQUIREMENT} into {folder}: {error}") from error
    if done.returncode != 0 or not (folder / WHEEL_NAME).exists():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise DemoError(
            f"pip cannot download {REQUIREMENT}: {said[-1].strip()} "
            f"Where there is no network, put {WHEEL_NAME} into {folder} yourself."
        )


def read_part(wheel: Path, part: str) -> Iterator[dict[str, str]]:
    """Rows of ml-100k.`part`: tab-separated, with a first line of `name:type` columns."""
    text = read_text(wheel, _DATA_PATH.format(part=part))
    lines = iter(text.splitlines())
    names = [column.partition(":")[0] for column in next(lines, "").split("\t")]
    for number, line in enumerate(lines, start=2):
        values = line.split("\t")
        if len(values) != len(names):
            raise DemoError(f"{wheel.name}: line {number} of ml-100k.{part} has {len(values)} columns.")
        yield dict(zip(names, values, strict=True))


def read_text(wheel: Path, path: str) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(path).decode("utf-8")
    except (KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DemoError(f"{wheel} holds no readable {path}: {error}") from error
