"""The rules that the vocabulary file states about itself."""

import re
import tomllib
from importlib import resources

from recommendation_service.demo.vocabulary import json_word, vocabulary


def test_a_skill_belongs_to_one_field_only() -> None:
    skills = [skill for field in vocabulary().fields for skill in field.skills]

    assert len(skills) == len(set(skills))
    assert 150 <= len(skills) <= 200


def test_every_field_has_words_of_every_kind() -> None:
    assert len(vocabulary().fields) == 14
    for field in vocabulary().fields:
        assert len(field.skills) >= 10
        assert len(field.knowledges) == 8
        assert len(field.tools) == 8
        assert len(field.objectives) >= 4
        assert len(field.sentences) >= 4
        assert len(field.challenges) >= 4


def test_no_word_would_make_a_row_a_test_row() -> None:
    text = resources.files("recommendation_service.demo").joinpath("vocabulary.toml").read_text("utf-8")

    words = str(tomllib.loads(text))

    assert not re.search(r"\b(prueba|test)\b", words, re.IGNORECASE)


def test_sentences_name_only_what_can_be_filled_in() -> None:
    for field in vocabulary().fields:
        for sentence in (*field.sentences, *vocabulary().closings):
            assert sentence.format(skill="s", knowledge="k", tool="t", city="c")


def test_words_are_escaped_as_php_does() -> None:
    assert json_word("Música/Son") == '"M\\u00fasica\\/Son"'
