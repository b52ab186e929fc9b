"""How the numbers were made, in sentences, from the configuration in the records' header."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.report.runs import Run

DEPTH = 3  # of nested parts that a defence's expression shows; the whole configuration stands below it
SMALL = 16 / 255  # radii up to here are written in grey levels
PHRASES = {  # how a setting of an attack is said, in this order
    "steps": "{} step(s)",
    "step_size": "of size {}",
    "eot": "{} EOT draw(s) per step",
    "restarts": "{} restart(s)",
    "random_start": "random start",
    "loss": "loss {}",
}
NORMS = {"1": "L1", "2": "L2", "inf": "L∞"}


def defence(run: Run) -> str:
    """The classifier as an expression, ``Purified(classifier=…, purifier=DiffPure(…))``; empty if not stated."""
    node = _normal(_find(run.config, "classifier"))
    return expression(node) if node is not None else ""


def evaluations(run: Run) -> list[tuple[str, str]]:
    """(evaluator, sentence) for each evaluator that left records; the sentence says what the header knows."""
    parts = _find(run.config, "evaluators")
    known = {part.get("name", ""): part for part in map(_normal, parts if isinstance(parts, list) else [])}
    return [(summary.evaluator, _sentence(run, summary.evaluator, known)) for summary in run.summaries]


def _sentence(run: Run, evaluator: str, known: Mapping[str, Any]) -> str:
    rows, part = run.rows(evaluator), known.get(evaluator, {})
    sentence = (_clean, _attacked, _certified)[run.kind(evaluator)](run, evaluator, part)
    seconds = sorted(row.cost["seconds"] for row in rows if "seconds" in row.cost)
    took = f", about {seconds[len(seconds) // 2]:.2g} s each" if seconds else ""
    return f"{sentence} {len(rows)} image{'s' if len(rows) > 1 else ''}{took}."


def _clean(run: Run, evaluator: str, part: Mapping[str, Any]) -> str:
    return f"The images as they are, on {_draws(run, evaluator)}."


def _attacked(run: Run, evaluator: str, part: Mapping[str, Any]) -> str:
    values, attack = run.rows(evaluator)[0].values, _normal(part.get("attack", {}))
    name = _short(attack.get("class", "an attack that the records do not name"))
    eps, norm = float(values.get("eps", 0)), str(values.get("norm", "")).removeprefix("L")
    budget = f" within {NORMS.get(norm, norm)} ≤ {ratio(eps)}" if "eps" in values else ""
    keys = sorted(_settings(attack), key=lambda key: [*PHRASES, key].index(key))
    settings = [_phrase(key, attack[key]) for key in keys]
    gradient = _find(_find(run.config, "classifier"), "gradient")
    if gradient is not None:
        settings.append(f"gradient through the defence by {expression(gradient)}")
    listed = f": {', '.join(settings)}" if settings else ""
    return f"{name}{budget}{listed}. Scored on {_draws(run, evaluator)} that the attack never saw."


def _phrase(key: str, value: Any) -> str:
    name = key.replace("_", " ")
    phrase = PHRASES.get(key, name if value is True else f"{name} {{}}")
    return phrase.format(expression(value).replace("_", "-")).replace("(s)", "" if value == 1 else "s")


def _certified(run: Run, evaluator: str, part: Mapping[str, Any]) -> str:
    smoothing = _normal(part.get("smoothing", {}))
    listed = ", ".join(f"{key} {_value(smoothing[key])}" for key in ("sigma", "n0", "n", "alpha") if key in smoothing)
    return f"Randomised smoothing with Gaussian noise on the pixels{': ' if listed else ''}{listed}."


def _draws(run: Run, evaluator: str) -> str:
    count = len(run.rows(evaluator)[0].values["predictions"])
    return "one draw" if count == 1 else f"{count} fresh draws"


def ratio(eps: float) -> str:
    """A radius as the field writes it: ``"8/255"`` where it is small and whole in grey levels, else ``"0.2"``."""
    grey = eps * 255
    return f"{round(grey)}/255" if 0 < eps <= SMALL + 1e-6 and abs(grey - round(grey)) < 1e-3 else f"{eps:.4g}"


def expression(node: Any, depth: int = DEPTH) -> str:
    """A described part as Python would write it: classes by their last name, settings that are set, nested parts."""
    node = _normal(node)
    if not isinstance(node, dict):
        return _value(node)
    inside = [f"{key}={expression(node[key], depth - 1)}" for key in _settings(node)] if depth > 0 else ["…"]
    name = _short(str(node.get("class", "")))
    return f"{name}({', '.join(inside)})" if inside else name


def _settings(node: Mapping[str, Any]) -> list[str]:
    hidden = ("class", "name", "randomised", "training")
    return [key for key, value in node.items() if key not in hidden and value not in (None, False, [], {})]


def _value(value: Any) -> str:
    if isinstance(value, list):
        few = [_value(entry) for entry in (value if len(value) <= 4 else [value[0], value[-1]])]
        return ", ".join(few) if len(value) <= 4 else f"{few[0]} … {few[1]} ({len(value)})"
    return f"{value:.4g}" if isinstance(value, float) else _short(str(value)) if not isinstance(value, dict) else "…"


def _short(path: str) -> str:
    """The last name of a dotted class path; anything else as it is."""
    return path.rsplit(".", 1)[-1] if all(part.isidentifier() for part in path.split(".")) else path


def _normal(node: Any) -> Any:
    """A command line's ``{class_path, init_args}`` as a run's description has it: ``{class, **settings}``."""
    if isinstance(node, dict) and "class_path" in node:
        return {"class": node["class_path"], **(node.get("init_args") or {})}
    return node


def _find(config: Any, key: str) -> Any:
    """The value of the outermost ``key`` in a nested configuration; None if there is none."""
    level = [config]
    while level:
        for node in level:
            if isinstance(node, dict) and node.get(key) is not None:
                return node[key]
        level = [child for node in level for child in _children(node)]
    return None


def _children(node: Any) -> Iterator[Any]:
    yield from node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
