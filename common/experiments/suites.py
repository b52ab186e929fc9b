"""Suites of evaluators by name: the files of ``configs/suites``, built without the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from common.experiments.preset_layers import read_config
from common.naming.configs_folder import presets_root
from common.naming.nearest import nearest
from common.naming.short_names import SHORT_NAMES
from common.robustness.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class NamedSuite:
    """Evaluators of a suite file, and its numbers of images: for the masking variants, and of the test.

    None: the test's own.
    """

    evaluators: Sequence[Evaluator]
    masking: int | None = None
    images: int | None = None


def suite_names() -> list[str]:
    """Names of the suites that come with the project."""
    return sorted(path.stem for path in (presets_root() / "suites").glob("*.yaml"))


def read_suite(name: str) -> NamedSuite:
    """The suite of that name, or of a YAML file. Raises ``ValueError`` for an unknown one, with the nearest names."""
    names = suite_names()
    path = presets_root() / "suites" / f"{name}.yaml" if name in names else Path(name)
    if not path.is_file():
        near = nearest(name, names)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"the suites are {', '.join(names)}"
        raise ValueError(f"no suite is named {name!r}: {advice}")
    config = read_config(path)
    arguments, data = config["model"]["init_args"], (config.get("data") or {}).get("init_args") or {}
    evaluators = [built(part) for part in arguments["evaluators"]]
    return NamedSuite(evaluators, arguments.get("masking"), data.get("test_images"))


def built(part: Any) -> Any:
    """The object of a part of a configuration: ``class_path`` with ``init_args``, lists, plain values."""
    if isinstance(part, list):
        return [built(item) for item in part]
    if not isinstance(part, dict) or "class_path" not in part:
        return part
    name = str(part["class_path"])
    maker = resolve_name(SHORT_NAMES.get(name, name))
    return maker(**{key: built(value) for key, value in (part.get("init_args") or {}).items()})
