"""What an iterative attack has found so far, image by image."""

import torch
from torch import Tensor

from common.robustness.attacks import Found
from common.robustness.attacks.expectation import Answers, like


class Progress:
    """The best point of each image by EOT-mean loss, and the bookkeeping of `Found`.

    ``image`` (B,C,H,W) is where the search began; ``length`` how many queries of the loop there can be. With ``stop``
    an image is done once it is misclassified, and that point is kept whatever the loss of others: sound only for a
    deterministic classifier. ``active`` are the rows that are not done.
    """

    def __init__(self, image: Tensor, length: int, stop: bool) -> None:
        self.stop = stop
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

    def note(self, rows: Tensor, points: Tensor, answers: Answers, draws: int) -> Tensor:
        """Takes in what ``draws`` queries said of ``points`` (A,C,H,W), images ``rows``; which of them go on, (A,)."""
        wrong = answers.right < 1
        better = answers.loss > self.loss[rows]
        if self.stop:
            better |= wrong
            self._done[rows] |= wrong
        self.adv[rows] = torch.where(like(better, points), points, self.adv[rows])
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

    def found(self) -> Found:
        """All of it. ``RuntimeError`` where the loss of an image was never finite."""
        lost = int((self.loss == -torch.inf).sum())
        if lost:
            raise RuntimeError(f"the loss of {lost} of {len(self.loss)} images was never finite. Check the logits.")
        later = torch.arange(self._curve.shape[1], device=self._curve.device) >= self._points[:, None]
        curve = torch.where(later, self._right[:, None], self._curve)
        return Found(self.adv, self.loss, self._queries, curve, self._broken, self._dead / self._steps.clamp(min=1))
