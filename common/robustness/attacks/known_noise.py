"""A classifier under known draws, for attackers with access to the defence's noise."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from common.checks.deferred import check_values
from common.checks.settings import check_part
from common.noise import Noise
from common.robustness.classifiers import Classifier, ClassifierWrapper
from common.robustness.threats.threat import Threat


class KnownNoise(ClassifierWrapper):
    """A randomised classifier under fixed draws: deterministic, each image under the row of ``noise`` with its index.

    ``noise`` has one row per image. Of the noise given to ``forward`` only the index counts, which selects the row. Any
    attack against this classifier has access to the noise, whichever rows it evaluates and how often. An attack that
    does not pass the index of its rows (a library's, which picks rows out of a batch) runs on single images:
    `attack_one_by_one`.

    Raises ``ValueError`` for an index that is not in ``noise``, and without noise for another number of rows.
    """

    def __init__(self, classifier: Classifier, noise: Noise) -> None:
        super().__init__(classifier)
        check_part("noise", noise, Noise)
        self.randomised, self.noise = False, noise
        self._sorted, self._order = noise.index.sort()
        if bool((self._sorted[1:] == self._sorted[:-1]).any()):
            raise ValueError(f"known draws need one row per image; got {noise.index.tolist()}")

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        logits: Tensor = self.classifier(image, self._known(image, noise))
        return logits

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """The classifier's own views."""
        return self.classifier.views(image, self._known(image, noise))

    def _known(self, image: Tensor, noise: Noise | None) -> Noise:
        if noise is None:
            if len(image) != len(self.noise):
                raise ValueError(f"without noise the rows must be the {len(self.noise)} known ones; got {len(image)}")
            return self.noise
        place = torch.searchsorted(self._sorted, noise.index).clamp(max=len(self._sorted) - 1)
        check_values((self._sorted[place] != noise.index).any()[None], partial(_check_known, noise.index))
        return self.noise.rows(self._order[place])


def _check_known(index: Tensor, missing: list[float]) -> None:
    if missing[0]:
        raise ValueError(f"no draw is known for some of the images with index {index.tolist()[:8]}")


def attack_one_by_one(
    attack: Callable[..., Tensor], classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
) -> Tensor:
    """``adv`` (B,C,H,W) of an attack on single images, so that every row it evaluates belongs to a known image."""
    if not len(image):
        return image.clone()
    rows = [slice(row, row + 1) for row in range(len(image))]
    return torch.cat([attack(classifier, image[row], label[row], threat, noise.rows(row)) for row in rows])
