"""One storm: faults one after the other, and sometimes into the recovery from the last, under clients that count."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end.service import PATIENCE_SECONDS
from tests.faults.clients import People, Tab, Where
from tests.faults.kinds import Kind, drawn
from tests.faults.ledger import FEED, FEEDBACK, NOT_WAITED_FOR, Answer, Ledger, broken
from tests.faults.scene import Scene
from tests.servers import LOOPBACK, wait_until

# How often the next fault comes while the service still recovers.
OVERLAP = 0.3
CALM_FEEDS = 20  # answered between a recovery and the next fault
# An answer that was on its way when a span ended is noted a little later.
SPAN_SECONDS = 3.0
OUTSIDER = 900_000  # users from here on are in no catalog


@dataclass(frozen=True)
class Plan:
    seed: int
    faults: int = 24
    events: int = 100_000  # acknowledged at least
    workers: int = 4
    tabs: int = 12  # clients, two of which always have the same users
    users: int = 1_000
    pause_seconds: float = 0.1  # of a tab between two pages
    scale: float = 0.5  # of the demo
    disk_megabytes: int = 768  # memory, while it is full

    def kinds(self, *, has_disk: bool) -> list[Kind]:
        return drawn(self.seed, self.faults, has_disk=has_disk)


@dataclass
class Struck:
    """A fault, and what clients saw until the next."""

    at_seconds: float  # since the storm began
    name: str
    held_seconds: float
    answered_feeds: int = 0
    answered_feedback: int = 0
    errors: dict[str, int] = field(default_factory=dict)  # "feed: refused": times
    longest_gap_seconds: float = 0.0


@dataclass
class Report:
    plan: Plan
    struck: list[Struck]
    seconds: float
    figures: dict[str, int]
    errors_logged: dict[str, int]
    not_made: list[str]
    broken: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(plan: Plan, folder: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """A storm in a folder of its own. What is broken is in the report; raises only where it could not be held."""
    say(f"seed {plan.seed}")
    ledger = Ledger()
    with Scene(folder, workers=plan.workers, scale=plan.scale, disk_megabytes=plan.disk_megabytes) as scene:
        not_made = [] if scene.has_own_disk else ["disk full: mounting a disk of its own is not allowed here"]
        for line in not_made:
            say(f"left out: {line}")
        tabs = _tabs(plan, ledger, scene.port)
        began = time.monotonic()
        for tab in tabs:
            tab.start()
        try:
            struck = _strike(plan, scene, ledger, tabs, began, say)
            _go_on(tabs, lambda: len(ledger.acknowledged) >= plan.events)
        finally:
            for tab in tabs:
                tab.stop()
            for tab in tabs:
                tab.join()
        for tab in tabs:
            if tab.error is not None:
                raise tab.error
        ended = time.monotonic()
        scene.wait_until_whole()
        say("flushing what is left")
        scene.flush()
        say("counting what is left")
        scene.wait_until_counted()
        found = scene.found()
        _look_back(struck, ledger, began, ended)
        starting, disk_full = (
            [(begin, end + SPAN_SECONDS) for begin, end in spans] for spans in (scene.starting, scene.disk_full)
        )
        status = scene.status()
        figures = {
            "events acknowledged": len(ledger.acknowledged),
            "events never acknowledged": len(ledger.sent) - len(ledger.acknowledged),
            "of these in the database": len(found.events.keys() - ledger.acknowledged.keys()),
            "events sent more than once": sum(count > 1 for count in ledger.sent.values()),
            "events in recs_events": found.events.total(),
            "events in activity_log": found.activities.total(),
            "events counted in the log": found.counted.events.total(),
            "feeds counted in the log": found.counted.feeds.total(),
            "feeds answered": ledger.count(FEED),
            "feeds shown": len(ledger.feeds),
            "of these recorded": len(ledger.feeds.keys() & found.feeds.keys()),
            "items shown": ledger.items_shown,
            "users": ledger.users,
            "feeds in which seen gave way": ledger.seen_gave_way,
            "items shown again": sum(repeat.items for repeat in ledger.repeats),
            "answers given again by key": ledger.repeated_answers,
            "calls not waited for": sum(a.outcome == NOT_WAITED_FOR for a in ledger.answers),
            "calls retried": ledger.retries.total(),
            "feeds answered 500": sum(a.call == FEED and a.status == "500" for a in ledger.answers),
            "dead letters": found.dead_letters,
            "duplicates found by the flusher": status.duplicates if status else 0,
            "torn records": status.torn_records if status else 0,
        }
        problems = broken(ledger, found, starting, disk_full)
        if problems:
            scene.keep_disk()
        return Report(plan, struck, ended - began, figures, dict(scene.logged_errors()), not_made, problems)


def _tabs(plan: Plan, ledger: Ledger, port: int) -> list[Tab]:
    rng = random.Random(f"users {plan.seed}")
    groups = plan.tabs // 2
    known, unknown = range(1, int(8000 * plan.scale)), range(OUTSIDER, OUTSIDER + 10_000)
    users = rng.sample(known, plan.users * 3 // 4) + rng.sample(unknown, plan.users - plan.users * 3 // 4)
    rng.shuffle(users)
    tabs = []
    for group in range(groups):
        people = People(users[group::groups])
        for side in "ab":
            name = f"{group}{side}"
            own = random.Random(f"tab {plan.seed} {name}")
            tabs.append(Tab(name, Where(LOOPBACK, port), ledger, people, own, plan.pause_seconds))
    return tabs


def _strike(
    plan: Plan, scene: Scene, ledger: Ledger, tabs: Sequence[Tab], began: float, say: Callable[[str], None]
) -> list[Struck]:
    rng = random.Random(f"faults {plan.seed}")
    struck = []
    for kind in plan.kinds(has_disk=scene.has_own_disk):
        wanted = ledger.count(FEED) + CALM_FEEDS
        _go_on(tabs, lambda wanted=wanted: ledger.count(FEED) >= wanted)  # type: ignore[misc]
        at, hold = time.monotonic(), rng.uniform(*kind.holds_seconds)
        say(f"{at - began:6.1f} s  {kind.name}, {hold:.1f} s")
        with kind.made(scene, rng):
            time.sleep(hold)
        struck.append(Struck(at - began, kind.name, hold))
        if rng.random() > OVERLAP:
            scene.wait_until_whole()
    return struck


def _go_on(tabs: Sequence[Tab], condition: Callable[[], bool]) -> None:
    """Wait for it while the clients live."""
    reached = wait_until(lambda: condition() or not all(tab.is_alive() for tab in tabs), 4 * PATIENCE_SECONDS)
    assert reached, "the clients get no further"


def _look_back(struck: Sequence[Struck], ledger: Ledger, began: float, ended: float) -> None:
    """Give each fault what clients saw from it to the next."""
    begins = [began + fault.at_seconds for fault in struck]
    for fault, begin, end in zip(struck, begins, [*begins[1:], ended], strict=True):
        within: list[Answer] = [answer for answer in ledger.answers if begin <= answer.when < end]
        good = Counter(answer.call for answer in within if answer.is_good)
        fault.answered_feeds, fault.answered_feedback = good[FEED], good[FEEDBACK]
        fault.errors = dict(
            Counter(f"{a.call}: {a.outcome}" for a in within if not a.is_good and a.outcome != NOT_WAITED_FOR)
        )
        fault.longest_gap_seconds = ledger.longest_gap_seconds(begin, end)
