"""Depth of the call stack between a certified evaluation and its network: a certification stays on one page.

Counted are all Python frames whose file belongs to the project, the evaluator's and the denoiser's own included, at
each call of the denoiser's network.
"""

import inspect
from itertools import groupby
from pathlib import Path
from traceback import walk_stack

import pytest
import torch

from common.diffusion.denoisers import EDMDenoiser
from common.engine.engine import Engine
from common.noise import Noise
from common.robustness.certification.forecast import Forecast
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.padding import Padded
from ndc.bounded import BoundedDiffusionClassifier
from ndc.claimed import Claimed
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination
from ndc.lipschitz import Lipschitz
from ndc.nodes import Nodes
from ndc.sifting import Sifting

ROOT = Path(inspect.getfile(NoisedDiffusionClassifier)).parents[1]
ROOMS = tuple(str(ROOT / room) for room in ("common", "ndc"))
COUNTS = {"n0": 2, "n": 8, "alpha": 0.2, "num_classes": 3}
CERTIFIERS = {
    "smoothing": Smoothing(0.25, **COUNTS),
    "sequential": Sequential(0.25, **COUNTS, targets=(0.0,), first=4, futility=0.0),
    "sequential of the label": Sequential(0.25, **COUNTS, targets=(0.0,), first=4, futility=0.0, labelled=True),
    "forecast": Forecast(0.25, **COUNTS, targets=(0.1,), first=4, error=0.4),
}


class Network(torch.nn.Module):
    """A network whose calls keep the project's files on the stack, outermost first."""

    def __init__(self):
        super().__init__()
        self.stacks = []

    def forward(self, x, label, class_labels=None):
        files = [frame.f_code.co_filename for frame, _ in walk_stack(None)][::-1]
        self.stacks.append([file for file in files if file.startswith(ROOMS)])
        return torch.tanh(x) * (1 + class_labels.argmax(1)[:, None, None, None])


def assert_shallow(stacks, frames):
    assert stacks
    for files in stacks:
        entered = [file for file, _ in groupby(files)]
        assert len(files) <= frames, files
        assert len(entered) == len(set(entered)), files  # no file is left and entered again


def certify(classifier, certifier):
    image = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Certified(certifier)(Padded(classifier, 2), (image, torch.tensor([0, 1]), torch.tensor([0, 1])))


@pytest.mark.parametrize("engine", [Engine(), Engine(batch_size=5), Engine(batch_size="auto")])
@pytest.mark.parametrize(
    "elimination", [None, Elimination(), Sifting(Nodes(4), keep=1)], ids=["all", "elimination", "sift"]
)
@pytest.mark.parametrize("variant", ["apndc", "epndc"])
@pytest.mark.parametrize("name", CERTIFIERS)
def test_a_certification_is_shallow(name, variant, elimination, engine):
    network = Network()
    classifier = NoisedDiffusionClassifier(
        EDMDenoiser(network, num_classes=3), 3, 0.25, variant, Nodes(6), elimination=elimination, engine=engine
    )
    certify(classifier, CERTIFIERS[name])
    assert_shallow(network.stacks, 12)


@pytest.mark.parametrize("certifier", [Lipschitz(3, samples=4), Claimed(3, samples=4)], ids=["Lipschitz", "Claimed"])
def test_a_certification_without_smoothing_is_shallow(certifier):
    network = Network()
    classifier = BoundedDiffusionClassifier(EDMDenoiser(network, num_classes=3), 3, 4)
    certifier.certify(Padded(classifier, 2), torch.rand(1, 1, 4, 4), Noise.of(0, torch.tensor([0])))
    assert_shallow(network.stacks, 11)


@pytest.mark.parametrize(
    "elimination", [None, Elimination(), Sifting(Nodes(4), keep=1)], ids=["all", "elimination", "sift"]
)
@pytest.mark.parametrize("batch_size", [5, 512])
@pytest.mark.parametrize("variant", ["apndc", "epndc"])
def test_a_gradient_is_shallow(variant, batch_size, elimination):
    """Recomputed calls included."""
    network = Network()
    classifier = NoisedDiffusionClassifier(
        EDMDenoiser(network, num_classes=3),
        3,
        0.25,
        variant,
        6,
        elimination=elimination,
        engine=Engine(batch_size=batch_size),
    )
    image = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = classifier(image, Noise.of(0, torch.arange(2)))
    forward = len(network.stacks)
    torch.autograd.grad(logits[:, 0].sum(), image)
    assert (len(network.stacks) > forward) == (batch_size == 5)
    assert_shallow(network.stacks, 7)
