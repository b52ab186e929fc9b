"""What an iterative attack has found so far, image by image."""

import torch
from torch import Tensor

from common.robustness.attacks.attack import AttackResult
from common.robustness.attacks.eot import EOTEstimate, per_image


class BestIterates:
    """The best point of each image and the bookkeeping of `AttackResult`.

    ``image`` (B,C,H,W) is where the search began; ``length`` how many queries of the loop there can be. The best point
    is the one with the highest EOT-mean loss. With ``certain``, for a deterministic classifier, whose one answer
    settles the matter, a misclassified point comes before any that is not, whatever their losses. With ``stop`` an
    image is done as soon as it has one: sound only where that is certain. ``active`` are the rows that are not done.
    """

    def __init__(self, image: Tensor, length: int, stop: bool, certain: bool = False) -> None:
        self.stop, self._certain = stop, certain or stop
        self.adv, self.loss = image.clone(), image.new_full((len(image),), -torch.inf)
        self._done = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        self._queries = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        self._points, self._steps = torch.zeros_like(self._queries), torch.zeros_like(self.loss)
        self._dead = torch.zeros_like(self.loss)
        self._right = torch.ones_like(self.loss)
        self._broken = torch.zeros_like(self._done)
        self._curve = image.new_zeros(len(image), length)

    @property
    def active(self) -> Tensor:
        """Indices (A,) of the images that the search goes on with."""
        return (~self._done).nonzero().flatten()

    def note(
        self, rows: Tensor, points: Tensor, answers: EOTEstimate, draws: int | Tensor, renew: bool = False
    ) -> Tensor:
        """Takes in what ``draws`` queries each said of ``points`` (A,C,H,W), images ``rows``; which go on, (A,).

        ``renew`` says that the points are the best ones themselves, asked again: the new answers replace the old.
        """
        wrong = (answers.right < 1) & ~answers.loss.isnan()
        better = (answers.loss > self.loss[rows]) | renew
        if self._certain:
            held = self._right[rows] < 1
            better = (better & (wrong == held)) | (wrong & ~held)
        if self.stop:
            self._done[rows] |= wrong
        self.adv[rows] = torch.where(per_image(better, points), points, self.adv[rows])
        self.loss[rows] = torch.where(better, answers.loss, self.loss[rows])
        self._right[rows] = torch.where(better, answers.right, self._right[rows])
        self._broken[rows] |= wrong
        self._queries[rows] += draws
        self._curve[rows, self._points[rows]] = self._right[rows]
        self._points[rows] += 1
        return ~self._done[rows]

    def blind(self, rows: Tensor, dead: Tensor) -> None:
        """Counts a step of the images ``rows``, and whether it had no usable gradient, (A,) bool."""
        self._steps[rows] += 1
        self._dead[rows] += dead

    def found(self, white_box: bool = True) -> AttackResult:
        """All of it, ``dead`` only of a white box. ``RuntimeError`` where the loss of an image was never finite."""
        lost = int((self.loss == -torch.inf).sum())
        if lost:
            raise RuntimeError(f"the loss of {lost} of {len(self.loss)} images was never finite. Check the logits.")
        later = torch.arange(self._curve.shape[1], device=self._curve.device) >= self._points[:, None]
        curve = torch.where(later, self._right[:, None], self._curve)
        dead = self._dead / self._steps.clamp(min=1) if white_box else None
        return AttackResult(self.adv, self.loss, self._queries, curve, self._broken, dead)
