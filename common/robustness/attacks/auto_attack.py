"""AutoAttack: an ensemble of attacks without settings, by the reference implementation or by our parts."""

from typing import Literal, get_args

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTEstimate, EOTLoss, check_counts
from common.robustness.attacks.fab import FAB
from common.robustness.attacks.library import ReferenceAutoAttack, installed
from common.robustness.attacks.square import Square
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import Threat, require_norm_ball

Version = Literal["standard", "rand"]
Implementation = Literal["auto", "reference", "assembled"]
_PUBLISHED = {"standard": {"steps": 100, "queries": 5000}, "rand": {"steps": 100, "eot": 20}}
_CLASSES = {"standard": 4, "rand": 3}  # what DLR needs
_TARGETS = 9
_CHOICE = 20  # draws by which the worst of several results is chosen, against a randomised classifier


class AutoAttack(Attack):
    """AutoAttack (Croce & Hein, arXiv 2003.01690), of which ``str`` says what it consists of.

    - ``"standard"``: APGD-CE, targeted APGD-DLR and targeted FAB at the 9 most likely classes, ``steps`` each, and
      Square with ``queries`` queries. Nothing is averaged: it is made for deterministic classifiers.
    - ``"rand"``: APGD-CE and APGD-DLR, ``steps`` each, with ``eot`` draws.

    ``implementation``: the authors' package where it is installed (`ReferenceAutoAttack`, which says what that does
    with randomised classifiers), else ``"assembled"`` from our `APGD`, `FAB` and `Square`. With other numbers than the
    published 100, 5,000 and 20 it is assembled, and called reduced. Once made, ``implementation`` and ``parts`` say
    which it is.

    Assembled, against a deterministic classifier: the parts take turns, each on the images that none broke before, and
    stop at the first success; of an image that none breaks, the point with the highest margin is returned. ``curve``
    has one point for the clean image and one after each part. Against a randomised classifier no success is certain:
    all parts attack all images, and what is returned is the result with the highest EOT-mean margin on 20 draws that no
    part has seen, the same for all.

    Raises ``ValueError`` for fewer classes than its DLR needs: four, or three of "rand".
    """

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
            raise ValueError(f"the reference implementation runs with {_PUBLISHED[version]} alone: leave them out")
        if implementation == "auto":
            implementation = "reference" if installed("autoattack") and not self._reduced else "assembled"
        self.implementation = implementation
        self.parts = self._parts()

    def __str__(self) -> str:
        """Its name in tables: version, implementation, parts and steps."""
        name = f"{'reduced ' if self._reduced else ''}AutoAttack {self.version}"
        if self.implementation == "reference":
            return f"{name}, reference implementation"
        if self.version == "rand":
            return f"{name}, assembled (APGD-CE {self.steps} + APGD-DLR {self.steps}, EOT {self.eot})"
        numbers = {"APGD-CE": str(self.steps), "Square": str(self.queries)}
        parts = " + ".join(f"{part} {numbers.get(part, f'{_TARGETS}x{self.steps}')}" for part in self.parts)
        return f"{name}, assembled ({parts})"

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "AutoAttack")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        require_norm_ball(threat, "AutoAttack")
        oracle = EOTLoss(classifier, label, noise, _CHOICE, self.chunk)
        with attacking(classifier, image, label, noise):
            self._check_classes(
                oracle(torch.arange(1, device=image.device), image[:1], "classes", margin).logits.shape[1]
            )
            if self.implementation == "reference":
                return self.parts["reference"].search(classifier, image, label, threat, noise)
            return (self._worst if classifier.randomised else self._in_turn)(oracle, image, threat)

    def _in_turn(self, oracle: EOTLoss, image: Tensor, threat: Threat) -> AttackResult:
        progress = BestIterates(image, 1 + len(self.parts), stop=True)
        progress.note(progress.active, image, oracle(progress.active, image, "clean", margin), 1)
        for name, part in self.parts.items():
            rows = progress.active
            if not len(rows):
                break
            found, answers = self._result(name, part, oracle, rows, image, threat)
            progress.note(rows, found.adv, answers, 1 if found.queries is None else found.queries + 1)
        return progress.found(white_box=False)

    def _worst(self, oracle: EOTLoss, image: Tensor, threat: Threat) -> AttackResult:
        every = torch.arange(len(image), device=image.device)
        results = [self._result(name, part, oracle, every, image, threat) for name, part in self.parts.items()]
        loss, best = torch.stack([answers.margin for _, answers in results]).max(0)
        adv = torch.stack([found.adv for found, _ in results])[best, every]
        broken = torch.stack([answers.right < 1 for _, answers in results]).any(0)
        queries = torch.zeros_like(every)
        for found, _ in results:
            broken |= False if found.broken is None else found.broken
            queries += oracle.eot + (0 if found.queries is None else found.queries)
        return AttackResult(adv, loss, queries, broken=broken)

    def _result(
        self, name: str, part: Attack, oracle: EOTLoss, rows: Tensor, image: Tensor, threat: Threat
    ) -> tuple[AttackResult, EOTEstimate]:
        """What a part finds for the images ``rows``, and what the classifier says of it, on the same draws for all."""
        noise = oracle.noise.rows(rows).stream(name)
        found = part.search(oracle.classifier, image[rows], oracle.label[rows], threat, noise)
        return found, oracle(rows, found.adv, "choice", margin)

    def _parts(self) -> dict[str, Attack]:
        """The attacks that it consists of, by name, in turn."""
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
