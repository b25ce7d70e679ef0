"""A user in a path, whose id is a number or, under a mapping, may be text."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from fastapi import Path

from recommendation_service.api.schemas import LARGEST_ID
from recommendation_service.model.text_ids import LONGEST_TEXT_ID, USER_BITS, number_of_text
from recommendation_service.model.words import Words


class AskedUser(NamedTuple):
    number: int
    given: int | str  # as the operator has it

    def with_session(self, session_id: str | None) -> "AskedUser":
        """Of text ids none is an anonymous person's: 0 is one where a session is named beside it."""
        return AskedUser(0, 0) if self.given == "0" and session_id is not None else self


def user_segment(words: Words) -> str:
    """What stands for the user in a route: an id that is text may have slashes."""
    return "{user_id:path}" if words.users_are_text else "{user_id}"


def user_in_path(words: Words, least: int) -> Callable[..., AskedUser]:
    """A dependency of routes with such a segment. ``least``: 0 where anonymous people may be meant."""

    def of_number(user_id: Annotated[int, Path(ge=least, le=LARGEST_ID)]) -> AskedUser:
        return AskedUser(user_id, user_id)

    def of_text(user_id: Annotated[str, Path(min_length=1, max_length=LONGEST_TEXT_ID)]) -> AskedUser:
        return AskedUser(number_of_text(user_id, USER_BITS), user_id)

    return of_text if words.users_are_text else of_number
