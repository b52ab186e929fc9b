"""Guidance: the gradient of a log-potential towards a reference, and its base classes."""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from common.checks.settings import check_part
from common.diffusion.inner_gradients import as_variable, check_gradients_allowed, records_gradient
from common.numerics.copies import copied

P = TypeVar("P", bound="Potential")


class Guidance:
    """Gradient of a log-potential towards a reference, the purifier's input, which is never detached.

    ``x`` = x0 + σ n (B,C,H,W) in the model frame, unscaled; ``sigma`` (B,) or (); the gradient is with respect
    to this x. A variance-preserving state x_t = s x has ``grad_{x_t} = grad_x / s``.

    Subclasses define ``gradient_at`` and, unless the reference is its own embedding, ``embed``.
    ``embeds_noisy``: False if ``embed`` takes clean references only.
    """

    embeds_noisy: bool = True

    def embed(self, reference: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, ...]:
        """The part of the gradient that depends on the reference (B,C,H,W) alone, computed once per purification.

        ``sigma`` is the level of a reference that was diffused (``Steering``): then it is computed in every step.
        """
        return (reference,)

    def gradient_at(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """∇_x log-potential (B,C,H,W) at x, given the reference's embedding."""
        raise NotImplementedError

    def gradient(self, x: Tensor, sigma: Tensor, reference: Tensor) -> Tensor:
        """∇_x log-potential (B,C,H,W) at x: ``gradient_at(x, sigma, *embed(reference))``."""
        return self.gradient_at(x, sigma, *self.embed(reference))


@runtime_checkable
class SupportsGradient(Protocol):
    """Contract of a guidance that does not derive from ``Guidance``: its gradient, without an embedding."""

    def gradient(self, x: Tensor, sigma: Tensor, reference: Tensor) -> Tensor: ...


class PlainGuidance(Guidance, nn.Module):
    """``Guidance`` around any object with ``gradient(x, sigma, reference)``; the reference is its embedding."""

    def __init__(self, guidance: SupportsGradient) -> None:
        super().__init__()
        check_part("guidance", guidance, SupportsGradient, "a Guidance, or have gradient(x, sigma, reference)")
        self.guidance = guidance

    def gradient_at(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        return self.guidance.gradient(x, sigma, *embedding)


def as_guidance(guidance: Guidance | SupportsGradient) -> Guidance:
    """The guidance itself, or a ``PlainGuidance`` around it. Raises ``ValueError`` for anything without a gradient."""
    if isinstance(guidance, Guidance):
        return guidance
    if not isinstance(guidance, SupportsGradient):
        raise ValueError(
            f"guidance must be a Guidance or have gradient(x, sigma, reference); got {type(guidance).__name__}"
        )
    return PlainGuidance(guidance)


class Potential(Guidance, nn.Module):
    """A ``Guidance`` by its potential: subclasses define ``embed`` and ``log_potential``, which may write into copies.

    Potentials are summed over the batch, so that an image's gradient does not depend on the others (a mean would make
    it 1/B as strong). The gradient itself is differentiable with respect to x and the embedding, as attacks need it.
    """

    def train(self: P, mode: bool = True) -> P:
        """Set the mode of the potential; the networks inside stay in eval mode."""
        super().train(mode)
        for network in self.children():
            network.eval()
        return self

    def log_potential(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """The log-potential per image, (B,), up to a constant of x."""
        raise NotImplementedError

    def gradient_at(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """∇_x log-potential at x = x0 + σ n, (B,C,H,W); differentiable whenever an outer gradient is recorded."""
        check_gradients_allowed()
        recording = records_gradient(x, *embedding)
        with torch.enable_grad():
            x = as_variable(x)
            potential = self.log_potential(*copied(x, sigma, *embedding))
            (gradient,) = torch.autograd.grad(potential.sum(), x, create_graph=recording)
        return gradient
