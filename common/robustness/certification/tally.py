"""Class counts of one call of `Smoothing.counts`, which a killed process leaves to the next."""

from typing import TypeGuard

import torch
from torch import Tensor

from common.checks.deferred import look
from common.noise import Noise
from common.records.notes import current_notes
from common.robustness.noted_cost import NotedCost


class Tally:
    """Class ``counts`` (B,K) of samples start .. start + n - 1 of B images, and how many of them are ``done`` (B,).

    They begin with those of the notes on images in hand, if there are any (`common.records.notes`); their cost too.
    """

    def __init__(self, noise: Noise, n: int, start: int, classes: int) -> None:
        self._noise, self._n, self._notes = noise, n, current_notes()
        self.counts = torch.zeros(len(noise), classes, dtype=torch.int64, device=noise.index.device)
        self.done = torch.zeros_like(noise.index)
        self._keys: list[tuple[int, str]] = []
        self._resumed, self._cost = False, NotedCost(len(noise))
        if self._notes is not None:
            key = f"counts {noise.seed} {noise.depth} {start} {n}"
            rows = zip(noise.index.tolist(), noise.draw.tolist(), strict=True)
            self._keys = [(index, self._notes.turn(index, f"{key} {draw}")) for index, draw in rows]
            for row, noted in enumerate(self._notes.get(*one) for one in self._keys):
                known, cost = (noted.get("counts"), noted.get("cost")) if isinstance(noted, dict) else (None, None)
                if _is_tally(known, n, classes) and self._cost.resume(row, cost):
                    self._resumed = True
                    self.done[row] = sum(known)
                    self.counts[row] = torch.tensor(known, device=self.counts.device)
        self._noted = self.done.tolist() if self._resumed else [0] * len(noise)

    def missing(self) -> Tensor | None:
        """Mask of the B*n samples, image-major, that are not counted yet; None if all of them are missing."""
        if not self._resumed:
            return None
        samples = torch.arange(self._n, device=self.done.device)
        return (samples >= self.done[:, None]).flatten()

    def add(self, owner: Tensor, classes: Tensor) -> None:
        """Count the ``classes`` (R,) of the next samples, of the images ``owner`` (R,)."""
        places, counts = owner * self.counts.shape[1] + classes, torch.zeros_like(self.counts)
        counts.view(-1).index_add_(0, places, torch.ones_like(places))  # ``bincount`` would wait for the device
        self.merge(counts)

    def merge(self, counts: Tensor) -> None:
        """Add the ``counts`` (B,K) of the next samples."""
        self.counts += counts
        if self._notes is not None and self._notes.due:
            self._note()
            self._notes.save()

    def end(self) -> Tensor:
        """The counts of all samples, which are noted."""
        if self._notes is not None:
            self._note()
            self._notes.save()
        return self.counts

    def _note(self) -> None:
        look()
        counts = self.counts.tolist()
        counted = [sum(row) for row in counts]
        self._cost.divide([now - before for now, before in zip(counted, self._noted, strict=True)])
        self._noted = counted
        for row, (index, key) in enumerate(self._keys):
            if self._notes is not None and counted[row]:
                self._notes.put(index, key, {"counts": counts[row], "cost": self._cost.note(row)})


def _is_tally(known: object, n: int, classes: int) -> TypeGuard[list[int]]:
    """True for counts of ``classes`` classes that add up to at most n."""
    if not isinstance(known, list) or len(known) != classes:
        return False
    return all(type(count) is int and count >= 0 for count in known) and sum(known) <= n
