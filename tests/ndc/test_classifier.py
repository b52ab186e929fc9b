"""The classifier against exact likelihoods, where expectations over its noise are taken by Gauss-Hermite quadrature."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import Denoiser
from common.engine.engine import Engine
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.certification.smoothing import Smoothing
from common.units import to_model, to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.nodes import Nodes
from ndc.noise_weights import ELBO, LogNormal
from ndc.posterior import Posterior

POINTS = torch.tensor([[0.1, 0.4], [-0.6, 0.2], [0.7, -0.9]], dtype=torch.float64).view(3, 1, 1, 1, 2)
LABELS = torch.arange(3)


def differences(logits):
    """Logits up to a constant common to all classes."""
    return logits - logits[..., :1]


def blurred(mixture, rule, x, spread, sigma):
    """E_z log p_sigma(x + spread z | y) for every class, (K,)."""
    rows = x + spread * rule.z
    return torch.stack([rule.mean(mixture.log_density(rows, sigma, y.expand(len(rows)))) for y in LABELS])


class Recorder(Denoiser):
    """Records its calls; a smooth stand-in for a trained denoiser, in any dtype."""

    num_classes, sigma_min, sigma_max = 3, 0.002, 80.0

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, sigma, label=None):
        self.calls.append((x.detach(), sigma, label))
        gain = 1 / (1 + sigma.to(x).expand(len(x)).square()).view(-1, 1, 1, 1)
        shift = 0.0 if label is None else (label.to(x) - 1).view(-1, 1, 1, 1)
        return torch.tanh(gain * x + 0.4 * shift * x.cos()) * 0.9


def recorded(variant="apndc", sigma=0.25, **settings):
    denoiser = Recorder()
    return denoiser, NoisedDiffusionClassifier(denoiser, 3, sigma, variant, **settings)


def images(count, shape=(1, 2, 2)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# Logits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["log", "equal"])
@pytest.mark.parametrize("x", POINTS)
def test_dc_with_the_exact_denoiser_is_an_exact_likelihood_ratio(mixture, exact, hermite, expected_logits, rule, x):
    """On [0.05, 20] the sum is E log p_0.05 - E log p_20. Midpoints leave O(T^-2): < 3e-5 with 400 nodes, so 1e-4."""
    quadrature, low, high = hermite(14, (1, 1, 2)), 0.05, 20.0
    expected = blurred(mixture, quadrature, x, low, low) - blurred(mixture, quadrature, x, high, high)
    errors = []
    for count in (200, 400):
        nodes = Nodes(count, rule, low, high)
        classifier = NoisedDiffusionClassifier(exact, 3, 0.0, "dc", nodes, "elbo", engine=Engine(batch_size=10**9))
        logits = expected_logits(classifier, to_pixel(x), quadrature)
        errors.append((differences(logits) - differences(expected)).abs().max().item())
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("x", POINTS)
def test_dc_tends_to_the_likelihood_ratio_of_clean_data(mixture, exact, hermite, expected_logits, x):
    """Limits 1e-3 and 1e3 cost O(1e-6) each; 600 midpoints over so wide a range leave 1e-4, so 3e-4."""
    nodes = Nodes(600, "log", 1e-3, 1e3)
    classifier = NoisedDiffusionClassifier(exact, 3, 0.0, "dc", nodes, "elbo", engine=Engine(batch_size=10**9))
    logits = expected_logits(classifier, to_pixel(x), hermite(14, (1, 1, 2)))
    expected = torch.stack([mixture.log_density(x, 0.0, y[None])[0] for y in LABELS])
    torch.testing.assert_close(differences(logits), differences(expected), rtol=0, atol=3e-4)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
@pytest.mark.parametrize("x", POINTS)
def test_epndc_with_the_exact_denoiser_is_the_bayes_classifier(mixture, exact, hermite, expected_logits, x, sigma):
    """Of noisy data, sigma in pixels. The upper limit 1e3 costs O(1e-6), 500 midpoints leave 3e-5, so 1e-4."""
    classifier = NoisedDiffusionClassifier(
        exact, 3, sigma, "epndc", Nodes(500, "log", sigma_max=1e3), "elbo",
        posterior=Posterior(log_prior=[math.log(p) for p in (0.2, 0.4, 0.4)]), engine=Engine(batch_size=10**9),
    )  # fmt: skip
    logits = expected_logits(classifier, to_pixel(x), hermite(14, (1, 1, 2)))
    bayes = mixture.bayes_logits(x, 2 * sigma)[0]
    torch.testing.assert_close(logits.log_softmax(0), bayes, rtol=0, atol=1e-4)


def test_the_derived_chain_weights_tend_to_the_same(mixture, exact, hermite, expected_logits):
    """The paper's chain on linspace(sigma_tau, 3) is off by h (a + b ln T): its weights near sigma_tau go like 1/k.

    So error / h grows by the same amount with every doubling of T. Any other limit would make it grow like T.
    """
    quadrature, x, tau = hermite(10, (1, 1, 2)), POINTS[1], 0.5
    exactly = torch.stack([mixture.log_density(x, tau, y[None])[0] for y in LABELS])
    expected = exactly - blurred(mixture, quadrature, x, math.sqrt(9 - tau**2), 3.0)
    scaled = []
    for count in (250, 500, 1000):
        nodes = Nodes(count, "linspace", sigma_max=3.0)
        classifier = NoisedDiffusionClassifier(
            exact, 3, tau / 2, "epndc", nodes, "elbo", engine=Engine(batch_size=10**9)
        )
        logits = expected_logits(classifier, to_pixel(x), quadrature)
        scaled.append((differences(logits) - differences(expected)).abs().max().item() * count)
    assert scaled[2] - scaled[1] == pytest.approx(scaled[1] - scaled[0], rel=0.03)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(("variant", "sigma"), [("dc", 0.0), ("epndc", 0.25)])
def test_real_noise_averages_to_the_same_logits(exact, hermite, expected_logits, variant, sigma, antithetic):
    """4,000 draws against quadrature on the same nodes: within 4 standard errors (1e-4 false alarms, seed fixed)."""
    nodes = Nodes(16, "log", sigma_min=0.5, sigma_max=5.0, antithetic=antithetic)
    classifier = NoisedDiffusionClassifier(exact, 3, sigma, variant, nodes, "elbo", engine=Engine(batch_size=10**9))
    image = to_pixel(POINTS[2])
    draws = differences(classifier(image.expand(4000, 1, 1, 2), Noise.of(5, torch.tensor([7])).draws(4000)))
    expected = differences(expected_logits(classifier, image, hermite(14, (1, 1, 2))))
    error = (draws.mean(0) - expected)[1:] / (draws.std(0)[1:] / math.sqrt(4000))
    assert error.abs().max() < 4


@pytest.mark.parametrize("weight", ["lognormal", "elbo"])
def test_apndc_is_the_average_of_epndc_over_denoised_and_renoised_images(hermite, expected_logits, weight):
    """The ensemble identity, node by node and for any denoiser, so 8 nodes suffice; the rest is quadrature."""
    means = torch.tensor([-0.6, 0.1, 0.8], dtype=torch.float64).view(3, 1, 1, 1)
    denoiser = ExactDenoiser(GaussianMixture(means, torch.tensor([0.7, 0.6, 0.9])))
    x, tau = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), 0.6
    build = [
        NoisedDiffusionClassifier(denoiser, 3, tau / 2, v, 8, weight, posterior=Posterior(1.0))
        for v in ("apndc", "epndc")
    ]
    apndc = expected_logits(build[0], to_pixel(x), hermite(40, (1, 1, 1)))

    x0 = denoiser(x, torch.tensor(tau, dtype=torch.float64), None)
    renoise, inner = hermite(40, (1, 1, 1)), hermite(40, (1, 1, 1))
    bounds = torch.stack([expected_logits(build[1], to_pixel(x0 + tau * z), inner) for z in renoise.z])
    torch.testing.assert_close(differences(apndc), differences(renoise.mean(bounds)), rtol=0, atol=1e-9)


def test_the_practical_logit_is_the_papers_formula(exact):
    """-(1/D) sum_i lambda p dt E || . ||^2, written out for one image, one class and the reference's grid."""
    classifier = NoisedDiffusionClassifier(exact, 3, 0.25, "apndc", Nodes(5, "linspace"))
    image, noise = to_pixel(POINTS[0]), Noise.of(1, torch.tensor([4]))
    x0 = exact(to_model(image), torch.tensor(0.5), None)
    total = torch.zeros((), dtype=torch.float64)
    for i, s in enumerate(torch.linspace(0.5, 3, 6, dtype=torch.float64)[1:]):
        z = noise.stream("ndc").normal(i, (1, 1, 2), torch.float64)
        density = torch.exp(-((s.log() + 1.2) ** 2) / (2 * 1.44)) / (s * 1.2 * math.sqrt(2 * math.pi))
        mse = (exact(x0 + s * z, s, torch.tensor([1])) - x0).square().mean()
        total += (s**2 + 0.25) / (s * 0.5) ** 2 * density * 0.5 * mse
    torch.testing.assert_close(classifier(image, noise)[0, 1], -total)


def test_temperature_and_prior_act_on_the_sum():
    image, noise = images(2), Noise.of(0, torch.arange(2))
    plain = recorded()[1]
    losses = plain.losses(image, noise)
    assert losses.shape == (16, 2, 3)
    torch.testing.assert_close(plain(image, noise), -losses.sum(0) / 4)
    scaled = recorded(posterior=Posterior(2.0, [0.0, -1.0, -2.0]))[1](image, noise)
    torch.testing.assert_close(scaled, -losses.sum(0) / 2 - torch.arange(3.0, dtype=torch.float64))
    elbo = recorded(weight=ELBO())[1]
    torch.testing.assert_close(elbo(image, noise), -elbo.losses(image, noise).sum(0))


# The noise -----------------------------------------------------------------------------------------------------------


def test_classes_share_noise_nodes_and_images_do_not():
    denoiser, classifier = recorded("dc", 0.0, nodes=4)
    image = images(2)[:1].expand(2, 1, 2, 2)
    noise = Noise.of(0, torch.tensor([3, 8]))
    classifier(image, noise)
    ((rows, sigma, label),) = denoiser.calls
    assert torch.equal(label, torch.arange(3).repeat(8))
    assert torch.equal(sigma.view(4, 6)[:, 0], classifier.bound.sigma)
    z = ((rows - to_model(image[:1])) / sigma.view(-1, 1, 1, 1)).view(4, 2, 3, 4)
    assert torch.equal(rows.view(4, 2, 3, 4)[:, :, 0], rows.view(4, 2, 3, 4)[:, :, 2])
    assert len(z[:, :, 0].reshape(8, 4).round(decimals=6).unique(dim=0)) == 8
    assert not torch.allclose(z[0, :, 0].view(2, 1, 2, 2), noise.normal(0, (1, 2, 2)).double())  # the caller's own


def test_antithetic_neighbours_see_opposite_noise():
    denoiser, classifier = recorded(
        "dc", 0.0, nodes=Nodes(5, antithetic=True), engine=Engine(batch_size=9)
    )  # blocks of odd length
    image = images(1)
    classifier(image, Noise.of(0, torch.tensor([3])))
    rows, sigma = (torch.cat([call[i] for call in denoiser.calls]) for i in (0, 1))
    z = ((rows - to_model(image)) / sigma.view(-1, 1, 1, 1)).view(5, 3, 4)[:, 0]
    torch.testing.assert_close(z[0], -z[1])
    torch.testing.assert_close(z[2], -z[3])
    assert not torch.allclose(z[0].abs(), z[2].abs())


def difference_variance(classifier, image, draws, shared):
    noise = Noise.of(2, torch.tensor([0])).draws(draws)
    first = classifier(image.expand(draws, *image.shape[1:]), noise)
    second = first if shared else classifier(image.expand(draws, *image.shape[1:]), noise.stream("other"))
    return (first[:, 0] - second[:, 1]).var().item()


def test_shared_noise_lowers_the_variance_of_differences():
    """Two classes a distance 1 apart in 64 dimensions: measured 140 times lower."""
    means = torch.zeros(2, 1, 64, 1, dtype=torch.float64)
    means[1, 0, 0] = 1
    denoiser = ExactDenoiser(GaussianMixture(means, 0.5))
    classifier = NoisedDiffusionClassifier(
        denoiser, 2, 0.0, "dc", Nodes(8, "log", 0.1, 3.0), "elbo", engine=Engine(batch_size=10**9)
    )
    z = torch.randn(1, 1, 64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = to_pixel(means[:1] + 0.5 * z)
    ratio = difference_variance(classifier, image, 500, False) / difference_variance(classifier, image, 500, True)
    assert ratio > 50


def test_antithetic_noise_lowers_the_variance_of_epndc(exact):
    """Measured 9 times lower with 16 equal nodes, at equal cost."""
    image, variance = to_pixel(POINTS[0]), []
    for antithetic in (False, True):
        nodes = Nodes(16, antithetic=antithetic, control=False)
        classifier = NoisedDiffusionClassifier(exact, 3, 0.25, "epndc", nodes, "elbo", engine=Engine(batch_size=10**9))
        variance.append(difference_variance(classifier, image, 2000, True))
    assert variance[0] / variance[1] > 5


def test_without_noise_the_classifier_draws_fresh_noise():
    _, classifier = recorded()
    image = images(2)
    assert classifier.randomised
    assert not torch.equal(classifier(image), classifier(image))
    noise = Noise.of(0, torch.arange(2))
    assert torch.equal(classifier(image, noise), classifier(image, noise))


# Gradients and blocks ------------------------------------------------------------------------------------------------

SETTINGS = [
    ("dc", 0.0, {"nodes": Nodes(3, sigma_min=0.3), "weight": "elbo"}),
    ("epndc", 0.25, {"nodes": Nodes(3, antithetic=True)}),
    ("epndc", 0.25, {"nodes": Nodes(3, "linspace"), "weight": "elbo"}),
    ("apndc", 0.25, {"nodes": Nodes(3, "reference"), "weight": "reference"}),
]
IDS = ["dc", "epndc", "chain", "apndc"]


@pytest.mark.parametrize("batch_size", [512, 4], ids=["one-call", "blocks"])
@pytest.mark.parametrize(("variant", "sigma", "settings"), SETTINGS, ids=IDS)
def test_gradcheck_from_image_to_logits(variant, sigma, settings, batch_size):
    _, classifier = recorded(variant, sigma, engine=Engine(batch_size=batch_size), **settings)
    noise = Noise.of(0, torch.arange(2))
    assert torch.autograd.gradcheck(lambda image: classifier(image, noise), images(2).requires_grad_())


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 33])
@pytest.mark.parametrize(("variant", "sigma", "settings"), SETTINGS, ids=IDS)
def test_blocks_change_neither_logits_nor_gradients(variant, sigma, settings, batch_size):
    """Same numbers up to rounding in float64, at most ``batch_size`` rows a call, one recomputation of each call."""
    noise, image = Noise.of(0, torch.arange(5)), images(5).requires_grad_()
    one_call = recorded(variant, sigma, **settings)[1](image, noise)
    denoiser, classifier = recorded(variant, sigma, engine=Engine(batch_size=batch_size), **settings)
    logits = classifier(image, noise)
    calls = len(denoiser.calls)
    torch.testing.assert_close(logits, one_call, rtol=1e-12, atol=1e-12)
    gradient = torch.autograd.grad(logits[:, 0].sum(), image)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(one_call[:, 0].sum(), image)[0], rtol=1e-10, atol=1e-12)
    assert max(len(x) for x, _, _ in denoiser.calls) <= batch_size
    first = {"apndc": 5, "epndc": 15, "dc": math.inf}[
        variant
    ]  # rows of the first step: stored if they fit into one call
    unchecked = int(batch_size >= first)
    assert len(denoiser.calls) == 2 * calls - unchecked


@pytest.mark.parametrize(("batch_size", "calls"), [(240, 1), (32, 8), (14, 20), (2, 120)])
def test_blocks_fill_the_network(batch_size, calls):
    """5 images x 3 classes x 16 nodes = 240 rows, with the noise of one call's (image, node) pairs drawn at a time. In
    turn: everything; all nodes of two images, twice, and of the fifth (3 + 3 + 2 calls); 14 nodes of an image, then 2
    (3 + 1 for each); two nodes of an image, 6 rows (3 for each of 40)."""
    denoiser, classifier = recorded("dc", 0.0, engine=Engine(batch_size=batch_size))
    with torch.no_grad():
        classifier(images(5), Noise.of(0, torch.arange(5)))
    assert len(denoiser.calls) == calls


@pytest.mark.parametrize("partition", [(1,) * 6, (4, 2), (5, 1)])
def test_an_image_does_not_see_its_batch(partition):
    _, classifier = recorded("apndc")
    image, noise = images(6), Noise.of(0, torch.tensor([9, 2, 5, 1, 0, 77]))
    one_call = classifier(image, noise)
    starts = torch.tensor((0, *partition)).cumsum(0).tolist()
    parts = [classifier(image[a:b], noise.rows(slice(a, b))) for a, b in pairwise(starts)]
    torch.testing.assert_close(torch.cat(parts), one_call, rtol=1e-12, atol=1e-12)


def test_dropout_in_training_is_recomputed_with_its_own_masks():
    class Dropping(Recorder):
        def forward(self, x, sigma, label=None):
            return nn.functional.dropout(super().forward(x, sigma, label), 0.5, self.training)

    classifier = NoisedDiffusionClassifier(
        Dropping(), 3, 0.0, "dc", Nodes(4, sigma_min=0.3), engine=Engine(batch_size=6)
    ).train()
    image, noise = images(2).requires_grad_(), Noise.of(0, torch.arange(2))

    def logits(image):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return classifier(image, noise)

    assert torch.autograd.gradcheck(logits, image)


# Parts of the variants -----------------------------------------------------------------------------------------------


def test_apndc_denoises_once_without_a_label_by_the_network_it_is_given():
    other = Recorder()
    denoiser, classifier = recorded("apndc", 0.4, nodes=4, unconditional=other)
    image, noise = images(2), Noise.of(0, torch.arange(2))
    classifier(image, noise)
    ((x, sigma, label),) = other.calls
    assert label is None
    assert torch.equal(x, to_model(image))
    assert sigma.tolist() == [0.8, 0.8]
    assert len(denoiser.calls) == 1
    x0 = Recorder()(x, sigma)
    torch.testing.assert_close(classifier.views(image, noise)["denoised"], to_pixel(x0))
    assert recorded("epndc")[1].views(image, noise) == {}


def test_a_shared_network_is_stored_once():
    classifier = NoisedDiffusionClassifier(ExactDenoiser(GaussianMixture(torch.zeros(2, 1, 1, 1), 1.0)), 2, 0.25)
    assert all(name.startswith("denoiser.") for name in classifier.state_dict())


def test_default_range_follows_the_noise_level_and_the_denoiser():
    upper = {s: recorded(sigma=s, nodes=Nodes(2, "linspace"))[1].bound.sigma[-1].item() for s in (0.25, 0.5, 1.0)}
    assert upper == {0.25: 3.0, 0.5: 3.0, 1.0: 6.0}
    narrow = Recorder()
    narrow.sigma_max = 2.0
    nodes = Nodes(2, "linspace")
    assert NoisedDiffusionClassifier(narrow, 3, 0.25, nodes=nodes).bound.sigma[-1].item() == 2.0


def test_float32_stays_float32():
    _, classifier = recorded("epndc", weight="elbo")
    logits = classifier(images(2).float(), Noise.of(0, torch.arange(2)))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        differences(logits).double(), differences(classifier(images(2), Noise.of(0, torch.arange(2)))),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_it_is_certified_like_any_classifier():
    """Classes 1.2 pixels apart: the mean of each is certified at half of that, less the error of 200 samples."""
    means = torch.tensor([-1.2, 1.2]).view(2, 1, 1, 1)
    denoiser = ExactDenoiser(GaussianMixture(means, 0.1))
    smoothing = Smoothing(0.25, n0=20, n=200, num_classes=2)
    noise = Noise.of(0, torch.arange(2))
    for variant in ("apndc", "epndc"):
        classifier = NoisedDiffusionClassifier(denoiser, 2, 0.25, variant, Nodes(8, antithetic=True))
        certificates = smoothing.certify(classifier, to_pixel(means), noise)
        assert [c.prediction for c in certificates] == [0, 1]
        assert all(0.3 < c.radius < 0.6 for c in certificates)


# Contradictory settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "rdc"}, "variant must be one of"),
        ({"variant": "dc"}, "clean image"),
        ({"sigma": 0.0}, "pixel sigma > 0"),
        ({"sigma": -0.25}, "pixel sigma > 0"),
        ({"sigma": math.inf}, "sigma must be a finite number or a ratio"),
        ({"sigma": 41.0}, "must lie in the denoiser's range"),
        ({"sigma": 0.0005}, "must lie in the denoiser's range"),
        ({"num_classes": 1}, "must be an integer >= 2"),
        ({"num_classes": 10}, "the denoiser's, 3; got 10"),
        ({"nodes": 1}, "nodes.* must be an integer >= 2"),
        ({"nodes": Nodes(sigma_min=0.4)}, "must not lie below 2 sigma"),
        ({"nodes": Nodes(sigma_max=0.5)}, "0 < sigma_min < sigma_max"),
        ({"nodes": Nodes(8, "linspace", sigma_max=100.0)}, "nodes must lie in the denoiser's range"),
        ({"variant": "dc", "sigma": 0.0, "nodes": Nodes(64, "log", sigma_min=1e-4)}, "nodes must lie in"),
        ({"weight": "snr"}, "weight must be one of"),
        ({"posterior": Posterior(log_prior=[0.0, 0.0])}, "3 finite numbers"),
    ],
)
def test_contradictions_are_refused(change, message):
    settings = {"num_classes": 3, "sigma": 0.25, **change}
    with pytest.raises(ValueError, match=message):
        NoisedDiffusionClassifier(Recorder(), **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Posterior(temperature=0.0), "temperature must be a finite number > 0"),
        (lambda: Engine(batch_size=0), "batch_size"),
        (lambda: Engine(batch_size=math.nan), "batch_size"),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("change", [{"nodes": "16"}, {"engine": "bf16"}, {"elimination": 3}])
def test_other_kinds_of_arguments_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be .*; got {next(iter(change.values()))!r}"):
        NoisedDiffusionClassifier(Recorder(), 3, 0.25, **change)


def test_an_unconditional_denoiser_is_refused():
    denoiser = Recorder()
    denoiser.num_classes = None
    with pytest.raises(ValueError, match="class-conditional"):
        NoisedDiffusionClassifier(denoiser, 3, 0.25)


def test_the_first_step_needs_its_own_denoisers_range():
    narrow = Recorder()
    narrow.sigma_max = 0.3
    with pytest.raises(ValueError, match=r"range 0.002 .. 0.3"):
        NoisedDiffusionClassifier(Recorder(), 3, 0.25, unconditional=narrow)


def test_weights_by_name_and_by_object_agree():
    assert recorded(weight="lognormal")[1].weight == recorded(weight=LogNormal())[1].weight
