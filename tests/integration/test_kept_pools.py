"""Pools that a running service keeps for its users: as many as there is room for, until they are forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from recommendation_service.catalog.store import CatalogStore
from recommendation_service.core.config import Settings
from recommendation_service.feed.compilation import compile_apart
from recommendation_service.ranking.kept_pools import USER_ROW, WHO, make_slots
from recommendation_service.serving import generation
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import PATIENCE_SECONDS, load_demo
from tests.servers import wait_until

TOKEN = "a token that only administrators know"
ADMINISTRATOR = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compile_apart(lambda *_: None)
    folder = tmp_path_factory.mktemp("kept_pools")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder


@pytest.mark.parametrize("megabytes", [2, 0])
def test_pools_are_kept_where_there_is_room_until_their_user_is_forgotten(
    folder: Path, megabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[npt.NDArray[np.int64]] = []

    def noted(size: int) -> npt.NDArray[np.int64]:
        made.append(make_slots(size))
        return made[-1]

    monkeypatch.setattr(generation, "make_slots", noted)
    store = CatalogStore(folder / "data" / "catalogs", 3)
    arrays = store.open(str(store.current())).arrays
    users = arrays.user_id[np.diff(arrays.history_offsets) > 0][:6].tolist()
    with logs_left_alone():
        app = make_app(folder / "data", event_flusher=False, admin_token=TOKEN, kept_pools_megabytes=megabytes)
        with served(app) as client:
            assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
            for user in (*users, *users):
                assert client.post("/api/search/total", json={"SELF_ID": user, "N_VIDEOS": 24}).status_code == 200
            [slots] = made
            before = slots[slots[:, WHO] != 0][:, USER_ROW].tolist()
            for user in users:
                assert client.delete(f"/api/users/{user}", headers=ADMINISTRATOR).status_code == 200
    assert len(slots) == megabytes * 512
    assert len(set(before)) == (6 if megabytes else 0)
    assert not slots.any()
