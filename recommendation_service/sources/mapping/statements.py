"""An operator's query as text: its parameters, and what it must not hold, found before anything is sent.

A `:name` inside quotes is bound all the same by the database library: the server then gets a text with another meaning,
or asks for a value of that name. So it is refused here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recommendation_service.sources.mapping.problems import Problem, did_you_mean

PARAMETERS = ("now", "since")

# As SQLAlchemy's text() finds them.
_NAME = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
# PostgreSQL's other way to cast, which text() does not take for what follows a parameter: of :now it sees :no.
_CAST = re.compile(r":(\w+)::(\w+)")
_PARTS = r"""
    (?P<comment>--(?=\s|$)[^\n]*|/\*.*?\*/)
  | (?P<text>'(?:[^'{escape}]|''|{pair})*'|"(?:[^"{escape}]|""|{pair})*"|`(?:[^`]|``)*`)
"""
_WITH_ESCAPES = re.compile(_PARTS.format(escape=r"\\", pair=r"\\."), re.S | re.X)
_WITHOUT = re.compile(_PARTS.format(escape="", pair=r"(?!)"), re.S | re.X)
_WORD = re.compile(r"[A-Za-z]+")
_END = r"\b(?:GROUP|HAVING|WINDOW|ORDER|LIMIT|OFFSET|FETCH|FOR|UNION|EXCEPT|INTERSECT)\b"
_SELECTED = re.compile(
    rf"\bFROM\b(?P<tables>(?:(?!\bWHERE\b|{_END}).)*)(?P<condition>\bWHERE\b(?:(?!{_END}).)*)", re.I | re.S
)


@dataclass(frozen=True, slots=True)
class Statement:
    """``section``: whose query it is, dotted. ``line``: of ``file``, on which the text begins."""

    section: str
    text: str
    file: Path
    line: int
    is_escaped: bool = False  # it stands in a TOML text where a backslash is written twice

    def line_at(self, offset: int) -> int:
        return self.line + self.text.count("\n", 0, offset)

    def line_of(self, word: str) -> int:
        """Where a word stands first, outside of texts and comments; the statement's first line where it is nowhere."""
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", without_texts(self.text), re.I)
        return self.line_at(found.start() if found else 0)

    def problem(self, said: str, instead: str = "", *, line: int | None = None, column: str | None = None) -> Problem:
        return Problem(self.file, self.line if line is None else line, self.section, said, instead, column)

    @property
    def parameters(self) -> set[str]:
        return set(_NAME.findall(self.text))


def parts(sql: str) -> Iterator[re.Match[str]]:
    """Texts, quoted names and comments. A backslash escapes a quote, as in MySQL, unless then a text would not end."""
    pattern = _WITH_ESCAPES
    if re.search(r"['\"`]", pattern.sub("", sql)):
        pattern = _WITHOUT
    return pattern.finditer(sql)


def without_texts(sql: str) -> str:
    """As long as before, with blanks for texts in single quotes and for comments."""
    found = list(sql)
    for part in parts(sql):
        if part["comment"] or part[0].startswith("'"):
            found[part.start() : part.end()] = [" " if c != "\n" else c for c in part[0]]
    return "".join(found)


def without_conditions(sql: str) -> str:
    """The query without its WHERE: whatever its tables have. Where FROM lists several tables, which WHERE joins, and in
    what stands in parentheses, conditions stay."""
    bare = _outside(sql)
    kept, at = [], 0
    for found in _SELECTED.finditer(bare):
        if "," not in found["tables"]:
            kept.append(sql[at : found.start("condition")])
            at = found.end("condition")
    return "".join([*kept, sql[at:]])


def _outside(sql: str) -> str:
    """As long as before, with blanks for texts, quoted names, comments and what stands in parentheses."""
    found, depth = list(sql), 0
    for part in parts(sql):
        found[part.start() : part.end()] = " " * len(part[0])
    for place, character in enumerate(found):
        depth += (character == "(") - (character == ")")
        if depth > 0 or character == ")":
            found[place] = " "
    return "".join(found)


def read_statement(statement: Statement, *, has_since: bool) -> tuple[Statement, list[Problem]]:
    """Without a semicolon at its end, and what cannot be sent of it. ``has_since``: the section has a window."""
    sql = statement.text.rstrip().removesuffix(";").rstrip()
    statement = Statement(statement.section, sql, statement.file, statement.line, statement.is_escaped)
    problems = [*_names_in_texts(statement), *_parameters(statement, has_since)]
    bare = without_texts(sql)
    first = _WORD.search(bare)
    if first is None:
        return statement, [statement.problem("the query is empty", "write a SELECT")]
    if first[0].upper() not in {"SELECT", "WITH"}:
        line = statement.line_at(first.start())
        problems.append(
            statement.problem(
                f"a query begins with SELECT (or WITH), and not with {first[0]}",
                "for a table as it is write SELECT * FROM it",
                line=line,
            )
        )
    if ";" in bare:
        line = statement.line_at(bare.index(";"))
        problems.append(statement.problem("a query is one statement", "remove what follows the semicolon", line=line))
    return statement, problems


def _names_in_texts(statement: Statement) -> Iterator[Problem]:
    for part in parts(statement.text):
        for name in _NAME.finditer(part[0]):
            line = statement.line_at(part.start() + name.start())
            where = "a comment" if part["comment"] else "quotes"
            if part["comment"]:
                instead = "write it without the colon"
            elif name[1] in PARAMETERS:
                instead = f"write :{name[1]} outside of the quotes"
            else:
                backslash = "\\\\" if statement.is_escaped else "\\"
                instead = f"for the text itself write {backslash}:{name[1]}; a parameter stands outside of the quotes"
            yield statement.problem(f":{name[1]} within {where} would be taken for a parameter", instead, line=line)


def _parameters(statement: Statement, has_since: bool) -> Iterator[Problem]:
    inside = [part.span() for part in parts(statement.text)]
    for name in _NAME.finditer(statement.text):
        if any(begin <= name.start() < end for begin, end in inside):
            continue
        line = statement.line_at(name.start())
        if cast := _CAST.match(statement.text, name.start()):
            instead = f"write CAST(:{cast[1]} AS {cast[2]})"
            yield statement.problem(f":{cast[1]}:: is not taken for a parameter", instead, line=line)
        elif name[1] not in PARAMETERS:
            instead = did_you_mean(name[1], PARAMETERS, what="parameters are")
            yield statement.problem(f"there is no parameter :{name[1]}", instead, line=line)
        elif name[1] == "since" and not has_since:
            yield statement.problem(
                ":since needs to know since when", "add lives_days to items, or days to events and links", line=line
            )
