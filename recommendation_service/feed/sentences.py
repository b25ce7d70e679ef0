"""What an explanation says to people: a code with values, and its sentence in their language.

Programs read code and values, which are the same in every language. The sentences stand in sentences_LANGUAGE.toml, a
file for each language, with the same codes and the same values. A value is written as its place in the sentence asks:

- ``{days:day|days}``: a whole number with its word; ``{views:count}``: one without;
- ``{average:number}``: two digits that count; ``{odds:percent}``: the same of a share, in percent.
"""

import math
import string
import tomllib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

LANGUAGES = ("en", "es")
DEFAULT_LANGUAGE = "en"
DIGITS = 2
# What stands between thousands, and before decimals.
_MARKS = {"en": (",", "."), "es": (".", ",")}

Value = str | int | float


class Sentence(msgspec.Struct, frozen=True):
    """A reason: by its code and values for programs, as text for people."""

    code: str
    values: dict[str, Value]
    text: str


def say(language: str, code: str, **values: Value) -> Sentence:
    return Sentence(
        code,
        values,
        "".join([part if write is None else write(values[part]) for part, write in _parts(language, code)]),
    )


@cache
def _parts(language: str, code: str) -> Sequence[tuple[str, Callable[[Any], str] | None]]:
    """Of a template: text as it is, and names of values with what writes them."""
    parts: list[tuple[str, Callable[[Any], str] | None]] = []
    writer = _Writer(language)
    for text, name, spec, _ in string.Formatter().parse(templates(language)[code]):
        parts.append((text, None))
        if name is not None:
            parts.append((name, partial(writer.write, spec=spec or "")))
    return parts


@cache
def templates(language: str) -> dict[str, str]:
    """By code."""
    path = Path(__file__).with_name(f"sentences_{language}.toml")
    return tomllib.loads(path.read_text("utf-8"))


def language_for(accepted: str) -> str:
    """The best of LANGUAGES for an Accept-Language header (RFC 9110, section 12.5.4); the default where none is."""
    best, best_quality = DEFAULT_LANGUAGE, 0.0
    for part in accepted.split(","):
        tag, _, parameter = part.partition(";")
        language = tag.strip().lower().partition("-")[0]
        if language == "*":
            language = DEFAULT_LANGUAGE
        if language in LANGUAGES and (quality := _quality(parameter)) > best_quality:
            best, best_quality = language, quality
    return best


def _quality(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0


class _Writer:
    def __init__(self, language: str) -> None:
        thousands, point = _MARKS[language]
        self._marks = {ord(","): thousands, ord("."): point}

    def write(self, value: Any, spec: str) -> str:
        if not spec:
            return str(value)
        if spec == "count":
            return self._marked(f"{round(value):,}")
        if spec == "number":
            return self._number(value)
        if spec == "percent":
            return f"{self._number(100 * value)} %"
        one, _, many = spec.partition("|")
        return f"{self._marked(f'{round(value):,}')} {one if round(value) == 1 else many}"

    def _number(self, value: float) -> str:
        """To so many digits that count; what has more before the point, whole."""
        if not math.isfinite(value) or value == 0:
            return f"{value:.0f}"
        decimals = max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        return self._marked(text.rstrip("0").rstrip(".") if "." in text else text)

    def _marked(self, text: str) -> str:
        return text.translate(self._marks)


def fields_of(template: str) -> Sequence[str]:
    """Names of the values that a template has, each once, by the alphabet."""
    return sorted({name for _, name, _, _ in string.Formatter().parse(template) if name})
