"""The operator's database for a benchmark: a private MariaDB with the demo in it and phase 1's indices."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL

from recommendation_service.core.config import load_settings
from recommendation_service.core.database import make_engine
from recommendation_service.demo import load_invented
from recommendation_service.doctor.queries import Examined, examine_query
from recommendation_service.mappings.interacpedia.schema import TARGETS_MILLISECONDS
from recommendation_service.mappings.interacpedia.source import Source
from tests.servers import PrivateMariaDB

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "interacpedia"


@contextmanager
def demo_database(folder: Path) -> Iterator[URL]:
    """At the sizes of the operator today; stopped and removed afterwards."""
    with PrivateMariaDB(folder / "mariadb") as server:
        server.execute(f"CREATE DATABASE {DATABASE}")
        url = server.url(DATABASE)
        engine = create_engine(url, poolclass=NullPool)
        load_invented(engine, replace=True)
        engine.dispose()
        create_indices(url)
        yield url


def create_indices(url: URL) -> None:
    """Run phase 1's script with the plain client, as the guide says."""
    client = shutil.which("mariadb") or shutil.which("mysql")
    if client is None:
        raise RuntimeError("neither mariadb nor mysql is installed: `make bench` installs the client")
    subprocess.run(
        [
            client,
            "--protocol=tcp",
            f"--host={url.host}",
            f"--port={url.port}",
            f"--user={url.username}",
            str(url.database),
        ],
        env={"MYSQL_PWD": str(url.password or "")},
        stdin=(ROOT / "migrations" / "phase1_create_indexes.sql").open("rb"),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def measure_queries(url: URL, folder: Path) -> list[Examined]:
    """Phase 1's proof as `recs doctor` gives it: the queries that have a target, each run several times and fetched."""
    settings = load_settings(database_url=url.render_as_string(hide_password=False), data_dir=folder)
    engine = make_engine(settings)
    try:
        return [examine_query(Source(engine, settings), query) for query in TARGETS_MILLISECONDS]
    finally:
        engine.dispose()
