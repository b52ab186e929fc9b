"""Ranks without images of their own help others: samples of a certificate, draws of an attack's gradient.

A rank that sees idle ranks opens a round: samples or draws, in slices that every rank takes one by one. Each has its
own noise, counts are integers and means are taken in the order of one process, so results are those of one process.
Nobody waits in a collective; the owner of the image alone waits for the slices that others have taken. A rank without
memory for the smallest calls hands its slice back to the owner, which also evaluates what a lost rank had taken.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from common.engine.memory import is_out_of_memory
from common.engine.meter import Meter, credit
from common.engine.switch import ALTERED
from common.noise import Noise
from common.robustness.certification.board import Board, Slices, device_of, on_device, packed, unpacked
from common.robustness.certification.samples import SampleCounter, Samples
from common.robustness.classifiers import Classifier, deployed
from common.robustness.padding import Padded

LEAST = 32  # samples of a slice: fewer cost a network as much
WORTH = 0.5  # seconds that samples take at least to be shared
SLICES = 4  # of each rank in a round, whose counts a kill loses
ENDED = -(2**31)  # slices left of a round that its owner has given up
POLL = 0.02  # seconds between two looks of an idle rank


class Crew:
    """The ranks of a test that help each other, by a ``board`` under ``name``, with the same ``classifier``.

    ``counters``: the certifiers of the test, in an order that all ranks share. ``read`` makes other work than samples
    from its content. ``check`` raises where this rank has to end, ``alive`` where another one is gone; ``gone`` is True
    where the row in hand may be finished first. ``watch`` is called all the time while this rank helps. ``fitted``
    returns the result of its argument, which it repeats with smaller calls where memory runs out.
    """

    def __init__(
        self,
        board: Board,
        name: str,
        ranks: int,
        classifier: Classifier,
        counters: Sequence[SampleCounter],
        read: Callable[[dict[str, Any]], Slices] | None = None,
    ) -> None:
        self._board, self._name, self._ranks = board, name, ranks
        self.classifier, self._counters, self._read = classifier, counters, read
        self.check: Callable[[], None] = lambda: None
        self.alive: Callable[[], None] = lambda: None
        self.gone: Callable[[], bool] = lambda: False
        self.fitted: Callable[[Callable[[], dict[str, Tensor]]], dict[str, Tensor]] = lambda act: act()
        self._left = False
        self._pace: dict[str, float] = {}
        self._timings: dict[str, int] = {}
        self.watch: Callable[[], None] = lambda: None
        self._round: dict[str, Slices] = {}  # of others, by its name: the one whose slices this rank takes

    def knows(self, counter: SampleCounter, classifier: Classifier) -> bool:
        """True if the other ranks hold this very certifier and this classifier."""
        return classifier is self.classifier and any(one is counter for one in self._counters)

    def helps(self, rows: int, kind: str = "") -> bool:
        """True if there are idle ranks, and so many rows of a ``kind`` take longer than it takes to share them."""
        if self._pace.get(kind, 0.0) * rows < WORTH or self.gone() or ALTERED.is_on:
            return False
        return self.idle > 0

    def learn(self, rows: int, seconds: float, kind: str = "") -> None:
        """Note what so many rows of a ``kind`` took this rank alone."""
        self._pace[kind] = seconds / max(1, rows)

    @contextmanager
    def timed(self, rows: int, kind: str) -> Iterator[None]:
        """Context manager: `learn` what rows of a ``kind`` take, twice: the first calls prepare kernels."""
        known = self._timings.get(kind, 0)
        if known == 2:
            yield
            return
        begun = time.monotonic()
        yield
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._timings[kind] = known + 1
        self.learn(rows, time.monotonic() - begun, kind)

    def slice_size(self, rows: int, most: int) -> int:
        """Rows of a slice, at most ``most``: few enough for all ranks, as many as a `Padded` classifier needs."""
        least = self.classifier.rows if isinstance(self.classifier, Padded) else 1
        return min(most, max(least, math.ceil(rows / (2 * (self.idle + 1)))))

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
            self.watch()
            if number > self._board.add(f"{self._name} rounds", 0):
                time.sleep(POLL)
            elif not self._take(self._wait(f"{self._name} {number}").decode()):
                number += 1

    def count(self, counter: SampleCounter, image: Tensor, owner: Tensor, rows: Noise) -> tuple[Tensor, int]:
        """Class counts (B,K) of the first ``rows`` (R,), of the images ``owner`` (R,), by all ranks; and how many."""
        workers = self.idle + 1
        size = min(counter.batch_size, max(LEAST, math.ceil(len(owner) / (2 * workers))))
        total = min(len(owner), SLICES * workers * size)
        call = Samples.of(self._counters, counter, image, owner[:total], rows.rows(slice(0, total)), size)
        counts = torch.zeros(len(image), counter.num_classes, dtype=torch.int64, device=image.device)
        counts[call.rows] += torch.stack([found["counts"] for found in self.results(call)]).sum(0)
        return counts, total

    def results(self, call: Slices) -> list[dict[str, Tensor]]:
        """Results of all slices in their order, each by the rank that took it."""
        name = self._open(call)
        try:
            return self._collected(call, name)
        except Exception:
            self._board.add(f"{name} left", ENDED)
            self._board.remove(name, *(f"{name} {number}" for number in range(call.slices)))
            raise

    def _collected(self, call: Slices, name: str) -> list[dict[str, Tensor]]:
        found: dict[int, dict[str, Tensor]] = {}
        while (number := self._board.add(f"{name} left", -1)) >= 0:
            found[number] = self.fitted(partial(call.part, self.classifier, number))
        others = [number for number in range(call.slices) if number not in found]
        for number in others:
            answer = self._answer(f"{name} {number}")
            if "evaluations" in answer:
                found[number] = on_device(device_of(self.classifier), answer["result"])
                credit(answer["evaluations"])
            else:  # handed back, or lost with its rank
                found[number] = self.fitted(partial(call.part, self.classifier, number))
        self._board.remove(name, f"{name} left", *(f"{name} {number}" for number in others))
        return [found[number] for number in range(call.slices)]

    def _open(self, call: Slices) -> str:
        """Publish a round under a name of its own, and then the name under the round's number."""
        name = f"{self._name} {uuid4().hex}"
        self._board.put(name, packed(on_device(torch.device("cpu"), call.content())))
        self._board.add(f"{name} left", call.slices)
        self._board.put(f"{self._name} {self._board.add(f'{self._name} rounds', 1)}", name.encode())
        return name

    def _take(self, name: str) -> bool:
        """Evaluate one slice of a round; False if none is left, or if this rank has no memory for it."""
        if (number := self._board.add(f"{name} left", -1)) < 0:
            self._round = {}
            return False
        if (call := self._published(name)) is None:
            return False
        exact = torch.autocast(device_of(self.classifier).type, enabled=False)
        try:
            with Meter(self.classifier) as meter, deployed(self.classifier), torch.no_grad(), exact:
                result = on_device(torch.device("cpu"), self.fitted(partial(call.part, self.classifier, number)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            warnings.warn(f"memory ran out: this rank hands rows of others' images back ({error})", stacklevel=2)
            self._publish(name, number, {})
            return False
        evaluations = round(meter.cost(1)["evaluations"])
        self._publish(name, number, {"result": result, "evaluations": evaluations})
        return True

    def _published(self, name: str) -> Slices | None:
        """The work of a round; None if its owner has given it up."""
        if name in self._round:
            return self._round[name]
        while (text := self._board.get(name)) is None:
            if self._ended(name):
                return None
            self.alive()
            time.sleep(POLL / 10)
        content = on_device(device_of(self.classifier), unpacked(text))
        call = Samples.read(content, self._counters) if "counter" in content or not self._read else self._read(content)
        self._round = {name: call}
        return call

    def _publish(self, name: str, number: int, answer: dict[str, Any]) -> None:
        """Publish the answer for a slice, unless the owner has given the round up and removed what was there."""
        self._board.put(f"{name} {number}", packed(answer))
        if self._ended(name):
            self._board.remove(f"{name} {number}")

    def _ended(self, name: str) -> bool:
        """True if the owner of a round has given it up."""
        return self._board.add(f"{name} left", 0) < ENDED // 2

    def _answer(self, name: str) -> dict[str, Any]:
        """The published result of a slice; empty if a rank is gone, which may be the one that took it."""
        while (content := self._board.get(name)) is None:
            if self.gone():
                return {}
            self.alive()
            time.sleep(POLL / 10)
        return unpacked(content)

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


def crew_for(classifier: Classifier) -> Crew | None:
    """The crew whose ranks hold this classifier, if there is one."""
    crew = _CURRENT.get()
    return crew if crew is not None and classifier is crew.classifier else None
