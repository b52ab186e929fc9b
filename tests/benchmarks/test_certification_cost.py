"""Share of a certification's processor time that its networks take: at least ten elevenths.

Mixed precision is measured only where the processor computes it natively; elsewhere the networks run in float32.
"""

import time
from statistics import median

import pytest
import torch

from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.engine.engine import Engine
from common.engine.meter import Meter
from common.engine.precision import has_bf16_units
from common.noise import Noise
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination

pytestmark = pytest.mark.bench

SIZES = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 16, "channel_mult": [1, 2]}


@pytest.fixture
def denoiser() -> EDMDenoiser:
    """The digits denoiser's size, with last layers of each block that are not near zero."""
    torch.manual_seed(0)
    body = DDPMpp(**SIZES, num_blocks=1, attn_resolutions=[4], dropout=0.0)
    for name, parameter in body.named_parameters():
        if name.endswith(("conv1.weight", "proj.weight", "aux_conv.weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    return EDMDenoiser(body, num_classes=10).eval().requires_grad_(False)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def one_row(seed: int) -> Noise:
    return Noise.of(seed, torch.tensor([0]))


def test_certification_spends_its_time_in_the_network(denoiser, image):
    """At most a tenth beside it, in processor time on one thread, median of three; 2 % was measured."""
    inside, ratios = [0.0, 0.0], []
    denoiser.network.register_forward_pre_hook(lambda module, x: inside.__setitem__(1, time.process_time()))
    denoiser.network.register_forward_hook(
        lambda module, x, out: inside.__setitem__(0, inside[0] + time.process_time() - inside[1])
    )
    subject = NoisedDiffusionClassifier(denoiser, 10, 0.25, nodes=8, engine=Engine(batch_size=256))
    for trial in range(3):
        inside[0], start = 0.0, time.process_time()
        Smoothing(0.25, n0=1, n=31, batch_size=32).certify(subject, image, one_row(trial))
        ratios.append((time.process_time() - start) / inside[0])
    assert median(ratios) < 1.1, ratios


def test_a_sequential_certification_costs_what_its_rows_cost_the_bare_network(denoiser, image):
    """Elimination's late stages have few rows, yet at most a tenth of the time goes to them and to everything else.

    Processor time on one thread with the settings of configs/studies/cost, the median of five; 3 % was measured.
    """
    engine = Engine("bf16" if has_bf16_units() else "32", batch_size="auto")
    subject = NoisedDiffusionClassifier(
        denoiser, 10, 0.25, nodes=32, weight="reference", elimination=Elimination(), engine=engine
    )
    smoothing = Sequential(0.25, n0=32, n=96, targets=[0.25], first=60, growth=1.6, futility=0.0)
    rows, ratios = (torch.randn(256, 1, 8, 8), torch.rand(256) + 0.5, torch.arange(256) % 10), []

    def seconds_per_row() -> float:
        start = time.process_time()
        for _ in range(8):
            engine.denoise(denoiser, *rows)
        return (time.process_time() - start) / (8 * 256)

    with torch.no_grad():
        for trial in range(5):
            before, start = seconds_per_row(), time.process_time()
            with Meter(subject) as meter:
                (certificate,) = smoothing.certify(subject, image, one_row(trial))
            assert certificate.samples >= 60
            each = (time.process_time() - start) / meter.cost(1)["evaluations"]
            ratios.append(each / ((before + seconds_per_row()) / 2))
    assert median(ratios) < 1.1, ratios
