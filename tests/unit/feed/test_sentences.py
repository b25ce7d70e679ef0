"""Sentences of explanations: the same codes and values in each language, and numbers as people write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recommendation_service.catalog.rejections import RULES as REJECTIONS
from recommendation_service.feed import sentences
from recommendation_service.feed.sentences import LANGUAGES, fields_of, language_for, say, templates
from recommendation_service.ranking.slate import RULES

PACKAGE = Path(sentences.__file__).parents[1]
EXAMPLES: dict[str, str | float] = {"slot": "AU", "pool": "NU", "feature": "length", "rule": "any", "status": "draft"}
EXAMPLES |= {"endpoint": "total", "since": "2026-11-24T06:45:01Z", "until": "2026-12-24T06:45:01Z"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_each_code_with_the_same_values(language: str) -> None:
    ours, english = templates(language), templates("en")
    assert ours.keys() == english.keys()
    for code, template in ours.items():
        assert fields_of(template) == fields_of(english[code]), code


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_can_be_said(language: str) -> None:
    for code, template in templates(language).items():
        said = say(language, code, **{name: EXAMPLES.get(name, 0.25) for name in fields_of(template)})
        assert said.code == code
        assert re.fullmatch(r"[A-ZÉÚ0-9][^{}]*\.", said.text), said.text


def test_the_sentences_are_those_that_the_code_says() -> None:
    text = "\n".join(path.read_text("utf-8") for path in (PACKAGE / "feed").glob("*.py"))
    text += (PACKAGE / "serving" / "explanation.py").read_text("utf-8")
    rules = {
        *REJECTIONS,
        *re.findall(r'^ +"(\w+)": ', (PACKAGE / "mappings" / "interacpedia" / "item_row.py").read_text("utf-8"), re.M),
    }
    codes = {f"not_eligible_{rule}" for rule in rules} | {f"relaxed_{rule}" for rule in RULES if rule != "seen"}
    codes |= {code for code in templates("en") if re.search(rf'"{code}"', text)}
    assert codes == set(templates("en"))


@pytest.mark.parametrize(
    ("value", "english", "spanish"),
    [
        (0.0, "0 %", "0 %"),
        (1.0, "100 %", "100 %"),
        (0.0903, "9 %", "9 %"),
        (0.00123, "0.12 %", "0,12 %"),
        (12.5, "1,250 %", "1.250 %"),
    ],
)
def test_shares_have_two_digits_that_count(value: float, english: str, spanish: str) -> None:
    said = [say(language, "skills_close", similarity=value).text for language in ("en", "es")]
    assert english in said[0]
    assert spanish in said[1]


def test_a_number_has_its_word_and_its_marks() -> None:
    assert say("en", "watched", views=1).text == "Chosen 1 time."
    assert say("en", "watched", views=12_345).text == "Chosen 12,345 times."
    assert say("es", "watched", views=12_345).text == "Se ha elegido 12.345 veces."
    assert "4,1 sobre 5" in say("es", "rated", average=4.1).text
    assert "nan" in say("en", "rated", average=float("nan")).text


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("es", "es"),
        ("es-CO,es;q=0.9,en;q=0.8", "es"),
        ("en;q=0.1, ES-419;q=0.2", "es"),
        ("de, es;q=0.3, *;q=0.1", "es"),
        ("de", "en"),
        ("*", "en"),
        ("es;q=0", "en"),
        ("es;q=nan, en", "en"),
        ("es;q=x;;,,;=", "en"),
        ("es;q=7", "en"),
    ],
)
def test_the_language_is_the_best_that_is_accepted(accepted: str, language: str) -> None:
    assert language_for(accepted) == language
