"""Depth of the call stack between a purifier's ``forward`` and its networks: a purification stays on one page.

Counted are all Python frames whose file belongs to the project, ``forward`` and the denoiser's own included, at each
call of the denoiser's network and of the guidance network, forward and recomputed.
"""

import inspect
from itertools import groupby
from pathlib import Path
from traceback import walk_stack

import pytest
import torch
from torch import nn

from agdm.baselines import ClassifierGuidance, ContrastiveGuidance, PixelGuidance
from agdm.guidance import AdversarialGuidance, GuidanceClassifier
from agdm.networks import GuidanceNetwork
from agdm.purifier import AGDM
from agdm.steering import Steering
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser
from common.diffusion.modes import Surrogate
from common.diffusion.solvers import TorchSDE
from common.noise import Noise
from diffpure.gradual import Block, GradualNoise
from diffpure.langevin import LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from diffpure.randomised import RandomisedDiffPure

ROOT = Path(inspect.getfile(DiffPure)).parents[1]
ROOMS = tuple(str(ROOT / room) for room in ("common", "agdm", "diffpure", "ndc"))
NOISE = Noise.of(3, torch.tensor([5, 2]))
SOLVERS = ["euler_maruyama", "ancestral", "ddim", "probability_flow_euler", "probability_flow_heun", "torchsde"]
BASELINES = {
    "pixels": lambda g: PixelGuidance(),
    "a classifier": lambda g: ClassifierGuidance(GuidanceClassifier(g.network), "soft"),
    "contrast": lambda g: ContrastiveGuidance(g.network, torch.rand(2, 1, 4, 4)),
}
PURIFIERS = {
    **{f"DiffPure {s}": lambda d, g, m, s=s: DiffPure(d, 0.2, 2, s, m) for s in SOLVERS},
    **{f"AGDM {s}": lambda d, g, m, s=s: AGDM(d, g, 0.2, 1.0, 2, s, m) for s in SOLVERS},
    "at random depth": lambda d, g, m: RandomisedDiffPure(d, 0.2, 0.05, 2, gradient=m),
    "Langevin": lambda d, g, m: LangevinDiffPure(d, 0.02, gradient=m),
    "likelihood": lambda d, g, m: LikelihoodMaximisation(d, 2, eta=0.1, gradient=m),
    "distilled likelihood": lambda d, g, m: LikelihoodMaximisation(d, 2, gradient=m, distilled=True),
    "torchsde's midpoint": lambda d, g, m: DiffPure(d, 0.2, 2, TorchSDE("midpoint"), m),
    "AGDM by torchsde's midpoint": lambda d, g, m: AGDM(d, g, 0.2, 1.0, 2, TorchSDE("midpoint"), m),
    "a surrogate": lambda d, g, m: DiffPure(d, 0.2, 3, gradient=Surrogate(2, m)),
    "AGDM's nested surrogates": lambda d, g, m: AGDM(
        d, g, 0.2, 1.0, 5, TorchSDE("midpoint"), Surrogate(4, Surrogate(3, Surrogate(2, m)))
    ),
    "AGDM's surrogate": lambda d, g, m: AGDM(d, g, 0.2, 1.0, 3, gradient=Surrogate(2, m)),
    "a chain": lambda d, g, m: Chain([DiffPure(d, 0.2, 2, gradient=m), AGDM(d, g, 0.2, 1.0, 2, gradient=m)]),
    "fixed noise": lambda d, g, m: FixedNoise(AGDM(d, g, 0.2, 1.0, 2, gradient=m)),
    "repeated at another size": lambda d, g, m: Resized(Repeated(DiffPure(d, 0.2, 2, gradient=m), 2), 6),
    "AGDM at another size": lambda d, g, m: Resized(AGDM(d, g, 0.2, 1.0, 2, gradient=m), 6),
    "AGDM at another size by torchsde": lambda d, g, m: Resized(AGDM(d, g, 0.2, 1.0, 2, "torchsde", m), 6),
    **{
        f"guided by {name} by torchsde": lambda d, g, m, make=make: AGDM(d, make(g), 0.2, 1.0, 2, "torchsde", m)
        for name, make in BASELINES.items()
    },
    "gradual noise": lambda d, g, m: GradualNoise(d, [Block(0.003, 2)], gradient=m),
    "gradual noise by a surrogate": lambda d, g, m: GradualNoise(d, [Block(0.003, 2, surrogate=1)], gradient=m),
    **{
        f"guided by {name} at {at}": lambda d, g, m, make=make, at=at: AGDM(
            d, make(g), 0.2, 1.0, 2, gradient=m, steering=Steering(at=at)
        )
        for name, make in BASELINES.items()
        for at in ("x", "denoised")
    },
    **{
        f"AGDM {steering}": lambda d, g, m, steering=steering: AGDM(
            d, g, 0.2, 1.0, 2, "ancestral", m, steering=steering
        )
        for steering in (
            Steering("diffused"),
            Steering("independent", "mean", "sigma"),
            Steering(at="mean"),
            Steering(at="denoised"),
            Steering(at="denoised", form="sigma"),
            Steering(form="sigma"),
        )
    },
}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, label, class_labels=None):
        return torch.tanh(self.conv(x)) + label.to(x.dtype)[:, None, None, None] / 1000


def watched(network: nn.Module, stacks: list[list[str]]) -> nn.Module:
    """The network, whose calls append the project's files on the stack, outermost first, from ``forward`` on."""

    def hook(*_):
        files = [frame.f_code.co_filename for frame, _ in walk_stack(None)]
        stacks.append([file for file in reversed(files) if file.startswith(ROOMS)])

    network.register_forward_pre_hook(hook)
    return network


@pytest.mark.parametrize("mode", [None, "full", "checkpoint"], ids=["evaluation", "full", "checkpoint"])
@pytest.mark.parametrize("denoise", [EDMDenoiser, EpsDenoiser])
@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purification_is_shallow(name, denoise, mode):
    stacks: list[list[str]] = []
    guidance = AdversarialGuidance(watched(GuidanceNetwork(1, 3, width=2, strides=(1,)), stacks))
    denoiser = denoise(watched(Network(), stacks))
    purifier = PURIFIERS[name](denoiser, guidance, mode or "checkpoint")
    image = torch.rand(2, 1, 4, 4).requires_grad_(mode is not None)
    purified = purifier(image, NOISE)
    forward = len(stacks)
    if mode is not None:
        torch.autograd.grad(purified.sum(), image)
    assert forward >= 2
    assert (len(stacks) > forward) == (mode == "checkpoint")
    for files in stacks:
        entered = [file for file, _ in groupby(files)]
        assert len(files) <= (8 if mode is None else 10), files
        assert len(entered) == len(set(entered)), files  # no file is left and entered again
