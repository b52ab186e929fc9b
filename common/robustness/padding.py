"""A classifier in batches of a least size, so that kernels add up in one order."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.checks.images import check_class_count, check_logits
from common.checks.settings import check_count
from common.engine.micro_batches import recomputed
from common.engine.switch import ALTERED, Switch
from common.noise import Noise
from common.robustness.classifiers import Classifier, ClassifierWrapper

_WHOLE = Switch()


@contextmanager
def whole_batches() -> Iterator[None]:
    """Context manager of attacks that look inside a classifier's calls: all rows of a batch are in one."""
    with ALTERED.turned_on(), _WHOLE.turned_on():
        yield


class Padded(ClassifierWrapper):
    """The same classifier, never evaluated on fewer than ``rows`` images at a time, nor on more than ``at_once``.

    Convolution and matrix kernels for a few rows add up in another order than those for many. The last bits of the
    logits then depend on how many images share a batch, and an attack that takes signs of gradients magnifies the
    difference. Small batches are padded with copies of their first row, whose logits are discarded. With 16 rows,
    logits and gradients of our networks on a CPU are the same bits in every batch and for every number of threads.

    ``at_once`` is None for all of a batch. `halve` is for a machine whose memory ran out: then each call is recomputed
    for its gradient, so that one call bounds the memory. Inside `whole_batches` a batch is not divided.

    ``classes``: number of classes of the data, None if it is not known. Logits of another number raise ``ValueError``.
    """

    def __init__(self, classifier: Classifier, rows: int = 16):
        super().__init__(classifier)
        self.rows = check_count("rows", rows)
        self.classes: int | None = None
        self.at_once: int | None = None
        self._recompute, self._largest = False, 0

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        draws, self._largest = Noise.or_fresh(noise, image), max(self._largest, len(image))
        if self.at_once is not None and len(image) > self.at_once and not _WHOLE.is_on:
            return self._in_calls(image, draws, self.at_once)
        padded, draws = self._padded(image, draws)
        logits = check_logits(self.classifier(padded, draws), len(padded))
        check_class_count(self.classes, logits.shape[-1])
        return logits[: len(image)]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Context manager: calls that are halved inside (`halve`) are whole again afterwards."""
        before = self.at_once, self._recompute, self._largest
        try:
            yield
        finally:
            self.at_once, self._recompute, self._largest = before

    def halve(self) -> bool:
        """Take half as many rows per call from now on, at least ``rows``; False if there were no more before."""
        size = min(self.at_once or self._largest, self._largest)
        if size <= self.rows:
            return False
        self.at_once, self._recompute = max(self.rows, size // 2), True
        return True

    def _in_calls(self, image: Tensor, noise: Noise, size: int) -> Tensor:
        logits = recomputed(self.forward, self.training) if self._recompute else self.forward
        rows = [slice(start, start + size) for start in range(0, len(image), size)]
        return torch.cat([logits(image[part], noise.rows(part)) for part in rows])

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """The classifier's own views."""
        views = self.classifier.views(*self._padded(image, Noise.or_fresh(noise, image)))
        return {name: view[: len(image)] for name, view in views.items()}

    def _padded(self, image: Tensor, noise: Noise) -> tuple[Tensor, Noise]:
        missing = self.rows - len(image)
        if missing <= 0 or not len(image):
            return image, noise
        copies = image[:1].detach().expand(missing, *image.shape[1:])
        order = torch.arange(self.rows, device=image.device)
        return torch.cat((image, copies)), noise.rows(torch.where(order < len(image), order, 0))


def unpadded(classifier: Classifier) -> Classifier:
    """The classifier inside a `Padded`, for users of more than its logits, in batches of their own."""
    return classifier.classifier if isinstance(classifier, Padded) else classifier
