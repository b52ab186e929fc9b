"""Descriptions of a run's parts in its records' header: settings to look up, expressions to read."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.records.schema import Source

DEPTH = 3  # of nested parts in an expression; the whole configuration stands on the page besides
SMALL = 16 / 255  # radii up to here are written in grey levels
NORMS = {"1": "L1", "2": "L2", "inf": "L∞"}
HIDDEN = ("class", "name", "randomised", "training", "weights")


def expression(node: Any, depth: int = DEPTH) -> str:
    """A described part as Python would write it: last names of classes, settings that are set, nested parts."""
    node = normal(node)
    if not isinstance(node, dict):
        return _value(node)
    inside = [f"{key}={expression(node[key], depth - 1)}" for key in set_names(node)] if depth > 0 else ["…"]
    name = short(str(node.get("class", "")))
    return f"{name}({', '.join(inside)})" if inside else name


def set_names(node: Mapping[str, Any]) -> list[str]:
    """Names of a part's settings that are set: neither its class nor what is off or empty."""
    return [key for key, value in node.items() if key not in HIDDEN and value not in (None, False, [], {})]


def short(path: str) -> str:
    """Last name of a dotted class path; anything else as it is."""
    return path.rsplit(".", 1)[-1] if all(part.isidentifier() for part in path.split(".")) else path


def normal(node: Any) -> Any:
    """A command line's ``{class_path, init_args}`` as a header has it: ``{class, **settings}``."""
    if isinstance(node, dict) and "class_path" in node:
        return {"class": node["class_path"], **(node.get("init_args") or {})}
    return node


def find(config: Any, key: str) -> Any:
    """Value of the outermost ``key`` in a nested configuration; None if there is none."""
    level = [config]
    while level:
        for node in level:
            if isinstance(node, dict) and node.get(key) is not None:
                return node[key]
        level = [child for node in level for child in _children(node)]
    return None


def evaluator_parts(config: Mapping[str, Any]) -> list[tuple[Source, dict[str, Any]]]:
    """Described evaluators of a run, with their identities."""
    parts = find(config, "evaluators")
    described = map(normal, parts if isinstance(parts, list) else [])
    return [(Source.described(part), part) for part in described if isinstance(part, dict)]


def budget(norm: str | None, eps: float | None) -> str:
    """``"L∞ ≤ 8/255"``; a distance that is no norm keeps its name; empty without a radius."""
    if eps is None:
        return ""
    name = str(norm or "").removeprefix("L")
    return f"{NORMS.get(name, str(norm or 'distance'))} ≤ {ratio(eps)}"


def ratio(eps: float) -> str:
    """A radius as the field writes it: ``"8/255"`` where it is small and an integer in grey levels, else ``"0.2"``."""
    grey = eps * 255
    return f"{round(grey)}/255" if 0 < eps <= SMALL + 1e-6 and abs(grey - round(grey)) < 1e-3 else f"{eps:.4g}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        few = [_value(entry) for entry in (value if len(value) <= 4 else [value[0], value[-1]])]
        return ", ".join(few) if len(value) <= 4 else f"{few[0]} … {few[1]} ({len(value)})"
    return f"{value:.4g}" if isinstance(value, float) else short(str(value)) if not isinstance(value, dict) else "…"


def _children(node: Any) -> Iterator[Any]:
    yield from node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
