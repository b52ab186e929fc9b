"""The best iterate of each image so far, with the statistics of an `AttackResult`."""

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import AttackResult
from common.robustness.attacks.eot import EOTEstimate, is_usable, per_image
from common.robustness.attacks.iterate_notes import IterateNotes


class BestIterates:
    """The iterate with the highest EOT-mean loss, image by image, and the statistics of the search.

    ``image`` (B,C,H,W) is the start; ``length`` the largest number of rounds. For a ``deterministic`` classifier, whose
    single prediction is certain, a misclassified iterate ranks above all correctly classified ones, and with
    ``early_stop`` an image is done at its first. Against a randomised classifier neither applies.
    """

    def __init__(self, image: Tensor, length: int, deterministic: bool, early_stop: bool) -> None:
        self._deterministic, self._early_stop = deterministic, deterministic and early_stop
        self.adv, self.loss = image.clone(), image.new_full((len(image),), -torch.inf)
        self._done = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        self._queries = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        self._rounds, self._steps = torch.zeros_like(self._queries), torch.zeros_like(self.loss)
        self._dead = torch.zeros_like(self.loss)
        self._accuracy = torch.ones_like(self.loss)
        self._broken = torch.zeros_like(self._done)
        self._curve = image.new_zeros(len(image), length)
        self._climbs, self._climb = torch.zeros_like(self._queries), 0
        self._notes: IterateNotes | None = None
        self._every, self._resumed = torch.arange(len(image), device=image.device), False

    @property
    def drops(self) -> bool:
        """True if images may be done before the search ends. Which they are, the host has to wait for."""
        return self._early_stop

    @property
    def active(self) -> Tensor:
        """Indices (A,) of the images that are not done, and have not been through this climb (`begin`)."""
        if not self.drops and not self._resumed:
            return self._every
        return (~self._done & (self._climbs <= self._climb)).nonzero().flatten()

    def resume(self, noise: Noise) -> None:
        """Go on after the last climb that an earlier process has noted of each image (`common.records.notes`)."""
        names = ("adv", "loss", "_done", "_queries", "_rounds", "_steps", "_dead", "_accuracy", "_broken", "_curve")
        self._notes = IterateNotes(noise, {name: getattr(self, name) for name in names})
        self._resumed = self._notes.restore(self._climbs)

    def begin(self, climb: int) -> Tensor:
        """Begin a climb, counted from 0, of the images that have not been through it; returns them as `active`."""
        self._climb = climb
        return self.active

    def end(self) -> None:
        """End a climb, and note the state of its images."""
        rows = (self._climbs <= self._climb).nonzero().flatten() if self._resumed else self._every
        self._climbs[rows] = self._climb + 1
        if self._notes is not None:
            self._notes.keep(rows, self._climb + 1)

    def update(
        self,
        rows: Tensor,
        points: Tensor,
        estimate: EOTEstimate,
        queries: int | Tensor | None = None,
        renew: bool = False,
    ) -> Tensor:
        """Add a round of the images ``rows`` (A,) at ``points`` (A,C,H,W); returns which of them go on, (A,) bool.

        ``queries``: forward passes of the round per image, by default the draws of the estimate. ``renew``: the points
        are the best iterates themselves, and their new estimate replaces the old one.
        """
        self._compare(rows, points, estimate, renew)
        self.count(rows, estimate, queries)
        self._curve[rows, self._rounds[rows]] = self._accuracy[rows]
        self._rounds[rows] += 1
        return ~self._done[rows]

    def count(self, rows: Tensor, estimate: EOTEstimate, queries: int | Tensor | None = None) -> None:
        """Count the passes of an estimate, also of points that are no candidates.

        One with a gradient is a step, and counts for `AttackResult.dead`.
        """
        self._queries[rows] += estimate.draws if queries is None else queries
        if estimate.gradient is not None:
            self._steps[rows] += 1
            self._dead[rows] += ~is_usable(estimate.gradient)

    def _compare(self, rows: Tensor, points: Tensor, estimate: EOTEstimate, renew: bool) -> None:
        """Keep the points that are better than the best ones."""
        wrong = (estimate.accuracy < 1) & ~estimate.loss.isnan()
        better = (estimate.loss > self.loss[rows]) | renew
        if self._deterministic:
            held = self._accuracy[rows] < 1
            better = (better & (wrong == held)) | (wrong & ~held)
        if self._early_stop:
            self._done[rows] |= wrong
        self.adv[rows] = torch.where(per_image(better, points), points, self.adv[rows])
        self.loss[rows] = torch.where(better, estimate.loss, self.loss[rows])
        self._accuracy[rows] = torch.where(better, estimate.accuracy, self._accuracy[rows])
        self._broken[rows] |= wrong

    def result(self, white_box: bool = True) -> AttackResult:
        """Best iterates and statistics, with ``dead`` for a white-box attack only.

        Raises ``RuntimeError`` if the loss of an image was never finite.
        """
        failed = int((self.loss == -torch.inf).sum())
        if failed:
            raise RuntimeError(f"the loss of {failed} of {len(self.loss)} images was never finite. Check the logits.")
        later = torch.arange(self._curve.shape[1], device=self._curve.device) >= self._rounds[:, None]
        curve = torch.where(later, self._accuracy[:, None], self._curve)
        dead = self._dead / self._steps.clamp(min=1) if white_box else None
        return AttackResult(self.adv, self.loss, self._queries, curve, self._broken, dead, self._steps)
