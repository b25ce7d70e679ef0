"""The Dockerfile: hadolint passes it, and what its lines run is run here as far as it can be without Docker."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from recommendation_service.core.config import Settings
from tests.support.dockerfile import (
    BUILD,
    DOCKERFILE,
    FINAL,
    PYTHON,
    ROOT,
    commands,
    environment,
    instructions,
    is_ignored,
    tracked_files,
)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    assert program.exists(), "hadolint is not installed: `make setup`"
    return subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)


def test_hadolint_passes_it() -> None:
    done = hadolint(DOCKERFILE)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert "hadolint ignore" not in DOCKERFILE


@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("python:3.11-slim-bookworm", "python:latest", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("WORKDIR /app", "WORKDIR app", "DL3000"),
    ],
)
def test_hadolint_refuses_what_it_should(good: str, bad: str, rule: str) -> None:
    done = hadolint(DOCKERFILE.replace(good, bad))
    assert done.returncode == 1
    assert rule in done.stdout


def test_both_stages_have_the_same_python() -> None:
    """The environment of the first one names the interpreter of the second."""
    [first, second] = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert first == second == "python:3.11-slim-bookworm"


def test_dependencies_are_locked_with_hashes() -> None:
    [install] = [command for command in commands(BUILD) if "pip" in command]
    assert {"--require-hashes", "--only-binary=:all:"} <= set(install)
    assert install[install.index("--requirement") + 1] == "requirements.lock"


def copied(stage: list[tuple[str, str]]) -> list[str]:
    """What a stage takes from the repository."""
    return [rest.split()[0] for word, rest in stage if word == "COPY" and not rest.startswith("--from")]


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    sources = copied(BUILD)
    assert copied(FINAL) == []
    for source in sources:
        assert (ROOT / source).exists(), source
    sent = [path for path in tracked_files() if not is_ignored(path)]
    assert [path for path in sent if not any(path == source or path.startswith(source) for source in sources)] == []
    for needed in (
        "recommendation_service/py.typed",
        "recommendation_service/mappings/interacpedia/starting.toml",
        "api/server.py",
    ):
        assert needed in sent
    assert is_ignored(".env")
    assert is_ignored("recommendation_service/api/__pycache__/assets.cpython-311.pyc")


def test_the_service_is_an_ordinary_user_who_cannot_change_its_code() -> None:
    assert [rest for word, rest in FINAL if word == "USER"] == ["10001:10001"]
    copies = [rest for word, rest in FINAL if word == "COPY"]
    assert "--from=build /app /app" in copies, "root's: no --chown"


def test_its_settings_are_settings_and_no_secret_is_among_them() -> None:
    own = {name.lower() for name in environment(FINAL)} & set(Settings.model_fields)
    assert own == {"data_dir", "gunicorn_bind", "gunicorn_workers"}
    values = {name.lower(): value for name, value in environment(FINAL).items() if name.lower() in own}
    settings = Settings(**values)  # type: ignore[arg-type]
    assert [rest for word, rest in FINAL if word == "EXPOSE"] == [settings.gunicorn_bind.rpartition(":")[2]]


def test_it_starts_as_the_runbooks_say() -> None:
    [command] = commands(FINAL, "CMD")
    assert command[0] == PYTHON
    assert " ".join(command[2:]) == "gunicorn -c gunicorn.conf.py api.server:app"


class _Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def health_check(port: int) -> int:
    [check] = [rest for word, rest in FINAL if word == "HEALTHCHECK"]
    command = json.loads(check[check.index("CMD") + 3 :])
    assert command[0] == PYTHON
    assert command[-1].count("5005") == 1
    program = command[-1].replace("5005", str(port))
    return subprocess.run([sys.executable, *command[1:-1], program], capture_output=True, check=False).returncode


def test_the_health_check_asks_health() -> None:
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert health_check(port) == 0
        _Answer.status = 500
        assert health_check(port) != 0
        server.shutdown()
    assert health_check(port) != 0, "nobody listens"


def test_the_stages_agree_on_the_kernels() -> None:
    """Machine code is found again only for the same processor, from the same sources, in the same place."""
    for name in ("NUMBA_CPU_NAME", "NUMBA_CACHE_DIR"):
        assert environment(BUILD)[name] == environment(FINAL)[name]
    assert environment(BUILD)["NUMBA_CPU_NAME"] == "generic"
    copies = [rest.split() for word, rest in FINAL if word == "COPY"]
    folder = environment(FINAL)["NUMBA_CACHE_DIR"]
    assert ["--from=build", "--chown=10001:10001", folder, folder] in copies
