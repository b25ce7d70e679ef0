"""Files that ship with the package, and hold where a setting names no other."""

from pathlib import Path

from recommendation_service.mappings import interacpedia

_FOLDER = Path(interacpedia.__file__).resolve().parent

STARTING_POLICY = _FOLDER / "starting.toml"
LEARNING = _FOLDER / "learning.toml"
