"""Catalog versions on disk: what is written of what was built, and what is mapped of it."""

import json
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recommendation_service.catalog.filter_columns import FilterColumn, Listed, Ordered, ordered
from recommendation_service.catalog.item_forms import is_of_form, item_form, reformed
from recommendation_service.catalog.list_orders import ListOrders, list_orders
from recommendation_service.catalog.rejections import RULES, Rejected, rejected
from recommendation_service.catalog.texts import Texts
from recommendation_service.core.errors import CatalogError
from recommendation_service.core.files import locked
from recommendation_service.model.columns import (
    COLUMNS,
    LATER_COLUMNS,
    LAYOUT_VERSION,
    SIZES,
    CatalogArrays,
    Float64,
    Int64,
    rows_of,
)
from recommendation_service.model.features import FEATURES
from recommendation_service.model.item_keys import CREATOR, ITEM_TYPES, unpack
from recommendation_service.versions.store import NewVersion, VersionStore

if TYPE_CHECKING:
    # Whoever only reads catalogs need not load what builds them.
    from recommendation_service.catalog.built import BuiltCatalog

# The ready-made answers: items.json holds each item's JSON object, one after the other.
ITEM_BYTES = "items.json"
ITEM_OFFSETS = "item_offsets"  # (M + 1,) int64
NAMES = "names.json"
NOT_PERSONAL = "not_personal"  # (n,) int64, where there is such a list
# Bytes, and beside them {name}_offsets, where ids are text.
ITEM_TEXTS, USER_TEXTS, CREATOR_TEXTS = "item_texts", "user_texts", "creator_texts"
LIST_ORDERS = {"popular": "popular_items", "latest": "latest_items"}  # files of (M,) int32, see list_orders.py
REJECTED_KEYS, REJECTED_RULES = "rejected_keys", "rejected_rules"  # (r,) int64 and uint8, see rejections.py


@dataclass(frozen=True)
class Catalog:
    """An opened version: memory-mapped columns and item JSON, shared by all processes that open it."""

    version: str
    manifest: dict[str, Any]
    arrays: CatalogArrays
    item_offsets: Int64  # (M + 1,)
    item_bytes: memoryview
    orders: ListOrders
    # Users whose feeds are not personal, ascending; None: it was built without a list of them.
    not_personal: Int64 | None = None
    # Rows that its build read and kept out; None: an earlier release built it, and kept nothing of them.
    rejected: Rejected | None = None

    # The dictionary of ids that are text, by row; None: they are numbers.
    item_texts: Texts | None = None
    user_texts: Texts | None = None
    filters: tuple[FilterColumn, ...] = ()
    creator_texts: Texts | None = None

    def item_json(self, item: int) -> bytes:
        return bytes(self.item_bytes[int(self.item_offsets[item]) : int(self.item_offsets[item + 1])])

    def row_of(self, key: int) -> int:
        """Of an item by its key; -1: it is not there."""
        item_type, number = unpack(key)
        start, end = rows_of(self.arrays, item_type)
        row = start + int(np.searchsorted(self.arrays.item_id[start:end], number))
        return row if row < end and self.arrays.item_id[row] == number else -1

    def id_of(self, item: int) -> int | str:
        """As it looks in the operator's tables; ids that are numbers have no text in the dictionary."""
        text = self.item_texts.at(item) if self.item_texts is not None else ""
        return text or int(self.arrays.item_id[item])

    def id_of_key(self, key: int) -> int | str | None:
        """The same of an item or a creator by its key, and below by the number of one; None: its id is text, and the
        dictionary does not have it."""
        item_type, number = unpack(key)
        if item_type == CREATOR:
            return self.id_of_creator(number)
        row = self.row_of(key)
        if row >= 0:
            return self.id_of(row)
        is_text = any(self.item_types[name] == item_type for name in self.text_types)
        return None if is_text else number

    def id_of_creator(self, number: int) -> int | str | None:
        return _text_or_number(self.creator_texts, self.arrays.creator_id, number)

    def id_of_user(self, number: int) -> int | str | None:
        return _text_or_number(self.user_texts, self.arrays.user_id, number)

    @property
    def added_features(self) -> list[str]:
        """The features beside the 18, as Policy.added_features says; one that an earlier release built has none."""
        added: list[str] = self.manifest.get("added_features", [])
        return added

    def lacks(self, wanted: list[str]) -> list[str]:
        """Of the features that a policy adds, those that are not where it looks for them."""
        return [one for place, one in enumerate(wanted) if self.added_features[place : place + 1] != [one]]

    @property
    def item_types(self) -> dict[str, int]:
        """Number by name, in the order of their rows; one that an earlier release built has the first two."""
        types: dict[str, int] | None = self.manifest.get("item_types")
        return types or {ITEM_TYPES[number]: number for number in range(CREATOR)}

    @property
    def is_mapped(self) -> bool:
        """Whether its items are a mapping's: the first operator's types have the numbers before the creators'."""
        return all(number > CREATOR for number in self.item_types.values())

    @property
    def text_types(self) -> set[str]:
        """Names of the types whose items have ids that are text."""
        told: list[str] | None = self.manifest.get("text_types")
        texts = self.item_texts
        if told is not None or texts is None:
            return set(told or ())
        return {name for name, (start, end) in self.rows_of_type.items() if start < end and texts.at(start)}

    @property
    def rows_of_type(self) -> dict[str, tuple[int, int]]:
        """By name the first row and the one after the last."""
        offsets = self.arrays.type_offsets.tolist()
        return dict(zip(self.item_types, pairwise(offsets), strict=True))

    @property
    def measured(self) -> dict[str, Any] | None:
        """What its build measured, as ``report.Measured``; None: the policy of its build had nothing measured."""
        found: dict[str, Any] | None = self.manifest["report"].get("measured")
        return found

    def type_of(self, item: int) -> str:
        """Name of the type of the item in a row."""
        return next(name for name, (_, end) in self.rows_of_type.items() if item < end)

    @property
    def built_at(self) -> float:
        """Seconds since 1970; ages of items are as of this moment."""
        return datetime.fromisoformat(self.manifest["built_at"]).timestamp()

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.manifest["report"]["counts"]
        return counts


class CatalogStore(VersionStore):
    """The folder of catalog versions."""

    what = "catalog"
    error = CatalogError
    layout = LAYOUT_VERSION
    needed = (
        *(f"{column}.npy" for column in COLUMNS if column not in LATER_COLUMNS),
        f"{ITEM_OFFSETS}.npy",
        ITEM_BYTES,
    )

    def __init__(self, folder: Path, keep: int, item_time_zone: str = "UTC") -> None:
        """``item_time_zone``: of the times in the items of what is opened: Z, which they bear, or another, without."""
        super().__init__(folder, keep)
        self._item_time_zone = item_time_zone

    def versions(self) -> list[str]:
        """Oldest first. One that is named later than the current one was built by a clock that was ahead, as each
        build becomes the current one: it comes before all others."""
        current = self.current() or "~"
        return sorted(super().versions(), key=lambda name: (name <= current, name))

    def named(self, version: str | None = None) -> str:
        """``version``, or else the current one, for a command.

        Raises CatalogError where there is none, and OSError where the folder may not be looked into.
        """
        version = version or self.current()
        if version is None:
            self.versions()
            raise CatalogError(f"No catalog in {self.folder}: run `recs catalog build`.")
        return version

    @contextmanager
    def build_lock(self) -> Iterator[None]:
        """Only one process builds at a time; others wait here."""
        with locked(self.folder / "build.lock"):
            yield

    def publish(self, built: "BuiltCatalog", fingerprint: str | None = None) -> str:
        """Write a version, make it the current one, and remove those beyond the kept number.

        Raises CatalogError where it cannot be written (disk full, no permission); what was current stays.
        """

        def fill(new: NewVersion) -> dict[str, Any]:
            started = time.perf_counter()
            _write_files(new, built)
            built.report.write_milliseconds = round((time.perf_counter() - started) * 1000, 1)
            return {
                "built_at": built.built_at.isoformat(),
                "policy_version": built.policy_version,
                "policy_digest": built.policy_digest,
                "added_features": built.added_features,
                "fingerprint": fingerprint,
                "items": item_form(built.item_time_zone),
                "item_types": built.item_types,
                "text_types": list(built.text_types),
                "filters": [_filter_said(column) for column in built.filters],
                "people_terms": built.people_terms,
                "mapping": built.mapping,
                "sizes": {name: getattr(built.arrays, name) for name in SIZES},
                "rejection_rules": RULES,
                "report": built.report.as_json(),
            }

        version = self.add(built.built_at, fill)
        self.point_at(version)
        self.remove_old()
        return version

    def open(self, version: str, *, verify: bool = True) -> Catalog:
        """Map a version. Raises CatalogError where it is missing, damaged, or of another layout.

        Items of another form than this program and its settings give are rewritten, in memory of this process.
        """
        folder = self.folder / version
        manifest = self.check(version, every_byte=verify)
        try:
            columns: dict[str, Any] = {
                name: _column(folder, name) for name in COLUMNS if f"{name}.npy" in manifest["files"]
            }
            sizes = {"worded": manifest["sizes"].get("videos")} | manifest["sizes"]  # an earlier release's name
            columns |= {name: int(sizes[name]) for name in SIZES}
            columns |= _later_columns(columns)
            arrays = CatalogArrays(**columns)
            offsets, items = _column(folder, ITEM_OFFSETS), _map(folder / ITEM_BYTES)
            # A mapping's fields are the operator's, in whatever form these have them.
            if manifest.get("mapping") is None and not is_of_form(manifest, self._item_time_zone):
                offsets, items = reformed(offsets, items, manifest, self._item_time_zone)
            has_list = f"{NOT_PERSONAL}.npy" in manifest["files"]
            not_personal = _column(folder, NOT_PERSONAL) if has_list else None
            catalog = Catalog(
                version,
                manifest,
                arrays,
                offsets,
                items,
                _orders(folder, manifest, arrays),
                not_personal,
                _rejected(folder, manifest),
                _texts(folder, manifest, ITEM_TEXTS),
                _texts(folder, manifest, USER_TEXTS),
                tuple(_filter(folder, place, manifest) for place in range(len(manifest.get("filters", [])))),
                _texts(folder, manifest, CREATOR_TEXTS),
            )
            if arrays.features.shape[1] != FEATURES + len(catalog.added_features):
                raise ValueError(f"features has {arrays.features.shape[1]} columns")
            return catalog
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogError(f"catalog version {version} cannot be read: {error}") from error

    def names(self, version: str) -> dict[str, Any]:
        """Texts of tokens and cities by number."""
        names: dict[str, Any] = json.loads((self.folder / version / NAMES).read_bytes())
        return names


def _write_files(new: NewVersion, built: "BuiltCatalog") -> None:
    for name in COLUMNS:
        new.save(name, getattr(built.arrays, name))
    for name, order in list_orders(built.arrays)._asdict().items():
        new.save(LIST_ORDERS[name], order)
    sizes = np.array([len(body) for body in built.item_bodies], np.int64)
    new.save(ITEM_OFFSETS, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    new.write(ITEM_BYTES, b"".join(built.item_bodies) or b" ")
    dictionaries = {ITEM_TEXTS: built.item_texts, USER_TEXTS: built.user_texts, CREATOR_TEXTS: built.creator_texts}
    for name, texts in dictionaries.items():
        if texts is not None:
            new.save(name, texts.blob)
            new.save(f"{name}_offsets", texts.offsets)
    for place, column in enumerate(built.filters):
        for part, values in (("items", column.items), ("users", column.users)):
            if isinstance(values, Listed):
                new.save(f"filter_{place}_{part}_offsets", values.offsets)
                new.save(f"filter_{place}_{part}", values.values)
            elif values is not None:
                new.save(f"filter_{place}_{part}", values)
        new.save(f"filter_{place}_ordered", column.ordered.values)
        new.save(f"filter_{place}_ordered_rows", column.ordered.rows)
    if built.not_personal is not None:
        new.save(NOT_PERSONAL, built.not_personal)
    kept_out = rejected(built.report.rejected)
    new.save(REJECTED_KEYS, kept_out.keys)
    new.save(REJECTED_RULES, kept_out.rules)
    new.write(NAMES, json.dumps(built.names, ensure_ascii=False).encode())


def _filter_said(column: FilterColumn) -> dict[str, Any]:
    said = {"name": column.name, "rule": column.rule, "passes_missing": column.passes_missing}
    return said | {"applies": [list(rows) for rows in column.applies], "of_users": column.users is not None}


def _filter(folder: Path, place: int, manifest: dict[str, Any]) -> FilterColumn:
    said = manifest["filters"][place]

    def load(part: str) -> Any:
        return np.asarray(np.load(folder / f"filter_{place}_{part}.npy", mmap_mode="r", allow_pickle=False))

    def column(part: str) -> Listed | Float64:
        values = load(part)
        return (
            values if said["rule"] == "at_most" else Listed(_column(folder, f"filter_{place}_{part}_offsets"), values)
        )

    items, users = column("items"), column("users") if said["of_users"] else None
    # A version of an earlier release has them in the items' order alone.
    has_order = f"filter_{place}_ordered.npy" in manifest["files"]
    in_order = Ordered(load("ordered"), load("ordered_rows")) if has_order else ordered(items)
    applies = [(start, end) for start, end in said["applies"]]
    return FilterColumn(said["name"], said["rule"], said["passes_missing"], applies, items, users, in_order)


def _text_or_number(texts: Texts | None, ids: Int64, number: int) -> int | str | None:
    """``ids``: (n,) ascending, the numbers of ``texts``' rows."""
    if texts is None:
        return number
    row = int(np.searchsorted(ids, number))
    return (texts.at(row) or None) if row < len(ids) and ids[row] == number else None


def _texts(folder: Path, manifest: dict[str, Any], name: str) -> Texts | None:
    if f"{name}.npy" not in manifest["files"]:
        return None
    return Texts(_column(folder, f"{name}_offsets"), np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")))


def _column(folder: Path, name: str) -> Any:
    """A plain array over the mapping: np.memmap itself is slower to hand to a kernel."""
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    others = {REJECTED_RULES: np.uint8} | dict.fromkeys(LIST_ORDERS.values(), np.int32)
    expected = COLUMNS.get(name, (others.get(name, np.int64), 1))
    if array.dtype != expected[0] or array.ndim != expected[1]:
        raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
    return np.asarray(array)


def _orders(folder: Path, manifest: dict[str, Any], arrays: CatalogArrays) -> ListOrders:
    """A version of an earlier release has none."""
    if not all(f"{name}.npy" in manifest["files"] for name in LIST_ORDERS.values()):
        return list_orders(arrays)
    return ListOrders(**{order: _column(folder, name) for order, name in LIST_ORDERS.items()})


def _rejected(folder: Path, manifest: dict[str, Any]) -> Rejected | None:
    if f"{REJECTED_KEYS}.npy" not in manifest["files"]:
        return None
    return Rejected(_column(folder, REJECTED_KEYS), _column(folder, REJECTED_RULES), manifest["rejection_rules"])


def _later_columns(columns: dict[str, Any]) -> dict[str, Any]:
    """Of a version of an earlier release: nobody took anything together, and of the first two types the first bears
    tokens. Read-only, as mapped ones are."""
    items, later = len(columns["item_id"]), {}
    values = {"type_number": range(CREATOR), "type_offsets": [0, columns["worded"], items]}
    for name in LATER_COLUMNS:
        if name not in columns:
            rows = {"neighbour_offsets": items + 1, "trending": items}.get(name, 0)
            later[name] = np.array(values.get(name, np.zeros(rows)), COLUMNS[name][0])
            later[name].flags.writeable = False
    return later


def _map(path: Path) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
