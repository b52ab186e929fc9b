"""Attack interface: (classifier, image, label, threat, noise) -> adv, all images in pixels.

The evaluator re-checks every attack: the budget of its images, and their classes on fresh draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from common.checks.deferred import looked_at_once
from common.checks.images import check_full_precision, check_labels, check_pixels, check_rows
from common.checks.settings import check_optional, check_part
from common.engine.switch import REPEATABLE
from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed
from common.robustness.threats.threat import Threat, require_threat

A = TypeVar("A", bound="Attack")


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images and the attack's own statistics; a statistic that the attack does not collect is None.

    - ``adv`` (B,C,H,W) in pixels, and ``loss`` (B,), its loss as the attack measured it.
    - ``queries`` (B,) int64: forward passes per image, every draw counted.
    - ``curve`` (B,T): after 1, …, T rounds of the loop, the accuracy over draws at the point that would be returned, on
      the draws of the attack.
    - ``broken`` (B,) bool: True if any draw at any point was misclassified, the success of an attacker who may submit
      all of them.
    - ``dead`` (B,): share of the steps whose gradient was zero or not finite; near one, it points at a masked gradient.
    - ``steps`` (B,): steps with a gradient.
    """

    adv: Tensor
    loss: Tensor | None = None
    queries: Tensor | None = None
    curve: Tensor | None = None
    broken: Tensor | None = None
    dead: Tensor | None = None
    steps: Tensor | None = None

    def __post_init__(self) -> None:
        check_part("adv", self.adv, Tensor, "a tensor of images (B,C,H,W)")
        for name in ("loss", "queries", "curve", "broken", "dead", "steps"):
            check_optional(check_part, name, getattr(self, name), Tensor, "a tensor of statistics (B, ...)")

    @classmethod
    def empty(cls, image: Tensor) -> "AttackResult":
        """Result of a batch without images."""
        return cls(image.clone(), image.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=image.device))


class Attack:
    """Search for ``adv`` (B,C,H,W) in the threat model around ``image`` that is not classified as ``label`` (B,).

    ``noise`` has one row per image and is the attack's only source of randomness. A subclass defines ``search``, or
    ``__call__`` if it has no statistics to return; the default of each calls the other. YAML names subclasses; in
    Python an evaluator takes any callable of this signature (`FunctionAttack`).

    - ``white_box``: True if it uses gradients of the classifier.
    - ``by_image``: False if the result for an image depends on the other images of its batch.
    - ``threat_kind``: the kind of threat that it applies to, None for all; `check` refuses others.
    """

    white_box: bool = True
    by_image: bool = True
    threat_kind: ClassVar[type[Threat] | None] = None
    not_identifying: ClassVar[frozenset[str]] = frozenset({"chunk"})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__call__ is Attack.__call__ and cls.search is Attack.search:
            raise TypeError(f"an attack defines __call__ or search; {cls.__name__} defines neither")

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """``search(...).adv``."""
        return self.search(classifier, image, label, threat, noise).adv

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        """``adv`` and the attack's statistics."""
        return AttackResult(self(classifier, image, label, threat, noise))

    def check(self, threat: Threat) -> None:
        """Raise ``ValueError`` if the attack does not apply to this threat. Called before any network is loaded."""
        if self.threat_kind is not None:
            require_threat(threat, self.threat_kind, type(self).__name__)

    @property
    def chunk(self) -> int | None:
        """Largest number of rows in a forward and backward pass; None: no limit."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The settings that `vary` can change: the fields of a dataclass; none of another class."""
        return {field.name: getattr(self, field.name) for field in fields(self)} if is_dataclass(self) else {}

    def vary(self: A, **changes: Any) -> A:
        """The same attack with other settings."""
        return replace(self, **changes)  # type: ignore[type-var]


def check_attack(name: str, attack: Attack) -> Attack:
    """The attack. Raises ``ValueError`` for anything else."""
    return check_part(name, attack, Attack, "an Attack", note="Use PGD(), for example")


def is_empty(image: Tensor, label: Tensor, noise: Noise) -> bool:
    """True for a batch without images. Raises ``ValueError`` as `attacking` does."""
    check_full_precision(check_pixels(image))
    check_labels(label, image)
    check_rows(noise, image)
    return not len(image)


@contextmanager
def attacking(classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> Iterator[None]:
    """The context of an attack: the classifier as deployed, grad mode on, autocast off, repeatable backward passes.

    What is checked inside is looked at when it ends (`looked_at_once`), so that no step waits for the device.
    Raises ``ValueError`` for images other than finite floats in [0,1], unless there is a label and a row of noise per
    image, and ``RuntimeError`` in inference mode, which records no gradients.
    """
    is_empty(image, label, noise)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an attack needs gradients, but inference mode is on. Use Trainer(inference_mode=False).")
    exact = torch.autocast(image.device.type, enabled=False)
    with looked_at_once(), deployed(classifier), torch.enable_grad(), exact, REPEATABLE.turned_on():
        yield


def merge_results(results: Sequence[AttackResult]) -> list[dict[str, Any]]:
    """Statistics per image of several attempts: queries summed, ``broken`` by any, ``dead`` and ``curve`` averaged.

    A statistic is left out if any attempt does not have it.
    """
    rows: list[dict[str, Any]] = [{} for _ in results[0].adv]
    combine: dict[str, Callable[[Tensor], Tensor]] = {
        "queries": lambda x: x.sum(0),
        "broken": lambda x: x.any(0),
        "dead": lambda x: x.mean(0),
        "curve": lambda x: x.mean(0),
    }
    for name, combined in combine.items():
        parts = [part for result in results if (part := getattr(result, name)) is not None]
        if len(parts) == len(results):
            for row, value in zip(rows, combined(torch.stack(parts)).tolist(), strict=True):
                row[name] = value
    return rows
