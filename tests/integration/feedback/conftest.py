"""What the tests of feedback share: the demo with a catalog of it, and services beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from tests.end_to_end.in_process import publish_catalog
from tests.end_to_end.service import load_demo
from tests.support.feedback import USERS, Running, Start, folder_with, running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo database and a catalog of it."""
    folder = tmp_path_factory.mktemp("feedback")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder / "data"


@pytest.fixture(scope="module")
def catalog(data: Path) -> Catalog:
    store = CatalogStore(data / "catalogs", keep=1)
    version = store.current()
    assert version is not None
    return store.open(version)


@pytest.fixture(scope="module")
def videos(catalog: Catalog) -> list[str]:
    return [str(number) for number in catalog.arrays.item_id[: catalog.arrays.worded]]


@pytest.fixture(scope="module")
def service(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that the tests of this file share: each has users of its own."""
    with running(folder_with(data, tmp_path_factory.mktemp("shared"))) as service:
        yield service


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts one with other settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(folder_with(data, tmp_path), **settings))


@pytest.fixture
def user() -> int:
    """Somebody whom no other test knows, and the catalog neither."""
    return next(USERS)
