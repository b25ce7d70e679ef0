"""Numbers of kinds in records, told by the names that any kept policy version has."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from recommendation_service.catalog.dictionary import KeptDictionary, open_dictionary
from recommendation_service.core.config import Settings
from recommendation_service.flush.export import event_of_record
from recommendation_service.mappings.shipped import STARTING_POLICY
from recommendation_service.policies.journal import Deed
from recommendation_service.policies.mapped import starting_content, toml_of
from recommendation_service.policies.store import PolicyStore
from recommendation_service.ranking.packed_slots import pack_as_they_are
from recommendation_service.sources.mapping.mapping import load_mapping
from recommendation_service.sources.mapping.words import open_words
from tests.support.events import feed, feedback

MAPPING = Path(__file__).resolve().parents[3] / "examples" / "jobs" / "mapping.toml"
BEGAN = datetime(2026, 11, 30, tzinfo=UTC)


def publish(settings: Settings, hours: int, **kinds: int) -> None:
    """A version with further kinds of such numbers, so many hours after another."""
    if settings.mapping_file is None:
        content = tomllib.loads(STARTING_POLICY.read_text("utf-8"))
    else:
        content = starting_content(load_mapping(settings.mapping_file))
    like = next(iter(content["kinds"].values()))
    for name, number in kinds.items():
        content["kinds"][name] = like | {"number": number, "label": name}
    deed = Deed(BEGAN + timedelta(hours=hours), "a test", "another kind")
    PolicyStore(settings.policy_dir, settings.policy_keep).publish(toml_of(content).encode(), None, deed)


@pytest.mark.parametrize("mapping", [MAPPING, None], ids=["mapping", "first-operator"])
def test_a_kind_that_a_later_version_adds_has_its_name_in_exports(mapping: Path | None, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, mapping_file=mapping)
    words = open_words(settings)
    slots = feed().slots()
    record = feed(packed=pack_as_they_are(slots._replace(kinds=np.full(3, 12, np.uint8))))
    viewed = feedback(event="view", item_type=next(iter(words.types.values())), slot_kind=13)

    def told() -> tuple[str, str]:
        ids = kept.now()
        return event_of_record(record, ids)["slots"][0]["slot"], event_of_record(viewed, ids)["slot_kind"]

    kept = KeptDictionary(settings, words)
    assert told() == ("kind_12", "kind_12")
    publish(settings, 1, evening=12)
    assert told() == ("evening", "evening")
    publish(settings, 2, late=12)
    assert told() == ("late", "late"), "the latest name counts"
    assert {name: words.kind_number(name) for name in words.kinds} == {
        name: number for name, number in kept.now().words.kinds.items() if name != "late"
    }


def test_a_version_that_cannot_be_read_names_no_kind_and_takes_no_name_from_another(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    publish(settings, 1, evening=12)
    publish(settings, 2, evening=12, night=13)
    store = PolicyStore(settings.policy_dir, settings.policy_keep)
    (settings.policy_dir / store.versions()[-1] / "manifest.json").write_text("{}")
    words = open_dictionary(settings, open_words(settings)).words
    assert (words.kind_name(12), words.kind_name(13)) == ("evening", "kind_13")
