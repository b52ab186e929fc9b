"""Engine: automatic call sizes, mixed precision, memory layout and compilation leave the numbers as they are."""

import copy
import math

import pytest
import torch

from common.diffusion.denoisers import Denoiser, EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.engine.engine import Engine
from common.engine.meter import Meter
from common.engine.micro_batches import GRADIENT_ROWS
from common.noise import Noise
from common.records.fingerprint import identify, weights_hash
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination
from ndc.nodes import Nodes

DIGITS = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 16, "channel_mult": (1, 2)}


def small(seed=0):
    """The network of the digits, with last layers that are not near zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DDPMpp(**DIGITS, num_blocks=1, attn_resolutions=(4,), dropout=0.0)
        for name, parameter in network.named_parameters():
            if name.endswith(("conv1.weight", "proj.weight", "aux_conv.weight")):
                torch.nn.init.normal_(parameter, std=0.1)
    return EDMDenoiser(network, num_classes=10).eval().requires_grad_(False)


def classifier(denoiser=None, **settings):
    return NoisedDiffusionClassifier(small() if denoiser is None else denoiser, 10, 0.25, nodes=4, **settings)


def batch(count=6):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)), Noise.of(0, torch.arange(count))


def test_an_automatic_size_takes_no_extra_evaluations_and_keeps_the_logits():
    image, noise = batch(12)
    fixed, auto = classifier(), classifier(engine=Engine(batch_size="auto"))
    with torch.no_grad():
        expected = fixed(image, noise)
        for _ in range(3):
            with Meter(auto) as meter:
                torch.testing.assert_close(auto(image, noise), expected, rtol=1e-5, atol=1e-6)
            assert meter.cost(12)["evaluations"] == 41
    assert identify({"classifier": fixed})[0] == identify({"classifier": auto})[0]


def test_an_automatic_size_stays_small_where_a_gradient_is_recorded():
    image, noise = batch(12)
    auto, rows = classifier(engine=Engine(batch_size="auto")), []
    auto.denoiser.network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    auto(image.requires_grad_(), noise)
    assert max(rows) <= GRADIENT_ROWS
    assert sum(rows) == 12 * 41


# Precision and layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elimination", [False, True])
def test_mixed_precision_stays_inside_the_network(elimination):
    """bf16 has 8 bits: class differences move by 3 % of their spread, for 5 allowed. The logits stay float32."""
    settings = {"elimination": Elimination((2,), errors=0.0, margin=math.inf)} if elimination else {}
    denoiser, seen = small(), []
    denoiser.network.dec["8x8_aux_conv"].register_forward_hook(lambda module, x, out: seen.append(out.dtype))
    image, noise = batch(20)
    with torch.no_grad():
        exact = classifier(denoiser, **settings)(image, noise)
        assert set(seen) == {torch.float32}
        seen.clear()
        mixed = classifier(denoiser, engine=Engine("bf16"), **settings)(image, noise)
    assert set(seen) == {torch.bfloat16}
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    differences = (exact - exact.mean(1, keepdim=True), mixed - mixed.mean(1, keepdim=True))
    assert (differences[0] - differences[1]).std() < 0.05 * differences[0].std()


def test_precision_identifies_a_run_and_speed_does_not():
    def name(**settings):
        return identify({"classifier": classifier(**settings)})[0]

    assert name(engine=Engine("bf16")) != name()
    assert name(engine=Engine(batch_size=7)) == name(engine=Engine(batch_size="auto")) == name()


def test_channels_last_changes_the_layout_alone():
    plain, ordered = classifier(), classifier(engine=Engine(channels_last=True))
    x, seen = torch.rand(2, 3, 4, 4), []
    assert torch.equal(ordered.engine.denoise(lambda x, sigma, label: seen.append(x) or x, x, torch.ones(2)), x)
    ordered.denoiser.network.enc["8x8_conv"].register_forward_hook(lambda module, x, out: seen.append(out))
    image, noise = batch(8)
    with torch.no_grad():
        torch.testing.assert_close(ordered(image, noise), plain(image, noise), rtol=1e-5, atol=1e-6)
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)
    assert weights_hash(ordered) == weights_hash(plain)


def test_networks_are_compiled_once_and_still_counted(monkeypatch):
    compiled = []

    def compile(function, dynamic):
        compiled.append(function)
        return lambda *inputs: function(*inputs)

    monkeypatch.setattr(torch, "compile", compile)
    denoiser = small()
    plain = classifier()
    fast = [classifier(denoiser, engine=Engine(compile=True)) for _ in range(2)]
    assert [function.__self__ for function in compiled] == [denoiser.network]
    image, noise = batch()
    with torch.no_grad(), Meter(fast[1]) as meter:
        torch.testing.assert_close(fast[1](image, noise), plain(image, noise))
    assert meter.cost(6)["evaluations"] == 41


def test_a_copy_of_a_compiled_network_is_its_own(monkeypatch):
    """`GradientCheck` compares with a copy in float64, which must not run the original."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    subject = classifier(engine=Engine(compile=True))
    doubled = copy.deepcopy(subject).double()
    image, noise = batch()
    with torch.no_grad():
        expected = copy.deepcopy(classifier()).double()(image.double(), noise)
        torch.testing.assert_close(doubled(image.double(), noise), expected)
        for weight in subject.parameters():
            weight.zero_()
        torch.testing.assert_close(doubled(image.double(), noise), expected)


def test_a_denoiser_without_a_network_runs_under_an_engine():
    """Its bf16 outputs are cast back to float32."""

    class Half(Denoiser):
        num_classes = 3

        def forward(self, x, sigma, label=None):
            return (x.flatten(1) @ torch.eye(64)).view_as(x) / 2

    image, noise = batch()
    half = NoisedDiffusionClassifier(Half(), 3, 0.25, engine=Engine("bf16", channels_last=True))
    assert half.views(image, noise)["denoised"].dtype == torch.float32
    assert half.losses(image, noise).dtype == torch.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="one of auto, 32, tf32, bf16, 16; got 'half'"):
        Engine("half")


@pytest.mark.parametrize("nodes", [Nodes(6), Nodes(6, control=False), Nodes(5, "linspace")])
@pytest.mark.parametrize("variant", ["dc", "epndc", "apndc"])
def test_declared_evaluations_are_those_counted(variant, nodes):
    """The cost of the published procedure is this number times its samples."""
    subject = NoisedDiffusionClassifier(small(), 10, 0.0 if variant == "dc" else 0.25, variant, nodes)
    with torch.no_grad(), Meter(subject) as meter:
        subject(*batch(4))
    assert meter.cost(4)["evaluations"] == subject.evaluations
