"""DiffHammer's gradient: draws that share a weakness count, the others do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.noise import Noise
from common.robustness.attacks.attack import AttackResult
from common.robustness.attacks.wrapper import GradientWrapper, loss_of, with_loss
from common.robustness.classifiers import Classifier, Purified, Voting
from common.robustness.losses import Loss
from common.robustness.threats.norm_ball import Threat, ThreatModel, require_norm_ball


@dataclass(frozen=True)
class DiffHammer(GradientWrapper):
    """``attack`` with the gradient of DiffHammer (Wang et al., NeurIPS 2024) in place of the EOT mean.

    The draws of an image may be weak in different directions, and their mean gradient in none. Let l_j be the loss of
    draw j of n = ``attack.eot`` and g_j its gradient, and d(r) a step along r, the attack's way, from the centre of the
    threat's ball to its surface. Expectation-maximisation picks the draws that one step can break together:

        r_0 = g_i,    i = argmax_i sum_j elu(l_j + d(g_i) . g_j),
        E:  w_j = sigmoid((l_j + d(r) . g_j) / temperature),        M:  r = sum_j w_j g_j / sum_j w_j,

    ``rounds`` times. In step t the attack is given ``v r + (1 - v) (what it was given before)``, v = t^(-memory).

    ``graft=False`` takes exact gradients g_j: n backward passes through the purifier. ``graft=True`` is the paper's
    shortcut: in the g_j the purifier counts as the identity (BPDA), and of the purifications only that of draw i is
    differentiated, its vector-Jacobian product with r standing for all: one backward pass instead of n.

    Of the paper: the reweighting by linearised losses, memory 1/2, grafting, and runs with the margin, the
    cross-entropy and DLR: here an evaluator each, the worst of which counts. The formulas for i, w and v are read from
    the paper's code. Ours: d, as long as the ball is wide, in w as well; that E and M are iterated; ``temperature`` 1;
    and what the attack ranks points by, the EOT mean of ``2 temperature tanh(l_j / (2 temperature))``, the share of the
    draws that are broken, to scale, for a mean loss would lead into the same dilemma. ``loss="margin"`` suits all this
    best: it is zero on the boundary of the decision. As the temperature grows the weights become equal, and the values
    l_j; at ``memory`` 0 this is then the attack itself.

    Needs ``eot`` of 2 or more, a single restart (each would remember the last), all draws of an image in one chunk, and
    for grafting a `Purified` classifier without a vote. ``ValueError`` otherwise.
    """

    temperature: float = 1.0
    rounds: int = 3
    memory: float = 0.5
    graft: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_of(self.attack)
        eot = getattr(self.attack, "eot", 1)
        if eot < 2:
            raise ValueError(f"DiffHammer chooses among draws: the attack inside needs eot >= 2; got {eot}")
        if getattr(self.attack, "restarts", 1) != 1:
            raise ValueError("DiffHammer remembers gradients: use restarts=1, and evaluators with several seeds")
        if self.chunk is not None and self.chunk % eot:
            raise ValueError(f"chunk must be a multiple of eot, {eot}: draws are weighed together; got {self.chunk}")
        if not self.temperature > 0 or self.rounds < 1 or self.memory < 0:
            got = f"temperature={self.temperature}, rounds={self.rounds}, memory={self.memory}"
            raise ValueError(f"temperature must be above 0, rounds at least 1, memory at least 0; got {got}")

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "DiffHammer")
        super().check(threat)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        if self.graft:
            _purifier(classifier)
        scale = _Scale(self, require_norm_ball(threat, "DiffHammer"), loss_of(self.attack))
        found = with_loss(self.attack, scale.loss).search(_Weighed(classifier, scale), image, label, threat, noise)
        if found.queries is None or not self.graft:
            return found
        grafts = [scale.past[i][0] if i in scale.past else 0 for i in noise.index.tolist()]
        return replace(found, queries=found.queries + torch.tensor(grafts, device=found.queries.device))


class _Scale:
    """Weighs draws. Knows the losses (R,) of the latest call, and what each image's step before was given."""

    def __init__(self, settings: DiffHammer, ball: ThreatModel, loss: Loss) -> None:
        self.settings, self.ball, self.inner = settings, ball, loss
        self.losses = torch.zeros(0)
        self.past: dict[int, tuple[int, Tensor]] = {}

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """The value by which points are ranked, with the gradient of the attack's own loss, which is noted."""
        values = self.inner(logits, label)
        self.losses = values.detach()
        scale = 2 * self.settings.temperature
        return scale * torch.tanh(self.losses / scale) + (values - self.losses)

    def weigh(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """r (B,D) of gradients (B,n,D), and the draw i (B,) that it began with."""
        losses = self.losses.view(gradients.shape[:2])
        sound = losses.isfinite() & gradients.isfinite().all(-1)
        losses, gradients = losses.where(sound, -torch.inf), gradients.where(sound[..., None], 0.0)
        gain = self._step(gradients) @ gradients.transpose(1, 2)  # (B,i,j): of draw j by a step along g_i
        first = functional.elu(losses[:, None] + gain).sum(-1).where(sound, -torch.inf).argmax(1)
        r = gradients[torch.arange(len(gradients), device=gradients.device), first]
        for _ in range(self.settings.rounds):
            gain = (gradients * self._step(r)[:, None]).sum(-1)
            weight = torch.sigmoid((losses + gain) / self.settings.temperature)[..., None]
            r = (weight * gradients).sum(1) / weight.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
        return r, first

    def remembered(self, gradient: Tensor, index: Tensor) -> Tensor:
        """``v gradient + (1 - v) past`` (B,...) for images with ``index`` (B,), which becomes their past."""
        mixed = gradient.clone()
        for row, i in enumerate(index.tolist()):
            step, past = self.past.get(i, (0, mixed[row]))
            mixed[row] = torch.lerp(past, mixed[row], (step + 1) ** -self.settings.memory)
            self.past[i] = step + 1, mixed[row].clone()
        return mixed

    def _step(self, r: Tensor) -> Tensor:
        """d(r), (..., D)."""
        flat = r.reshape(-1, r.shape[-1])
        direction = self.ball.direction(flat)
        length = torch.linalg.vector_norm(direction, self.ball.norm, dim=1, keepdim=True)
        step: Tensor = self.ball.eps * direction / length.clamp(min=torch.finfo(r.dtype).tiny)
        return step.view_as(r)


class _Weighed(Classifier):
    """The classifier, with the gradients of an image's draws replaced by the one that they agree upon."""

    def __init__(self, classifier: Classifier, scale: _Scale) -> None:
        super().__init__()
        self.classifier, self.scale, self.randomised = classifier, scale, classifier.randomised

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if noise is None or not (torch.is_grad_enabled() and image.requires_grad):
            logits: Tensor = self.classifier(image, noise)
        elif self.scale.settings.graft:
            logits = _Grafted.apply(image, self.classifier, noise, self.scale)
        else:
            logits = self.classifier(_Agreed.apply(image, noise, self.scale), noise)
        return logits


class _Agreed(torch.autograd.Function):
    """The identity; backward, each draw of an image gets what `_Scale` makes of all of them."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, noise: Noise, scale: _Scale) -> Tensor:
        ctx.noise, ctx.scale = noise, scale
        return image.view_as(image)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        gradients, index = _by_image(cotangent, ctx.noise)
        r, _ = ctx.scale.weigh(gradients)
        n = gradients.shape[1]
        return ctx.scale.remembered(r, index).repeat_interleave(n, 0).view_as(cotangent), None, None


class _Grafted(torch.autograd.Function):
    """The classifier's logits; backward, the weighed gradients at the purified images, through one purification."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, classifier: Classifier, noise: Noise, scale: _Scale) -> Tensor:
        with torch.enable_grad(), _purified(classifier, cut=True) as found:
            logits: Tensor = classifier(image.detach(), noise)
        ctx.answer, ctx.classifier, ctx.noise, ctx.scale = (logits, found[0]), classifier, noise, scale
        ctx.save_for_backward(image)
        return logits.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        (image,) = ctx.saved_tensors
        logits, purified = ctx.answer
        (gradient,) = torch.autograd.grad(logits, purified, cotangent)
        gradients, index = _by_image(gradient[: len(image)], ctx.noise)
        r, first = ctx.scale.weigh(gradients)
        n = gradients.shape[1]
        rows = torch.arange(len(index), device=first.device) * n + first
        with torch.enable_grad(), _purified(ctx.classifier, cut=False) as found:
            leaf = image[rows].detach().requires_grad_()
            ctx.classifier(leaf, ctx.noise.rows(rows))
            (grafted,) = torch.autograd.grad(found[0][: len(leaf)], leaf, r.view_as(leaf))
        return ctx.scale.remembered(grafted, index).repeat_interleave(n, 0), None, None, None


def _by_image(rows: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Rows (B*n,C,H,W), image-major, as (B,n,D), and the index of each image, (B,)."""
    n = int((noise.index == noise.index[0]).sum())
    return rows.reshape(-1, n, rows[0].numel()), noise.index[::n]


@contextmanager
def _purified(classifier: nn.Module, cut: bool) -> Iterator[list[Tensor]]:
    """The purified images of a call; with ``cut`` leaves, at which the graph of what comes after them begins."""
    found: list[Tensor] = []

    def note(module: nn.Module, given: Any, purified: Tensor) -> Tensor:
        found.append(purified.detach().requires_grad_() if cut else purified)
        return found[-1]

    hook = _purifier(classifier).register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def _purifier(classifier: nn.Module) -> nn.Module:
    """The one purifier whose answer is classified, row by row."""
    purified = [module.purifier for module in classifier.modules() if isinstance(module, Purified)]
    votes = any(isinstance(module, Voting) for module in classifier.modules())
    if len(purified) != 1 or votes:
        raise ValueError(
            f"grafting needs one purifier in front of the classifier and no vote; {type(classifier).__name__} has "
            f"{len(purified)} and {'a' if votes else 'no'} vote. Use graft=False"
        )
    return purified[0]
