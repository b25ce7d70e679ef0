"""What every client sends, and what it has to get."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEED, FEEDBACK = "/api/search/total", "/api/feedback"
ITEMS = 3


@dataclass(frozen=True)
class Case:
    name: str
    manner: str  # see programs/README.md
    path: str
    body: Callable[[int], bytes]  # of a user, who asks for nothing else
    problem: Callable[[int, dict[str, Any], dict[str, Any]], str]  # of status, answer and first answer; empty: right


def feed_body(user: int) -> bytes:
    return json.dumps({"SELF_ID": user, "N_VIDEOS": ITEMS}).encode()


def _is_feed(status: int, answer: dict[str, Any], _first: dict[str, Any]) -> str:
    if status != 200:
        return f"{status} {answer}"
    items = answer["body"]["items"]
    if len(items) != ITEMS or not all(type(item["id"]) is int for item in items):
        return f"items {[item['id'] for item in items]}"
    return ""


def _is_same_feed(status: int, answer: dict[str, Any], first: dict[str, Any]) -> str:
    return _is_feed(status, answer, first) or ("" if answer == first else "another feed under the same key")


def _is_accepted(status: int, answer: dict[str, Any], _first: dict[str, Any]) -> str:
    return "" if status == 202 and answer["body"]["accepted"] == 1 else f"{status} {answer}"


def _is_refused(expected: int, code: str) -> Callable[[int, dict[str, Any], dict[str, Any]], str]:
    def problem(status: int, answer: dict[str, Any], _first: dict[str, Any]) -> str:
        right = (status, answer.get("statusCode"), answer.get("error", {}).get("code")) == (expected, expected, code)
        return "" if right else f"{status} {answer}"

    return problem


def _event(user: int) -> bytes:
    return json.dumps({"event": "view", "user_id": user, "item_type": "resume", "item_id": 1}).encode()


def _large(size: int) -> Callable[[int], bytes]:
    def body(user: int) -> bytes:
        fields = feed_body(user)[:-1] + b', "other": "'
        return fields + b"x" * (size - len(fields) - 2) + b'"}'

    return body


CASES = (
    Case("feed", "plain", FEED, feed_body, _is_feed),
    Case("feedback", "plain", FEEDBACK, _event, _is_accepted),
    Case("wrong", "plain", FEED, lambda _: b'{"N_VIDEOS": 1000}', _is_refused(422, "invalid_request")),
    Case("offer", "offer", FEED, feed_body, _is_feed),
    Case("gzip", "gzip", FEED, lambda user: gzip.compress(feed_body(user)), _is_feed),
    Case("slow", "slow", FEED, feed_body, _is_feed),
    Case("expect", "expect", FEED, feed_body, _is_feed),
    Case("1 MiB", "plain", FEED, _large(1 << 20), _is_feed),
    Case("too large", "plain", FEED, _large((1 << 20) + 500_000), _is_refused(413, "body_too_large")),
    Case("retry", "retry", FEED, feed_body, _is_same_feed),
)


def write_plan(folder: Path, first_user: int) -> Path:
    """The plan of a client that comes one way, with users of its own; in ``folder``, with the bodies."""
    folder.mkdir(parents=True)
    lines = []
    for number, case in enumerate(CASES):
        body = folder / f"{number}.body"
        body.write_bytes(case.body(first_user + number))
        lines.append("\t".join([case.name, case.manner, case.path, str(body)]))
    plan = folder / "plan.tsv"
    plan.write_text("\n".join(lines) + "\n")
    return plan
