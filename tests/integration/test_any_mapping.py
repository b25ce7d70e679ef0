"""Whatever a mapping holds, it is read, or refused in words: at loading, by `recs source check`, at a build."""

from __future__ import annotations

import copy
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL

from recommendation_service.catalog.builder import build_catalog
from recommendation_service.core.config import Settings
from recommendation_service.core.database import make_engine
from recommendation_service.core.errors import ConfigurationError, SourceError
from recommendation_service.mappings.opening import open_source
from recommendation_service.onboarding.examination import check_mapping
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.sources.mapping.mapping import load_mapping
from tests.integration.test_source_check import EXAMPLES, fill

TRIES = 40
NAMES = ("nope", "a b", "é", 'a"b', "a`b", "a%b", ":x", "a:b", "id", "type", "q", "/nowhere.sql", "\0")
VALUES = (0, 1, -1, 1e-9, 1e6, 36_500, True, "", [], ["for_you"], {}, {"query": "SELECT 1"}, [[1]])
QUERIES = (
    "SELECT 1",
    "SELECT NULL AS id",
    "SELECT '' AS id, 1.5 AS user_id, 'x' AS item_id",
    "SELECT 10000000000000000000000 AS id",
    "SELECT CURRENT_TIMESTAMP AS id",
    "SELECT 1 / 0 AS id",
    "WITH a AS (SELECT 1 AS id) SELECT * FROM a",
)
ENDS = (
    " WHERE 1 = 0",
    " LIMIT 1",
    " -- x",
    " /* x",
    ")",
    " WHERE :now IS NULL",
    " %",
    " %s %(x)s",
    " WHERE '%' = '%'",
    ";",
)
COLUMNS = (r"SELECT \1, NULL AS extra FROM", r"SELECT \1, \1 FROM", "SELECT NULL FROM", r"SELECT 'x' AS id, \1 FROM")


def written(value: Any) -> str:
    """As TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def leaves(section: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield section, key


def another(draw: random.Random, value: Any, words: list[str], *, is_query: bool) -> Any:
    if is_query:
        changes: list[Callable[[], str]] = [
            lambda: value.replace(draw.choice(re.findall(r"\w+", value)), draw.choice(words), 1),
            lambda: value[: draw.randrange(len(value))],
            lambda: value + draw.choice(ENDS),
            lambda: f"SELECT * FROM ({value}) z",
            lambda: re.sub(r"SELECT (.*?) FROM", draw.choice(COLUMNS), value, count=1, flags=re.S),
            lambda: draw.choice(QUERIES),
            value.upper,
        ]
        return draw.choice(changes)()
    if isinstance(value, str) and draw.random() < 0.7:
        return draw.choice([draw.choice(words), value.upper(), draw.choice(NAMES)])
    return copy.deepcopy(draw.choice(VALUES))


@pytest.mark.parametrize(
    ("example", "backend"),
    [("jobs", "sqlite"), ("music", "sqlite"), ("blog", "sqlite"), ("music", "mariadb"), ("music", "postgresql")],
)
def test_what_is_wrong_with_a_mapping_is_told_and_never_a_traceback(
    request: pytest.FixtureRequest, tmp_path: Path, example: str, backend: str
) -> None:
    url: URL = request.getfixturevalue(f"{backend}_url")
    fill(example, url)
    content = tomllib.loads((EXAMPLES / example / "mapping.toml").read_text())
    words = sorted({word for section, key in leaves(content) for word in re.findall(r"\w+", str(section[key]))})
    file, draw = tmp_path / "mapping.toml", random.Random(f"{example} {backend}")
    shown = SecretStr(url.render_as_string(hide_password=False))
    settings = Settings(data_dir=tmp_path / "data", database_url=shown, mapping_file=file)
    engine = make_engine(settings)
    told = built = 0
    for _ in range(TRIES):
        changed = copy.deepcopy(content)
        for _ in range(draw.choice([1, 1, 2, 3])):
            section, key = draw.choice(list(leaves(changed)))
            is_query = key == "query" and isinstance(section[key], str) and len(section[key]) > 10
            section[key] = another(draw, section[key], words, is_query=is_query)
        file.write_text("\n".join(f"{json.dumps(key)} = {written(value)}" for key, value in changed.items()))
        try:
            check_mapping(load_mapping(file), engine, settings)
            source = open_source(settings, engine)
            source.fingerprint(datetime.now(UTC))
            build_catalog(source, settings, PolicyChoice(settings).policy)
            built += 1
        except (ConfigurationError, SourceError):
            told += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}, of\n{file.read_text()}") from error
    engine.dispose()
    assert min(told, built) > 0, (told, built)
