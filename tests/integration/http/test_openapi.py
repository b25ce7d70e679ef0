"""The running application against its own OpenAPI document, by schemathesis: what the document promises holds
for requests that it allows and for requests that it forbids, and no request at all is a failure of the service.

Its command is run, since its own way into pytest does not bear with this pytest; the command also tries the
document's examples and the edges of each rule, before it invents requests.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from recommendation_service.core.config import Settings
from tests.end_to_end.in_process import logs_left_alone, make_app, publish_catalog, served
from tests.end_to_end.service import ADMIN_TOKEN, PATIENCE_SECONDS, load_demo

KEY = "a-clients-key"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("http-openapi")
    load_demo(folder)
    publish_catalog(Settings(data_dir=folder / "data"))
    return folder / "data"


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    with logs_left_alone():
        yield


def try_out(client: httpx.Client, folder: Path, *options: str, examples: int = 80) -> None:
    """Fails with schemathesis's report where it finds anything."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{client.base_url}/openapi.json",
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={examples}",
            "--generation-deterministic",
            "--continue-on-failure",
            "--suppress-health-check=all",  # they judge the time that requests take
            "--no-color",
            *options,
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,  # most of a minute of processor time
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "25 selected / 25 total" in done.stdout, done.stdout


def test_the_document_holds(data_dir: Path, tmp_path: Path) -> None:
    with served(make_app(data_dir, admin_token=ADMIN_TOKEN, log_level="error")) as client:
        try_out(client, tmp_path, "--checks=all")


def test_the_document_holds_where_a_key_is_asked_for(data_dir: Path, tmp_path: Path) -> None:
    """That calls without a key, or with an invented one, are refused is among the checks. Examples are made from the
    document alone, so they are the first of those above: more of them would try nothing more."""
    app = make_app(data_dir, api_keys=(KEY,), admin_token=ADMIN_TOKEN, log_level="error")
    with served(app) as client:
        try_out(client, tmp_path, "--checks=all", "--header", f"Authorization: Bearer {KEY}", examples=20)


def test_the_document_holds_where_nothing_is_ready(tmp_path: Path) -> None:
    """Feeds are answered with 503, which is what the check left out would call a failure."""
    with served(make_app(tmp_path / "data", admin_token=ADMIN_TOKEN, log_level="error")) as client:
        try_out(client, tmp_path, "--checks=all", "--exclude-checks=not_a_server_error", examples=20)
