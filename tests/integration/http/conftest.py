"""The real application over a real socket with a real catalog, once for all tests of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.feed.compilation import compile_apart, kernels_are_compiled
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import load_demo
from tests.support.http_contract import MEDIA, MakeClient


@pytest.fixture(scope="package", autouse=True)
def compiled_ranking() -> None:
    """Until it is, feeds are 503: after an edit of a kernel, where these tests come first."""
    compile_apart(lambda *_: None)
    assert kernels_are_compiled()


@pytest.fixture(scope="package")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the demo database and a catalog of it."""
    folder = tmp_path_factory.mktemp("http-contract")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data", media_base_url=MEDIA))
    return folder / "data"


@pytest.fixture(scope="package")
def catalog(data_dir: Path) -> Catalog:
    store = CatalogStore(data_dir / "catalogs", keep=1)
    version = store.current()
    assert version is not None
    return store.open(version)


@pytest.fixture(scope="package")
def make_client(data_dir: Path) -> Iterator[MakeClient]:
    """Starts the application with these settings, once for each, and gives a client of it."""
    clients: dict[str, httpx.Client] = {}
    with logs_left_alone(), ExitStack() as stack:

        def make(**settings: Any) -> httpx.Client:
            key = repr(sorted(settings.items()))
            if key not in clients:
                clients[key] = stack.enter_context(served(make_app(data_dir, **settings)))
            return clients[key]

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> httpx.Client:
    return make_client()


@pytest.fixture
def user(catalog: Catalog) -> int:
    """Somebody with a history."""
    histories = np.diff(catalog.arrays.history_offsets)
    return int(catalog.arrays.user_id[int(np.argmax(histories))])


@pytest.fixture
def video_ids(catalog: Catalog) -> set[str]:
    return {str(number) for number in catalog.arrays.item_id[: catalog.arrays.worded]}


@pytest.fixture
def challenge_ids(catalog: Catalog) -> set[str]:
    return {str(number) for number in catalog.arrays.item_id[catalog.arrays.worded :]}
