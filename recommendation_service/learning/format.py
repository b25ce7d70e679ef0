"""The learning file's format: what each event is worth, how long it is waited for, how fast the past is forgotten."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.mappings.learned import tables_with_rows
from recommendation_service.mappings.shipped import LEARNING
from recommendation_service.model.kinds import KINDS
from recommendation_service.model.words import EventName

SHIPPED = LEARNING

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Reward = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
MOST_HOURS = 24 * 30
OTHER_POINTS = 10.0  # that a reward of 1 is worth in a kind that the file does not name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventReward(_Section):
    """What an event is worth; ``by``: the field of it that the worth goes by."""

    reward: Reward
    hours: Annotated[float, Field(gt=0, le=MOST_HOURS, allow_inf_nan=False)]
    shows: bool = False
    by: Literal["watch_seconds", "value"] | None = None
    full: Positive | None = None
    neutral: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    unknown: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> "EventReward":
        if self.by is not None and (self.full is None or self.full <= self.neutral):
            raise ValueError(f"full must be there and more than neutral ({self.neutral:g}), as by is {self.by!r}")
        if self.shows and (self.reward or self.by):
            raise ValueError("an event that only shows an item has a reward of 0")
        return self

    @property
    def hours_ms(self) -> int:
        return round(3_600_000 * self.hours)

    def amount(self, value: float | None, watch_seconds: float | None) -> float:
        """The reward of one such event."""
        if self.by is None or self.full is None:
            return self.reward
        given = watch_seconds if self.by == "watch_seconds" else value
        if given is None:
            return self.reward * self.unknown
        share = (given - self.neutral) / (self.full - self.neutral)
        return self.reward * min(1.0, max(-1.0, share))


class LearningFile(_Section):
    """The learning file, validated whole: every problem is named at once."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    half_life_days: Annotated[float, Field(gt=0, le=36500, allow_inf_nan=False)]
    settle_minutes: Annotated[float, Field(gt=0, le=60 * MOST_HOURS, allow_inf_nan=False)]
    default: Reward
    least: Reward
    most: Reward
    noise: Positive
    precision_factor: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] = 100.0
    variety: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9
    person_slots: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1000.0
    points: dict[str, Positive]
    events: Annotated[dict[EventName, EventReward], Field(min_length=1)]
    rows: dict[str, dict[str, EventName]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> "LearningFile":
        problems = []
        if not self.least <= self.default <= self.most or self.least == self.most:
            problems.append("least must be less than most, and default between them")
        unknown = [name for name in self.points if name not in KINDS]
        missing = [name for name in KINDS if name not in self.points]
        problems += [f"points.{name}: there is no such kind; the kinds are {', '.join(KINDS)}" for name in unknown]
        problems += [f"points.{name}: is missing" for name in missing]
        tables = tables_with_rows()
        problems += [
            f"rows.{table}: there is no such table; the tables are {', '.join(tables)}"
            for table in self.rows
            if table not in tables
        ]
        problems += [
            f"rows.{table}.{word}: the event {event} is not listed under events"
            for table, words in self.rows.items()
            for word, event in words.items()
            if event not in self.events
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def rules(self) -> Mapping[str, EventReward]:
        return cast(Mapping[str, EventReward], self.events)

    def points_of(self, kinds: Sequence[str]) -> npt.NDArray[np.float64]:
        """(K,) of each kind; of one of a mapping's, OTHER_POINTS."""
        return np.array([self.points.get(kind, OTHER_POINTS) for kind in kinds])

    @property
    def longest_ms(self) -> int:
        """How long after a feed something that counts may happen."""
        return max(*(event.hours_ms for event in self.events.values()), self.settle_ms)

    @property
    def settle_ms(self) -> int:
        return round(60_000 * self.settle_minutes)

    @property
    def half_life_seconds(self) -> float:
        return 86400 * self.half_life_days


def load_learning(path: Path | None = None) -> LearningFile:
    """Read a learning file; without a path, the one that ships.

    Raises ConfigurationError with every problem of the file.
    """
    name = f"learning file {path or SHIPPED}"
    try:
        content: dict[str, Any] = tomllib.loads((path or SHIPPED).read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{name}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{name} is not TOML: {error}"]) from error
    try:
        return LearningFile.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors()]
        raise ConfigurationError([f"{name}, {problem}" for problem in problems]) from error
