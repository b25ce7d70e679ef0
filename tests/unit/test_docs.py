"""The documentation cannot fall behind: what it lists is compared with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
import typer
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine

from recommendation_service import cli
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.demo.schema import metadata
from recommendation_service.mappings.interacpedia.source import Source
from recommendation_service.mappings.interacpedia.statements import FOLDER
from recommendation_service.mappings.settings import OperatorSettings
from recommendation_service.model.columns import COLUMNS
from recommendation_service.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "recommendation_service"
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def rows(page: Path) -> Iterator[list[str]]:
    """Cells of every table row of a page, without heads and rules."""
    yield from rows_of(page.read_text("utf-8"))


def rows_of(text: str) -> Iterator[list[str]]:
    """The same of a part of a page."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def section(page: Path, heading: str) -> str:
    """What stands under a heading, to the next one of its rank or above."""
    rank = heading.index(" ")
    text = page.read_text("utf-8").split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{rank}}} ", text, maxsplit=1, flags=re.M)[0]


def code_in(cell: str) -> str | None:
    """What stands in back quotes at a cell's beginning."""
    match = re.match(r"`([^`]+)`", cell)
    return match[1] if match else None


# Settings.


def documented_settings() -> dict[str, list[str]]:
    return {code_in(row[0]) or row[0]: row[1:] for row in rows(DOCS / "settings.md") if len(row) == 5}


def shown_default(name: str) -> str:
    default = Settings.model_fields[name].default
    if default is None or default == ():
        return "unset"
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`" if default.get_secret_value() else "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return f"`{default}`"


def limits(name: str) -> list[str]:
    """Words that the rule of a setting must hold: its bounds, or its choices."""
    field = Settings.model_fields[name]
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if annotation is bool:
        return ["true", "false"]
    words = []
    for entry in field.metadata:
        if isinstance(entry, annotated_types.Ge):
            words.append(str(entry.ge))
        if isinstance(entry, annotated_types.Le):
            words.append(str(entry.le))
    return words


def test_every_setting_is_documented_in_the_order_of_the_code_and_no_other() -> None:
    apart = OperatorSettings.model_fields
    names = [*(name for name in Settings.model_fields if name not in apart), *apart]
    assert list(documented_settings()) == [name.upper() for name in names]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_settings_row_says_its_default_unit_and_limits(name: str) -> None:
    meaning, default, unit, rule = documented_settings()[name.upper()]
    extra = Settings.model_fields[name].json_schema_extra
    assert meaning
    assert default == shown_default(name)
    assert unit == (extra.get("unit", "") if isinstance(extra, dict) else "")
    assert [word for word in limits(name) if not re.search(rf"\b{word}\b", rule)] == []


def test_settings_are_grouped_as_in_the_code() -> None:
    source = (PACKAGE / "core" / "config.py").read_text("utf-8")
    heading_or_field = re.compile(r"^    # (?P<heading>[A-Z].*)\.$|^    (?P<field>[a-z0-9_]+): .*\bField\(", re.M)
    in_code = [match["heading"] or match["field"].upper() for match in heading_or_field.finditer(source)]
    in_page = []
    for line in (DOCS / "settings.md").read_text("utf-8").splitlines():
        if line.startswith("## "):
            in_page.append(line.removeprefix("## "))
        elif line.startswith("| `") and line.count("|") == 6:
            in_page.append(str(code_in(line[2:])))
    assert in_page[: len(in_code)] == in_code


# Metrics.


def declared_metrics() -> set[str]:
    """As Prometheus sees them: a counter's name ends with _total."""
    names = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    tree = ast.parse((PACKAGE / "serving" / "condition.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"recs_\w+", node.value):
            names.add(node.value)
    return names


def test_every_metric_is_documented_and_no_other() -> None:
    documented = {code_in(row[0]) for row in rows(DOCS / "metrics.md")}
    assert documented == declared_metrics()


# The catalog's columns, and those of a source.


def test_the_catalogs_columns_are_those_of_the_layout() -> None:
    page = section(DOCS / "architecture.md", "### Catalog layout")
    listed = [name for row in rows_of(page) for name in re.findall(r"`(\w+)`", row[0])]
    assert listed == list(COLUMNS)


@pytest.fixture(scope="module")
def empty_source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The operator's tables without a row."""
    path = tmp_path_factory.mktemp("source") / "empty.sqlite"
    metadata.create_all(create_engine(f"sqlite:///{path}", poolclass=NullPool))
    settings = Settings(database_url=SecretStr(f"sqlite:///{path}"))
    return Source(make_engine(settings), settings)


def test_a_sources_files_and_columns_are_documented(empty_source: Source) -> None:
    page = section(DOCS / "architecture.md", "## Another operator's schema")
    listed: dict[str, list[str]] = {}
    for file, columns in rows_of(page):
        same = listed["interactions_ratings.sql"] if columns.startswith("the same") else []
        listed[str(code_in(file))] = same + re.findall(r"`(\w+)`", columns)
    found = {}
    with empty_source.snapshot(datetime.now(UTC)) as snapshot:
        snapshot.parameters |= {"user_id": 1, "most": 1, "after": 0, "item_id": 1}
        for path in FOLDER.glob("*.sql"):
            found[path.name] = list(snapshot.read(path.stem).columns)
        parameters = set(snapshot.parameters)
    del found["changes.sql"], listed["changes.sql"]
    assert {name: sorted(columns) for name, columns in listed.items()} == {
        name: sorted(columns) for name, columns in found.items()
    }
    assert set(re.findall(r"`:(\w+)`", page)) == parameters


# Commands.


def commands(command: Any, path: str = "recs") -> Iterator[str]:
    """Paths of all commands, and of groups that do something by themselves."""
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield path
    for name, child in (children or {}).items():
        yield from commands(child, f"{path} {name}")


def test_every_command_is_documented_and_no_other() -> None:
    listed = {code for row in rows(DOCS / "commands.md") if (code := code_in(row[0])) and code.startswith("recs ")}
    names = {" ".join(word for word in code.split() if word.islower()) for code in listed}
    assert names == set(commands(typer.main.get_command(cli.app)))


# Links.


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        there = target.exists() and ROOT in [target, *target.parents]
        if not there or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


# Decisions.


def test_every_decision_is_listed_under_its_number_and_title() -> None:
    listed = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+) \|$", (DOCS / "decisions" / "README.md").read_text(), re.M)
    titles = [path.read_text("utf-8").splitlines()[0] for path in DECISIONS]
    assert [name for _, name, _ in listed] == [path.name for path in DECISIONS]
    assert [f"# {number} {title}" for number, _, title in listed] == titles
    assert all(name.startswith(f"{number}-") for number, name, _ in listed)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_its_context_consequences_and_what_was_considered(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text("utf-8"), re.M)
    assert headings == ["Context", "Decision", "Consequences", "Considered"]


# The rooms.


# Ruff puts each at the beginning of a line; to parse and walk through all files would take 20 times as long.
IMPORT = re.compile(r"^ *(?:from ([\w.]+) import\b|import (\w[\w. ,]*))", re.MULTILINE)


def imports(path: Path) -> Iterator[str]:
    """Modules of the package, by their names within it, and those of the root's api/."""
    for module, modules in IMPORT.findall(path.read_text("utf-8")):
        names = [module] if module else [name.split()[0] for name in modules.split(",")]
        for name in names:
            if name.startswith("recommendation_service."):
                yield name.removeprefix("recommendation_service.")
            elif name.split(".")[0] == "api":
                yield f"root's {name}"


def rooms() -> dict[str, tuple[str, ...] | None]:
    """Folders and files of the package, and what the architecture lets them import; None: anything."""
    may_import: dict[str, tuple[str, ...] | None] = {}
    for cells in rows_of(section(DOCS / "architecture.md", "## Rooms")):
        name, link = re.findall(r"^\[([\w/.]+)\]\(([^)]+)\)", cells[0])[0]
        names = tuple(re.findall(r"`([\w.]+)`", cells[2]))
        assert names or cells[2] in ("nothing", "anything", "no code"), f"{name}: {cells[2]}"
        if (DOCS / link).resolve().is_relative_to(PACKAGE):
            may_import[name.rstrip("/")] = None if cells[2] == "anything" else names
    return may_import


@pytest.mark.parametrize(("room", "may_import"), rooms().items(), ids=list(rooms()))
def test_a_room_imports_only_what_the_architecture_says(room: str, may_import: tuple[str, ...] | None) -> None:
    place = PACKAGE / room
    assert place.exists()
    allowed = (room, *may_import) if may_import is not None else ("",)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])
        for name in imports(path)
        if not any(name == prefix or name.startswith(f"{prefix}.".lstrip(".")) for prefix in allowed)
    ]
    assert wrong == []


def test_every_room_is_in_the_architecture() -> None:
    listed = {cell for row in rows(DOCS / "architecture.md") for cell in re.findall(r"^\[(\w+)/\]", row[0])}
    # A room that was moved leaves a folder of bytecode behind where it had been imported.
    files = (path for path in PACKAGE.glob("*/**/*") if path.is_file() and "__pycache__" not in path.parts)
    folders = {path.relative_to(PACKAGE).parts[0] for path in files}
    assert folders == listed
