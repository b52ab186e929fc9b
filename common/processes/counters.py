"""Counters and texts that the ranks of a run share: each takes the next number when it is free, without waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from common.processes.interrupts import INTERRUPTS

PIECE = 2**22  # bytes of a value; the store closes the connection at more than twice as many
LOST = 5.0  # seconds in which the death of rank 0, whose store does not answer, becomes known


class Counters:
    """Numbers by name, 0 at first, and texts, in a store of rank 0; a thread of its own answers, outside of Python.

    All ranks construct it at the same place: ``broadcast`` sends an object of rank 0 to all, ``address`` is the host of
    rank 0.
    """

    def __init__(self, rank: int, address: str, broadcast: Callable[[Any], Any]) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # some builds of torch have none

        if rank == 0:
            self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
            broadcast(self._store.port)
        else:
            self._store = TCPStore(address, broadcast(None), is_master=False, wait_for_workers=False)

    def add(self, name: str, amount: int) -> int:
        """Add to a number, at once on all ranks, and return the sum.

        Raises `RankLost` or `Interrupted` if rank 0 is gone, and ``ValueError`` if it does not answer.
        """
        with self._answering():
            return int(self._store.add(name, amount))
        return 0

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            deadline = time.monotonic() + LOST
            while time.monotonic() < deadline:
                INTERRUPTS.check()
                time.sleep(0.05)
            raise ValueError(f"rank 0, which hands out the images, does not answer: {error}") from error

    def put(self, name: str, content: bytes) -> None:
        """Publish a text of any length. Raises as `add`."""
        last = max(len(content) - 1, 0) // PIECE * PIECE
        with self._answering():
            for start in range(last, -1, -PIECE):  # a text is there with its first piece
                self._store.set(_piece(name, start), content[start : start + PIECE])  # type: ignore[arg-type]

    def get(self, name: str) -> bytes | None:
        """A published text, None if there is none. Raises as `add`."""
        with self._answering():
            if not self._store.check([name]):
                return None
            content = bytearray(self._store.get(name))
            while len(content) and len(content) % PIECE == 0 and self._store.check([_piece(name, len(content))]):
                content += self._store.get(_piece(name, len(content)))
            return bytes(content)
        return None

    def remove(self, *names: str) -> None:
        """Forget numbers and texts. Raises as `add`."""
        with self._answering():
            for name in names:
                start = 0
                while self._store.delete_key(_piece(name, start)):
                    start += PIECE

    def read(self, name: str) -> int:
        """The number, 0 where rank 0 does not answer any more."""
        with suppress(RuntimeError):
            return int(self._store.add(name, 0))
        return 0


def _piece(name: str, start: int) -> str:
    """The key of the piece of a text from byte ``start`` on: the name itself at 0."""
    return f"{name} from {start}" if start else name
