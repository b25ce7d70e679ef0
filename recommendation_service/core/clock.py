"""The time of day that the service goes by, which one wrong clock does not move.

A machine's clock may be wrong when it boots, and may be set while the service runs. So the time of day is counted on
from the kernel's CLOCK_BOOTTIME, which nobody sets, by an offset on which this machine, the database and what was last
seen have agreed (clock_watch.py). That is kept in ``DATA_DIR/clock.json``, so that all processes go by the same time
and a restart does not forget it. Within the tolerance the machine's clock is followed, as time servers mend it.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from recommendation_service.core.files import make_folder, write_whole

FILE = "clock.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

boot_seconds: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Agreement:
    """What was last found out about the time. Offsets are seconds from CLOCK_BOOTTIME to the time of day."""

    boot: str  # CLOCK_BOOTTIME counts from this boot of the machine
    offset: float
    seen: float  # the time of day, when this was written
    confirmed: bool  # another clock has agreed, or it was steady for as long as a jump is waited out
    settled: float | None  # CLOCK_BOOTTIME since which nothing has disagreed; None: something does
    machine_ahead: float = 0.0  # of the time that the service goes by, seconds
    database_ahead: float | None = None  # None: the database was not asked, or did not answer
    jumped: float | None = None  # CLOCK_BOOTTIME at which the machine's clock left the offset, where that is held
    problem: str | None = None


class Clock:
    """Wall and monotonic time of one process. ``folder``: DATA_DIR; None: the machine's clock is taken as it is."""

    def __init__(
        self,
        folder: Path | None = None,
        tolerance_seconds: float = 0.0,
        *,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = boot_seconds,
    ) -> None:
        self._path = folder / FILE if folder is not None else None
        self.tolerance = tolerance_seconds
        self._wall = wall
        self._boot = boot
        self.boot_id = _boot_id()
        self._stamp: tuple[int, int] | None = None
        self.agreement: Agreement | None = None
        self._offset = 0.0
        self.follow()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._boot() + self._offset

    def now_ms(self) -> int:
        return int(self.now() * 1000)

    def monotonic(self) -> float:
        """Seconds that only go on, the same in all processes until the machine boots."""
        return self._boot()

    @property
    def machine_offset(self) -> float:
        """Of the machine's own clock at this moment."""
        return self._wall() - self._boot()

    def follow(self) -> None:
        """Go by what was last agreed on; to be called about each second."""
        self._read()
        machine, known = self.machine_offset, self.agreed
        is_near = known is None or abs(machine - known.offset) <= self.tolerance
        self._offset = machine if known is None or is_near else known.offset

    @property
    def agreed(self) -> Agreement | None:
        """The agreement, where it is of this boot."""
        return self.agreement if self.agreement is not None and self.agreement.boot == self.boot_id else None

    def may_delete(self, wait_seconds: float) -> bool:
        """Whether the time is so certain that something may be deleted for its age."""
        known = self.agreed
        return known is not None and known.settled is not None and self._boot() - known.settled >= wait_seconds

    def agree(self, agreement: Agreement) -> None:
        """Keep an agreement, for all processes. A full disk leaves them with the last one."""
        self.agreement = agreement
        if self._path is not None:
            with contextlib.suppress(OSError):
                make_folder(self._path.parent)
                write_whole(self._path, json.dumps(asdict(agreement)))
        self.follow()

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns)
            if stamp == self._stamp:
                return
            content = json.loads(self._path.read_bytes())
            self.agreement, self._stamp = Agreement(**content), stamp
        except (OSError, ValueError, TypeError):
            return  # none yet, or damaged: the next one is written within seconds


def later_token(last: str | None) -> str:
    """A request's token, later than ``last`` whatever the clock did: who carries requests out compares."""
    known = int(last) if last and last.isdecimal() else 0
    return f"{max(time.time_ns(), known + 1):020d}"


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
