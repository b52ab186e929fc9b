"""Configurations in layers: a file names what it builds on by ``base: [bases/cifar10]``.

Bases apply from left to right, then the file itself. Mappings merge key by key, lists are replaced; where two layers
name different classes at one place, the later one replaces the earlier with all its settings. A base is a file beside
the one that names it, or a preset.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.experiments.preset_files import find_preset, preset_name
from common.experiments.yaml_files import parse_mapping, read_text
from common.naming.configs_folder import presets_root
from common.naming.nearest import did_you_mean
from common.naming.short_names import SHORT_NAMES

BASE = "base"


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration of a file, merged over those that it builds on.

    Raises ``ValueError`` for a file that is no mapping, a missing base, and a file that builds on itself.
    """
    return _read(Path(path), ())


def layers(path: str | Path) -> list[Path]:
    """The files that make up a configuration, in the order in which they apply."""
    return _layers(Path(path), ())


def find_base(name: str, path: Path) -> Path:
    """The file of a base that ``path`` names. Raises ``ValueError`` if there is none, with the nearest name."""
    beside = [path.parent / name, path.parent / f"{name}.yaml"]
    found = next((one for one in beside if one.is_file()), None) or find_preset(name)
    if found is None:
        root = presets_root()
        known = [preset_name(one) for one in root.rglob("*.yaml")]
        raise ValueError(f"{path} builds on {name}: no file beside it, no preset.{did_you_mean(name, known)}")
    return found


def merge_layers(earlier: Any, later: Any) -> Any:
    """``later`` over ``earlier``: mappings of one class merge key by key, everything else is replaced."""
    if not isinstance(earlier, Mapping) or not isinstance(later, Mapping):
        return later
    named = [part["class_path"] for part in (earlier, later) if "class_path" in part]
    classes = {SHORT_NAMES.get(str(name), name) for name in named}
    if len(classes) > 1:
        return dict(later)
    return {
        **earlier,
        **{key: merge_layers(earlier[key], value) if key in earlier else value for key, value in later.items()},
    }


def _layers(path: Path, above: tuple[Path, ...]) -> list[Path]:
    _, bases, above = _opened(path, above)
    return [*(file for base in bases for file in _layers(base, above)), path]


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    content, bases, above = _opened(path, above)
    config: dict[str, Any] = {}
    for base in bases:
        config = merge_layers(config, _read(base, above))
    own = {key: value for key, value in content.items() if key != BASE}
    merged: dict[str, Any] = merge_layers(config, own)
    return merged


def _opened(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[Path], tuple[Path, ...]]:
    """Content of a file, its bases, and the files on the way to them; ``ValueError`` for one that builds on itself."""
    place = path.resolve()
    if place in above:
        raise ValueError(
            f"{path} builds on itself, by way of {' and '.join(one.name for one in above)}. Name another base"
        )
    content = parse_mapping(read_text(path), str(path))
    return content, [find_base(name, path) for name in _names(content, path)], (*above, place)


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    names = content.get(BASE) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: base must be a name or a list of names, such as [bases/cifar10]; got {names!r}")
    return names
