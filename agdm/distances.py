"""Distances between the latents and agreement between the class probabilities of two images, per image, (B,)."""

from torch import Tensor
from torch.nn import functional as F


def mse(latent: Tensor, reference: Tensor) -> Tensor:
    """Mean over the F features of the squared difference, (B,). Summing instead is F times as strong."""
    return (latent - reference).square().mean(dim=1)


def relative(latent: Tensor, reference: Tensor) -> Tensor:
    """Squared difference as a fraction of the reference's squared norm, (B,): carries over between networks, whose
    latents differ in size and dimension. Equals ``mse`` divided by the mean square of c_φ(x')."""
    return (latent - reference).square().sum(dim=1) / reference.square().sum(dim=1)


def cosine(latent: Tensor, reference: Tensor) -> Tensor:
    """One minus the cosine of the angle between the latents, (B,)."""
    return 1 - F.cosine_similarity(latent, reference, dim=1)


def soft(log_p: Tensor, reference: Tensor) -> Tensor:
    """-KL(p_φ(. | x') || p_φ(. | x)) from log-probabilities, (B,)."""
    return -(reference.exp() * (reference - log_p)).sum(dim=1)


def hard(log_p: Tensor, reference: Tensor) -> Tensor:
    """log p_φ(ŷ | x) with ŷ = argmax p_φ(. | x') from log-probabilities, (B,)."""
    return log_p.gather(1, reference.argmax(dim=1, keepdim=True))[:, 0]
