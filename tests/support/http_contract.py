"""The HTTP contract's terms, and what every answer of it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

IDS_FIELDS = {"total": "mix_ids", "discover": "resume_ids", "flow": "challenge_ids"}
SIZES = ("N_VIDEOS", "MAX_SIZE", "size")
EXCLUDED = ("EXCLUDED_IDS", "excluded_ids", "LAST_IDS", "videos_excluidos")
TOKEN = "an-administrators-token"
MEDIA = "https://media.example"
MEBIBYTE = 1 << 20

# Every field of an item and its type, which today's clients rely on; lists are of text.
RESUME_FIELDS: dict[str, type] = {
    "type": str, "id": int, "name": str, "slug": str, "description": str, "video": str, "image": str,
    "user_id": int, "user_name": str, "user_slug": str, "avatar": str,
    "main_objective": str, "type_audience": str, "type_audiences": list, "interest_areas": list,
    "role_objectives": list, "connected": str,
}  # fmt: skip
CHALLENGE_FIELDS: dict[str, type] = {
    "type": str, "id": int, "name": str, "slug": str, "description": str, "video_url": str, "image": str,
    "user_id": int, "user_name": str, "user_slug": str, "user_avatar": str,
    "talent_type": str, "interest_areas": list, "type_objectives": list, "top": bool,
    "created_at": str, "updated_at": str,
}  # fmt: skip
MAY_BE_ABSENT: dict[str, type] = {"status_at": str}  # of challenges
RULES = {"skill_novelty", "creator_window", "slot_kind", "seen"}

MakeClient = Callable[..., httpx.Client]


def body_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an answer that is no error."""
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert set(content) == {"statusCode", "body"}
    assert content["statusCode"] == status
    body: dict[str, Any] = content["body"]
    return body


def ask(client: httpx.Client, endpoint: str = "total", **fields: Any) -> dict[str, Any]:
    """The body of a feed that must be answered."""
    return body_of(client.post(f"/api/search/{endpoint}", json=fields), 200)


def assert_types(item: dict[str, Any]) -> None:
    """Every field of the contract is there with its type, and no other but ``why``."""
    fields = RESUME_FIELDS if item["type"] == "resume" else CHALLENGE_FIELDS
    optional = {} if item["type"] == "resume" else MAY_BE_ABSENT
    expected = fields | {name: kind for name, kind in optional.items() if name in item}
    assert {name: type(value) for name, value in item.items() if name != "why"} == expected
    assert all(type(entry) is str for value in item.values() if isinstance(value, list) for entry in value)


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which must have the contract's form and say nothing of our insides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert set(content) == {"statusCode", "error"}
    assert content["statusCode"] == status
    error: dict[str, Any] = content["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["code"] == code
    assert error["message"]
    assert all(set(detail) == {"field", "problem"} for detail in error["details"])
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return error
