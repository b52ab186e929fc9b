"""AutoAttack: a parameter-free ensemble of attacks, by the reference implementation or assembled from our attacks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from common.checks.settings import check_one_of
from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.ensemble import Ensemble
from common.robustness.attacks.eot import EOTLoss, check_counts
from common.robustness.attacks.fab import FAB
from common.robustness.attacks.reference_auto_attack import ReferenceAutoAttack
from common.robustness.attacks.square import Square
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat

Version = Literal["standard", "rand"]
Implementation = Literal["assembled", "reference"]
_PUBLISHED = {"standard": {"steps": 100, "queries": 5000}, "rand": {"steps": 100, "eot": 20}}
_CLASSES = {"standard": 4, "rand": 3}  # least number of classes for DLR
_TARGETS = 9
_SPARSE_RESTARTS, _SPARSE_TARGETS = 5, 5  # in L1: restarts of APGD-CE, classes of APGD-DLR
_CHOICE = 20  # draws that select the worst of several results, against a randomised classifier


class AutoAttack(Attack):
    """AutoAttack (Croce & Hein, arXiv 2003.01690); ``str`` lists its parts.

    - ``"standard"``: APGD-CE, targeted APGD-DLR and targeted FAB at the 9 most likely classes, ``steps`` each, and
      Square with ``queries`` queries. In L1, both APGDs in the large-eps schedule (`APGD.large_eps`), APGD-CE with five
      restarts and APGD-DLR at five classes. Without EOT: for deterministic classifiers.
    - ``"rand"``: APGD-CE and APGD-DLR, ``steps`` each, with ``eot`` draws, the same in all norms.

    ``implementation``: ``"assembled"`` from our `APGD`, `FAB` and `Square`, or ``"reference"``, the authors' package,
    which is imported for that alone (`ReferenceAutoAttack`; see there for randomised classifiers). With other numbers
    than the published 100, 5,000 and 20 it is called reduced, and the reference is refused. The attributes ``parts``
    (in L-inf and L2) and ``sparse_parts`` (in L1) hold the attacks; ``str`` lists them.

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
        implementation: Implementation = "assembled",
    ) -> None:
        check_counts(chunk, steps=steps, queries=queries, eot=eot)
        check_one_of("version", version, get_args(Version))
        check_one_of("implementation", implementation, get_args(Implementation))
        self.version, self.steps, self.queries, self.eot, self.chunk = version, steps, queries, eot, chunk
        if implementation == "reference" and self._reduced:
            raise ValueError(f"the reference implementation runs with {_PUBLISHED[version]} only: leave them out")
        self.implementation = implementation
        self.reduced = self._reduced
        self.parts, self.sparse_parts = self._parts(sparse=False), self._parts(sparse=True)

    @property
    def by_image(self) -> bool:  # type: ignore[override]
        """False of the reference implementation."""
        return all(part.by_image for part in self.parts.values())

    def __str__(self) -> str:
        """Name in tables: version, implementation, parts and steps."""
        name = f"{'reduced ' if self._reduced else ''}AutoAttack {self.version}"
        if self.implementation == "reference":
            return f"{name}, reference implementation"
        if self.version == "rand":
            return f"{name}, assembled (APGD-CE {self.steps} + APGD-DLR {self.steps}, EOT {self.eot})"
        return f"{name}, assembled ({_listed(self.parts)}; L1: {_listed(self.sparse_parts)})"

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        parts = self.sparse_parts if ball.norm == 1 else self.parts
        eot = EOTLoss(classifier, label, noise, _CHOICE, self.chunk)
        with attacking(classifier, image, label, noise):
            first = torch.arange(1, device=image.device)
            self._check_classes(eot(image[:1], margin, "classes", first, differentiate=False).logits.shape[1])
            if self.implementation == "reference":
                return parts["reference"].search(classifier, image, label, threat, noise)
            ensemble = Ensemble(parts, eot, image, threat)
            return ensemble.in_turn() if eot.deterministic else ensemble.worst()

    def _parts(self, sparse: bool) -> dict[str, Attack]:
        """The attacks by name, in their order; ``sparse``: those in L1."""
        steps, chunk = self.steps, self.chunk
        if self.implementation == "reference":
            return {"reference": ReferenceAutoAttack(self.version, chunk)}
        if self.version == "rand":
            losses = {"APGD-CE": "cross_entropy", "APGD-DLR": "dlr"}
            return {name: APGD(steps, self.eot, loss=x, early_stop=True, chunk=chunk) for name, x in losses.items()}
        restarts, targets = (_SPARSE_RESTARTS, _SPARSE_TARGETS) if sparse else (1, _TARGETS)
        apgd = APGD(steps, early_stop=True, chunk=chunk, large_eps=sparse)
        return {
            "APGD-CE": replace(apgd, restarts=restarts),
            "APGD-DLR-T": replace(apgd, loss="targeted_dlr", targets=targets),
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


def _listed(parts: Mapping[str, Attack]) -> str:
    """``"APGD-CE 5x100 from 3 eps + FAB-T 9x100 + Square 5000"``."""
    texts = []
    for name, part in parts.items():
        rounds = part.queries if isinstance(part, Square) else part.settings()["steps"]
        times = max(part.settings().get("targets") or 1, part.settings().get("restarts", 1))
        large = " from 3 eps" if part.settings().get("large_eps") else ""
        texts.append(f"{name} {f'{times}x' if times > 1 else ''}{rounds}{large}")
    return " + ".join(texts)
