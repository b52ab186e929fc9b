"""AutoAttack: a parameter-free ensemble of attacks, by the reference implementation or assembled from our attacks."""

from typing import Literal, get_args

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTEstimate, EOTLoss, check_counts
from common.robustness.attacks.fab import FAB
from common.robustness.attacks.library_model import installed
from common.robustness.attacks.reference_auto_attack import ReferenceAutoAttack
from common.robustness.attacks.square import Square
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat

Version = Literal["standard", "rand"]
Implementation = Literal["auto", "reference", "assembled"]
_PUBLISHED = {"standard": {"steps": 100, "queries": 5000}, "rand": {"steps": 100, "eot": 20}}
_CLASSES = {"standard": 4, "rand": 3}  # least number of classes for DLR
_TARGETS = 9
_CHOICE = 20  # draws that select the worst of several results, against a randomised classifier


class AutoAttack(Attack):
    """AutoAttack (Croce & Hein, arXiv 2003.01690); ``str`` lists its parts.

    - ``"standard"``: APGD-CE, targeted APGD-DLR and targeted FAB at the 9 most likely classes, ``steps`` each, and
      Square with ``queries`` queries. Without EOT: for deterministic classifiers.
    - ``"rand"``: APGD-CE and APGD-DLR, ``steps`` each, with ``eot`` draws.

    ``implementation``: the authors' package where it is installed (`ReferenceAutoAttack`; see there for randomised
    classifiers), else ``"assembled"`` from our `APGD`, `FAB` and `Square`. With other numbers than the published 100,
    5,000 and 20 it is assembled, and called reduced. The attributes ``implementation`` and ``parts`` hold the choice.

    Assembled, against a deterministic classifier: the parts run in turn, each on the images that no part before it
    broke, and stop at the first success; of an image that none breaks, the point with the highest margin is returned.
    ``curve`` has one point for the clean image and one after each part. Against a randomised classifier no success is
    certain: all parts attack all images, and the result with the highest EOT-mean margin is returned, on 20 draws that
    no part has used, the same for all parts.

    Raises ``ValueError`` for fewer classes than its DLR loss needs: four, or three for "rand".
    """

    chunk: int | None = None
    threat_kind = ThreatModel

    def __init__(
        self,
        version: Version = "standard",
        steps: int = 100,
        queries: int = 5000,
        eot: int = 20,
        chunk: int | None = None,
        implementation: Implementation = "auto",
    ) -> None:
        check_counts(chunk, steps=steps, queries=queries, eot=eot)
        _check_one_of("version", version, get_args(Version))
        _check_one_of("implementation", implementation, get_args(Implementation))
        self.version, self.steps, self.queries, self.eot, self.chunk = version, steps, queries, eot, chunk
        if implementation == "reference" and self._reduced:
            raise ValueError(f"the reference implementation runs with {_PUBLISHED[version]} only: leave them out")
        if implementation == "auto":
            implementation = "reference" if installed("autoattack") and not self._reduced else "assembled"
        self.implementation = implementation
        self.parts = self._parts()

    def __str__(self) -> str:
        """Name in tables: version, implementation, parts and steps."""
        name = f"{'reduced ' if self._reduced else ''}AutoAttack {self.version}"
        if self.implementation == "reference":
            return f"{name}, reference implementation"
        if self.version == "rand":
            return f"{name}, assembled (APGD-CE {self.steps} + APGD-DLR {self.steps}, EOT {self.eot})"
        numbers = {"APGD-CE": str(self.steps), "Square": str(self.queries)}
        parts = " + ".join(f"{part} {numbers.get(part, f'{_TARGETS}x{self.steps}')}" for part in self.parts)
        return f"{name}, assembled ({parts})"

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        require_norm_ball(threat, type(self).__name__)
        eot = EOTLoss(classifier, label, noise, _CHOICE, self.chunk)
        with attacking(classifier, image, label, noise):
            first = torch.arange(1, device=image.device)
            self._check_classes(eot(image[:1], margin, "classes", first, differentiate=False).logits.shape[1])
            if self.implementation == "reference":
                return self.parts["reference"].search(classifier, image, label, threat, noise)
            return (self._in_turn if eot.deterministic else self._worst)(eot, image, threat)

    def _in_turn(self, eot: EOTLoss, image: Tensor, threat: Threat) -> AttackResult:
        """Each part on the images that no part before it broke."""
        best = BestIterates(image, 1 + len(self.parts), deterministic=True, early_stop=True)
        best.update(best.active, image, eot(image, margin, "clean", differentiate=False))
        for name in self.parts:
            rows = best.active
            if not len(rows):
                break
            result, estimate = self._run(name, eot, rows, image, threat)
            best.update(rows, result.adv, estimate, 1 if result.queries is None else result.queries + 1)
        return best.result(white_box=False)

    def _worst(self, eot: EOTLoss, image: Tensor, threat: Threat) -> AttackResult:
        """The result with the highest margin, image by image, of all parts on all images."""
        every = torch.arange(len(image), device=image.device)
        runs = [self._run(name, eot, every, image, threat) for name in self.parts]
        loss, best = torch.stack([estimate.margin for _, estimate in runs]).max(0)
        adv = torch.stack([result.adv for result, _ in runs])[best, every]
        broken = torch.stack([estimate.accuracy < 1 for _, estimate in runs]).any(0)
        queries = torch.zeros_like(every)
        for result, estimate in runs:
            broken |= False if result.broken is None else result.broken
            queries += estimate.draws + (0 if result.queries is None else result.queries)
        return AttackResult(adv, loss, queries, broken=broken)

    def _run(
        self, name: str, eot: EOTLoss, rows: Tensor, image: Tensor, threat: Threat
    ) -> tuple[AttackResult, EOTEstimate]:
        """The result of a part for the images ``rows``, and its margins, on the same draws for all parts."""
        noise = eot.noise.rows(rows).stream(name)
        result = self.parts[name].search(eot.classifier, image[rows], eot.label[rows], threat, noise)
        return result, eot(result.adv, margin, "choice", rows, differentiate=False)

    def _parts(self) -> dict[str, Attack]:
        """The attacks by name, in their order."""
        steps, chunk = self.steps, self.chunk
        if self.implementation == "reference":
            return {"reference": ReferenceAutoAttack(self.version, chunk)}
        if self.version == "rand":
            losses = {"APGD-CE": "cross_entropy", "APGD-DLR": "dlr"}
            return {name: APGD(steps, self.eot, loss=x, early_stop=True, chunk=chunk) for name, x in losses.items()}
        return {
            "APGD-CE": APGD(steps, early_stop=True, chunk=chunk),
            "APGD-DLR-T": APGD(steps, loss="targeted_dlr", targets=_TARGETS, early_stop=True, chunk=chunk),
            "FAB-T": FAB(steps, targets=_TARGETS, early_stop=True, chunk=chunk),
            "Square": Square(self.queries, early_stop=True, chunk=chunk),
        }

    @property
    def _reduced(self) -> bool:
        return any(getattr(self, name) != value for name, value in _PUBLISHED[self.version].items())

    def _check_classes(self, classes: int) -> None:
        needed = _CLASSES[self.version]
        if classes < needed:
            raise ValueError(
                f"AutoAttack {self.version} needs at least {needed} classes for its DLR loss; got {classes}. "
                "Use APGD with the losses cross_entropy and margin, and Square."
            )


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
