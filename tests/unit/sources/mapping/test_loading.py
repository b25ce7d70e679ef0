"""A mapping that is right becomes one value; whatever is wrong with one is told at once, with line and advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from recommendation_service.model.words import EVENT_NAMES
from recommendation_service.sources.mapping.format import EventMeaning
from recommendation_service.sources.mapping.mapping import Mapping, MappingError, load_mapping
from recommendation_service.sources.mapping.schema import SHIPPED, schema_text
from recommendation_service.sources.mapping.words import kinds_of_terms

SMALLEST = """
[users]
query = "SELECT id FROM users"
[items.film]
query = "SELECT id FROM films"
[events.watch]
query = "SELECT user_id, item_id FROM watched"
"""


def load(folder: Path, text: str) -> Mapping:
    file = folder / "mapping.toml"
    file.write_text(text, "utf-8")
    return load_mapping(file)


def problems(folder: Path, text: str) -> list[str]:
    """As told, without the folder."""
    with pytest.raises(MappingError) as raised:
        load(folder, text)
    return [problem.replace(f"{folder}/", "") for problem in raised.value.problems]


def test_users_one_item_type_and_one_event_are_enough(tmp_path: Path) -> None:
    mapping = load(tmp_path, SMALLEST)
    assert set(mapping.statements) == {"users", "items.film", "events.watch"}
    assert mapping.item_type_of("watch") == "film"
    assert (mapping.content.user_ids, mapping.content.item_ids("film")) == ("integer", "integer")
    assert list(mapping.feeds) == ["home"]
    assert set(mapping.feeds["home"].pattern) == set(mapping.kinds)


def test_a_mapping_cannot_be_changed(tmp_path: Path) -> None:
    mapping = load(tmp_path, SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        mapping.content.ids = "text"  # type: ignore[misc]
    with pytest.raises(TypeError):
        mapping.statements["users"] = mapping.statements["items.film"]  # type: ignore[index]


def test_every_problem_of_a_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = """ids = "uuid"
[users]
query = "SELECT id FROM users"
tme = "created_at"
[items.job]
query = '''
SELECT id, title
FROM jobs WHERE until > :nov
'''
lives_days = 20
[items.gig]
file = "gigs.sql"
[vocabularies.tag]
items.jobb = { column = "tags" }
[events.apply]
query = "DELETE FROM x"
type = "job"
weight = "much"
[events.save]
query = "SELECT 1"
[filters.city]
rule = "eqal"
[feeds.home]
pattern = ["for_you", "newest"]
size = 0
"""
    assert problems(tmp_path, text) == [
        "mapping.toml, line 1: ids should be 'integer' or 'text', and is 'uuid'; "
        "how ids look; UUIDs and slugs are text",
        "mapping.toml, line 4 [users]: there is no key tme; did you mean time?",
        "mapping.toml, line 8 [items.job]: there is no parameter :nov; did you mean now?",
        "mapping.toml, line 10 [items.job]: lives_days needs to know since when; add time, the column of when it came",
        "mapping.toml, line 12 [items.gig]: the file cannot be read: gigs.sql: No such file or directory; "
        "SQL files beside the mapping are none",
        "mapping.toml, line 14 [vocabularies.tag]: there is no item type jobb; did you mean job?",
        "mapping.toml, line 16 [events.apply]: a query begins with SELECT (or WITH), and not with DELETE; "
        "for a table as it is write SELECT * FROM it",
        "mapping.toml, line 18 [events.apply]: weight should be a number, and is 'much'",
        "mapping.toml, line 19 [events.save]: there are several item types, and none is named; "
        "add type, one of job, gig; or type_column",
        "mapping.toml, line 21 [filters.city]: column is missing; a column of the items' queries",
        "mapping.toml, line 22 [filters.city]: rule should be 'equal', 'contained' or 'at_most', and is 'eqal'; "
        "did you mean equal?",
        "mapping.toml, line 24 [feeds.home]: there is no kind newest; did you mean new?",
        "mapping.toml, line 25 [feeds.home]: size should be greater than or equal to 1, and is 0",
    ]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (r"SELECT ' :smile'", "line 3 [users]: :smile within quotes would be taken for a parameter; for the text "),
        ("SELECT id -- as :of old", ":of within a comment would be taken for a parameter; write it without the colon"),
        ("SELECT id /* :x */", ":x within a comment"),
        ("SELECT INTERVAL ':now days'", ":now within quotes would be taken for a parameter; write :now outside"),
        ('SELECT "a :b"', ":b within quotes"),
        ("SELECT id FROM u WHERE t > :since", ":since needs to know since when; add lives_days"),
        ("SELECT id FROM u WHERE t < :now::date", ":now:: is not taken for a parameter; write CAST(:now AS date)"),
        ("SELECT 1; SELECT 2", "a query is one statement"),
        ("-- nothing", "the query is empty; write a SELECT"),
        ("users", "a query begins with SELECT (or WITH), and not with users"),
    ],
)
def test_what_must_not_be_sent_is_found_before_it_is(tmp_path: Path, query: str, said: str) -> None:
    text = SMALLEST.replace('"SELECT id FROM users"', f"'''{query}'''")
    (problem,) = problems(tmp_path, text)
    assert said in problem


@pytest.mark.parametrize(
    "query",
    [
        r"SELECT '\:smile', '12:30', 'a: b', ':'",
        "SELECT id::bigint FROM users",
        "SELECT 'it''s', 'it\\'s' FROM users",
        "SELECT 'ends in a backslash\\' FROM users",
        "SELECT id FROM users WHERE created < :now;",
        "WITH a AS (SELECT 1 AS id) SELECT id FROM a -- a comment: none of ours",
    ],
)
def test_what_is_no_parameter_may_stay(tmp_path: Path, query: str) -> None:
    assert load(tmp_path, SMALLEST.replace('"SELECT id FROM users"', f'"""{query}"""'.replace("\\", "\\\\")))


def test_the_advice_on_a_colon_is_as_the_file_has_to_spell_it(tmp_path: Path) -> None:
    (escaped,) = problems(tmp_path, SMALLEST.replace("SELECT id FROM users", "SELECT ' :x'"))
    (literal,) = problems(tmp_path, SMALLEST.replace('"SELECT id FROM users"', "'''SELECT ' :x' '''"))
    assert r"write \\:x;" in escaped
    assert r"write \:x;" in literal


def test_a_query_stands_in_a_file_beside_the_mapping_and_its_lines_are_that_files(tmp_path: Path) -> None:
    (tmp_path / "people.sql").write_text("SELECT id\nFROM users\nWHERE name = ' :x'\n")
    text = SMALLEST.replace('query = "SELECT id FROM users"', 'file = "people.sql"')
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("people.sql, line 3 [users]: :x within quotes")
    (problem,) = problems(tmp_path, text.replace("people.sql", "poeple.sql"))
    assert problem.endswith("poeple.sql: No such file or directory; did you mean people.sql?")


@pytest.mark.parametrize("named", ["/nowhere.sql", "/etc", "/dev/null", "../x.sql", "a\0b.sql", "x" * 300, ""])
def test_a_query_in_a_file_that_cannot_be_read_is_told_wherever_it_should_be(tmp_path: Path, named: str) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "people.sql").write_text("SELECT 1 AS id")
    text = SMALLEST.replace('query = "SELECT id FROM users"', f"file = {json.dumps(named)}")
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("mapping.toml, line 3 [users]: the file cannot be read: ")
    assert problem.endswith("; SQL files beside the mapping are sql/people.sql")
    (problem,) = problems(tmp_path, text.replace(json.dumps(named), '"/sql/poeple.sql"'))
    assert problem.endswith("did you mean sql/people.sql?")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[users\n", "line 1: no TOML: "),
        (b'a = 1\nb = "\xff"', "line 2: the file is not UTF-8; save it as UTF-8"),
        (b"", "users is missing; write [users], and below it what belongs to it"),
        (b"", "items is missing; write [items.NAME], and below it what belongs to it"),
    ],
)
def test_a_file_that_is_no_mapping_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mapping.toml"
    file.write_bytes(content)
    with pytest.raises(MappingError, match=r"mapping\.toml") as raised:
        load_mapping(file)
    assert said in str(raised.value)


def test_what_is_no_section_is_told_to_be_one(tmp_path: Path) -> None:
    text = SMALLEST.replace('[users]\nquery = "SELECT id FROM users"', 'users = "SELECT id FROM users"')
    assert problems(tmp_path, text) == [
        "mapping.toml, line 2: users should be a section, and is 'SELECT id FROM users'; "
        "write [users], and below it what belongs to it"
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[kinds.near]\nweights = { }", "weights is empty; name one at least, or leave it out where that is possible"),
        ("[kinds.near]\nweights = { newness = 0 }", "all weights are 0: nothing says which item comes first; give one"),
        ("[kinds.VMP]\nweights = { newness = 1 }", "VMP is the service's own word; name the kind otherwise"),
        ('[kinds.near]\nweights = { newness = 1 }\nitems = ["a b"]', "items: 'a b' is no name; a name begins with"),
        ('[numbers.length]\nitems.film = "length"\nedges = ["a"]', "edges should be a number, and is 'a'"),
        ('[feeds.home]\npattern = ["new"]\nsize = 2.5', "size should be a whole number, and is 2.5"),
        ("[users2]", "there is no key users2; did you mean users?"),
        ('[creators]\nids = "text"\nare_users = true', "are_users and ids exclude each other; remove ids"),
        ('[log]\ntable = "a b"\nevents = { who = "{user}" }', "table: 'a b' is no name; it begins with a letter or _"),
        ('[events.share]\nmeans = "glance"', "and is 'glance'; which of the service's own events it is"),
    ],
)
def test_one_fault_is_told_once_in_words_of_the_file(tmp_path: Path, wrong: str, said: str) -> None:
    """And not as the library that checks it speaks."""
    [problem] = problems(tmp_path, f"{SMALLEST}{wrong}\n")
    assert said in problem


def test_a_missing_file_says_what_names_it_and_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"MAPPING_FILE names it; `recs source init` writes one"):
        load_mapping(tmp_path / "mapping.toml")


def test_what_excludes_or_needs_each_other_is_told(tmp_path: Path) -> None:
    text = (
        SMALLEST
        + """
[vocabularies.tag]
items.film = { column = "tags", query = "SELECT 1" }
[numbers.tag]
items.film = "length"
edges = [3, 2]
[links.follows]
query = "SELECT 1"
to = "creators"
days = 3
[kinds.near]
weights = { friends = 1 }
items = ["series"]
[log]
table = "activity"
events = { who = "{usr}" }
"""
    )
    said = [problem.split(": ", 1)[1] for problem in problems(tmp_path, text)]
    assert said == [
        "column and query exclude each other; remove one of them",
        "a vocabulary is called tag as well; name one of them otherwise",
        "edges must ascend; write [2.0, 3.0]",
        "no item has a creator; add creator to an item type, the column of its creator's id",
        "days needs to know since when; add time, the column of since when",
        "there is no item type series; item types are film",
        "there is no {usr}; did you mean user?",
    ]


def test_fields_that_answers_have_anyway_are_refused(tmp_path: Path) -> None:
    """Else the operator's values would stand in the place of what says which item it is."""
    text = SMALLEST.replace('"SELECT id FROM films"', '"SELECT id FROM films"\nfields = ["title", "id", "type", "why"]')
    assert problems(tmp_path, text) == [
        f"mapping.toml, line 6 [items.film]: {name} is the service's own word; {why}: leave it out, or select another "
        "value as another name"
        for name, why in (
            ("id", "answers have it anyway"),
            ("type", "answers have it anyway"),
            ("why", "it is what `explain` adds"),
        )
    ]


def test_the_editors_schema_is_that_of_the_format() -> None:
    assert SHIPPED.read_text("utf-8") == schema_text(), "run `recs source schema > " + str(SHIPPED) + "`"
    assert json.loads(schema_text())["additionalProperties"] is False


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ("", ("unused_0", "unused_1", "unused_2", "unused_3")),
        ("abc", ("a", "b", "c", "unused_3")),
        ("abcd", ("a", "b", "c", "d")),
        ("abcde", ("a", "b", "c", "others")),
    ],
)
def test_terms_are_called_by_their_vocabulary(tmp_path: Path, more: str, kinds: tuple[str, ...]) -> None:
    """The last kind is shared where there are more, and its terms say which they are of."""
    said = [f'[numbers.{name}]\nitems.film = "{name}"' for name in more]
    assert kinds_of_terms(load(tmp_path, "\n".join([SMALLEST, *said]))) == kinds


def test_an_event_means_one_of_the_services_own() -> None:
    assert get_args(EventMeaning) == EVENT_NAMES
