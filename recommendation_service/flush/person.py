"""What there is of one person among events: rows of the database, what waits in the log, dead letters.

A person is a user, or a session of somebody anonymous.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Engine

from recommendation_service.catalog.dictionary import Dictionary
from recommendation_service.core.errors import SourceError
from recommendation_service.flush.dead_letters import DeadLetter, DeadLetters
from recommendation_service.flush.export import EVENT_COLUMNS, event_of_record, event_of_row
from recommendation_service.flush.rows import TEXT_COLUMNS, Event, feed_of_row
from recommendation_service.flush.tables import has_events, selected, transaction
from recommendation_service.log.forgotten import read_forgotten
from recommendation_service.log.marks import FLUSH, Mark, MarkDamaged, read_mark
from recommendation_service.log.tail import LogTail, Stretch

# Of the log, in one step.
_RECORDS, _BYTES = 5_000, 8 << 20


class Person(NamedTuple):
    user_id: int  # 0: anonymous
    session_id: str | None = None  # of an anonymous person
    given: int | str = 0  # the user's id as the operator has it

    def did(self, record: Event) -> bool:
        if self.user_id:
            return record.user_id == self.user_id
        return record.user_id == 0 and record.session_id == self.session_id


class Page(NamedTuple):
    """Of a person's rows, the latest first."""

    most: int
    before: tuple[str, int] | None = None  # time and id of the last row of the page before


def events_of(engine: Engine, person: Person, page: Page, ids: Dictionary) -> tuple[list[dict[str, Any]], str | None]:
    """Rows of recs_events, as an export has them, and what the next page is asked for with; None: there is none.

    By the index on user and time. Raises SourceError.
    """
    if not has_events(engine):
        return [], None
    columns = selected(engine, (*EVENT_COLUMNS, *(TEXT_COLUMNS if ids.words.is_mapped else ())))
    conditions = "user_id = :user"
    parameters: dict[str, int | str | None] = {"user": person.user_id, "most": page.most + 1}
    if not person.user_id:
        conditions += " AND session_id = :session"
        parameters |= {"session": person.session_id}
    if page.before is not None:
        conditions += " AND happened_at <= :moment AND (happened_at < :moment OR id < :id)"
        parameters |= {"moment": page.before[0], "id": page.before[1]}
    statement = text(
        f"SELECT id, {columns}, properties, slots FROM recs_events WHERE {conditions} "
        "ORDER BY happened_at DESC, id DESC LIMIT :most"
    )
    with transaction(engine) as connection:
        rows = connection.execute(statement, parameters).mappings().all()
    shown = rows[: page.most]
    try:
        events = [event_of_row(row, feed_of_row(row) if row["slots"] is not None else None, ids) for row in shown]
    except ValueError as error:
        raise SourceError(f"A feed of recs_events cannot be read: {error}.") from None
    following = f"{_moment(shown[-1]['happened_at'])}.{shown[-1]['id']}" if len(rows) > page.most else None
    return events, following


def _moment(happened_at: object) -> str:
    """'2026-11-24 06:45:01.250' without what an address would have to escape."""
    digits = str(happened_at).translate(str.maketrans("", "", "-:. "))
    return digits.ljust(17, "0")


def page_after(following: str | None, most: int) -> Page | None:
    """The page that ``rows_of`` named; None for what it never gives."""
    if following is None:
        return Page(most)
    moment, _, number = following.partition(".")
    if not (len(moment) == 17 and f"{moment}{number}".isascii() and moment.isdigit() and number.isdigit()):
        return None
    day, clock, rest = moment[:8], moment[8:14], moment[14:]
    written = f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}:{clock[4:]}.{rest}"
    return Page(most, (written, int(number)))


def waiting_of(folder: Path, person: Person, most: int, ids: Dictionary) -> tuple[int, list[dict[str, Any]]]:
    """How much the log has of a person that the database has not, and the latest of that, which is last.

    Reads all that waits, a part at a time. Raises OSError.
    """
    count, latest = 0, deque[Event](maxlen=most)
    for stretch in _not_flushed(folder):
        found = [record for record in stretch.records if person.did(record)]
        count += len(found)
        latest.extend(found)
    events: list[dict[str, Any]] = []
    for record in sorted(latest, key=lambda one: one.happened_ms):
        try:
            events.append(event_of_record(record, ids))
        except (IndexError, ValueError):  # it will be a dead letter
            events.append({"event_id": str(record.event_id), "user_id": person.given or record.user_id})
    return count, events


def forgotten_in_log(folder: Path, user_id: int) -> int:
    """How many events of a forgotten user the log has still, which are dropped when they are read.

    Reads all that waits, a part at a time. Raises OSError.
    """
    return sum(sum(record.user_id == user_id for record in stretch.forgotten) for stretch in _not_flushed(folder))


def _not_flushed(folder: Path) -> Iterator[Stretch]:
    """What the log has that the database has not, with what is forgotten apart. Raises OSError."""
    forgotten = read_forgotten(folder)
    try:
        places = (read_mark(folder, FLUSH) or Mark()).places
    except MarkDamaged:  # what is flushed again is found to be there
        places = {}
    tail = LogTail(folder, places)
    while folder.is_dir() and (stretches := tail.read(_RECORDS, _BYTES)):
        for stretch in stretches:
            yield stretch.without(forgotten)


def dead_letters_of(folder: Path, person: Person) -> Sequence[DeadLetter]:
    """Raises OSError."""
    found = []
    for letter in DeadLetters(folder).all():
        record = letter.record()
        if (record is not None and person.did(record)) or (person.user_id and letter.user_id == person.user_id):
            found.append(letter)
    return found
