"""Files that torch.save wrote before its zip format, mapped from the disk: what is not used of them is never read.

Such a file is four pickles (a magic number, a version, the machine, the content), a fifth with the keys of the storages
that the content's tensors lie in, and then these storages one after the other, each the number of its items in 8 bytes
and the bare data.
"""

import mmap
import pickle
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.storage import TypedStorage, UntypedStorage

from common.checkpoints.formats.unpickler import TensorUnpickler

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class MappedUnpickler(TensorUnpickler):
    """Puts tensors on ``storages``, by key, or on the meta device where there is none; ``asked`` is what they need."""

    def __init__(self, file: IO[bytes], storages: dict[str, UntypedStorage]) -> None:
        super().__init__(file)
        self.storages = storages
        self.asked: dict[str, tuple[torch.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> TypedStorage:
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int) or view is not None:
            raise pickle.UnpicklingError("it refers to data in a way that is not understood")
        self.asked[key] = dtype, count
        absent = key not in self.storages
        bare: Any = UntypedStorage  # neither constructor is typed
        storage = bare(count * dtype.itemsize, device="meta") if absent else self.storages[key]
        typed: Any = TypedStorage
        return cast(TypedStorage, typed(wrap_storage=storage, dtype=dtype, _internal=True))


def read_mapped(path: Path) -> Any:
    """The content of the file at ``path``. Its tensors are views of the file: copy those that are kept.

    Raises ``pickle.UnpicklingError`` for a file that is cut short or names what tensors do not need, and whatever else
    a damaged pickle may raise. Nothing in the file is run.
    """
    with path.open("rb") as file:
        for _ in range(3):
            TensorUnpickler(file).load()
        start = file.tell()
        first = MappedUnpickler(file, {})
        first.load()
        keys = TensorUnpickler(file).load()
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        storages, at = {}, file.tell()
        for key in keys:
            dtype, count = first.asked[key]
            size = count * dtype.itemsize
            if whole[at : at + 8] != count.to_bytes(8, "little") or at + 8 + size > len(whole):
                raise pickle.UnpicklingError("pickle data was truncated")
            data = torch.frombuffer(whole, dtype=torch.uint8, offset=at + 8, count=size) if size else torch.empty(0)
            storages[key] = data.untyped_storage()
            at += 8 + size
        file.seek(start)
        second = MappedUnpickler(file, storages)
        content = second.load()
    if not second.asked.keys() <= storages.keys():
        raise pickle.UnpicklingError("a tensor without its data")
    return content
