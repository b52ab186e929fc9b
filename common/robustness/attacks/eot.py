"""Expectation over transformation: the loss of an image, its gradient and its successes, averaged over draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, TargetedLoss, margin
from common.units import check_integer


@dataclass(frozen=True)
class EOTEstimate:
    """What n draws say of B points: mean ``loss`` (B,), its ``gradient`` (B,C,H,W) or None, ``right`` (B,), the share
    of the draws classified as ``label``, the mean ``logits`` (B,K) and the mean ``margin`` (B,) (`losses.margin`)."""

    loss: Tensor
    gradient: Tensor | None
    right: Tensor
    logits: Tensor
    margin: Tensor


def ask(
    classifier: Classifier,
    points: Tensor,
    label: Tensor,
    draws: Noise,
    loss: Loss | TargetedLoss,
    differentiate: bool = True,
    chunk: int | None = None,
    target: Tensor | None = None,
) -> EOTEstimate:
    """``1/n sum_j loss(classifier(x, noise_j), y)`` for each row x of ``points`` (B,C,H,W), and its gradient in x.

    With ``target`` (B,), a class per point, the loss is a targeted one: ``loss(classifier(x, noise_j), y, t)``.
    ``draws`` has B*n rows, image-major (``noise.draws(n)``). All rows are one forward and one backward pass, or several
    of at most ``chunk`` rows. A classifier that gives no gradient at all raises ``RuntimeError``: an attack would
    otherwise return the clean image and pass for robustness.
    """
    n = len(draws) // len(points)
    rows = points.detach().repeat_interleave(n, 0)
    classes = [each.repeat_interleave(n) for each in (label, target) if each is not None]
    losses, gradients, answers = [], [], []
    for start in range(0, len(rows), chunk or len(rows)):
        part = slice(start, start + (chunk or len(rows)))
        x = rows[part].requires_grad_(differentiate)
        with torch.set_grad_enabled(differentiate):
            logits = classifier(x, draws.rows(part))
            values = loss(logits, *(each[part] for each in classes))
        losses.append(values.detach())
        answers.append(logits.detach())
        if differentiate:
            gradients.append(_gradient(values, x))
    logits = torch.cat(answers)
    right = (logits.argmax(1) == classes[0]).to(points.dtype)
    return EOTEstimate(
        torch.cat(losses).view(-1, n).mean(1),
        torch.cat(gradients).view(-1, n, *points.shape[1:]).mean(1) if differentiate else None,
        right.view(-1, n).mean(1),
        logits.view(len(points), n, -1).mean(1),
        margin(logits, classes[0]).view(-1, n).mean(1),
    )


@dataclass(frozen=True)
class EOTLoss:
    """What an attack asks a classifier about images with ``label`` (B,): ``eot`` draws each, new ones for each name.

    A deterministic classifier is asked once, whatever ``eot`` says.
    """

    classifier: Classifier
    label: Tensor
    noise: Noise
    eot: int
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not self.classifier.randomised:
            object.__setattr__(self, "eot", 1)

    def __call__(
        self,
        rows: Tensor,
        points: Tensor,
        name: str,
        loss: Loss | TargetedLoss,
        differentiate: bool = False,
        target: Tensor | None = None,
    ) -> EOTEstimate:
        """`ask` about ``points`` (A,C,H,W), one for each image in ``rows`` (A,); the same row twice, the same draws."""
        draws = self.noise.rows(rows).stream(name).draws(self.eot)
        return ask(self.classifier, points, self.label[rows], draws, loss, differentiate, self.chunk, target)


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Row-wise gradient: row b of ``x`` moves loss b alone."""
    found = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
    if found is None:
        raise RuntimeError(
            "the classifier's logits do not depend differentiably on the image: no gradient reaches it. "
            "Remove no_grad and detach on the way, or use a gradient-free attack."
        )
    return found.detach()


def check_counts(chunk: int | None, **counts: int) -> None:
    """``ValueError`` unless all of an attack's ``counts`` are whole and at least 1, and ``chunk`` too, or None."""
    for name, value in counts.items():
        check_integer(name, value, 1)
    if chunk is not None:
        check_integer("chunk, rows in a call or None for no limit,", chunk, 1)


def most_likely_classes(logits: Tensor, label: Tensor, count: int) -> list[Tensor]:
    """The ``count`` most likely other classes (fewer if there are not so many), most likely first, (B,) each."""
    others = logits.scatter(1, label[:, None], -torch.inf)
    return list(others.topk(min(count, logits.shape[1] - 1), dim=1).indices.unbind(1))


def is_usable(gradient: Tensor) -> Tensor:
    """(B,) bool: somewhere non-zero and everywhere finite."""
    largest = gradient.flatten(1).abs().amax(1)
    return (largest > 0) & (largest < torch.inf)


def per_image(row: Tensor, image: Tensor) -> Tensor:
    """One number per image, (B,) -> (B,1,1,1), to go with ``image``."""
    return row.view(-1, *(1,) * (image.ndim - 1))
