"""What this service recorded, as an estimate needs it: which feeds were shown, how likely, what people did with them.

Read from the database, where the events of all machines come together, into columns, as there may be a million feeds.
An event finds its feed as it does for the learner: by the request that it names, else the user's latest feed before it
that showed the item.
"""

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Engine

from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine, time_as_text
from recommendation_service.core.errors import SourceError
from recommendation_service.evaluation.recorded_columns import DeedRow, FeedRow, Feeds, Recorded, Told
from recommendation_service.flush.rows import FEED, text_of
from recommendation_service.flush.tables import transaction
from recommendation_service.learning.format import LearningFile
from recommendation_service.learning.row_notes import ToldByRow
from recommendation_service.model.item_keys import CREATOR, ITEM_TYPES
from recommendation_service.model.words import FIRST_WORDS, Words

Advance = Callable[[str, float], None]

ROWS_AT_ONCE = 5_000
# Rows by their keys that are read together: so that what waits to be joined takes some megabytes.
ROWS_OF_A_PART = 50_000
PROCESSES = 2  # beside this one, where there are as many processors
_CREATOR = ITEM_TYPES[CREATOR]
_COLUMNS = (
    *("id", "event", "user_id", "item_type", "item_id", "request_id", "session_id", "endpoint", "value"),
    *("watch_seconds", "properties", "slots"),
)


class Window(NamedTuple):
    """Which feeds: from one moment on, before another, in milliseconds since 1970."""

    since_ms: int
    until_ms: int


class Asked(NamedTuple):
    """What of the events is wanted."""

    window: Window
    file: LearningFile
    shadow: str | None  # the policy version whose propensities are
    words: Words


class Part(NamedTuple):
    feeds: Feeds
    told: Told
    unread: int


def read_recorded(
    engine: Engine,
    window: Window,
    file: LearningFile,
    shadow: str | None,
    advance: Advance,
    settings: Settings | None = None,
    by_rows: Iterable[ToldByRow] = (),
    words: Words = FIRST_WORDS,
) -> Recorded:
    """``shadow``: the policy version whose propensities are wanted; ``advance``: told what is done, 0 to 1;
    ``settings``: with which further processes reach the database where there is much to read; None: none do;
    ``by_rows``: what the operator's tables told of feeds, which counts where no event tells the same; ``words``: in
    which events name types.

    Raises SourceError.
    """
    with transaction(engine) as connection:
        last = connection.execute(text("SELECT MAX(id) FROM recs_events")).scalar() or 0
    spans = [(start, min(start + ROWS_OF_A_PART, last)) for start in range(0, last, ROWS_OF_A_PART)]
    asked = Asked(window, file, shadow, words)
    feeds, told, unread = Feeds(shadow), Told(), 0
    for place, part in enumerate(_parts(engine, spans, asked, settings, advance), 1):
        feeds.extend(part.feeds)
        told.extend(part.told)
        unread += part.unread
        advance("Reading events", 0.9 * place / len(spans))
    told.add_rows(by_rows, file)
    advance("Bringing events to their feeds", 0.9)
    return feeds.with_rewards(told, file, unread)


def _parts(
    engine: Engine, spans: Sequence[tuple[int, int]], asked: Asked, settings: Settings | None, advance: Advance
) -> Iterator[Part]:
    """In the order of their keys."""
    processes = min(PROCESSES, os.cpu_count() or 1, len(spans))
    if settings is None or processes < 2:
        yield from (read_part(engine, span, asked) for span in spans)
        return
    # Not forked: threads and connections of this process would be in the others, too.
    # Rows make no cycles; to look for some among the thousands that are there at once was a third of all time.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=gc.disable) as pool:
        try:
            parts = deque(pool.submit(read_part_alone, settings, span, asked) for span in spans)
            advance("Reading events", 0.0)
            while parts:
                yield parts.popleft().result()
        except BrokenProcessPool:
            raise SourceError(
                "One of the processes that read events was ended from outside, as by a system that is short of memory: "
                "ask for fewer days (--since), or try again."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def read_part_alone(settings: Settings, span: tuple[int, int], asked: Asked) -> Part:
    """In a process that has nothing yet. Raises SourceError."""
    engine = make_engine(settings)
    try:
        return read_part(engine, span, asked)
    finally:
        engine.dispose()


def read_part(engine: Engine, span: tuple[int, int], asked: Asked) -> Part:
    """``span``: keys behind the first, up to the last. Raises SourceError."""
    feeds, told, unread, rules = Feeds(asked.shadow), Told(), 0, asked.file.rules
    for rows in _rows(engine, span, asked):
        of_feeds, deeds = [], []
        for row in rows:
            _, event, user, item_type, item, request, session, endpoint, value, seconds, properties, slots, moment = row
            if event == FEED:
                of_feeds.append(FeedRow(user, request, session, endpoint, properties, slots, moment))
            elif event in rules and item_type != _CREATOR:
                deeds.append(DeedRow(event, user, item_type, item, request, session, value, seconds, moment))
        unread += feeds.add(of_feeds) + told.add(deeds, asked.file, asked.words)
    return Part(feeds, told, unread)


def _rows(engine: Engine, span: tuple[int, int], asked: Asked) -> Iterator[Sequence[Sequence[Any]]]:
    """By key and not by cursor: nothing stays open on the server however long the reader takes."""
    happened = time_as_text(engine.dialect.name, "happened_at")
    statement = text(
        f"SELECT {', '.join(_COLUMNS)}, {happened} AS happened FROM recs_events WHERE id > :after AND id <= :last "
        f"AND happened_at >= :since AND happened_at < :late AND (event <> '{FEED}' OR happened_at < :until) "
        f"ORDER BY id LIMIT {ROWS_AT_ONCE}"
    )
    window = asked.window
    moments = {
        "since": text_of(window.since_ms),
        "until": text_of(window.until_ms),
        "late": text_of(window.until_ms + asked.file.longest_ms),
    }
    after, last = span
    while True:
        with transaction(engine) as connection:
            rows = connection.execute(statement, moments | {"after": after, "last": last}).all()
        yield rows
        if len(rows) < ROWS_AT_ONCE:
            return
        after = rows[-1][0]
