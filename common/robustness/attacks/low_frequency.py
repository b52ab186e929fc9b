"""The low-frequency attack: optimised smoothing filters, within a perceptual bound."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, is_usable, per_image
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, by_name
from common.robustness.threats.norm_ball import Threat, require_threat, unit
from common.robustness.threats.perceptual import Perceptual

_TRIALS = 10  # points on the way from the image to the chain's, of which every other halves what is left of it


@dataclass(frozen=True)
class LowFrequency(Attack):
    """Adam on a chain of smoothing filters and a modifier, within a `Perceptual` bound.

        adv = image + s (F_m(... F_1(image + modifier)) - image),
        F_b(x)(p) = sum_q softmax_q(theta_b(p, q)) x(q),      q in the k_b x k_b pixels round p:

    weighted means of the neighbourhood, each pixel of each image with weights of its own. At first the centre has the
    weight ``identity`` and all others the same. The modifier (C,H,W) starts at zero and keeps image + modifier in
    [0,1]. The share s in [0,1] is 1 where the chain's image is within the bound, else as large as a few trials find it
    to be within: whatever the classifier is asked about is allowed. Adam follows, in theta and the modifier, the sum of
    two gradients in pixels, each brought to length one,

        grad 1/n sum_j loss(classifier(adv, noise_j), label)  -  penalty [the chain's image is outside] grad metric.

    DiffBreak's (arXiv 2411.16598) are the idea, optimisable filters and a modifier, under a bound on LPIPS that enters
    as a penalty, and settings: kernels 5, 7, 5, 3 for CIFAR-10, Adam at 0.05 for filters and 0.008 for the modifier,
    100 steps, 128 draws, VGG's LPIPS 0.05. Ours are the form of the filters, the share s, the normalised gradients in
    place of a penalty of 1e8, and the bookkeeping. Its published numbers are therefore not this attack's. Nothing but
    the filters keeps the modifier smooth.

    Returns, per image, the adv with the highest EOT-mean loss: the very image on which it was measured. Of a
    deterministic classifier a misclassified one, if there is any, comes before all others; it is asked once a step,
    whatever ``eot`` says, and with ``early_stop`` an image is done at its first. ``chunk`` limits the rows of a pass.
    Memory: ``sum_b k_b^2`` numbers per pixel and image, about ten times over.
    """

    steps: int = 100
    kernels: Sequence[int] = (5, 7, 5, 3)
    filter_rate: float = 0.05
    modifier_rate: float = 0.008
    penalty: float = 3.0
    identity: float = 0.9
    eot: int = 128
    loss: str | Loss = "margin"
    early_stop: bool = False
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot)
        if not self.kernels or any(size < 3 or size % 2 == 0 for size in self.kernels):
            raise ValueError(f"kernels must be odd sizes of at least 3 pixels; got {list(self.kernels)}")
        for name in ("filter_rate", "modifier_rate", "penalty"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)}")
        if not 0 < self.identity < 1:
            raise ValueError(f"identity must be a share in (0,1); got {self.identity}")
        self._loss_function()

    def check(self, threat: Threat) -> None:
        require_threat(threat, Perceptual, type(self).__name__)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        perceptual, certain = require_threat(threat, Perceptual, type(self).__name__), not classifier.randomised
        oracle = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        progress = BestIterates(image, self.steps + 1, self.early_stop and certain, certain)
        with attacking(classifier, image, label, noise):
            chain = _Chain(image, self.kernels, self.identity)
            rates = ((chain.filters, self.filter_rate), ([chain.modifier], self.modifier_rate))
            adam = torch.optim.Adam([{"params": part, "lr": rate} for part, rate in rates], maximize=True)
            for step in range(self.steps + 1):
                rows = progress.active
                if not len(rows):
                    break
                filtered = chain(rows)
                distance, slope = _distance(perceptual, image[rows], filtered.detach(), self.chunk)
                adv = _within(perceptual, image[rows], filtered.detach(), distance, self.chunk)
                answers = oracle(rows, adv, f"step {step}", self._loss_function(), step < self.steps)
                progress.note(rows, adv, answers, oracle.eot)
                if answers.gradient is not None:
                    progress.blind(rows, ~is_usable(answers.gradient))
                    outside = per_image((distance > perceptual.eps).to(image.dtype), adv)
                    chain.differentiate(filtered, _unit(answers.gradient) - self.penalty * outside * _unit(slope))
                    adam.step()
                    chain.confine()
        return progress.found()

    def _loss_function(self) -> Loss:
        return by_name(self.loss) if isinstance(self.loss, str) else self.loss


class _Chain:
    """The filters and the modifier of B images (B,C,H,W): what is optimised, and what it makes of the images."""

    def __init__(self, image: Tensor, kernels: Sequence[int], identity: float) -> None:
        self._image, self._kernels = image, kernels
        self.modifier = torch.zeros_like(image).requires_grad_()
        self.filters = [_first(image, size, identity).requires_grad_() for size in kernels]

    def __call__(self, rows: Tensor) -> Tensor:
        """The filtered images ``rows``, (A,C,H,W): means of pixels, so in [0,1] but for the last bit."""
        x = self._image[rows] + self.modifier[rows]
        for size, theta in zip(self._kernels, self.filters, strict=True):
            x = (_patches(x, size) * theta[rows].softmax(1)[:, None]).sum(2)
        return x

    def differentiate(self, filtered: Tensor, way: Tensor) -> None:
        """Leaves the gradient of ``<filtered, way>`` with the parameters, for the optimiser."""
        parameters = [*self.filters, self.modifier]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad((filtered * way).sum(), parameters), strict=True
        ):
            parameter.grad = gradient

    @torch.no_grad()
    def confine(self) -> None:
        """The image with its modifier back into [0,1]."""
        self.modifier.copy_((self._image + self.modifier).clamp(0, 1) - self._image)


def _first(image: Tensor, size: int, identity: float) -> Tensor:
    """Logits (B,k^2,H,W) that give the centre the weight ``identity`` and all others the same."""
    others = size**2 - 1
    theta = image.new_zeros(len(image), size**2, *image.shape[-2:])
    theta[:, others // 2] = torch.tensor(identity / (1 - identity) * others).log().item()
    return theta


def _patches(x: Tensor, size: int) -> Tensor:
    """(B,C,H,W) -> (B,C,k^2,H,W): the pixels round each pixel, those beyond the edge being the nearest on it."""
    around = functional.pad(x, (size // 2,) * 4, mode="replicate")
    return functional.unfold(around, size).view(*x.shape[:2], size**2, *x.shape[-2:])


def _unit(gradient: Tensor) -> Tensor:
    """Of length one, image by image; a gradient that is not finite counts as zero, and zero stays zero."""
    return unit(torch.where(per_image(is_usable(gradient), gradient), gradient, 0.0))


def _pieces(rows: int, chunk: int | None) -> Iterator[slice]:
    yield from (slice(start, start + (chunk or rows)) for start in range(0, rows, chunk or rows))


def _distance(threat: Perceptual, image: Tensor, adv: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
    """The distance (A,) and its gradient in ``adv``."""
    distances, slopes = [], []
    for piece in _pieces(len(image), chunk):
        x = adv[piece].clone().requires_grad_()
        distance = threat.distance(image[piece], x)
        distances.append(distance.detach())
        slopes.append(torch.autograd.grad(distance.sum(), x)[0])
    return torch.cat(distances), torch.cat(slopes)


def _within(threat: Perceptual, image: Tensor, adv: Tensor, distance: Tensor, chunk: int | None) -> Tensor:
    """``adv`` where its distance is inside, else a point on the way to it that is, 0.97 to 1 times eps away if found.

    Between a point inside and one outside, the root of the distance is nearly linear: the next point is where the line
    through both meets 0.985 eps, in turns with the middle, which is certain to halve the interval.
    """
    best = torch.where(per_image(distance <= threat.eps, adv), adv.clamp(0, 1), image)
    (rows,) = (~(distance <= threat.eps)).nonzero(as_tuple=True)
    low, high = torch.zeros_like(distance[rows]), torch.ones_like(distance[rows])
    inside, outside = torch.zeros_like(low), distance[rows].nan_to_num(torch.inf, torch.inf)
    for trial in range(_TRIALS):
        if not len(rows):
            break
        share = (low + high) / 2
        if trial % 2 == 0:
            line = ((0.985 * threat.eps) ** 0.5 - inside.sqrt()) / (outside.sqrt() - inside.sqrt())
            share = torch.where(outside < torch.inf, low + line * (high - low), share)
        point = (image[rows] + per_image(share.to(image.dtype), image) * (adv[rows] - image[rows])).clamp(0, 1)
        pieces = [threat.distance(image[rows][piece], point[piece]) for piece in _pieces(len(rows), chunk)]
        found = torch.cat(pieces)
        near = found <= threat.eps
        best[rows] = torch.where(per_image(near, point), point, best[rows])
        low, inside = torch.where(near, share, low), torch.where(near, found, inside)
        high, outside = torch.where(near, high, share), torch.where(near, outside, found)
        going = ~(inside >= 0.97 * threat.eps)
        rows, low, high, inside, outside = (each[going] for each in (rows, low, high, inside, outside))
    return best
