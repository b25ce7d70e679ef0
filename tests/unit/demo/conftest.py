"""One small demo, loaded once, that the tests of this folder only read."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from recommendation_service.demo import LoadReport, load_invented

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SCALE = 0.02

Query = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def demo_now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def demo_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("demo") / "demo.sqlite"
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def demo_report(demo_engine: Engine) -> LoadReport:
    return load_invented(demo_engine, scale=SCALE, now=NOW)


@pytest.fixture(scope="session")
def demo(demo_engine: Engine, demo_report: LoadReport) -> Query:
    """Rows of a query on the small demo; named parameters, and `now` with its usual offsets."""

    def query(sql: str, **parameters: Any) -> list[Any]:
        with demo_engine.connect() as connection:
            return list(connection.execute(text(sql), parameters))

    return query


@pytest.fixture
def empty_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.sqlite'}", poolclass=NullPool)
    yield engine
    engine.dispose()
