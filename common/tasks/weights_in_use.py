"""Weights and attributes that identify a run are those in use when rows are written."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from common.records.attributes import identity_of, left_out
from common.records.checksums import checksums
from common.records.description import Describer

_MISSING = object()
_DESCRIBED_TENSOR = {"dtype", "checksum", "sha256"}


class WeightsInUse:
    """State of the ``parts`` of a run, taken when they were described: its weights, and all else that they hold.

    ``modules``: the outermost modules by their place in the run. ``resumed``: rows of an earlier start are continued.
    """

    def __init__(self, parts: Mapping[str, Any], modules: Mapping[str, nn.Module], resumed: bool = False) -> None:
        self._parts, self._modules, self._resumed = parts, modules, resumed
        self._expected = {place: checksums(module) for place, module in modules.items()}
        self._described = _described(parts)
        self._warned = False

    def check(self) -> None:
        """Raise ``ValueError`` if a weight or another value has changed, with the names of the part and of the value.

        A value that was None, and a key that a dictionary did not have, may be filled: caches are. An integer may be a
        counter: it warns in a new test, and is refused in a resumed one.
        """
        counted = [name for place, module in self._modules.items() for name in self._check_weights(place, module)]
        described = _described(self._parts)
        moved = dict(_changes(self._described, described))
        counted += [name for name, integer in moved.items() if integer]
        if refused := [name for name, integer in moved.items() if not integer]:
            raise ValueError(
                f"{', '.join(refused[:4])} changed during the test, so its numbers may depend on the order of the "
                f"images and do not belong to one defence. {_REMEDY}"
            )
        self._described = described
        if counted and self._resumed:
            raise ValueError(
                f"{', '.join(counted[:4])} changed during the test, so it cannot be determined whether this resumed "
                f"test continues its records. {_REMEDY}"
            )
        if counted and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"{', '.join(counted[:4])} changed during the test: unless this only counts, its numbers depend on the "
                f"order of the images. The test cannot be resumed. {_REMEDY}"
            )

    def _check_weights(self, place: str, module: nn.Module) -> list[str]:
        """Names of integer buffers that have changed. ``ValueError`` if another weight has."""
        expected, found = self._expected[place], checksums(module)
        changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        integers = _integer_buffers(module) if changed else {}
        if refused := [name for name in changed if name not in integers]:
            raise ValueError(
                f"{place} no longer has the weights that identify the records: {', '.join(refused[:4])} changed "
                "during the test, so its numbers depend on the order of the images. Let no part of a defence or of "
                "an attack, and no callback, write into weights"
            )
        return [f"{place}.{name}" for name in changed if not integers[name]]


_REMEDY = (
    "Keep state of a call in the call; list what decides no number, such as a counter, in the class's "
    "not_identifying, or give the class a method identity()"
)


def _integer_buffers(module: nn.Module) -> dict[str, bool]:
    """Buffers of integers by name; True for those that the class's ``not_identifying`` or ``identity`` speaks for."""
    found: dict[str, bool] = {}
    for place, part in module.named_modules():
        for name, value in part._buffers.items():
            if value is not None and str(value.dtype).startswith(("torch.int", "torch.uint")):
                told = name in left_out(type(part)) or identity_of(part) is not None
                found[f"{place}.{name}".lstrip(".")] = told
    return found


def _described(parts: Mapping[str, Any]) -> dict[str, Any]:
    describer = Describer(cheap=True)
    return {name: describer.describe(part, name) for name, part in parts.items()}


def _changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """(place, True for integers) where a description has changed, without what was filled."""
    if before == after or before is None or before == {}:
        return
    if isinstance(before, dict) and isinstance(after, dict) and not _DESCRIBED_TENSOR & before.keys():
        for name, value in before.items():
            yield from _changes(value, after.get(name, _MISSING), f"{path}.{name}" if path else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, value in enumerate(before):
            yield from _changes(value, after[place], f"{path}.{place}")
    else:
        yield path.replace(".settings", "").replace(".parts", ""), _is_integer(before) and _is_integer(after)


def _is_integer(described: Any) -> bool:
    if isinstance(described, dict):
        return str(described.get("dtype")).startswith(("int", "uint"))
    return isinstance(described, int) and not isinstance(described, bool)
