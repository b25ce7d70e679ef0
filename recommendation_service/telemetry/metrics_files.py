"""The counts of Gunicorn's processes, in files of one folder; those of the dead are kept, in one file.

Each worker counts in mapped files of its own (prometheus-client's multi-process mode), so what it had counted is
there however it ends. The master then adds those files to ``DEAD_FILE`` and removes them: the folder does not
grow, and no sum shrinks. prometheus-client alone would either keep every dead worker's files or lose their counts.

``DEAD_FILE`` is replaced by one rename and names the processes that are in it and whose files may still be
there, so there is no moment, and no place to crash at, where a process counts twice or not at all.
"""

import fcntl
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from recommendation_service.core.files import as_the_folder_above, create, make_folder, write_whole

# prometheus-client's own variable: where a process writes. It looks at its import whether that is set.
WRITE_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Where /metrics reads: the same folder, but for a worker that found no room in it.
READ_FOLDER = "RECS_METRICS_FOLDER"

DEAD_FILE = "dead.json"
LOCK_FILE = "lock"
KINDS = ("counter", "histogram", "summary")
# What a process counts stays below it, since labels take few values.
RESERVED_BYTES = 1 << 18
# Each attempt that fails saw another worker end meanwhile.
READ_ATTEMPTS = 100
GONE = (FileNotFoundError, NotADirectoryError)

_FOLDER = re.compile(r"(?P<master>\d+)(-\w+)?")
_NAME = re.compile(r"(?P<kind>counter|histogram|summary|gauge)_(?:\w+_)?(?P<pid>\d+)\.db")

# kind: key of prometheus-client: numbers whose exact sum is the value
Parts = dict[str, dict[str, list[float]]]


class _Dead:
    """What DEAD_FILE holds."""

    def __init__(self, content: bytes | None) -> None:
        read = json.loads(content) if content else {"pids": [], "parts": {}}
        self.pids: set[int] = set(read["pids"])
        self.parts: Parts = read["parts"]


def claim(parent: Path) -> Path:
    """The folder of this master, held until it and its workers have ended; those of ended masters are removed.

    Numbers of processes do not tell whose a folder is: in a container each start has the same, and two hosts
    that share ``parent`` may. A lock does, and the kernel lets go of it however a process ends. A master that
    reads its settings again (HUP) keeps its folder; the one that replaces it (USR2) gets another.

    Raises OSError where there is no room, for the master's own files neither.
    """
    mine = Path(os.environ.get(READ_FOLDER, ""))
    if master_of(mine) == os.getpid() and mine.is_dir():
        return mine
    make_folder(parent)
    for other in parent.iterdir():
        if _FOLDER.fullmatch(other.name) and not _is_held(other):
            shutil.rmtree(other, ignore_errors=True)
    unnamed = Path(tempfile.mkdtemp(prefix=".", dir=parent))
    as_the_folder_above(unnamed)
    descriptor = create(unnamed / LOCK_FILE)  # open as long as the process lives
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        reserve(unnamed, os.getpid())
    except OSError:
        os.close(descriptor)
        shutil.rmtree(unnamed, ignore_errors=True)
        raise
    # Named only when it is locked, so that nobody takes it for a dead one's.
    mine = parent / f"{os.getpid()}-{unnamed.name[1:]}"
    unnamed.rename(mine)
    os.environ[WRITE_FOLDER] = os.environ[READ_FOLDER] = str(mine)
    return mine


def master_of(folder: Path) -> int | None:
    """The process whose folder it is."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match["master"]) if match else None


def is_alive(pid: int) -> bool:
    """Or waits for its master to notice its end."""
    return os.path.exists(f"/proc/{pid}")


def environment_outside() -> dict[str, str]:
    """For a process that is started and is none of Gunicorn's: it must not count in files that are kept for those."""
    return {name: value for name, value in os.environ.items() if name != WRITE_FOLDER}


def reserve(folder: Path, pid: int) -> None:
    """Make a worker's files and the room for them on the disk, before the worker writes to them.

    A mapped file without it ends its process (SIGBUS) at the first count on a full disk. Raises OSError.
    """
    for kind in KINDS:
        descriptor = create(folder / f"{kind}_{pid}.db")
        try:
            os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
        finally:
            os.close(descriptor)


def merge_dead(folder: Path) -> None:
    """Add the files of all processes that are gone to DEAD_FILE, and remove them. The master's alone.

    Raises OSError, on a full disk for one; then nothing is lost, and the next call makes good.
    """
    dead = _Dead(_content(folder))
    files = _files(folder)
    gone = {pid for _, _, pid in files if not is_alive(pid)}
    for path, kind, pid in files:
        if pid in gone - dead.pids and kind != "gauge":
            for key, value in _values(path):
                parts = dead.parts.setdefault(kind, {})
                parts[key] = exact_sum([*parts.get(key, []), value])
    if gone - dead.pids:
        _replace(folder, gone, dead.parts)
    for path, _, pid in files:
        if pid in gone:
            path.unlink(missing_ok=True)
    if gone | dead.pids:
        _replace(folder, set(), dead.parts)  # a later worker may get the same number


def read_families(folder: Path) -> list[Metric]:
    """Sums over all processes, dead and alive; gauges by their mode, of those alive. Safe beside merge_dead."""
    for _ in range(READ_ATTEMPTS):
        content = _content(folder)
        try:
            files = _files(folder)
        except GONE:
            return []
        if _content(folder) != content:
            continue  # a worker was merged meanwhile: its files may be missing from the list
        dead = _Dead(content)
        parts, gauges = dead.parts, []
        try:
            for path, kind, pid in files:
                if pid in dead.pids:
                    continue
                if kind != "gauge":
                    for key, value in _values(path):
                        parts.setdefault(kind, {}).setdefault(key, []).append(value)
                elif is_alive(pid):
                    gauges.append(str(path))
            # Whatever kinds of gauges there are is prometheus-client's business.
            found = list(MultiProcessCollector.merge(gauges)) if gauges else []  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            continue  # merged between the list and the reading
        return [*_families(parts), *found]
    raise RuntimeError("workers end faster than their metrics can be read")


def exact_sum(numbers: list[float]) -> list[float]:
    """The exact sum, as the few numbers that it takes: the first is the rounded sum, the next what that lacks.

    Why: floating-point sums depend on their order, and workers end in any order. A sum that is smaller than at
    the last scrape, be it by its last digit, is a restart to Prometheus, which then counts the whole of it anew.
    """
    exact: list[float] = []
    while part := math.fsum([*numbers, *(-part for part in exact)]):
        exact.append(part)
    return exact


def _is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's: that one removes it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _replace(folder: Path, pids: set[int], parts: Parts) -> None:
    write_whole(folder / DEAD_FILE, json.dumps({"pids": sorted(pids), "parts": parts}))


def _content(folder: Path) -> bytes | None:
    try:
        return (folder / DEAD_FILE).read_bytes()
    except GONE:
        return None


def _files(folder: Path) -> list[tuple[Path, str, int]]:
    """(path, kind, pid) of each process's files."""
    found = ((folder / name, _NAME.fullmatch(name)) for name in sorted(os.listdir(folder)))
    return [(path, match["kind"], int(match["pid"])) for path, match in found if match]


def _values(path: Path) -> Iterator[tuple[str, float]]:
    """Of a file that its process may be writing to: what was whole when we looked."""
    if path.stat().st_size < 8:
        return  # just made
    for key, value, *_ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
        yield key, value


def _families(parts: Parts) -> Iterator[Metric]:
    for kind, by_key in parts.items():
        samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
        help_texts: dict[str, str] = {}
        for key, numbers in by_key.items():
            family, name, labels, help_text = json.loads(key)
            help_texts[family] = help_text
            samples.setdefault(family, {}).setdefault((name, tuple(labels.items())), []).extend(numbers)
        for family, by_name in samples.items():
            metric = Metric(family, help_texts[family], kind)
            sums = {name_labels: math.fsum(numbers) for name_labels, numbers in by_name.items()}
            for name, labels, value in _cumulated(family, sums) if kind == "histogram" else _plain(sums):
                metric.add_sample(name, labels, value)
            yield metric


def _plain(
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> Iterable[tuple[str, dict[str, str], float]]:
    return ((name, dict(labels), value) for (name, labels), value in sums.items())


def _cumulated(
    family: str, sums: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> Iterator[tuple[str, dict[str, str], float]]:
    """In the files a bucket has its own observations only; for Prometheus it has those of all lower ones too."""
    buckets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    for (name, labels), value in sums.items():
        if name == f"{family}_bucket":
            rest = tuple(label for label in labels if label[0] != "le")
            buckets.setdefault(rest, {})[float(dict(labels)["le"])] = value
        else:
            yield name, dict(labels), value
    for labels, counts in buckets.items():
        total = 0.0
        for bound in sorted(counts):
            total += counts[bound]
            yield f"{family}_bucket", {**dict(labels), "le": floatToGoString(bound)}, total  # type: ignore[no-untyped-call]
        yield f"{family}_count", dict(labels), total
