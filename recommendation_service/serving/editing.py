"""What an editor asks for, from the words of a call or a command to a ruling, and where it is kept."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeGuard, get_args

from recommendation_service.catalog.inspection import read_item
from recommendation_service.core.blocking_redis import open_blocking_redis
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import Conflict, InvalidRequest
from recommendation_service.core.local_time import utc_text
from recommendation_service.editors.fleet import FleetRulings
from recommendation_service.editors.rulings import EVERYWHERE, FOR_GOOD, PIN, RELEASE, Action, Entry, Ruling
from recommendation_service.editors.store import RulingsStore
from recommendation_service.model.item_keys import CREATOR, ITEM_TYPES, LARGEST_ITEM, LARGEST_OTHER, item_key
from recommendation_service.model.text_ids import ITEM_BITS, number_of_text
from recommendation_service.policies.policy import Policy
from recommendation_service.ranking.working_memory import LARGEST_FEED
from recommendation_service.sources.mapping.mapping import Mapping as OperatorMapping
from recommendation_service.sources.mapping.words import type_numbers

ACTIONS: tuple[str, ...] = get_args(Action)
FIELDS = ("action", "type", "id", "feed", "place", "until", "who", "why")
LONGEST_ID, LONGEST_WHO, LONGEST_WHY = 255, 100, 500
_LATEST = 253_402_300_000.0  # of the year 9999


class Known(NamedTuple):
    """What rulings may be of."""

    types: Mapping[str, tuple[int, bool]]  # number, and whether ids are text
    feeds: Mapping[str, frozenset[str] | None]  # types of each feed's items; None: all


def known(mapping: OperatorMapping | None, policy: Policy) -> Known:
    """``mapping``: None for the first operator; ``policy``: the one that serves."""
    types: dict[str, tuple[int, bool]] = {ITEM_TYPES[number]: (number, False) for number in range(CREATOR)}
    if mapping is not None:
        types = {name: (n, mapping.content.item_ids(name) == "text") for name, n in type_numbers(mapping).items()}
    feeds: dict[str, frozenset[str] | None] = {}
    for feed, pattern in policy.file.feeds.items():
        items = [policy.file.kind(name).item for name in pattern]
        feeds[feed] = None if None in items else frozenset(item for item in items if item is not None)
    return Known(types, feeds)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[RulingsStore]:
    """For a change, with the fleet where there is one."""
    redis = open_blocking_redis(settings)
    try:
        yield RulingsStore(settings.editors_dir, FleetRulings(redis) if redis is not None else None)
    finally:
        if redis is not None:
            redis.close()


def ruling_of(asked: Mapping[str, Any], there: Known, now: float, wrong: Mapping[str, str] | None = None) -> Ruling:
    """``asked``: FIELDS, of which some may be absent or None; ``wrong``: problems by field that were found before.
    Raises InvalidRequest with all that is wrong, and Conflict for what would be over already."""
    problems = dict(wrong or {})
    action = asked.get("action")
    if action not in ACTIONS:
        problems["action"] = f"must be one of {', '.join(ACTIONS)}, but is {_shown(action)}"
    key = _key(asked, there, problems)
    feed, place, until = asked.get("feed"), asked.get("place"), asked.get("until")
    if feed is not None and not _is_in(feed, there.feeds):
        problems["feed"] = f"must be one of {', '.join(there.feeds)}, but is {_shown(feed)}"
    if action == PIN:
        _check_pin(asked, there, problems)
    elif place is not None:
        problems["place"] = "is of a pin alone"
    if until is not None and action == RELEASE:
        problems["until"] = "is of no release"
    end = _end(until, problems) if until is not None else FOR_GOOD
    for name, longest in (("who", LONGEST_WHO), ("why", LONGEST_WHY)):
        value = asked.get(name)
        if not isinstance(value, str) or not value.strip() or len(value) > longest or not _is_whole(value):
            problems[name] = f"must be text of 1 to {longest} characters that is not blank, for the history"
    if problems:
        details = [{"field": name, "problem": problem} for name, problem in problems.items()]
        raise InvalidRequest("The ruling cannot be made.", details)
    if until is not None and end <= now:
        raise Conflict(f"The ruling would be over already: {until} is not in the future.")
    return Ruling(
        asked["action"],
        asked["type"],
        asked["id"],
        key,
        asked["who"],
        asked["why"],
        now,
        feed or EVERYWHERE,
        place or 0,
        end,
    )


def entries_of(entries: Sequence[Entry], item: str | None, there: Callable[[], Known]) -> list[Entry]:
    """The latest first; ``item``: as TYPE:ID, None for all. Raises InvalidRequest where nothing was ruled of it and no
    item is named so. What was ruled of a type that is no more stays."""
    found = [one for one in reversed(entries) if item in (None, one.ruling.item)]
    if item is not None and not found:
        types = there().types
        numbers = {name: number for name, (number, _) in types.items()}
        try:
            read_item(item, numbers, {name for name, (_, is_text) in types.items() if is_text})
        except ValueError as error:
            raise InvalidRequest(
                "The request has invalid fields.", [{"field": "item", "problem": str(error)}]
            ) from None
    return found


def _is_in(name: Any, names: Collection[str]) -> TypeGuard[str]:
    return isinstance(name, str) and name in names


def _is_whole(text: str) -> bool:
    """Whether it is text that can be written down, and has no bytes of an argument that were none."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _key(asked: Mapping[str, Any], there: Known, problems: dict[str, str]) -> int:
    name, given = asked.get("type"), asked.get("id")
    if not _is_in(name, there.types):
        problems["type"] = f"must be one of {', '.join(there.types)}, but is {_shown(name)}"
        return 0
    number, is_text = there.types[name]
    if is_text:
        if isinstance(given, str) and 0 < len(given) <= LONGEST_ID and given.isprintable():
            return item_key(number, number_of_text(given, ITEM_BITS))
        of_text = f"text of 1 to {LONGEST_ID} characters that can be seen"
        problems["id"] = f"must be {of_text}, as ids of type {name} are, but is {_shown(given)}"
        return 0
    largest = largest_id(number)
    if isinstance(given, int) and not isinstance(given, bool) and 0 < given <= largest:
        return item_key(number, given)
    problems["id"] = f"must be an integer from 1 to {largest}, as ids of type {name} are, but is {_shown(given)}"
    return 0


def largest_id(item_type: int) -> int:
    """Of ids that are numbers."""
    return LARGEST_ITEM if item_type < CREATOR else LARGEST_OTHER


def _check_pin(asked: Mapping[str, Any], there: Known, problems: dict[str, str]) -> None:
    feed, place, name = asked.get("feed"), asked.get("place"), asked.get("type")
    if feed is None:
        problems["feed"] = f"of a pin must be one of {', '.join(there.feeds)}"
    elif _is_in(feed, there.feeds) and _is_in(name, there.types):
        types = there.feeds[feed]
        if types is not None and name not in types:
            problems["type"] = f"must be one that the feed {feed} has ({', '.join(sorted(types))}), but is {name}"
    if not isinstance(place, int) or isinstance(place, bool) or not 1 <= place <= LARGEST_FEED:
        problems["place"] = f"of a pin must be from 1 to {LARGEST_FEED}, but is {_shown(place)}"
    if asked.get("until") is None:
        problems["until"] = "of a pin must say when it ends"


def _end(until: Any, problems: dict[str, str]) -> float:
    try:
        moment = datetime.fromisoformat(until.upper())
        if moment.tzinfo is None:
            raise ValueError
        end = min(moment.timestamp(), _LATEST)
    except (ValueError, AttributeError, OverflowError):
        problems["until"] = (
            f"must be a time with its zone, as 2026-12-24T18:00:00Z or with +01:00, but is {_shown(until)}"
        )
        return FOR_GOOD
    return end


def _shown(value: Any) -> str:
    text = repr(value) if value is not None else "not there"
    return text if len(text) <= 64 else f"{text[:63]}…"


def told(ruling: Ruling) -> dict[str, Any]:
    """For programs."""
    return {
        "action": ruling.action,
        "type": ruling.type,
        "id": ruling.id,
        "feed": ruling.feed or None,
        "place": ruling.place or None,
        "until": utc_text(ruling.until) if ruling.until else None,
        "who": ruling.who,
        "why": ruling.why,
        "when": utc_text(ruling.when),
    }


def told_entry(entry: Entry) -> dict[str, Any]:
    return {"number": entry.number, **told(entry.ruling), "replace": entry.replace}
