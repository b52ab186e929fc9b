"""EDM's preconditioned network in its publishers' convention, and the conversions between network and denoiser."""

from torch import Tensor, nn

from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser, preconditioning
from common.diffusion.score_denoiser import ScoreDenoiser
from common.robustness.classifiers import NetworkClassifier


class EDMNetwork(nn.Module):
    """EDM's network as its publishers call it: ``network(x, sigma, class_labels)`` predicts the clean image.

    ``network`` and ``sigma_data`` as in `EDMDenoiser`; sigma (B,), (B,1,1,1) or (); ``class_labels`` one-hot
    (B, ``num_classes``), zero rows or None for no class.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5, num_classes: int | None = None) -> None:
        super().__init__()
        self.network, self.sigma_data, self.num_classes = network, sigma_data, num_classes

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if class_labels is None and self.num_classes is not None:
            class_labels = x.new_zeros(len(x), self.num_classes)
        one_hot = None if class_labels is None else class_labels.to(x)
        c_skip, c_out, c_in, c_noise = preconditioning(self.sigma_data, x, sigma.reshape(-1))
        prediction: Tensor = self.network(c_in * x, c_noise, one_hot)
        return c_skip * x + c_out * prediction.to(x.dtype)


def as_network(module: nn.Module) -> nn.Module:
    """The network inside a denoiser or classifier, called as its publishers call it; other modules unchanged."""
    if isinstance(module, EDMDenoiser):
        return EDMNetwork(module.network, module.sigma_data, module.num_classes).train(module.training)
    return module.network if isinstance(module, EpsDenoiser | ScoreDenoiser | NetworkClassifier) else module


def as_denoiser(module: nn.Module) -> nn.Module:
    """EDM's network as a denoiser; other modules unchanged."""
    if not isinstance(module, EDMNetwork):
        return module
    return EDMDenoiser(module.network, module.sigma_data, module.num_classes).train(module.training)
