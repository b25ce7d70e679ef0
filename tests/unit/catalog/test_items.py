"""Items as clients get them: fields and types that today's clients read, and what stands in for what is absent."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from tests.unit.sources.operator_database import OperatorDatabase, ago

RESUME_FIELDS: dict[str, type] = {
    "type": str,
    "id": int,
    "name": str,
    "slug": str,
    "description": str,
    "video": str,
    "image": str,
    "user_id": int,
    "user_name": str,
    "user_slug": str,
    "avatar": str,
    "main_objective": str,
    "type_audience": str,
    "type_audiences": list,
    "interest_areas": list,
    "role_objectives": list,
    "connected": str,
}
CHALLENGE_FIELDS: dict[str, type] = {
    "type": str,
    "id": int,
    "name": str,
    "slug": str,
    "description": str,
    "video_url": str,
    "image": str,
    "user_id": int,
    "user_name": str,
    "user_slug": str,
    "user_avatar": str,
    "talent_type": str,
    "interest_areas": list,
    "type_objectives": list,
    "top": bool,
    "created_at": str,
    "updated_at": str,
}


@pytest.fixture
def database(sqlite_url: URL, tmp_path: Path) -> OperatorDatabase:
    return OperatorDatabase(sqlite_url, tmp_path)


def types(item: dict[str, Any]) -> dict[str, type]:
    return {field: type(value) for field, value in item.items()}


def test_a_resume_item_is_as_http_md_says(database: OperatorDatabase) -> None:
    creator = database.add("users", name=" Ana María Núñez ")
    video = database.add(
        "resumes",
        user_id=creator,
        video=" https://v/1.mp4 ",
        image="https://i/1.jpg",
        description="Canto y bailo.\n",
        role_objectives='["Cantante", "Actriz"]',
        skills='["Canto"]',
    )

    item = database.build().video(video)

    assert types(item) == RESUME_FIELDS
    assert item == {
        "type": "resume",
        "id": video,
        "name": "Ana María Núñez",
        "slug": f"ana-maria-nunez-{video}",
        "description": "Canto y bailo.\n",
        "video": "https://v/1.mp4",
        "image": "https://i/1.jpg",
        "user_id": creator,
        "user_name": "Ana María Núñez",
        "user_slug": "ana-maria-nunez",
        "avatar": f"https://media.interacpedia.com/users/{creator}/avatar-100.png",
        "main_objective": "be_discovered",
        "type_audience": "innovators",
        "type_audiences": ["innovators"],
        "interest_areas": [],
        "role_objectives": ["Cantante", "Actriz"],
        "connected": "",
    }


def test_a_resume_item_with_nothing_in_it_has_every_field(database: OperatorDatabase) -> None:
    creator = database.add("users", name=None, city=None, country=None)
    video = database.add("resumes", user_id=creator, video="v.mp4")

    item = database.build().video(video)

    assert types(item) == RESUME_FIELDS
    assert (item["name"], item["user_name"], item["user_slug"], item["description"]) == ("", "", "", "")
    assert item["slug"] == str(video)
    assert item["image"] == "v.mp4"
    assert item["role_objectives"] == []


def test_an_item_without_a_picture_has_none_where_a_video_is_not_to_stand_for_it(
    database: OperatorDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    creator = database.add("users", name="A", city=None, country=None)
    none, one = (database.add("resumes", user_id=creator, video="v.mp4", image=image) for image in (None, "1.jpg"))
    challenge = database.add("challenges", user_id=creator, name="C", video="c.mp4", image=" ")
    monkeypatch.setenv("VIDEO_AS_IMAGE", "false")

    built = database.build()

    assert [built.video(none)["image"], built.video(one)["image"]] == ["", "1.jpg"]
    assert built.challenge(challenge)["image"] == ""


def test_a_challenge_item_is_as_http_md_says(database: OperatorDatabase) -> None:
    creator = database.add("users", name="José O'Higgins")
    challenge = database.add(
        "challenges",
        user_id=creator,
        name=" Reto de baile ",
        slug="reto-baile",
        description="Baila.",
        video="https://v/c.mp4",
        image="https://i/c.jpg",
        talent_type="artists",
        interest_areas='["Danza"]',
        type_objectives='["learn", "hire"]',
        status_at="2026-11-20 10:00:00",
        created_at="2026-11-01 08:30:15",
        updated_at="2026-11-21 09:00:00",
    )

    item = database.build().challenge(challenge)

    assert types(item) == CHALLENGE_FIELDS | {"status_at": str}
    assert item == {
        "type": "challenge",
        "id": challenge,
        "name": "Reto de baile",
        "slug": "reto-baile",
        "description": "Baila.",
        "video_url": "https://v/c.mp4",
        "image": "https://i/c.jpg",
        "user_id": creator,
        "user_name": "José O'Higgins",
        "user_slug": "jose-o-higgins",
        "user_avatar": f"https://media.interacpedia.com/users/{creator}/avatar-100.png",
        "talent_type": "artists",
        "interest_areas": ["Danza"],
        "type_objectives": ["learn", "hire"],
        "top": True,
        "created_at": "2026-11-01T08:30:15",
        "updated_at": "2026-11-21T09:00:00",
        "status_at": "2026-11-20T10:00:00",
    }


def test_a_challenge_item_with_nothing_in_it_has_every_field_but_status_at(
    database: OperatorDatabase,
) -> None:
    challenge = database.add(
        "challenges",
        user_id=database.add("users", name=None),
        name=None,
        video="c.mp4",
        created_at=ago(days=2),
        updated_at=None,
    )

    item = database.build().challenge(challenge)

    assert types(item) == CHALLENGE_FIELDS
    assert [item[field] for field in ("name", "description", "user_name", "user_slug")] == [""] * 4
    assert item["slug"] == str(challenge)
    assert item["image"] == "c.mp4"
    assert item["talent_type"] == "innovators"
    assert item["interest_areas"] == []
    assert item["type_objectives"] == ["hire"]
    assert item["created_at"] == "2026-11-22T12:00:00"
    assert item["updated_at"] == ""


@pytest.mark.parametrize(
    ("status_at", "shown"),
    [
        ("2026-11-20 10:00:00", "2026-11-20T10:00:00"),
        (None, None),
        ("0000-00-00 00:00:00", None),
        ("2027-11-20 10:00:00", None),
        ("soon", None),
    ],
)
def test_status_at_is_there_only_where_known(
    database: OperatorDatabase, status_at: str | None, shown: str | None
) -> None:
    challenge = database.add("challenges", status_at=status_at)

    assert database.build().challenge(challenge).get("status_at") == shown


def test_a_challenge_without_a_slug_gets_one_from_its_name(database: OperatorDatabase) -> None:
    challenge = database.add("challenges", name="¡Reto N.º 1!", slug=" ")

    assert database.build().challenge(challenge)["slug"] == f"reto-n-o-1-{challenge}"


@pytest.mark.parametrize("base", ["https://cdn.example.com", "https://cdn.example.com/"])
def test_avatars_are_found_under_the_media_address(database: OperatorDatabase, base: str) -> None:
    creator = database.add("users")
    video, challenge = (database.add(table, user_id=creator) for table in ("resumes", "challenges"))

    view = database.build(media_base_url=base)

    expected = f"https://cdn.example.com/users/{creator}/avatar-100.png"
    assert view.video(video)["avatar"] == expected
    assert view.challenge(challenge)["user_avatar"] == expected


def test_item_json_is_one_compact_object_with_text_as_it_is(database: OperatorDatabase) -> None:
    database.add("resumes", description="ñandú 🎬")

    (body,) = database.build().built.item_bodies

    assert "ñandú 🎬".encode() in body
    assert body == json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()


def test_items_are_in_the_order_of_their_ids_videos_first(database: OperatorDatabase) -> None:
    creator = database.add("users")
    for number in (9, 3, 7):
        database.add("challenges", id=number, user_id=creator)
        database.add("resumes", id=number, user_id=creator)

    view = database.build()

    assert [(item["type"], item["id"]) for item in view.items] == [
        (kind, number) for kind in ("resume", "challenge") for number in (3, 7, 9)
    ]


def test_lists_are_cut_to_what_counts_but_shown_whole(database: OperatorDatabase) -> None:
    many = [f"x{n}" for n in range(9)]
    columns = ("skills", "knowledges", "tools", "languages", "role_objectives")
    video = database.add("resumes", **dict.fromkeys(columns, json.dumps(many)))

    view = database.build()

    assert view.tokens(video) == many[:5] + many[:3] * 3
    assert view.video(video)["role_objectives"] == many
    assert view.arrays.skill_count.tolist() == [5]


def test_an_empty_database_gives_an_empty_catalog(database: OperatorDatabase) -> None:
    view = database.build()

    assert view.items == []
    assert (view.videos, view.challenges, view.users) == ([], [], [])
    assert set(view.built.report.counts.values()) <= {0, 1}
    assert view.set_aside == {}
