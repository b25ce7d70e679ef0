"""Feeds by name: `POST {prefix}/feeds/{name}`, for any operator's items, with ids of either form."""

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from recommendation_service.api.calls import Call, Reply
from recommendation_service.api.feeds import answered
from recommendation_service.api.hot import Admission
from recommendation_service.api.limits import RateLimiter
from recommendation_service.api.schemas import (
    DEFAULT_ITEMS,
    LARGEST_ID,
    LONGEST_SESSION_ID,
    MOST_EXCLUDED,
    MOST_ITEMS,
    named,
)
from recommendation_service.catalog.filter_columns import Rule, value_number
from recommendation_service.core.errors import InvalidRequest, NotFound, NotJson
from recommendation_service.feed.request import NO_IDS, AskedFilters, FeedFields
from recommendation_service.model.text_ids import ITEM_BITS, LONGEST_TEXT_ID, USER_BITS, number_of_text

DIGITS = "^[0-9]{1,18}$"
MOST_VALUES = 100
LARGEST_VALUE = 1e300  # of a number that a filter asks for
FIELDS = ("user", "size", "exclude", "session", "filters", "explain", "personal")


_DIGITS = re.compile(DIGITS.strip("^$"), re.ASCII)


class IdForms(NamedTuple):
    """Which of an operator's ids are text. Items may be of both forms, by their types."""

    users_are_text: bool = False
    items_are_text: bool = False
    items_are_numbers: bool = True


class NamedFeed(NamedTuple):
    name: str
    size: int = DEFAULT_ITEMS  # where a request does not say
    filters: Mapping[str, Rule] = {}


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """The shape of nearly all bodies; anything else takes the careful way."""

    user: int | str | None = None
    size: int | None = None
    exclude: list[int | str] | None = None
    session: str | None = None
    filters: dict[str, Any] | None = None
    explain: bool | None = None
    personal: bool | None = None


_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_any = msgspec.json.Decoder().decode


class NamedFeedEndpoint:
    """One feed."""

    def __init__(self, feed: NamedFeed, forms: IdForms, per_user: RateLimiter) -> None:
        self._feed = feed
        self._forms = forms
        self._per_user = per_user

    def answer(self, call: Call) -> Awaitable[Reply]:
        fields = read_named_body(call.body, self._feed, self._forms)
        if self._per_user.is_on:
            self._per_user.check(str(fields.user_id) if fields.user_id else f"address {call.address()}")
        # Of the same name, but of another form: an answer that is kept for one is none for the other.
        return answered(call, self._feed.name, fields, f"feeds/{self._feed.name}")


def add_unknown_feeds(app: FastAPI, prefix: str, names: Sequence[str], admission: Admission) -> None:
    """Whoever misspells a feed's name is told which there are."""

    async def unknown(request: Request) -> Response:
        admission.check_bodiless(request.scope["headers"])
        name = request.path_params["name"]
        raise NotFound(
            "There is no such feed.",
            [{"field": "name", "problem": f"is {named(name)}; the feeds are {', '.join(names)}"}],
        )

    app.router.routes.append(Route(f"{prefix}/feeds/{{name:path}}", unknown, methods=["POST"]))


def read_named_body(body: bytes, feed: NamedFeed, forms: IdForms) -> FeedFields:
    """Raises NotJson, or InvalidRequest with every wrong field."""
    try:
        problems: list[tuple[str, str]] = []
        try:
            plain = _decode_plain(body)
        except msgspec.ValidationError:
            plain = _read_carefully(_decode_any(body), problems)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson("The body is not JSON, or nested too deeply.") from None
    user = 0 if plain.user is None else number_of_user(plain.user, forms.users_are_text, problems)
    size = feed.size if plain.size is None else plain.size
    if not 1 <= size <= MOST_ITEMS:
        problems.append(("size", f"must be from 1 to {MOST_ITEMS}, but is {size}"))
    if plain.session is not None and len(plain.session) > LONGEST_SESSION_ID:
        problems.append(("session", f"must have at most {LONGEST_SESSION_ID} characters, but has {len(plain.session)}"))
    excluded = NO_IDS if not plain.exclude else _excluded(plain.exclude, forms, problems)
    asked = asked_of(plain.filters, feed.filters, problems) if plain.filters else ()
    if problems:
        raise invalid(problems)
    return FeedFields(
        user,
        size,
        excluded,
        plain.session,
        bool(plain.explain),
        plain.personal is not False,
        filters=asked,
        by_name=True,
        user_text=plain.user if forms.users_are_text and isinstance(plain.user, str) else "",
    )


def asked_of(given: Mapping[str, Any], rules: Mapping[str, Rule], problems: list[tuple[str, str]]) -> AskedFilters:
    """What each filter asks, in the order of their names; null asks nothing."""
    asked: list[tuple[str, float | tuple[int, ...]]] = []
    for name, value in sorted(given.items()):
        rule = rules.get(name)
        if rule is None:
            known = f"the filters are {', '.join(rules)}" if rules else "there are none"
            problems.append((f"filters.{name}", f"there is no such filter; {known}"))
        elif value is None:
            continue
        elif rule == "at_most":
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_VALUE:
                asked.append((name, float(value)))
            else:
                problems.append(
                    (f"filters.{name}", f"must be a number within ±{LARGEST_VALUE:g}, but is {named(value)}")
                )
        else:
            values = value if isinstance(value, list) and rule == "contained" else [value]
            if len(values) <= MOST_VALUES and all(isinstance(one, str | int | float) for one in values):
                numbers = {value_number(str(int(one) if isinstance(one, bool) else one)) for one in values}
                asked.append((name, tuple(sorted(numbers))))
            else:
                many = f" or up to {MOST_VALUES} of them" if rule == "contained" else ""
                problems.append((f"filters.{name}", f"must be text{many}, but is {named(value)}"))
    return tuple(asked)


def number_of_user(value: int | str, is_text: bool, problems: list[tuple[str, str]]) -> int:
    """Of an id."""
    if is_text:
        if isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT_ID:
            return number_of_text(value, USER_BITS)
        problems.append(("user", f"must be text of 1 to {LONGEST_TEXT_ID} characters, as ids of users are text"))
        return 0
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and 0 <= value <= LARGEST_ID:
        return value
    problems.append(("user", f"must be an integer from 0 to {LARGEST_ID}, or a string of digits"))
    return 0


def _excluded(ids: Sequence[int | str], forms: IdForms, problems: list[tuple[str, str]]) -> npt.NDArray[np.int64]:
    if len(ids) > MOST_EXCLUDED:
        problems.append(("exclude", f"must have at most {MOST_EXCLUDED} ids, but has {len(ids)}"))
        return NO_IDS
    numbers: list[int] = []
    for place, one in enumerate(ids):
        if forms.items_are_text and isinstance(one, str):
            numbers.append(number_of_text(one, ITEM_BITS))
        number = one if isinstance(one, int) else int(one) if _DIGITS.fullmatch(one) else None
        if forms.items_are_numbers and number is not None:
            # Another one is no item's, so there is nothing to exclude.
            numbers += [number] if 0 < number <= LARGEST_ID else []
        elif forms.items_are_numbers and not forms.items_are_text:
            problems.append((f"exclude.{place}", f"must be an integer or a string of digits, but is {named(one)}"))
        elif not isinstance(one, str):
            problems.append((f"exclude.{place}", "must be text, as ids of items are text"))
    return np.array(numbers, np.int64)


# What a field may be, in words, and what tells.
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "user": ((int, str), "an integer or text"),
    "size": ((int,), "an integer"),
    "exclude": ((list,), "a list of ids"),
    "session": ((str,), "text"),
    "filters": ((dict,), "an object"),
    "explain": ((bool,), "true or false"),
    "personal": ((bool,), "true or false"),
}


def _read_carefully(content: Any, problems: list[tuple[str, str]]) -> _Plain:
    """The fields that are of their type; ``problems`` is given those that are not, or not there. To JSON 22.0 is an
    integer. Raises InvalidRequest where there is nothing to read."""
    if not isinstance(content, dict):
        raise invalid([("body", f"is {named(content)}, not an object")])
    for name in ("user", "size"):
        content[name] = _whole(content.get(name))
    if isinstance(content.get("exclude"), list):
        content["exclude"] = [_whole(one) for one in content["exclude"]]
    problems += _wrong_fields(content)
    wrong = {field.partition(".")[0] for field, _ in problems}
    try:
        return msgspec.convert(
            {name: content[name] for name in _TYPES if name in content and name not in wrong}, _Plain
        )
    except msgspec.ValidationError:
        raise invalid([*problems, ("body", "cannot be read")]) from None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wrong_fields(content: dict[str, Any]) -> list[tuple[str, str]]:
    problems = []
    for name, value in content.items():
        if name not in _TYPES:
            problems.append((name, f"there is no such field; the fields are {', '.join(FIELDS)}"))
            continue
        types, words = _TYPES[name]
        is_flag = isinstance(value, bool)
        if value is not None and (not isinstance(value, types) or (is_flag and bool not in types)):
            problems.append((name, f"must be {words}, but is {named(value)}"))
        elif name == "exclude" and isinstance(value, list):
            problems += [
                (f"exclude.{place}", f"must be an integer or text, but is {named(one)}")
                for place, one in enumerate(value)
                if not isinstance(one, int | str) or isinstance(one, bool)
            ]
    return problems


def invalid(problems: Sequence[tuple[str, str]]) -> InvalidRequest:
    details = [{"field": field, "problem": problem} for field, problem in problems]
    return InvalidRequest("The request has invalid fields.", details)
