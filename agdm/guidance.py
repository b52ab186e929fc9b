"""The guidance of AGDM (arXiv 2403.16067): the log-potential of an adversarially trained network φ.

A guided step samples p(x_{t-1} | x_t, y, x'), x' the input of the defence. By Bayes' rule its score is that of the
diffusion model plus ∇ log p_φ(y, x' | x), and with the paper's factorisation the second part is the gradient of a
potential per image::

    log p_φ(y, x' | x) = - latent_scale D(c_φ(x), c_φ(x')) + label_scale L(p_φ(. | x), p_φ(. | x')) + const

with c_φ a latent of the network and p_φ its class probabilities. The true label y is unknown to a defence: φ's
prediction for x' stands in for it.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from agdm.distances import cosine, hard, mse, relative, soft
from agdm.potential import Potential
from common.checks.images import check_logits
from common.checks.settings import check_not_negative, check_one_of, check_part
from common.diffusion.inner_gradients import check_gradients_allowed
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
        check_not_negative("sigma, in the model frame,", sigma)
        self.network = check_part("network", network, nn.Module, "a module")
        self.sigma = sigma
        self.randomised = sigma > 0

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        x = to_model(image)
        if self.sigma > 0:
            noise = Noise.or_fresh(noise, image)
            x = x + self.sigma * noise.normal(0, image.shape[1:], image.dtype)
        return check_logits(self.network(x, x.new_full((), self.sigma))[1], len(image), "φ")


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
        check_part("network", network, nn.Module, "a module")
        check_not_negative("latent_scale", latent_scale)
        check_not_negative("label_scale", label_scale)
        check_one_of("distance", distance, (*_DISTANCES, "kl"))
        check_one_of("label", label, _LABELS)
        self.network = network.requires_grad_(False).eval()
        self.latent_scale = latent_scale
        self.label_scale = label_scale
        self.label = label
        self.distance = distance

    def surrogate(self) -> GuidanceClassifier:
        """φ as a classifier: images that are adversarial to it are often adversarial to AGDM."""
        return GuidanceClassifier(self.network).eval()

    def embed(self, reference: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """c_φ (B,F) and log p_φ (B,K) of the reference x' (B,C,H,W), model frame, at ``sigma`` (None: 0).

        Raises ``ValueError`` for a φ with other outputs, and in inference mode.
        """
        check_gradients_allowed()
        level = reference.new_zeros(()) if sigma is None else sigma
        latent, logits = _checked_outputs(self.network(reference, level), reference)
        return latent, logits.log_softmax(dim=1)

    def log_potential(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """The potential above, (B,), up to a constant of x; ``embedding`` as ``embed`` returns it."""
        latent_ref, log_p_ref = embedding
        latent, logits = self.network(x, sigma)
        log_p = logits.log_softmax(dim=1)
        distance = -soft(log_p, log_p_ref) if self.distance == "kl" else _DISTANCES[self.distance](latent, latent_ref)
        potential = -self.latent_scale * distance
        agreement = _LABELS[self.label]
        return potential if agreement is None else potential + self.label_scale * agreement(log_p, log_p_ref)


def _checked_outputs(outputs: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """φ's latents (B,F) and logits (B,K) for images x (B,C,H,W), in the dtype of x or of autocast.

    Raises ``ValueError`` for other outputs.
    """
    device = x.device.type
    types = (x.dtype, *((torch.get_autocast_dtype(device),) if torch.is_autocast_enabled(device) else ()))
    match outputs:
        case (Tensor() as latent, Tensor() as logits):
            if all(part.ndim == 2 and len(part) == len(x) and part.dtype in types for part in (latent, logits)):
                return latent, logits
    parts = outputs if isinstance(outputs, tuple | list) else (outputs,)
    got = [(tuple(part.shape), part.dtype) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    raise ValueError(f"φ must return (latent (B,F), logits (B,K)) for {len(x)} images in {x.dtype}; got {got}")
