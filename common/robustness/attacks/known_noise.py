"""An attacker who knows the defence's random draws, and what several attempts saw together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import AttackResult
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import Threat


class KnownNoise(Classifier):
    """A randomised classifier under known draws: deterministic, each image under the row of ``noise`` with its index.

    ``noise`` has one row per image. Whoever asks hands over noise as always; of it only the index counts, which says
    whose draw is meant. So any attack becomes one that knows the noise, whatever rows it asks about and how often. One
    that does not say which image a row belongs to (a library's, that picks rows out of a batch) attacks one by one.

    Raises ``ValueError`` for an index that is not in ``noise``, and without noise for another number of rows.
    """

    randomised = False

    def __init__(self, classifier: Classifier, noise: Noise) -> None:
        super().__init__()
        self.classifier, self.noise = classifier, noise
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
        if not torch.equal(self._sorted[place], noise.index):
            raise ValueError(f"no draw is known for some of the images with index {noise.index.tolist()[:8]}")
        return self.noise.rows(self._order[place])


def attack_one_by_one(
    attack: Callable[..., Tensor], classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
) -> Tensor:
    """``adv`` (B,C,H,W) of an attack that is shown one image at a time: every row that it asks about is of that one."""
    rows = [slice(row, row + 1) for row in range(len(image))]
    return torch.cat([attack(classifier, image[row], label[row], threat, noise.rows(row)) for row in rows])


def merge_results(found: Sequence[AttackResult]) -> list[dict[str, Any]]:
    """What the attack saw of each image, as far as it says; of several attempts the sum, any and means."""
    rows: list[dict[str, Any]] = [{} for _ in found[0].adv]
    merged = {
        "queries": _merged([f.queries for f in found], lambda x: x.sum(0)),
        "broken": _merged([f.broken for f in found], lambda x: x.any(0)),
        "dead": _merged([f.dead for f in found], lambda x: x.mean(0)),
        "curve": _merged([f.curve for f in found], lambda x: x.mean(0)),
    }
    for name, values in merged.items():
        for row, value in zip(rows, [] if values is None else values.tolist(), strict=values is not None):
            row[name] = value
    return rows


def _merged(parts: Sequence[Tensor | None], combine: Callable[[Tensor], Tensor]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return combine(torch.stack(known)) if len(known) == len(parts) else None
