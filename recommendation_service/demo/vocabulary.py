"""The demo's words, read from `vocabulary.toml`.

The words are a file and not code so that someone who knows the people, and not the program, can correct them.
"""

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """A field of work: a video belongs to one, a user has a taste for one or two."""

    name: str
    weight: float
    skills: tuple[str, ...]
    knowledges: tuple[str, ...]
    tools: tuple[str, ...]
    objectives: tuple[str, ...]
    sentences: tuple[str, ...]
    challenges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    fields: tuple[Field, ...]
    languages: tuple[str, ...]
    hobbies: tuple[str, ...]
    talent_types: tuple[str, ...]
    closings: tuple[str, ...]

    def field_of_skill(self) -> dict[str, int]:
        """Index of the one field that a skill belongs to."""
        return {skill: index for index, field in enumerate(self.fields) for skill in field.skills}


def json_word(word: str) -> str:
    """A word as the operator's PHP writes it in JSON: `\\u00f3` for ó and `\\/` for a slash."""
    return json.dumps(word).replace("/", "\\/")


def _field(entry: dict[str, Any]) -> Field:
    return Field(
        name=str(entry["name"]),
        weight=float(entry["weight"]),
        skills=tuple(entry["skills"]),
        knowledges=tuple(entry["knowledges"]),
        tools=tuple(entry["tools"]),
        objectives=tuple(entry["objectives"]),
        sentences=tuple(entry["sentences"]),
        challenges=tuple(entry["challenges"]),
    )


@cache
def vocabulary() -> Vocabulary:
    """Cached because the file is part of the package and cannot change while it runs."""
    text = resources.files(__package__).joinpath("vocabulary.toml").read_text("utf-8")
    entries = tomllib.loads(text)
    return Vocabulary(
        fields=tuple(_field(entry) for entry in entries["fields"]),
        languages=tuple(entries["languages"]),
        hobbies=tuple(entries["hobbies"]),
        talent_types=tuple(entries["talent_types"]),
        closings=tuple(entries["closings"]),
    )
