"""How networks are run: full calls, a size that finds itself, mixed precision, and little time beside the network."""

import copy
import math
import time
from statistics import median

import pytest
import torch

from common.diffusion.denoisers import Denoiser, EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.engine.engine import RECORDED, Calls, Engine, Growth
from common.engine.meter import Meter
from common.noise import Noise
from common.records.fingerprint import identify, weights_hash
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination
from ndc.likelihood import Nodes

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


# Calls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [(1, 5), (4, 9), (7, 7), (100, 5), ("auto", 1000)])
def test_calls_cover_all_rows_in_order(size, count):
    asked = []
    x = torch.arange(float(count))

    def square(rows):
        asked.append(rows.stop - rows.start)
        return x[rows] ** 2

    with torch.no_grad():
        assert torch.equal(Calls(size)(square, count, x), x**2)
    assert sum(asked) == count
    if size != "auto":
        assert max(asked) <= size
        assert set(asked[:-1]) <= {size}
        assert len(asked) == math.ceil(count / size)


def grown(cost, **settings):
    """The size that is settled on when a row of a call of so many takes ``cost(rows)``; and all sizes tried."""
    growth, tried = Growth(**settings), []
    while not growth.settled:
        tried.append(growth.size)
        growth.observe(cost(growth.size))
    return growth.size, tried


def test_the_size_doubles_as_long_as_rows_get_cheaper():
    size, tried = grown(lambda rows: 1 + 50 / rows)
    assert size == 2048  # 1024 saves 4.4 % of the 512's time, 2048 6.7 %; then 4096 saves 1.2 % and 8192 1.8 %
    assert tried == [n for n in (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) for _ in range(3)]
    assert grown(lambda rows: 1 / rows, largest=512)[0] == 512
    assert grown(lambda rows: rows)[0] == 32
    assert grown(lambda rows: {64: 1.1, 128: 0.5}.get(rows, 1.0))[0] == 128  # one bad size is no end


def test_the_fastest_of_each_sizes_trials_counts():
    times = iter([1.0, 9.0, 9.0, 9.0, 0.5, 0.6, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    assert grown(lambda rows: next(times))[0] == 64


def limited(limit, asked):
    """A function of rows that runs out of memory beyond ``limit`` of them."""

    def function(rows):
        asked.append(rows.stop - rows.start)
        if asked[-1] > limit:
            raise torch.OutOfMemoryError("too many rows")
        return torch.arange(rows.start, rows.stop)

    return function


@pytest.mark.parametrize(("limit", "failures"), [(1, 5), (20, 1), (100, 1)])
def test_it_backs_off_when_memory_runs_out(limit, failures, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("common.engine.engine._now", lambda device: float(next(clock)))  # every call takes as long
    asked, calls, x = [], Calls("auto"), torch.zeros(1)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(calls(limited(limit, asked), 3000, x), torch.arange(3000))
        assert limit / 2 < calls.size(x) <= limit
    assert sum(rows > limit for rows in asked) == failures
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        calls(limited(0, []), 10, x)
    with pytest.raises(torch.OutOfMemoryError):
        Calls(50)(limited(40, []), 100, x)  # a size that was asked for is not changed


def test_an_automatic_size_evaluates_nothing_in_vain_and_changes_nothing():
    image, noise = batch(12)
    fixed, auto = classifier(), classifier(batch_size="auto")
    with torch.no_grad():
        expected = fixed(image, noise)
        for _ in range(3):
            with Meter(auto) as meter:
                torch.testing.assert_close(auto(image, noise), expected, rtol=1e-5, atol=1e-6)
            assert meter.cost(12)["evaluations"] == 41
    assert identify({"classifier": fixed})[0] == identify({"classifier": auto})[0]


def test_an_automatic_size_stays_small_where_a_gradient_is_recorded():
    image, noise = batch(12)
    auto, rows = classifier(batch_size="auto"), []
    auto.denoiser.network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    auto(image.requires_grad_(), noise)
    assert max(rows) <= RECORDED
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
    assert name(batch_size=7) == name(batch_size="auto") == name()


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

    def compile(function):
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
    monkeypatch.setattr(torch, "compile", lambda function: function)
    subject = classifier(engine=Engine(compile=True))
    doubled = copy.deepcopy(subject).double()
    image, noise = batch()
    with torch.no_grad():
        expected = copy.deepcopy(classifier()).double()(image.double(), noise)
        torch.testing.assert_close(doubled(image.double(), noise), expected)
        for weight in subject.parameters():
            weight.zero_()
        torch.testing.assert_close(doubled(image.double(), noise), expected)


def test_a_denoiser_that_is_no_network_is_run_too():
    """What it returns in bf16 is float32 again from there on."""

    class Half(Denoiser):
        num_classes = 3

        def forward(self, x, sigma, label=None):
            return (x.flatten(1) @ torch.eye(64)).view_as(x) / 2

    image, noise = batch()
    half = NoisedDiffusionClassifier(Half(), 3, 0.25, engine=Engine("bf16", channels_last=True))
    assert half.views(image, noise)["denoised"].dtype == torch.float32
    assert half.losses(image, noise).dtype == torch.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="one of 32, bf16, 16; got 'half'"):
        Engine("half")


@pytest.mark.parametrize("nodes", [Nodes(6), Nodes(6, control=False), Nodes(5, "linspace")])
@pytest.mark.parametrize("variant", ["dc", "epndc", "apndc"])
def test_what_a_full_search_takes_is_what_is_counted(variant, nodes):
    """The cost of the published procedure is this number times its samples."""
    subject = NoisedDiffusionClassifier(small(), 10, 0.0 if variant == "dc" else 0.25, variant, nodes)
    with torch.no_grad(), Meter(subject) as meter:
        subject(*batch(4))
    assert meter.cost(4)["evaluations"] == subject.evaluations


# Cost ----------------------------------------------------------------------------------------------------------------


def test_certification_spends_its_time_in_the_network():
    """At most a tenth beside it, in processor time on one thread, median of three; 2 % was measured."""
    denoiser, inside = small(), [0.0, 0.0]
    denoiser.network.register_forward_pre_hook(lambda module, x: inside.__setitem__(1, time.process_time()))
    denoiser.network.register_forward_hook(
        lambda module, x, out: inside.__setitem__(0, inside[0] + time.process_time() - inside[1])
    )
    subject = NoisedDiffusionClassifier(denoiser, 10, 0.25, nodes=8, batch_size=256)
    image, ratios = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for trial in range(3):
        inside[0], start = 0.0, time.process_time()
        Smoothing(0.25, n0=1, n=31, batch_size=32).certify(subject, image, Noise.of(trial, torch.zeros(1).long()))
        ratios.append((time.process_time() - start) / inside[0])
    assert median(ratios) < 1.1, ratios


def test_a_sequential_certification_costs_what_its_rows_cost_the_bare_network():
    """Elimination's late stages have few rows, yet at most a tenth is lost to them and to everything else: processor
    time on one thread with the settings of configs/studies/cost, the median of five; 3 % was measured."""
    settings = {"nodes": 32, "weight": "reference", "elimination": Elimination(), "engine": Engine("bf16")}
    subject = NoisedDiffusionClassifier(small(), 10, 0.25, batch_size="auto", **settings)
    smoothing = Sequential(0.25, n0=32, n=96, targets=[0.25], first=60, growth=1.6, futility=0.0)
    image, ratios = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), []
    rows = torch.randn(256, 1, 8, 8), torch.rand(256) + 0.5, torch.arange(256) % 10

    def bare():
        start = time.process_time()
        for _ in range(8):
            subject.engine.denoise(subject.denoiser, *rows)
        return (time.process_time() - start) / (8 * 256)

    with torch.no_grad():
        for trial in range(5):
            before, start = bare(), time.process_time()
            with Meter(subject) as meter:
                (certificate,) = smoothing.certify(subject, image, Noise.of(trial, torch.zeros(1).long()))
            assert certificate.samples >= 60
            each = (time.process_time() - start) / meter.cost(1)["evaluations"]
            ratios.append(each / ((before + bare()) / 2))
    assert median(ratios) < 1.1, ratios
