"""Ranks without images of their own count samples of the images that others certify.

A rank that certifies an image and sees idle ranks opens a round: the next samples, in slices that every rank takes one
by one. Counts are integers and every sample has its own noise, so the sums are those of one process. Nobody waits in a
collective; the owner of the image alone waits for the slices that others have taken. A rank whose memory runs out calls
its networks with fewer rows; if the smallest calls are too large, it hands its slice back to the owner.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol
from uuid import uuid4

import torch
from torch import Tensor

from common.engine.memory import is_out_of_memory, release_memory
from common.engine.meter import Meter, credit
from common.noise import Noise
from common.robustness.certification.samples import SampleCounter, Samples, packed, unpacked
from common.robustness.classifiers import Classifier, deployed
from common.robustness.padding import Padded

LEAST = 32  # samples of a slice: fewer cost a network as much
WORTH = 0.5  # seconds that samples take at least to be shared
SLICES = 4  # of each rank in a round, whose counts a kill loses
POLL = 0.02  # seconds between two looks of an idle rank


class Board(Protocol):
    """Numbers and texts that all ranks share (`common.processes.counters`)."""

    def add(self, name: str, amount: int) -> int:
        """Add to a number, 0 at first; the sum."""

    def put(self, name: str, content: bytes) -> None:
        """Publish a text."""

    def get(self, name: str) -> bytes | None:
        """A published text; None if there is none."""

    def remove(self, *names: str) -> None:
        """Forget numbers and texts."""


class Crew:
    """The ranks of a test that help each other, by a ``board`` under ``name``, with the same ``classifier``.

    ``counters``: the certifiers of the test, in an order that all ranks share. ``check`` raises where this rank has to
    end, ``alive`` where another one is gone.
    """

    def __init__(
        self, board: Board, name: str, ranks: int, classifier: Classifier, counters: Sequence[SampleCounter]
    ) -> None:
        self._board, self._name, self._ranks = board, name, ranks
        self.classifier, self._counters = classifier, counters
        self.check: Callable[[], None] = lambda: None
        self.alive: Callable[[], None] = lambda: None
        self._left, self._pace = False, 0.0

    def knows(self, counter: SampleCounter, classifier: Classifier) -> bool:
        """True if the other ranks hold this very certifier and this classifier."""
        return classifier is self.classifier and any(one is counter for one in self._counters)

    def helps(self, rows: int) -> bool:
        """True if there are idle ranks, and so many samples take longer than it takes to share them."""
        return self._pace * rows >= WORTH and self.idle > 0

    def learn(self, rows: int, seconds: float) -> None:
        """Note what so many samples took."""
        self._pace = seconds / max(1, rows)

    @property
    def idle(self) -> int:
        """Number of ranks without images."""
        return self._board.add(f"{self._name} idle", 0)

    def leave(self) -> None:
        """Count this rank among those without images."""
        if not self._left:
            self._left = True
            self._board.add(f"{self._name} idle", 1)

    def help(self) -> None:
        """Count samples of others' images until no rank has any."""
        number = self._board.add(f"{self._name} rounds", 0) + 1
        self.leave()
        while self.idle < self._ranks:
            self.check()
            if number > self._board.add(f"{self._name} rounds", 0):
                time.sleep(POLL)
            elif not self._take(self._wait(f"{self._name} {number}").decode()):
                number += 1

    def count(self, counter: SampleCounter, image: Tensor, owner: Tensor, rows: Noise) -> tuple[Tensor, int]:
        """Class counts (B,K) of the first ``rows`` (R,), of the images ``owner`` (R,), by all ranks; and how many."""
        workers = self.idle + 1
        size = min(counter.batch_size, max(LEAST, math.ceil(len(owner) / (2 * workers))))
        total = min(len(owner), SLICES * workers * size)
        slices = math.ceil(total / size)
        call = Samples.of(self._counters.index(counter), image, owner[:total], rows.rows(slice(0, total)), size)
        name = self._open(call, slices)
        counts = torch.zeros(len(image), counter.num_classes, dtype=torch.int64, device=image.device)
        others = set(range(slices))
        while (number := self._board.add(f"{name} left", -1)) >= 0:
            others.discard(number)
            counts[call.rows] += self._counted(call, counter, number)
        for number in others:
            found = unpacked(self._wait(f"{name} {number}"))
            if "counts" in found:
                counts[call.rows] += found["counts"].to(image.device)
                credit(found["evaluations"])
            else:  # handed back
                counts[call.rows] += self._counted(call, counter, number)
        self._board.remove(name, f"{name} left", *(f"{name} {number}" for number in others))
        return counts, total

    def _open(self, call: Samples, slices: int) -> str:
        """Publish a round under a name of its own, and then the name under the round's number."""
        name = f"{self._name} {uuid4().hex}"
        self._board.put(name, call.content())
        self._board.add(f"{name} left", slices)
        self._board.put(f"{self._name} {self._board.add(f'{self._name} rounds', 1)}", name.encode())
        return name

    def _take(self, name: str) -> bool:
        """Count one slice of a round; False if none is left, or if this rank has no memory for it."""
        if (number := self._board.add(f"{name} left", -1)) < 0:
            return False
        call = Samples.read(unpacked(self._wait(name)), self.classifier)
        exact = torch.autocast(call.image.device.type, enabled=False)
        try:
            with Meter(self.classifier) as meter, deployed(self.classifier), torch.no_grad(), exact:
                counts = self._counted(call, self._counters[call.counter], number)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            warnings.warn(f"memory ran out: this rank hands samples of others' images back ({error})", stacklevel=2)
            self._board.put(f"{name} {number}", packed({}))
            return False
        result = {"counts": counts.cpu(), "evaluations": round(meter.cost(1)["evaluations"])}
        self._board.put(f"{name} {number}", packed(result))
        return True

    def _counted(self, call: Samples, counter: SampleCounter, number: int) -> Tensor:
        """Class counts of a slice, in calls of half as many rows where memory runs out."""
        while True:
            try:
                return call.count(counter, self.classifier, number)
            except RuntimeError as error:
                padded = self.classifier
                if not is_out_of_memory(error) or not isinstance(padded, Padded) or not padded.halve():
                    raise
            release_memory()
            warnings.warn(f"memory ran out: this rank goes on with {padded.at_once} rows per call", stacklevel=2)

    def _wait(self, name: str) -> bytes:
        while (content := self._board.get(name)) is None:
            self.alive()
            time.sleep(POLL / 10)
        return content


_CURRENT: ContextVar[Crew | None] = ContextVar("crew", default=None)


@contextmanager
def helped(crew: Crew | None) -> Iterator[None]:
    """Context manager of a certification that idle ranks may help with."""
    token = _CURRENT.set(crew)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def crew_of(counter: SampleCounter, classifier: Classifier) -> Crew | None:
    """The crew whose ranks hold this certifier and this classifier, if there is one."""
    crew = _CURRENT.get()
    return crew if crew is not None and crew.knows(counter, classifier) else None
