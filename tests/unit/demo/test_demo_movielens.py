"""The mapping of MovieLens, on a handmade wheel of the same format; no network."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from recommendation_service.demo import DemoError, load_movielens
from recommendation_service.demo.schema import RESUME_MODEL
from recommendation_service.demo.wheel import LICENCE_PATH, WHEEL_NAME, fetch_wheel

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
FOLDER = "recbole/dataset_example/ml-100k"
INTERACTIONS = """user_id:token\titem_id:token\trating:float\ttimestamp:float
196\t1\t3\t881250949
196\t2\t5\t881250959
22\t1\t4\t881337349
"""
ITEMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tToy Story\t1995\tAnimation Children's Comedy
2\tPostman, The\t1997\tFilm-Noir
267\tunkonwn\tunkonwn\tunknown
"""
USERS = """user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token
22\t25\tM\twriter\t40206
196\t49\tM\ttechnician\t55105
"""

Load = Callable[..., Any]


def write_wheel(folder: Path, **parts: str) -> str:
    """A wheel with the same inside paths; the hash that it has."""
    contents = {"inter": INTERACTIONS, "item": ITEMS, "user": USERS} | parts
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as archive:
        for part, content in contents.items():
            archive.writestr(f"{FOLDER}/ml-100k.{part}", content)
        archive.writestr(LICENCE_PATH, "MIT License\n\nCopyright (c) 2020 RUCAIBox\n\nPermission is …\n")
    return hashlib.sha256((folder / WHEEL_NAME).read_bytes()).hexdigest()


@pytest.fixture
def films(empty_engine: Engine, tmp_path: Path) -> Callable[[str], list[Any]]:
    sha256 = write_wheel(tmp_path)
    load_movielens(empty_engine, wheel_folder=tmp_path, now=NOW, sha256=sha256)

    def query(sql: str) -> list[Any]:
        with empty_engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    return query


def test_films_are_resumes_and_genres_are_skills(films: Callable[[str], list[Any]]) -> None:
    assert films("SELECT id, user_id, skills, description, status FROM resumes ORDER BY id") == [
        (1, 100_001, '["Animation", "Children\'s", "Comedy"]', "Toy Story (1995)", "send"),
        (2, 100_002, '["Film-Noir"]', "Postman, The (1997)", "send"),
        (267, 100_267, "[]", "unkonwn", "send"),
    ]
    assert len(set(films("SELECT video FROM resumes WHERE video IS NOT NULL"))) == 3


def test_times_are_shifted_so_that_the_last_rating_is_now(films: Callable[[str], list[Any]]) -> None:
    assert films("SELECT user_id, model_id, created_at FROM team_feedbacks ORDER BY id") == [
        (196, 1, "2026-11-23 12:00:00"),
        (196, 2, "2026-11-23 12:00:10"),
        (22, 1, "2026-11-24 12:00:00"),
    ]


def test_a_film_is_there_from_its_first_rating_on(films: Callable[[str], list[Any]]) -> None:
    assert films("SELECT id, created_at FROM resumes ORDER BY id") == [
        (1, "2026-11-23 12:00:00"),
        (2, "2026-11-23 12:00:10"),
        (267, "2026-11-23 12:00:00"),  # nobody rated it: from the log's start
    ]


def test_ratings_are_views_and_the_good_ones_saves(films: Callable[[str], list[Any]]) -> None:
    assert films("SELECT user_id, model_id, type, value FROM team_feedbacks ORDER BY id") == [
        (196, 1, "ranking_resume", 3),
        (196, 2, "ranking_resume", 5),
        (22, 1, "ranking_resume", 4),
    ]
    assert films("SELECT user_id, model_id, type FROM likes ORDER BY id") == [
        (196, 2, "save"),
        (22, 1, "save"),
    ]
    assert films("SELECT user_id, model_id, model_type FROM views ORDER BY id") == [
        (196, 1, RESUME_MODEL),
        (196, 2, RESUME_MODEL),
        (22, 1, RESUME_MODEL),
    ]


def test_people_keep_their_ids_and_films_have_creators_of_their_own(
    films: Callable[[str], list[Any]],
) -> None:
    assert films("SELECT id, name, created_at, updated_at FROM users ORDER BY id") == [
        (22, "Viewer 22", "2026-11-24 12:00:00", "2026-11-24 12:00:00"),
        (196, "Viewer 196", "2026-11-23 12:00:00", "2026-11-23 12:00:10"),
        (100_001, "Toy Story", "2026-11-23 12:00:00", "2026-11-23 12:00:00"),
        (100_002, "Postman, The", "2026-11-23 12:00:10", "2026-11-23 12:00:10"),
        (100_267, "unkonwn", "2026-11-23 12:00:00", "2026-11-23 12:00:00"),
    ]
    assert films("SELECT user_id, opencall_objective, skills FROM profiles ORDER BY user_id") == [
        (22, '["writer"]', "[]"),
        (196, '["technician"]', "[]"),
    ]


def test_nothing_is_invented_for_what_the_log_does_not_have(films: Callable[[str], list[Any]]) -> None:
    for table in ("challenges", "matches", "user_connections", "resumes_exhibited", "activity_log"):
        assert films(f"SELECT COUNT(*) FROM {table}") == [(0,)]


def test_the_licences_are_announced_before_anything_is_written(empty_engine: Engine, tmp_path: Path) -> None:
    sha256 = write_wheel(tmp_path)
    announced: list[str] = []

    report = load_movielens(empty_engine, wheel_folder=tmp_path, now=NOW, sha256=sha256, announce=announced.append)

    assert announced == [report.notice]
    assert "MIT License" in report.notice
    assert "GroupLens" in report.notice
    assert "Harper" in report.notice


def test_a_wheel_with_another_hash_is_refused(empty_engine: Engine, tmp_path: Path) -> None:
    write_wheel(tmp_path)

    with pytest.raises(DemoError, match="SHA-256"):
        load_movielens(empty_engine, wheel_folder=tmp_path, now=NOW)


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("inter", INTERACTIONS.splitlines()[0], "no ratings"),
        ("inter", INTERACTIONS + "1\t2\n", "line 5 of ml-100k.inter"),
        ("item", ITEMS.replace("item_id", "film"), "item_id"),
        ("user", USERS.replace("196", "many"), "many"),
    ],
)
def test_a_wheel_with_other_contents_is_refused(
    empty_engine: Engine, tmp_path: Path, part: str, content: str, said: str
) -> None:
    sha256 = write_wheel(tmp_path, **{part: content})

    with pytest.raises(DemoError, match=said):
        load_movielens(empty_engine, wheel_folder=tmp_path, now=NOW, sha256=sha256)


def test_a_file_that_is_no_wheel_is_refused(empty_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / WHEEL_NAME).write_bytes(b"no zip")
    sha256 = hashlib.sha256(b"no zip").hexdigest()

    with pytest.raises(DemoError, match="no readable"):
        load_movielens(empty_engine, wheel_folder=tmp_path, now=NOW, sha256=sha256)


class FakePip:
    """Stands for pip: keeps the command, and does what a test wants it to."""

    def __init__(self, status: int, stderr: str = "", write: Callable[[], object] = lambda: None) -> None:
        self.status, self.stderr, self.write, self.commands = status, stderr, write, [[""]]

    def __call__(self, command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        self.commands.append(command)
        self.write()
        return subprocess.CompletedProcess(command, self.status, "", self.stderr)


def test_the_wheel_is_downloaded_once_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256, folder = write_wheel(tmp_path), tmp_path / "cache" / "wheels"
    content = (tmp_path / WHEEL_NAME).read_bytes()
    pip = FakePip(0, write=lambda: (folder / WHEEL_NAME).write_bytes(content))
    monkeypatch.setattr(subprocess, "run", pip)

    wheel = fetch_wheel(folder, sha256=sha256)

    assert fetch_wheel(folder, sha256=sha256) == wheel
    (command,) = pip.commands[1:]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "recbole==1.2.1"} <= set(command)


def test_a_failed_download_says_what_pip_said_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip(1, stderr="warning\nERROR: no network\n"))

    with pytest.raises(DemoError, match=r"ERROR: no network .*put recbole-1\.2\.1"):
        fetch_wheel(tmp_path)
