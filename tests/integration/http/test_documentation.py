"""The documentation page, its assets, and the OpenAPI document."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.end_to_end.in_process import make_app
from tests.support.http_contract import (
    CHALLENGE_FIELDS,
    EXCLUDED,
    IDS_FIELDS,
    MAY_BE_ABSENT,
    RESUME_FIELDS,
    SIZES,
    TOKEN,
    MakeClient,
)

# Documentation.


# The library that ships the page reads its files by a function that Python 3.11 wants replaced.
@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")
def test_the_documentation_page_and_its_assets_come_from_the_service(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    own = str(client.base_url).rstrip("/")
    for address in re.findall(r"""(?:https?:)?//[^\s"'<>]+""", page.text):
        assert address.startswith(own), f"the page names another host: {address}"
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(assets) >= 2
    for asset in [*assets, *re.findall(r"url:\s*'([^']+)'", page.text)]:
        assert client.get(asset).status_code == 200


def test_the_documentation_page_works_behind_a_proxy_that_ends_tls(client: httpx.Client) -> None:
    """The browser is on https://…; addresses of our own idea of host and scheme would be blocked there, and
    a Host header that somebody else chose would name their script."""
    page = client.get("/docs", headers={"Host": "somebody.example"})
    assert page.status_code == 200
    assert "somebody.example" not in page.text
    assert "http://" not in page.text


@pytest.mark.usefixtures("make_client")
def test_the_document_has_every_route_of_the_application(data_dir: Path) -> None:
    app = make_app(data_dir)
    paths = app.openapi()["paths"]
    for path, method in routes_of(app):
        # Of what is in the place of a feed's name only a refusal is told, which is that of any address.
        if path.startswith(("/docs", "/swagger/", "/openapi.json", "/api/feeds/{")):
            continue
        assert method.lower() in paths.get(path, {}), f"{method} {path} is not documented"


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    return {
        (path.replace(":path}", "}"), method)
        for route in app.routes
        if (path := getattr(route, "path", None))
        for method in (getattr(route, "methods", None) or ())
        if method not in {"HEAD", "OPTIONS"}
    }


def test_the_document_says_every_field_of_a_feed_request_with_rule_and_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for endpoint in IDS_FIELDS:
        operation = document["paths"][f"/api/search/{endpoint}"]["post"]
        schema = resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])
        properties = schema["properties"]
        assert set(properties) == {"SELF_ID", "user_id", *SIZES, *EXCLUDED, "session_id", "explain", "personal"}
        assert "required" not in schema
        for name, field in properties.items():
            assert len(field["description"]) > 20, name
            assert field["examples"], name
        for name in ("SELF_ID", "user_id"):
            assert properties[name]["default"] == 0
            assert {kind["type"] for kind in properties[name]["anyOf"]} == {"integer", "string", "null"}
            assert min(kind.get("minimum", 0) for kind in properties[name]["anyOf"]) == 0
        for name in SIZES:
            number = next(kind for kind in properties[name]["anyOf"] if kind["type"] == "integer")
            assert (number["minimum"], number["maximum"], properties[name]["default"]) == (1, 100, 24)
        for name in EXCLUDED:
            array = next(kind for kind in properties[name]["anyOf"] if kind["type"] == "array")
            assert array["maxItems"] == 10_000
            assert properties[name]["default"] == []
        text = next(kind for kind in properties["session_id"]["anyOf"] if kind["type"] == "string")
        assert text["maxLength"] == 128
        assert properties["explain"]["default"] is False
        assert properties["personal"]["default"] is True
        for example in schema["examples"]:
            assert client.post(f"/api/search/{endpoint}", json=example).status_code == 200


def test_the_document_says_every_field_of_an_answer(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    in_json = {str: "string", int: "integer", bool: "boolean", list: "array"}
    for name, fields in (("ResumeItem", RESUME_FIELDS), ("ChallengeItem", CHALLENGE_FIELDS | MAY_BE_ABSENT)):
        said = {field: schema.get("type") for field, schema in schemas[name]["properties"].items() if field != "why"}
        assert said == {field: in_json[kind] for field, kind in fields.items()}
    for endpoint, ids_field in IDS_FIELDS.items():
        operation = document["paths"][f"/api/search/{endpoint}"]["post"]
        answer = resolved(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
        assert set(answer["properties"]["body"]["properties"]) == {ids_field, "items", "request_id", "relaxed"}
        assert {"400", "413", "415", "422", "503"} <= set(operation["responses"])
        for status, described in operation["responses"].items():
            if status != "200":
                error = resolved(document, described["content"]["application/json"]["schema"])
                assert set(error["properties"]) == {"statusCode", "error"}


def test_the_document_says_every_answer_of_reload(client: httpx.Client) -> None:
    responses = client.get("/openapi.json").json()["paths"]["/api/search/reload"]["post"]["responses"]
    assert {"200", "202", "401", "403", "503"} <= set(responses)
    assert responses["200"]["content"]["application/json"]["schema"], "says nothing of its body"


def test_the_document_asks_for_a_key_where_one_is_needed(client: httpx.Client, make_client: MakeClient) -> None:
    guarded = make_client(api_keys=("first-key", "second-key"), admin_token=TOKEN)
    for endpoint in IDS_FIELDS:
        path = f"/api/search/{endpoint}"
        assert "security" not in client.get("/openapi.json").json()["paths"][path]["post"]
        operation = guarded.get("/openapi.json").json()["paths"][path]["post"]
        assert operation["security"]
        assert {"401", "403"} <= set(operation["responses"])


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema["$ref"].removeprefix("#/components/schemas/")
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


# What is static.


def test_what_the_page_loads_may_be_kept_for_ever_and_the_page_is_asked_for_each_time(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["cache-control"] == "no-cache"
    names = set(re.findall(r"docs-assets/[\w.-]+", page.text))
    assert len(names) == 4
    for name in names:
        asset = client.get(f"/{name}")
        assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.search(r"-[0-9a-f]{16}\.\w+$", name), "its name holds the hash of its content"
        assert hashlib.sha256(asset.content).hexdigest()[:16] in name
        again = client.get(f"/{name}", headers={"If-None-Match": asset.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    other = re.sub(r"[0-9a-f]{16}", "0" * 16, sorted(names)[0])
    assert client.get(f"/{other}").status_code == 404
