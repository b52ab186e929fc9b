"""Counter of the places where the host reads a tensor's value, for which it would wait for a GPU."""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.checks import deferred

_READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount",
    "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip
_SIZED_BY_VALUE = {"repeat_interleave.Tensor"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waits(TorchDispatchMode):
    """Counts ``.item()``, ``.tolist()``, ``bool(tensor)``, ``nonzero``, masks as indices and the like, by name."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    @property
    def count(self):
        return sum(self.found.values())

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        name = operation._overloadpacket.__name__
        if name in _READS or str(operation).removeprefix("aten.") in _SIZED_BY_VALUE:
            self.found[name] += 1
        elif name in _INDEXED and any(one is not None and one.dtype == torch.bool for one in arguments[1]):
            self.found[f"mask in {name}"] += 1
        return operation(*arguments, **(named or {}))


@contextmanager
def counted_waits(monkeypatch):
    """Context manager: a `Waits` that counts, with values looked at as on a device that the host waits for.

    ``tolist`` reads memory without an operation, so it is replaced.
    """
    waits, tolist = Waits(), torch.Tensor.tolist

    def counted(tensor):
        waits.found["tolist"] += 1
        return tolist(tensor)

    with monkeypatch.context() as patch, waits:
        patch.setattr(torch.Tensor, "tolist", counted)
        patch.setattr(deferred, "has_to_wait", lambda values: True)
        yield waits
