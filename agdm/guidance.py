"""The guidance of AGDM (arXiv 2403.16067): the log-potential of an adversarially trained network φ.

A guided step samples p(x_{t-1} | x_t, y, x'), x' the input of the defence. By Bayes' rule its score is that of the
diffusion model plus ∇ log p_φ(y, x' | x), and with the paper's factorisation the second part is the gradient of a
potential per image::

    log p_φ(y, x' | x) = - latent_scale D(c_φ(x), c_φ(x')) + label_scale L(p_φ(. | x), p_φ(. | x')) + const

with c_φ a latent of the network and p_φ its class probabilities. The true label y is unknown to a defence: φ's
prediction for x' stands in for it.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agdm.potential import Potential
from common.noise import Noise
from common.robustness.classifiers import Classifier
from common.units import to_model

Distance = Literal["mse", "relative", "cosine", "kl"]
Label = Literal["soft", "hard", "none"]


class GuidanceClassifier(Classifier):
    """φ alone as a classifier of pixels at noise level ``sigma`` (model frame): p_φ(y | x0 + σ z).

    The control beside every AGDM number, the source of transfer attacks, and the classifier that ``fit`` validates.
    """

    def __init__(self, network: nn.Module, sigma: float = 0.0) -> None:
        super().__init__()
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be >= 0 and finite, in the model frame; got {sigma}")
        self.network = network
        self.sigma = sigma
        self.randomised = sigma > 0

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        x = to_model(image)
        if self.sigma > 0:
            noise = Noise.or_fresh(noise, image)
            x = x + self.sigma * noise.normal(0, image.shape[1:], image.dtype)
        logits: Tensor = self.network(x, x.new_tensor(self.sigma))[1]
        return logits


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


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "relative": relative, "cosine": cosine}
_LABELS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {"soft": soft, "hard": hard, "none": None}


class AdversarialGuidance(Potential):
    """Gradient of the potential of an adversarially trained network φ; a ``Guidance``.

    Per image, with x' the reference at σ = 0, D by ``distance`` and the label term by ``label``::

        log-potential(x) = - latent_scale D + label_scale L
        D = |c_φ(x) - c_φ(x')|² / F                  "mse"
            |c_φ(x) - c_φ(x')|² / |c_φ(x')|²         "relative"
            1 - cos(c_φ(x), c_φ(x'))                 "cosine"
            KL(p_φ(. | x') || p_φ(. | x))            "kl": no latent; beside "soft", one term counted twice
        L = -KL(p_φ(. | x') || p_φ(. | x))           "soft"
            log p_φ(argmax p_φ(. | x') | x)          "hard"
            0                                        "none"

    A review of the paper names the mean squared error; "relative" is that error in units that carry over between
    networks, hence the default. The paper has one scale for both terms: leave both at 1, set ``AGDM(scale=...)``.

    φ is frozen here (``requires_grad_(False)``, eval mode): no parameter gradient is formed.
    """

    def __init__(
        self,
        network: nn.Module,
        latent_scale: float = 1.0,
        label_scale: float = 1.0,
        label: Label = "soft",
        distance: Distance = "relative",
    ) -> None:
        super().__init__()
        if not (0 <= latent_scale < math.inf and 0 <= label_scale < math.inf):
            got = f"latent_scale={latent_scale}, label_scale={label_scale}"
            raise ValueError(f"scales must be >= 0 and finite; got {got}")
        if distance not in (*_DISTANCES, "kl") or label not in _LABELS:
            choices = f"distance in {[*_DISTANCES, 'kl']} and label in {[*_LABELS]}"
            raise ValueError(f"expected {choices}; got distance={distance!r}, label={label!r}")
        self.network = network.requires_grad_(False).eval()
        self.latent_scale = latent_scale
        self.label_scale = label_scale
        self.label = label
        self.distance = distance

    def embed(self, reference: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """c_φ (B,F) and log p_φ (B,K) of the reference x' (B,C,H,W), model frame, at ``sigma``: without it, at 0.

        Raises ``ValueError`` for a φ with other outputs, and in inference mode.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError("guidance needs gradients: inference mode must be off. Use Trainer(inference_mode=False)")
        latent, logits = _pair(self.network(reference, reference.new_zeros(()) if sigma is None else sigma), reference)
        return latent, logits.log_softmax(dim=1)

    def log_potential(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """The potential above, (B,), up to a constant of x; ``embedding`` as ``embed`` returns it."""
        (latent, log_p), (latent_x, logits_x) = embedding, self.network(x, sigma)
        log_p_x = logits_x.log_softmax(dim=1)
        near = soft(log_p_x, log_p).neg() if self.distance == "kl" else _DISTANCES[self.distance](latent_x, latent)
        agreement = _LABELS[self.label]
        potential = -self.latent_scale * near
        return potential if agreement is None else potential + self.label_scale * agreement(log_p_x, log_p)


def _pair(answer: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """φ's output for images x (B,C,H,W), checked: latents (B,F) and logits (B,K) in their dtype or autocast's."""
    device = x.device.type
    types = (x.dtype, *((torch.get_autocast_dtype(device),) if torch.is_autocast_enabled(device) else ()))
    match answer:
        case (Tensor() as latent, Tensor() as logits):
            if all(part.ndim == 2 and len(part) == len(x) and part.dtype in types for part in (latent, logits)):
                return latent, logits
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    got = [(tuple(part.shape), part.dtype) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    raise ValueError(f"φ must return (latent (B,F), logits (B,K)) for {len(x)} images in {x.dtype}; got {got}")
