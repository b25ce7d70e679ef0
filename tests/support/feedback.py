"""The application with a folder of its own, for tests that send it feedback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recommendation_service import bootstrap
from recommendation_service.log.records import FeedbackRecord, Record, decode
from recommendation_service.log.segments import SUFFIX, scan
from recommendation_service.memory.user_memory import UserMemory
from recommendation_service.serving.seen_store import MachineStore
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import sum_of_samples
from tests.support.http_contract import ask, body_of


class Running:
    """The application, with a folder of its own."""

    def __init__(self, stores: list[MachineStore], client: httpx.Client, data_dir: Path) -> None:
        self.stores = stores
        self.client = client
        self.data_dir = data_dir

    def send(self, *events: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post("/api/feedback", json=events[0] if len(events) == 1 else events, headers=headers)

    def accept(self, *events: dict[str, Any]) -> dict[str, Any]:
        """The body of the answer, which must be 202."""
        return body_of(self.send(*events), 202)

    def feed(self, endpoint: str = "discover", **fields: Any) -> dict[str, Any]:
        return ask(self.client, endpoint, **fields)

    def shown(self, endpoint: str = "discover", **fields: Any) -> list[str]:
        return [str(item["id"]) for item in self.feed(endpoint, **fields)["items"]]

    def metric(self, name: str, **labels: str) -> float:
        return sum_of_samples(self.client.get("/metrics").text, name, **labels)

    @property
    def memory(self) -> UserMemory:
        """Of the worker that runs here."""
        [store] = self.stores
        memory = store.group.memory
        assert memory is not None
        return memory

    def recorded(self) -> list[FeedbackRecord]:
        return [record for record in records_in(self.data_dir) if isinstance(record, FeedbackRecord)]

    def recorded_as(self, event_id: str) -> FeedbackRecord:
        [record] = [record for record in self.recorded() if record.event_id == event_id]
        return record


def records_in(data_dir: Path) -> list[Record]:
    """Everything in the log, oldest first."""
    paths = sorted((data_dir / "events").glob(f"*{SUFFIX}"))
    return [decode(payload) for path in paths for payload in scan(path).payloads]


Start = Callable[..., Running]
USERS = iter(range(5_000_000, 6_000_000))  # whom no other test knows, and the catalog neither


def folder_with(data: Path, folder: Path) -> Path:
    """A DATA_DIR with that catalog, and nothing of other services."""
    (folder / "data").mkdir(parents=True)
    for name in ("interacpedia.sqlite", "catalogs"):
        (folder / "data" / name).symlink_to(data / name)
    return folder / "data"


@contextlib.contextmanager
def running(data_dir: Path, **settings: Any) -> Iterator[Running]:
    stores: list[MachineStore] = []

    class Noted(MachineStore):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            stores.append(self)

    with logs_left_alone(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MachineStore", Noted)
        with served(make_app(data_dir, event_flusher=False, **settings)) as client:
            yield Running(stores, client, data_dir)


def event(
    user: object, item_id: object, name: str = "view", item_type: str = "resume", **fields: Any
) -> dict[str, Any]:
    return {"event": name, "user_id": user, "item_type": item_type, "item_id": item_id, **fields}
