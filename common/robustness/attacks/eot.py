"""Expectation over transformation (EOT): loss, gradient and accuracy of images, averaged over draws of the defence.

Athalye et al., arXiv 1707.07397.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from common.checks.deferred import check_values
from common.checks.images import check_classes
from common.checks.settings import check_count, check_optional, check_part
from common.noise import Noise
from common.robustness.attacks.draws import Draws
from common.robustness.certification.crew import crew_for
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, TargetedLoss, margin


@dataclass(frozen=True)
class EOTEstimate:
    """Means over ``draws`` draws at B points: ``loss`` (B,), its ``gradient`` (B,C,H,W) or None, ``accuracy`` (B,), the
    share of the draws that are classified as the label, ``logits`` (B,K) and ``margin`` (B,) (`losses.margin`)."""

    loss: Tensor
    gradient: Tensor | None
    accuracy: Tensor
    logits: Tensor
    margin: Tensor
    draws: int


@dataclass(frozen=True)
class EOTLoss:
    """Mean loss over draws of a classifier, with its gradient: ``1/n sum_j loss(classifier(x, noise_j), y)``.

    ``label`` (B,) and ``noise`` (B rows) belong to the images under attack. n = ``draws``, or 1 for a deterministic
    classifier. All rows are one forward and one backward pass, or several of at most ``chunk`` rows. In a test, ranks
    without images take slices of them; the sums have the order of one process.
    """

    classifier: Classifier
    label: Tensor
    noise: Noise
    draws: int
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_part("classifier", self.classifier, Classifier)
        check_part("label", self.label, Tensor)
        check_part("noise", self.noise, Noise)
        check_counts(self.chunk, draws=self.draws)
        if self.deterministic:
            object.__setattr__(self, "draws", 1)

    @property
    def deterministic(self) -> bool:
        """True if one draw decides."""
        return not self.classifier.randomised

    @cached_property
    def _checked(self) -> set[int]:
        """Numbers of classes for which the labels are known to be in range."""
        return set()

    def __call__(
        self,
        points: Tensor,
        loss: Loss | TargetedLoss,
        stream: str | None = None,
        rows: Tensor | None = None,
        differentiate: bool = True,
        target: Tensor | None = None,
    ) -> EOTEstimate:
        """Estimate at ``points`` (A,C,H,W), one for each image in ``rows`` (A,) (None: all).

        A new ``stream`` gives fresh draws; the same row twice in a call has the same draws. With ``target`` (A,), a
        class per point, the loss is a targeted one: ``loss(logits, label, target)``. It may write into its arguments,
        which are copies.

        Raises ``RuntimeError`` for points that are not finite, and if no gradient reaches the points: the attack would
        otherwise return the clean image and overstate robustness. ``ValueError`` for outputs that are no logits (B,K),
        for a loss that does not return (B,) and for labels outside 0..K-1.
        """
        check_values(points.isfinite().all()[None], _check_iterate)
        label, noise = (self.label, self.noise) if rows is None else (self.label[rows], self.noise.rows(rows))
        rows_of_draws = (noise if stream is None else noise.stream(stream)).draws(self.draws)
        classes = [each for each in (label, target) if each is not None]
        draws = Draws(points, rows_of_draws, classes, self.draws, loss, differentiate, 1, self._check_classes)
        parts = self._parts(draws)
        losses, logits = (torch.cat([part[name] for part in parts]) for name in ("loss", "logits"))
        gradient, n = torch.cat([part["gradient"] for part in parts]) if differentiate else None, self.draws
        labels = label.repeat_interleave(n)
        correct = (logits.argmax(1) == labels).to(points.dtype)
        return EOTEstimate(
            losses.view(-1, n).mean(1),
            None if gradient is None else gradient.view(-1, n, *points.shape[1:]).mean(1),
            correct.view(-1, n).mean(1),
            logits.view(len(points), n, -1).mean(1),
            margin(logits, labels).view(-1, n).mean(1),
            n,
        )

    def _parts(self, draws: Draws) -> list[dict[str, Tensor]]:
        """All draws in slices of `chunk` rows, or in smaller ones where idle ranks take some (`Crew`)."""
        total = len(draws.noise)
        whole = replace(draws, size=min(self.chunk or total, total))
        crew = crew_for(self.classifier) if draws.is_named and self._checked else None
        if crew is None:
            return [whole.part(self.classifier, number) for number in range(whole.slices)]
        kind = f"{draws.differentiate} {tuple(draws.points.shape[1:])}"
        if crew.helps(total, kind):
            return crew.results(replace(draws, size=crew.slice_size(total, whole.size)))
        with crew.timed(total, kind):
            return [whole.part(self.classifier, number) for number in range(whole.slices)]

    def _check_classes(self, logits: Tensor) -> None:
        if logits.shape[1] not in self._checked:
            check_classes(self.label, logits.shape[1])
            self._checked.add(logits.shape[1])


def _check_iterate(finite: list[float]) -> None:
    if not finite[0]:
        raise RuntimeError("an iterate of the attack is not finite. Lower its step size, or check gradients")


def chunks(rows: int, size: int | None) -> Iterator[slice]:
    """Slices of at most ``size`` rows (None: all rows in one)."""
    yield from (slice(start, start + (size or rows)) for start in range(0, rows, size or rows))


def check_counts(chunk: int | None, **counts: int) -> None:
    """``ValueError`` unless all ``counts`` of an attack are integers of at least 1, and ``chunk`` too, or None."""
    for name, value in counts.items():
        check_count(name, value)
    check_optional(check_count, "chunk, rows in a call or None for no limit,", chunk)


def most_likely_classes(logits: Tensor, label: Tensor, count: int) -> list[Tensor]:
    """The ``count`` most likely classes other than the label (at most K - 1), most likely first, (B,) each."""
    others = logits.scatter(1, label[:, None], -torch.inf)
    return list(others.topk(min(count, logits.shape[1] - 1), dim=1).indices.unbind(1))


def is_usable(gradient: Tensor) -> Tensor:
    """True where a gradient is finite and not zero, per image, (B,) bool."""
    largest = gradient.flatten(1).abs().amax(1)
    return (largest > 0) & (largest < torch.inf)


def usable(gradient: Tensor) -> Tensor:
    """The gradient (B,C,H,W), with zeros for images where it is not finite."""
    return torch.where(per_image(is_usable(gradient), gradient), gradient, 0.0)


def per_image(row: Tensor, image: Tensor) -> Tensor:
    """One number per image, (B,) -> (B,1,1,1), to broadcast against ``image``."""
    return row.view(-1, *(1,) * (image.ndim - 1))
