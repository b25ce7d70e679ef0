"""What a build did: counts, times, and everything that it set aside."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class BlacklistReport:
    addresses: int = 0
    was_read: bool = False  # now or ever
    held: str | None = None  # why what was read last held, and not the file


@dataclass(frozen=True)
class NotPersonalReport:
    users: int = 0
    held: str | None = None  # why what was read last held, or nobody's feed is personal


@dataclass(frozen=True)
class CollaborativeReport:
    """How it was found out what people take together, or why it was not."""

    method: str = "none"  # slist, item_knn
    reason: str = ""
    interactions: int = 0  # by people with two or more
    people: int = 0
    items: int = 0
    half_life_days: float = 0.0  # of the trend
    milliseconds: float = 0.0  # that it took
    computed_seconds_ago: float = 0.0  # builds in between take lists over


@dataclass(frozen=True)
class Measured:
    """What a build measured of the data (measuring.py). ``together``, ``closeness``: how much each counts, times what
    the policy says; ``profile``: how much closeness does by what people say of themselves, times that.

    Of fewer people than the policy asks for nothing is measured, and the middle of all values is taken."""

    half_life_days: float
    by_exposure: bool
    evergreen: float
    together: float
    closeness: float
    profile: float
    creators: float  # among how many what people take is spread
    creator_window: int | None  # the longest that they allow; None: the policy's stays
    people: int  # by whom the half-life was told
    people_with_past: int  # by whom the two weights were
    newcomers: int  # by whom the profile's was


@dataclass
class BuildReport:
    counts: dict[str, int] = field(default_factory=dict)
    query_milliseconds: dict[str, float] = field(default_factory=dict)
    build_milliseconds: float = 0.0
    write_milliseconds: float = 0.0
    set_aside: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, reason): how many
    rejected: dict[int, str] = field(default_factory=dict)  # key of an item: which of rejections.RULES its row broke
    warnings: list[str] = field(default_factory=list)
    blacklist: BlacklistReport = BlacklistReport()
    not_personal: NotPersonalReport = NotPersonalReport()
    collaborative: CollaborativeReport = CollaborativeReport()
    measured: Measured | None = None  # where the policy has its ranking measured

    def aside(self, column: str, reason: str, how_many: int = 1) -> None:
        """Count rows or values that were set aside."""
        if how_many:
            self.set_aside[column, reason] += how_many

    def reject(self, key: int, rule: str) -> None:
        """Note why a row is no item of the catalog; of several rules, and of several rows of one id, the first."""
        self.rejected.setdefault(key, rule)

    def as_json(self) -> dict[str, Any]:
        return {
            "counts": self.counts,
            "query_milliseconds": self.query_milliseconds,
            "build_milliseconds": self.build_milliseconds,
            "write_milliseconds": self.write_milliseconds,
            "set_aside": [
                {"column": column, "reason": reason, "count": count}
                for (column, reason), count in sorted(self.set_aside.items())
            ],
            "warnings": self.warnings,
            "blacklist": asdict(self.blacklist),
            "not_personal": asdict(self.not_personal),
            "collaborative": asdict(self.collaborative),
            **({"measured": asdict(self.measured)} if self.measured is not None else {}),
        }
