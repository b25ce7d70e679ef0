"""The mapping's JSON schema, with which editors complete and check a mapping while it is written."""

import json
from pathlib import Path

from recommendation_service.sources.mapping.format import MappingFile

SHIPPED = Path(__file__).with_name("mapping.schema.json")


def schema_text() -> str:
    """As it is committed beside this."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **MappingFile.model_json_schema()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
