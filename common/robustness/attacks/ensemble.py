"""Several attacks on the same images: one after the other until the first success, or the best of all results."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.robustness.attacks.attack import Attack, AttackResult
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTEstimate, EOTLoss
from common.robustness.losses import margin
from common.robustness.threats.threat import Threat


@dataclass(frozen=True)
class Ensemble:
    """The attacks ``parts`` on ``image`` (B,C,H,W); ``eot`` holds the classifier, the labels and the draws that choose
    among results."""

    parts: Mapping[str, Attack]
    eot: EOTLoss
    image: Tensor
    threat: Threat

    def in_turn(self) -> AttackResult:
        """Each part on the images that no part before it broke, for a deterministic classifier.

        ``curve`` has one point for the clean image and one after each part.
        """
        best = BestIterates(self.image, 1 + len(self.parts), deterministic=True, early_stop=True)
        best.update(best.active, self.image, self.eot(self.image, margin, "clean", differentiate=False))
        for name in self.parts:
            rows = best.active
            if not len(rows):
                break
            result, estimate = self._run(name, rows)
            best.update(rows, result.adv, estimate, 1 if result.queries is None else result.queries + 1)
        return best.result(white_box=False)

    def worst(self) -> AttackResult:
        """The result with the highest margin, image by image, of all parts on all images."""
        every = torch.arange(len(self.image), device=self.image.device)
        runs = [self._run(name, every) for name in self.parts]
        loss, best = torch.stack([estimate.margin for _, estimate in runs]).max(0)
        adv = torch.stack([result.adv for result, _ in runs])[best, every]
        broken = torch.stack([estimate.accuracy < 1 for _, estimate in runs]).any(0)
        queries = torch.zeros_like(every)
        for result, estimate in runs:
            broken |= False if result.broken is None else result.broken
            queries += estimate.draws + (0 if result.queries is None else result.queries)
        return AttackResult(adv, loss, queries, broken=broken)

    def _run(self, name: str, rows: Tensor) -> tuple[AttackResult, EOTEstimate]:
        """The result of a part for the images ``rows``, and its margins, on the same draws for all parts."""
        noise, label = self.eot.noise.rows(rows).stream(name), self.eot.label[rows]
        result = self.parts[name].search(self.eot.classifier, self.image[rows], label, self.threat, noise)
        return result, self.eot(result.adv, margin, "choice", rows, differentiate=False)
