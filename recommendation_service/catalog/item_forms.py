"""The form of the items' ready-made JSON: catalog versions outlive the program, and the settings, that wrote them.

A service that was updated, or that got another setting, serves from what is there at once, database or not, and no
client may be told which build it was. So a version says the form of its items, and whoever opens it gets the form
that it serves itself. The zone of its times is Z, which they bear, or the tables' own, which they do not bear.
"""

from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from recommendation_service.core.local_time import zone_of
from recommendation_service.model.columns import Int64

TIME_FORM = "%Y-%m-%dT%H:%M:%S"

_TIMES = ("created_at", "updated_at", "status_at")

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def item_form(time_zone: str) -> dict[str, str]:
    """What a manifest says of the items that this program writes; ``time_zone``: of their times, see above."""
    return {"id": "number", "time_zone": time_zone}


def is_of_form(manifest: dict[str, Any], time_zone: str) -> bool:
    """False where the items were written otherwise: manifests that say nothing are of ids in quotes, and times in Z."""
    return manifest.get("items") == item_form(time_zone)


def reformed(offsets: Int64, items: memoryview, manifest: dict[str, Any], time_zone: str) -> tuple[Int64, memoryview]:
    """Offsets and JSON of the same items in the form of today, whichever they are in; some 4 µs an item."""
    written = manifest.get("items", {}).get("time_zone")
    bodies = [
        _reformed(items[start:end], written, time_zone)
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    ends = np.cumsum([0, *map(len, bodies)], dtype=np.int64)
    ends.flags.writeable = False
    return ends, memoryview(b"".join(bodies))


def _reformed(body: memoryview, written: str | None, time_zone: str) -> bytes:
    item = _decode(body)
    item["id"] = int(item["id"])
    for name in _TIMES:
        if item.get(name):
            item[name] = _time(item[name].removesuffix("Z"), written, time_zone)
    return _encode(item)


def _time(text: str, written: str | None, time_zone: str) -> str:
    """Without a zone it is what the tables say, whichever zone that was held for; so it was before, with the Z."""
    if written is not None and (written == "Z") != (time_zone == "Z"):
        moment = datetime.fromisoformat(text).replace(tzinfo=zone_of(written)).astimezone(zone_of(time_zone))
        text = moment.strftime(TIME_FORM)
    return f"{text}Z" if time_zone == "Z" else text
