"""The pages of the examples: what they have a newcomer type does what they say."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import NullPool, create_engine
from typer.testing import CliRunner

from examples.world import run
from recommendation_service import cli
from recommendation_service.core.config import Settings
from tests.end_to_end.in_process import logs_left_alone, make_app, served
from tests.end_to_end.service import PATIENCE_SECONDS
from tests.integration.test_mapped_feeds import built_and_published
from tests.servers import wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("jobs", "music", "blog")


def blocks(example: str) -> list[list[list[str]]]:
    """Commands of each block of shell, in words."""
    text = (EXAMPLES / example / "README.md").read_text("utf-8")
    found = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return [[shlex.split(line, comments=True) for line in block.splitlines()] for block in found]


@pytest.mark.parametrize("example", NAMES)
def test_a_page_begins_with_five_lines_that_name_what_is_there(example: str) -> None:
    setup, load, export, check, serve = blocks(example)[0]
    told = dict(one.split("=", 1) for one in export[1:])

    assert setup == ["make", "setup"]
    assert load[1:] == ["-m", f"examples.{example}", told["DATABASE_URL"]]
    assert told["MAPPING_FILE"] == f"examples/{example}/mapping.toml"
    assert (check[1:], serve[1:]) == (["source", "check"], ["serve"])


@pytest.mark.parametrize("example", NAMES)
def test_every_request_of_a_page_is_answered_with_items_and_what_was_done_is_in_the_database(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{tmp_path / 'it.sqlite'}"
    module = importlib.import_module(f"examples.{example}.__main__")
    assert run(example, module.METADATA, module.make, [address]) == 0
    mapping = EXAMPLES / example / "mapping.toml"
    settings = Settings(data_dir=tmp_path / "data", database_url=address, mapping_file=mapping, catalog_refresher=False)
    built_and_published(settings)
    send, *commands = blocks(example)[2]
    options = {"database_url": address, "mapping_file": mapping, "event_flusher": False, "seen_megabytes": 16}
    answers: list[dict[str, Any]] = []
    with logs_left_alone(), served(make_app(settings.data_dir, **options)) as client:
        assert wait_until(lambda: client.get("/ready").status_code == 200, PATIENCE_SECONDS)
        for curl, silent, asked, *more in blocks(example)[1]:
            assert (curl, silent) == ("curl", "-s")
            parts = urlsplit(f"http://{asked}")
            target = f"{parts.path}?{parts.query}"
            if more:
                assert more[:3] == ["-H", "Content-Type: application/json", "-d"]
                answer = client.post(target, content=more[3], headers={"Content-Type": "application/json"})
            else:
                answer = client.get(target)
            assert answer.status_code == 200, f"{target}: {answer.text}"
            answers.append(answer.json())
        sent = client.post(
            urlsplit(f"http://{send[2]}").path, content=send[6], headers={"Content-Type": "application/json"}
        )
        title = client.get("/openapi.json").json()["info"]["description"]

    assert (sent.status_code, sent.json()["body"]["accepted"]) == (202, 1), sent.text
    for name, value in {"DATA_DIR": settings.data_dir, "DATABASE_URL": address, "MAPPING_FILE": mapping}.items():
        monkeypatch.setenv(name, str(value))
    for program, *arguments in commands:
        assert program == ".venv/bin/recs"
        assert (done := CliRunner().invoke(cli.app, arguments)).exit_code == 0, done.output
    with create_engine(address, poolclass=NullPool).connect() as connection:
        [event] = connection.exec_driver_sql("SELECT event FROM recs_events WHERE event <> 'feed'").scalars()
    assert event == json.loads(send[6])["event"]
    assert all(len(answer["ids"]) >= 3 for answer in answers)
    if example == "blog":
        types = [item["type"] for item in answers[0]["items"]]
        assert types == ["article", "article", "article", "product"] * 2
        assert {item["type"] for item in answers[3]["items"]} == {"product"}
        assert title == "Personal, diverse feeds: front_page; of article, product."
