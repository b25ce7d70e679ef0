"""What `kubectl kustomize` does, as far as deploy/kubernetes/ uses it, so that the tests need no kubectl.

Resources, images, namespace, generated config maps with the hash in their names, and strategic merge patches, in which
maps are merged, lists of things with a name are merged by name where Kubernetes does so, and other lists are
replaced. Anything else in a kustomization fails. Where kubectl is installed, a test compares the two.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "configMapGenerator", "patches"}
MERGED_BY_NAME = {"containers", "initContainers", "volumes", "env"}


def render(folder: Path) -> list[Manifest]:
    """Every object of a kustomization, in no particular order."""
    objects, maps = _accumulate(folder)
    namespace = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["namespace"]
    names = {name: f"{name}-{_hash(data)}" for name, data in maps.items()}
    for name, data in maps.items():
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": names[name]}, "data": data})
    for manifest in objects:
        manifest["metadata"]["namespace"] = namespace
        for reference in _values(manifest, "configMapRef"):
            reference["name"] = names.get(reference["name"], reference["name"])
    return objects


def _accumulate(folder: Path) -> tuple[list[Manifest], dict[str, dict[str, str]]]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := kustomization.keys() - KNOWN:
        raise ValueError(f"{folder} asks for what this renderer does not do: {sorted(unknown)}")
    objects: list[Manifest] = []
    maps: dict[str, dict[str, str]] = {}
    for name in kustomization["resources"]:
        if (folder / name).is_dir():
            further, given = _accumulate((folder / name).resolve())
            objects += further
            maps |= given
        else:
            objects += yaml.safe_load_all((folder / name).read_text("utf-8"))
    for generator in kustomization.get("configMapGenerator", ()):
        literals = dict(literal.split("=", 1) for literal in generator["literals"])
        if (generator.get("behavior") == "merge") != (generator["name"] in maps):
            raise ValueError(f"{folder}: {generator['name']} is there already, or is not")
        maps[generator["name"]] = maps.get(generator["name"], {}) | literals
    for patch in kustomization.get("patches", ()):
        change = yaml.safe_load((folder / patch["path"]).read_text("utf-8"))
        [target] = [manifest for manifest in objects if _identity(manifest) == _identity(change)]
        target.update(_merged(target, change))
    for image in kustomization.get("images", ()):
        for container in _containers(objects):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return objects, maps


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _merged(base: Any, change: Any, key: str = "") -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {name: _merged(base.get(name), value, name) for name, value in change.items()}
    if isinstance(change, list) and isinstance(base, list) and key in MERGED_BY_NAME:
        changes = {entry["name"]: entry for entry in change}
        if unknown := changes.keys() - {entry["name"] for entry in base}:
            raise ValueError(f"nothing to patch: {sorted(unknown)}")
        return [_merged(entry, changes.get(entry["name"], {})) for entry in base]
    return change


def _containers(objects: list[Manifest]) -> list[Manifest]:
    return [entry for name in ("containers", "initContainers") for found in _values(objects, name) for entry in found]


def _values(tree: Any, key: str) -> list[Any]:
    """What stands under that key, anywhere."""
    if isinstance(tree, list):
        return [value for entry in tree for value in _values(entry, key)]
    if isinstance(tree, dict):
        own = [tree[key]] if key in tree else []
        return own + [value for entry in tree.values() for value in _values(entry, key)]
    return []


def _hash(data: dict[str, str]) -> str:
    """Ten letters and digits of the content, without those that could make a word. The name is left out of it."""
    content = json.dumps({"data": data, "kind": "ConfigMap", "name": ""}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:10].translate(str.maketrans("013ae", "ghkmt"))
