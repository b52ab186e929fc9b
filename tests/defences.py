"""Small purifiers and classifiers for the tests of the gradient checks."""

import torch
from torch import nn

from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from agdm.purifier import AGDM
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.solvers import DDIM
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message
from diffpure.purifier import DiffPure

SIDE, CLASSES = 4, 3
NAMED_SOLVERS = ["euler_maruyama", "ancestral", "ddim", "probability_flow_euler", "probability_flow_heun"]
SOLVERS = {name: name for name in NAMED_SOLVERS} | {"ddim eta 0.7": DDIM(0.7)}


def awake(network, seed=0):
    """Random weights of ordinary size: at initialisation some branches are nearly zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return network.eval()


class Body(nn.Module):
    """Two convolutions, a noise level and a class."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.classes = nn.Linear(CLASSES, 4)

    def forward(self, x, label, class_labels=None):
        h = self.first(x) + torch.sin(label.to(x.dtype))[:, None, None, None]
        if class_labels is not None:
            h = h + self.classes(class_labels)[:, :, None, None]
        return self.second(torch.tanh(h))


def denoiser(seed=0):
    return EDMDenoiser(awake(Body(), seed), num_classes=CLASSES)


def head(seed=0):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    return NetworkClassifier(awake(layers, seed + 1))


def guidance(seed=0, kind=AdversarialGuidance, **settings):
    return kind(awake(GuidanceNetwork(1, CLASSES, width=8, strides=(1, 2)), seed + 2), **settings)


def diffpure(kind=DiffPure, steps=3, seed=0, **settings):
    return Purified(kind(denoiser(seed), 0.1, steps=steps, **settings), head(seed))


def agdm(kind=AGDM, seed=0, guide=None, **settings):
    return Purified(kind(denoiser(seed), guide or guidance(seed), 0.1, scale=20.0, steps=3, **settings), head(seed))


def batch(images=1, seed=0, channels=1, side=SIDE):
    """Images with flat black and white parts, like digits."""
    image = torch.rand(images, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return (2 * image - 0.5).clamp(0, 1), torch.arange(images) % CLASSES, torch.arange(images) + 7


def failed(classifier, images=1, seed=0, **shape):
    """Names of the failed checks."""
    records = GradientCheck(seed=seed)(classifier.freeze(), batch(images, seed, **shape))
    assert all(record.verified == (failure_message([record]) == "") for record in records)
    return {f.name for record in records for f in record.findings if not f.passed}


class HomeMade(nn.Module):
    """A purifier outside of the framework: noise, a denoiser, and a recomputation of its own."""

    randomised = True

    def __init__(self, shift=0.0, fresh=False):
        super().__init__()
        self.denoiser, self.shift, self.fresh = denoiser(), shift, fresh

    def forward(self, image, noise):
        return _HomeMade.apply(image, noise, self)

    def compute(self, image, noise, sigma):
        z = noise.normal(0, image.shape[1:]).to(image)
        return self.denoiser(image + sigma * z, image.new_full((len(image),), sigma))


class _HomeMade(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, noise, purifier):
        ctx.noise, ctx.purifier = noise, purifier
        ctx.save_for_backward(image)
        return purifier.compute(image, noise, 0.5)

    @staticmethod
    def backward(ctx, cotangent):
        leaf = ctx.saved_tensors[0].detach().requires_grad_()
        noise = ctx.noise.stream("again") if ctx.purifier.fresh else ctx.noise
        with torch.enable_grad():
            end = ctx.purifier.compute(leaf, noise, 0.5 + ctx.purifier.shift)
        return torch.autograd.grad(end, leaf, cotangent)[0], None, None


class ShiftedConditioning(DiffPure):
    """The denoiser is called at the level of the step before."""

    def bind(self, x0, noise):
        def denoise(x, sigma):
            levels = self.sampler().sigmas().to(sigma)
            k = int((levels - sigma[0]).abs().argmin())
            return self.denoiser(x, levels[max(0, k - 1)].expand_as(sigma))

        return BoundDenoiser(denoise)
