"""Files of torch.save before its zip format (torch < 1.6), memory-mapped: unused tensors are never read.

Such a file holds four pickles (magic number, version, machine, content), a fifth with the keys of the storages of the
content's tensors, and then these storages, each as its number of items in 8 bytes and the raw data.
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
    """Unpickler that puts tensors on ``storages`` by key, or on the meta device where there is none.

    ``required`` maps the keys of all storages in the content to (dtype, number of items).
    """

    def __init__(self, file: IO[bytes], storages: dict[str, UntypedStorage]) -> None:
        super().__init__(file)
        self.storages = storages
        self.required: dict[str, tuple[torch.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> TypedStorage:
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int) or view is not None:
            raise pickle.UnpicklingError("it refers to data in an unknown way")
        self.required[key] = dtype, count
        absent = key not in self.storages
        bare: Any = UntypedStorage  # neither constructor is typed
        storage = bare(count * dtype.itemsize, device="meta") if absent else self.storages[key]
        typed: Any = TypedStorage
        return cast(TypedStorage, typed(wrap_storage=storage, dtype=dtype, _internal=True))


def read_mapped(path: Path) -> Any:
    """The content of the file at ``path``. Its tensors are views of the file: copy those that are kept.

    Raises ``pickle.UnpicklingError`` for a file that is cut short or names anything but tensors and containers, and any
    other error of a damaged pickle. Nothing in the file is executed.
    """
    with path.open("rb") as file:
        for _ in range(3):
            TensorUnpickler(file).load()
        start = file.tell()
        first = MappedUnpickler(file, {})
        first.load()
        keys = TensorUnpickler(file).load()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        storages, position = {}, file.tell()
        for key in keys:
            dtype, count = first.required[key]
            size = count * dtype.itemsize
            if mapped[position : position + 8] != count.to_bytes(8, "little") or position + 8 + size > len(mapped):
                raise pickle.UnpicklingError("pickle data was truncated")
            data = torch.empty(0)
            if size:
                data = torch.frombuffer(mapped, dtype=torch.uint8, offset=position + 8, count=size)
            storages[key] = data.untyped_storage()
            position += 8 + size
        file.seek(start)
        second = MappedUnpickler(file, storages)
        content = second.load()
    if not second.required.keys() <= storages.keys():
        raise pickle.UnpicklingError("a tensor without its data")
    return content
