"""Nested descriptions of a run's parts: by dotted paths, their hash, and the places where two of them differ."""

import hashlib
import json
from typing import Any


def flattened(config: Any, path: str = "") -> dict[str, Any]:
    """Dictionaries and lists as {dotted path: value}: ``{"a": [3, {}]}`` is ``{"a.0": 3, "a.1": {}}``."""
    entries = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    if not config or not entries:
        return {path: config}
    below = [flattened(entry, f"{path}.{name}" if path else str(name)) for name, entry in entries]
    return {place: value for part in below for place, value in part.items()}


def differences(first: Any, second: Any) -> list[tuple[str, Any, Any]]:
    """(dotted path, first value, second value) wherever two descriptions differ; a missing value is None."""
    one, other = flattened(first), flattened(second)
    return [(path, one.get(path), other.get(path)) for path in {**one, **other} if one.get(path) != other.get(path)]


def hash_of(description: Any) -> str:
    """sha256 of a description, whatever the order of the keys in it."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
