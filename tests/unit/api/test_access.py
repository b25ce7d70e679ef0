"""Who may call: the keys of clients and the token of administrators."""

from __future__ import annotations

import pytest

from recommendation_service.api.access import Access
from recommendation_service.core.config import Settings
from recommendation_service.core.errors import Forbidden, Unauthorized

TOKEN = "an-administrators-token"


def headers_of(**headers: str) -> list[tuple[bytes, bytes]]:
    """An underscore in a name stands for a hyphen."""
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


def scope(**headers: str) -> dict[str, object]:
    """Of a request with these headers."""
    return {"headers": headers_of(**headers)}


def test_without_api_keys_everybody_may_call() -> None:
    access = Access(Settings())
    assert not access.keys_required
    access.check_api_key([])
    access.check_api_key(headers_of(authorization="Bearer anything"))


@pytest.mark.parametrize("key", ["first-key", "second-key"])
@pytest.mark.parametrize(
    "header", ["authorization: Bearer {}", "authorization: bearer {}", "authorization: BEARER  {} ", "x-api-key: {}"]
)
def test_a_call_with_one_of_the_keys_may_pass(key: str, header: str) -> None:
    access = Access(Settings(api_keys=("first-key", "second-key")))
    assert access.keys_required
    name, _, value = header.format(key).partition(": ")
    access.check_api_key([(name.encode(), value.encode())])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic first-key"},
        {"authorization": "first-key"},
        {"x_api_key": ""},
        {"x_api_key": "  "},
    ],
)
def test_a_call_without_a_key_is_unauthorized(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized) as refused:
        Access(Settings(api_keys=("first-key",))).check_api_key(headers_of(**headers))
    assert refused.value.status == 401


@pytest.mark.parametrize("key", ["first-ke", "first-keyy", "FIRST-KEY", "first-key,second-key", "clé", TOKEN])
@pytest.mark.parametrize("header", ["authorization", "x_api_key"])
def test_a_wrong_key_is_forbidden_and_is_not_repeated(header: str, key: str) -> None:
    access = Access(Settings(api_keys=("first-key", "second-key"), admin_token=TOKEN))
    with pytest.raises(Forbidden) as refused:
        access.check_api_key(headers_of(**{header: f"Bearer {key}" if header == "authorization" else key}))
    assert refused.value.status == 403
    assert key not in refused.value.message


def test_the_keys_of_clients_open_nothing_for_administrators() -> None:
    access = Access(Settings(api_keys=("first-key",), admin_token=TOKEN))
    for headers in ({"authorization": "Bearer first-key"}, {"authorization": f"Bearer {TOKEN}x"}):
        with pytest.raises(Forbidden):
            access.check_administrator(scope(**headers))


def test_without_a_token_the_administrators_endpoints_are_closed_to_everyone() -> None:
    access = Access(Settings())
    for headers in ({}, {"authorization": f"Bearer {TOKEN}"}, {"authorization": "Bearer "}):
        with pytest.raises(Forbidden) as refused:
            access.check_administrator(scope(**headers))
        assert refused.value.status == 403


def test_administrators_are_known_by_their_token() -> None:
    access = Access(Settings(admin_token=TOKEN))
    access.check_administrator(scope(authorization=f"Bearer {TOKEN}"))
    for headers in ({}, {"x_api_key": TOKEN}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}):
        with pytest.raises(Unauthorized):
            access.check_administrator(scope(**headers))
