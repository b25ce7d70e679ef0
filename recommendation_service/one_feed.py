"""`recs feed USER`: one feed, made here, with why each item is in it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from recommendation_service.api.named_feeds import read_named_body
from recommendation_service.api.schemas import LARGEST_ID, as_ids, parse_excluded
from recommendation_service.bootstrap import named_feeds
from recommendation_service.catalog.inspection import read_item
from recommendation_service.catalog.store import Catalog, CatalogStore
from recommendation_service.core.config import Settings, load_settings
from recommendation_service.core.errors import InvalidRequest
from recommendation_service.core.output import print_rows
from recommendation_service.editors.rulings import Ruling
from recommendation_service.editors.store import RulingsStore
from recommendation_service.feed.generation import Generation
from recommendation_service.feed.loading import load_kernels
from recommendation_service.feed.request import FeedRequest
from recommendation_service.model.kinds import ENDPOINTS
from recommendation_service.policies.choice import PolicyChoice
from recommendation_service.policies.policy import load_policy
from recommendation_service.serving.explanation import missing_now
from recommendation_service.serving.preview import Preview, policy_version
from recommendation_service.sources.mapping.mapping import load_mapping

ANONYMOUS = "0"


def feed_of_one(
    user: str,
    endpoint: str | None,
    size: int | None,
    exclude: str,
    request_id: str,
    policy: str | None,
    missing: Sequence[str],
    language: str,
    *,
    explain: bool,
    as_json: bool,
) -> None:
    """Raises BadParameter that names what is wrong."""
    settings = load_settings()
    if settings.mapping_file is None:
        request = _of_the_contract(user, endpoint, size, exclude)
    else:
        request = _by_name(user, endpoint, size, exclude, settings.mapping_file)
    request = request.but(request_id=request_id, explain=True, language=language, now=int(time.time()))
    store = CatalogStore(settings.catalog_dir, settings.catalog_keep, settings.item_time_zone)
    version = store.named()
    load_kernels()
    held = RulingsStore(settings.editors_dir).read()[0].in_force(time.time())
    generation = _generation(settings, store.open(version), policy, held)
    generation.policy.demand_feed(request.endpoint)
    try:
        wanted = [read_item(text, generation.catalog.item_types, generation.catalog.text_types) for text in missing]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--missing") from None
    preview = Preview(generation, settings)
    slate = preview.slate(request)
    generation, arm = preview.made_of(slate)
    answer = msgspec.json.decode(preview.render(slate))
    body = answer if request.by_name else answer["body"]
    absent = missing_now(slate, generation, settings, wanted, language)
    if not generation.fits:
        typer.echo(f"note: catalog {version} was built for another policy, whose pools these are", err=True)
    if as_json:
        if wanted:
            body["missing"] = absent
        typer.echo(msgspec.json.encode(answer).decode())
        return
    number = request.user_id
    remark = (
        " (not personal)" if preview.is_listed(number) else "" if preview.knows(number) else " (not in the catalog)"
    )
    remark += f", in arm {arm}" if arm else ""
    print_feed = _print_explained if explain else _print_feed
    print_feed(body, f"user {user}{remark}" if number else "anonymous", version)
    for name, one in zip(missing, absent, strict=True):
        odds = "" if one.odds is None else f", odds {one.odds:.4f}"
        typer.echo(f"{name.replace(':', ' ', 1)}: {one.stage.replace('_', ' ')}{odds}")
        for sentence in one.sentences:
            typer.echo(f"  {sentence.text}")


def _of_the_contract(user: str, endpoint: str | None, size: int | None, exclude: str) -> FeedRequest:
    if endpoint is not None and endpoint not in ENDPOINTS:
        raise typer.BadParameter(f"{endpoint!r} is not one of {', '.join(ENDPOINTS)}", param_hint="--endpoint")
    if not (user.isascii() and user.isdigit() and len(user) < 20 and int(user) <= LARGEST_ID):
        raise typer.BadParameter(f"must be a number from 0 to {LARGEST_ID}, but is {user[:64]!r}", param_hint="USER")
    try:
        excluded = as_ids(parse_excluded(exclude))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--exclude") from None
    return FeedRequest(endpoint or ENDPOINTS[0], int(user), size or 24, "", excluded)


def _by_name(user: str, name: str | None, size: int | None, exclude: str, mapping_file: Path) -> FeedRequest:
    """As the body of a call of `POST {prefix}/feeds/{name}` is read."""
    feeds = named_feeds(load_mapping(mapping_file))
    wanted = next((one for one in feeds.feeds if name in (None, one.name)), None)
    if wanted is None:
        names = ", ".join(one.name for one in feeds.feeds)
        raise typer.BadParameter(f"{name!r} is not one of {names}", param_hint="--endpoint")
    asked: dict[str, Any] = {"exclude": [one.strip() for one in exclude.split(",") if one.strip()]}
    asked |= {"user": user} if user != ANONYMOUS else {}
    asked |= {"size": size} if size is not None else {}
    try:
        fields = read_named_body(msgspec.json.encode(asked), wanted, feeds.forms)
    except InvalidRequest as error:
        hints = {"user": "USER", "exclude": "--exclude", "size": "--size"}
        raise typer.BadParameter(
            "; ".join(one["problem"] for one in error.details),
            param_hint=", ".join(dict.fromkeys(hints[one["field"].split(".")[0]] for one in error.details)),
        ) from None
    return FeedRequest(wanted.name, fields.user_id, fields.size, "", fields.excluded, by_name=True)


def _generation(settings: Settings, catalog: Catalog, policy: str | None, held: tuple[Ruling, ...]) -> Generation:
    """``policy``: a file or a version; None: what serves, with the experiment that runs."""
    if policy is None:
        named = PolicyChoice(settings).take_up()
        return Generation(catalog, named.policy, rulings=held).with_arms(named.experiment, named.arms)
    tried = load_policy(Path(policy)) if Path(policy).is_file() else policy_version(settings, policy)
    return Generation(catalog, tried, rulings=held)


def _title(item: dict[str, Any]) -> str:
    """What people know the item by: a name, a title, or else the first text that it has."""
    texts = {field: value for field, value in item.items() if isinstance(value, str) and field not in {"type", "id"}}
    return texts.get("name") or texts.get("title") or next(iter(texts.values()), "")


def _print_explained(body: dict[str, Any], who: str, version: str) -> None:
    typer.echo(f"Feed of {who}, catalog {version}, request {body['request_id']}")
    rows = [
        (
            str(item["why"]["position"] + 1),
            f"{item['type']} {item['id']}\n{_title(item)}",
            f"{item['why']['expected']:.2f}\n± {item['why']['width']:.2f}",
            "\n".join(sentence["text"] for sentence in item["why"]["sentences"]),
        )
        for item in body["items"]
    ]
    print_rows(("#", "item", "estimate", "why"), rows, right={0, 2}, whole={0, 2})
    if body["relaxed"]:
        typer.echo(f"Rules that gave way: {', '.join(body['relaxed'])}")


def _print_feed(body: dict[str, Any], who: str, version: str) -> None:
    typer.echo(f"Feed of {who}, catalog {version}, request {body['request_id']}")
    rows = []
    for item in body["items"]:
        why = item["why"]
        terms = sorted(why["terms"].items(), key=lambda term: -abs(term[1]))[:3]
        # Other terms, and after feedback what was learned, make up the rest of what is expected.
        rest = why["expected"] - sum(value for _, value in terms)
        parts = [f"{name} {value:.2f}" for name, value in terms]
        parts += [f"{name} {value:.2f}" for name, value in (("rest", rest), ("bonus", why["bonus"])) if value > 0.005]
        rows.append(
            (
                str(why["position"] + 1),
                why["slot"] if why["slot"] == why["pool"] else f"{why['slot']} from {why['pool']}",
                f"{item['type']} {item['id']}\n{_title(item)}",
                f"{why['propensity']:.4f}" if why["propensity"] is not None else "",
                f"{why['score']:.2f}",
                ", ".join(parts),
            )
        )
    print_rows(("#", "slot", "item", "propensity", "score", "made of"), rows, right={0, 3, 4}, whole={0, 3, 4})
    if body["relaxed"]:
        typer.echo(f"Rules that gave way: {', '.join(body['relaxed'])}")
