"""A classifier in batches of a least size, so that kernels add up in one order."""

import torch
from torch import Tensor

from common.checks.images import check_class_count, check_logits
from common.checks.settings import check_count
from common.noise import Noise
from common.robustness.classifiers import Classifier, ClassifierWrapper


class Padded(ClassifierWrapper):
    """The same classifier, never evaluated on fewer than ``rows`` images at a time.

    Convolution and matrix kernels for a few rows add up in another order than those for many. The last bits of the
    logits then depend on how many images share a batch, and an attack that takes signs of gradients magnifies the
    difference. Small batches are padded with copies of their first row, whose logits are discarded. With 16 rows,
    logits and gradients of our networks on a CPU are the same bits in every batch and for every number of threads.

    ``classes``: number of classes of the data, None if it is not known. Logits of another number raise ``ValueError``.
    """

    def __init__(self, classifier: Classifier, rows: int = 16):
        super().__init__(classifier)
        self.rows = check_count("rows", rows)
        self.classes: int | None = None

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        padded, draws = self._padded(image, Noise.or_fresh(noise, image))
        logits = check_logits(self.classifier(padded, draws), len(padded))
        check_class_count(self.classes, logits.shape[-1])
        return logits[: len(image)]

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
