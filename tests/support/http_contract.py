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

RESUME_FIELDS = {
    "type", "id", "name", "slug", "description", "video", "image", "user_id", "user_name", "user_slug", "avatar",
    "main_objective", "type_audience", "type_audiences", "interest_areas", "role_objectives", "connected",
}  # fmt: skip
CHALLENGE_FIELDS = {
    "type", "id", "name", "slug", "description", "video_url", "image", "user_id", "user_name", "user_slug",
    "user_avatar", "talent_type", "interest_areas", "type_objectives", "top", "created_at", "updated_at",
}  # fmt: skip
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
