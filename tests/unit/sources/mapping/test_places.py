"""Lines of keys, however a file spells them."""

from __future__ import annotations

import tomllib

from recommendation_service.sources.mapping.places import Places

FILE = '''# a comment with [a.table] and key = 1
top = "a # no comment" # one

[a."b c".d]   # spaces
one = [
  1, # ]
  "]",
]
two = { x = "}", y = 2 }
three = """
first = 1
second \\""" still
"""
four = \'\'\'one
[not.a.table]
\'\'\'
five.six = 5
[[list]]
seven = ''
eight = """in one line"""
'''


def test_each_key_has_its_line() -> None:
    assert tomllib.loads(FILE)
    places = Places(FILE)
    at = {
        ("top",): 2,
        ("a", "b c", "d"): 4,
        ("a", "b c", "d", "one"): 5,
        ("a", "b c", "d", "two"): 9,
        ("a", "b c", "d", "two", "y"): 9,
        ("a", "b c", "d", "three"): 10,
        ("a", "b c", "d", "four"): 14,
        ("a", "b c", "d", "five", "six"): 17,
        ("list",): 18,
        ("list", "seven"): 19,
        ("list", "eight"): 20,
        ("nowhere",): 1,
    }
    assert {key: places.line(key) for key in at} == at


def test_a_texts_first_line_may_be_below_its_key() -> None:
    places = Places(FILE)
    assert places.text_line(("a", "b c", "d", "three")) == 11
    assert places.text_line(("a", "b c", "d", "four")) == 14
    assert places.text_line(("list", "eight")) == 20
    assert places.is_literal(("a", "b c", "d", "four"))
    assert not places.is_literal(("a", "b c", "d", "three"))
