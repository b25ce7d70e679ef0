"""Catalog versions as releases before this one wrote them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from recommendation_service.catalog.built import BuiltCatalog
from recommendation_service.catalog.store import LIST_ORDERS, REJECTED_KEYS, REJECTED_RULES, CatalogStore
from recommendation_service.versions.store import MANIFEST


def published_with_text_ids(store: CatalogStore, built: BuiltCatalog) -> str:
    """Publish what was built, with times in Z, as the release before items' ids were numbers did; its version."""
    assert built.item_time_zone == "Z"
    bodies = [json.loads(body) for body in built.item_bodies]
    old = [
        json.dumps(body | {"id": str(body["id"])}, ensure_ascii=False, separators=(",", ":")).encode()
        for body in bodies
    ]
    published = store.publish(replace(built, item_bodies=old))
    manifest = json.loads((store.folder / published / MANIFEST).read_bytes())
    del manifest["items"]
    return _renamed(store, published, manifest)


def published_without_rejections(store: CatalogStore, built: BuiltCatalog) -> str:
    """Publish what was built as releases did that kept nothing of rejected rows; its version."""
    published = store.publish(built)
    manifest = json.loads((store.folder / published / MANIFEST).read_bytes())
    del manifest["rejection_rules"]
    return _without(store, published, manifest, (REJECTED_KEYS, REJECTED_RULES))


def published_without_orders(store: CatalogStore, built: BuiltCatalog) -> str:
    """Publish what was built as releases did that had no lists; its version."""
    published = store.publish(built)
    manifest = json.loads((store.folder / published / MANIFEST).read_bytes())
    return _without(store, published, manifest, LIST_ORDERS.values())


def _without(store: CatalogStore, published: str, manifest: dict[str, Any], columns: Iterable[str]) -> str:
    for name in columns:
        del manifest["files"][f"{name}.npy"]
        (store.folder / published / f"{name}.npy").unlink()
    return _renamed(store, published, manifest)


def _renamed(store: CatalogStore, published: str, manifest: dict[str, Any]) -> str:
    """The version with another manifest, made current."""
    content = json.dumps(manifest, indent=1).encode()
    version = f"{published.rpartition('-')[0]}-{hashlib.sha256(content).hexdigest()[:16]}"
    (store.folder / published / MANIFEST).write_bytes(content)
    (store.folder / published).rename(store.folder / version)
    store.point_at(version)
    return version
