"""Rehearsal: build a test's evaluators and data module before a network is loaded."""

import inspect
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from torch import nn

from common.robustness.classifiers import Classifier
from common.robustness.evaluation.suite import suite


class _Unloaded(Classifier):
    """Placeholder of a network or a classifier."""


def rehearse(config: Mapping[str, Any]) -> None:
    """Build the evaluators and the data module of a parsed ``test`` configuration, with placeholders for networks.

    Raises the errors of their constructors and of `suite`, so that invalid settings cost no loading.
    """
    model, data = config.get("model"), config.get("data")
    arguments = model.get("init_args") or {} if model is not None else {}
    if arguments.get("evaluators"):
        threat = arguments.get("threat")
        suite(_built(arguments["evaluators"]), _built(threat) if threat is not None else None)
    if data is not None:
        _built(data)


def _built(part: Any) -> Any:
    """The object of a parsed part of a configuration, with placeholders for networks."""
    if isinstance(part, list | tuple):
        return [_built(item) for item in part]
    if not isinstance(part, Namespace | Mapping):
        return part
    if "class_path" not in part:
        return {key: _built(value) for key, value in vars(part).items()} if isinstance(part, Namespace) else part
    maker = resolve_name(part["class_path"])
    if not inspect.isclass(maker) or issubclass(maker, nn.Module):
        return _Unloaded()
    arguments = part.get("init_args") or {}
    given = vars(arguments) if isinstance(arguments, Namespace) else arguments
    return maker(**{name: _built(value) for name, value in given.items()})
