"""Fingerprint of a run: the parts that decide its numbers, as plain JSON, and a hash of it.

Records of different runs must not be mixed. A run is identified by its parts (class, settings, weights) and not by the
file that configured them, so a script and a YAML file that build the same parts continue each other's records.
``common.records.description`` says what counts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from common.records.description import Describer
from common.records.rows import UNDETERMINED
from common.records.tensors import weights_hash

__all__ = ["RunIdentity", "identify", "identity", "settings", "weights_hash"]


@dataclass(frozen=True)
class RunIdentity:
    """``fingerprint`` and ``description`` of a run, and the outermost ``modules`` in it by place."""

    fingerprint: str
    description: dict[str, Any]
    modules: Mapping[str, nn.Module]


def settings(part: Any) -> Any:
    """A part and all that it holds as JSON; the outermost modules also get the hash of all their weights."""
    return Describer().describe(part)


def identity(parts: Mapping[str, Any]) -> RunIdentity:
    """Identity of a run made of ``parts``. What cannot be determined is listed in the description as "undetermined"."""
    describer = Describer()
    description = {name: describer.describe(part, name) for name, part in parts.items()}
    if describer.undetermined:
        description[UNDETERMINED] = sorted(set(describer.undetermined))
    text = json.dumps(description, sort_keys=True)
    return RunIdentity(hashlib.sha256(text.encode()).hexdigest()[:16], description, describer.modules)


def identify(parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(fingerprint, description) of a run made of ``parts``."""
    run = identity(parts)
    return run.fingerprint, run.description
