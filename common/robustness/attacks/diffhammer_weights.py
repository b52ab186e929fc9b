"""Weights of draws for DiffHammer (Wang et al., NeurIPS 2024), by expectation-maximisation."""

import torch
from torch import Tensor
from torch.nn import functional

from common.robustness.losses import Loss
from common.robustness.threats.norm_ball import ThreatModel


class DrawWeights:
    """Weighted gradients over the draws of an image, with the losses of the last call and the gradients of last step.

    ``ranking_loss`` must be called on the logits (R,K) of the draws before ``combine`` on their gradients. The formulas
    are those of `DiffHammer`; ``index`` (B,) are the images under attack. Nothing waits for their device.
    """

    def __init__(
        self, ball: ThreatModel, loss: Loss, index: Tensor, temperature: float, rounds: int, memory: float
    ) -> None:
        self.ball, self.loss, self.index = ball, loss, index
        self.temperature, self.rounds, self.memory = temperature, rounds, memory
        self._losses = torch.zeros(0)
        self._steps, self._past = torch.zeros_like(index), torch.zeros(0)

    def ranking_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Values (R,) that rank points, with the gradient of the attack's own loss; stores the losses."""
        values = self.loss(logits, label)
        self._losses = values.detach()
        scale = 2 * self.temperature
        return scale * torch.tanh(self._losses / scale) + (values - self._losses)

    def combine(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted gradient r (B,D) of ``gradients`` (B,n,D), and the first draw i (B,) of the iteration."""
        losses = self._losses.view(gradients.shape[:2])
        finite = losses.isfinite() & gradients.isfinite().all(-1)
        losses, gradients = losses.where(finite, -torch.inf), gradients.where(finite[..., None], 0.0)
        gain = self._step(gradients) @ gradients.transpose(1, 2)  # (B,i,j): of draw j by a step along g_i
        first = functional.elu(losses[:, None] + gain).sum(-1).where(finite, -torch.inf).argmax(1)
        r = gradients[torch.arange(len(gradients), device=gradients.device), first]
        for _ in range(self.rounds):
            gain = (gradients * self._step(r)[:, None]).sum(-1)
            weight = torch.sigmoid((losses + gain) / self.temperature)[..., None]
            r = (weight * gradients).sum(1) / weight.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
        return r, first

    def with_memory(self, gradient: Tensor, index: Tensor) -> Tensor:
        """``v gradient + (1 - v) past`` (A,...) for images with ``index`` (A,), stored as their new past."""
        if not len(self._past):
            self._past = gradient.new_zeros(len(self.index), *gradient.shape[1:])
        rows = self._rows(index)
        self._steps[rows] += 1
        exact = torch.float32 if index.device.type == "mps" else torch.float64  # which mps does not have
        v = self._steps[rows].to(exact).pow(-self.memory).view(-1, *(1,) * (gradient.ndim - 1))
        mixed = v.to(gradient.dtype) * gradient + (1 - v).to(gradient.dtype) * self._past[rows]
        self._past[rows] = mixed
        return mixed

    def steps(self, index: Tensor) -> Tensor:
        """Number of gradients (A,) of the images with ``index`` (A,) so far."""
        return self._steps[self._rows(index)]

    def _rows(self, index: Tensor) -> Tensor:
        """Places (A,) of images among all."""
        return (index[:, None] == self.index).to(torch.uint8).argmax(1)

    def _step(self, r: Tensor) -> Tensor:
        """d(r), (..., D): from the centre of the ball to its surface."""
        flat = r.reshape(-1, r.shape[-1])
        direction = self.ball.direction(flat)
        length = torch.linalg.vector_norm(direction, self.ball.norm, dim=1, keepdim=True)
        step: Tensor = self.ball.eps * direction / length.clamp(min=torch.finfo(r.dtype).tiny)
        return step.view_as(r)
