"""Early elimination: the full search's predictions for fewer evaluations, with noise independent of the classes."""

import math
from functools import cache, partial

import pytest
import torch

from common.engine.engine import Engine
from common.exact import ExactDenoiser
from common.noise import Noise
from common.robustness.certification.smoothing import Smoothing
from common.units import to_model, to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination
from ndc.nodes import Nodes
from ndc.posterior import Posterior
from tests.ndc.elimination_worlds import TRAINED, Counting, both, noisy, table, world

# Predictions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "sigma", "nodes", "least"),
    [
        ("apndc", 0.25, 16, 3.5),
        ("apndc", 0.5, 16, 3.4),
        ("apndc", 0.25, Nodes(12), 2.7),
        ("apndc", 0.25, Nodes(40, "log"), 4.7),
        ("epndc", 0.25, Nodes(16, antithetic=True), 1.8),
        ("epndc", 0.5, Nodes(16, control=True), 3.0),
    ],
    ids=str,
)
def test_same_class_as_the_full_search_on_an_exact_mixture(variant, sigma, nodes, least):
    """600 inputs of ten classes: at least 99.5 % of predictions equal (measured 99.8 to 100), for fewer evaluations."""
    mixture = world(10, 16, 0.4, 0.3)
    image, noise = noisy(mixture, 600, sigma)
    full, sifted, saved = both(ExactDenoiser(mixture), image, noise, Elimination(), sigma, variant, nodes)
    assert (full.argmax(1) == sifted.argmax(1)).double().mean() >= 0.995
    assert saved > least


@pytest.mark.parametrize(
    ("variant", "nodes"),
    [
        ("epndc", 16),
        ("epndc", Nodes(32, antithetic=True)),
        ("epndc", Nodes(16, "linspace")),
        ("apndc", Nodes(16, "linspace")),
        ("apndc", 126),
    ],
    ids=str,
)
def test_same_class_where_classes_are_spread_unequally(variant, nodes):
    """Four mixtures of five classes, deviations 0.05 to 0.8, 500 inputs each: at least 99.5 % of predictions equal."""
    alike = []
    for seed in range(4):
        mixture = world(5, 16, 0.2, torch.linspace(0.05, 0.8, 5, dtype=torch.float64), seed)
        image, noise = noisy(mixture, 500, 0.25)
        full, sifted, _ = both(
            ExactDenoiser(mixture), image, noise, Elimination(), 0.25, variant, nodes, posterior=Posterior(1.0)
        )
        alike.append((full.argmax(1) == sifted.argmax(1)).double().mean().item())
    assert sum(alike) / 4 >= 0.995, alike


def test_sift_and_refine_of_many_classes():
    """100 classes, two nodes of 16 for all of them, at most ten refined: 8 times fewer rows at best, at least 7."""
    mixture = world(100, 16, 0.5, 0.2)
    image, noise = noisy(mixture, 100, 0.25)
    sift = Elimination(stages=(2, 4), keep=10)
    full, sifted, saved = both(ExactDenoiser(mixture), image, noise, sift, 0.25, "apndc")
    assert torch.equal(full.argmax(1), sifted.argmax(1))
    assert saved > 7


@pytest.mark.slow
@pytest.mark.skipif(not TRAINED.exists(), reason="robust-diffusion tour trains this denoiser")
@pytest.mark.parametrize(("sigma", "least"), [(0.25, 1.9), (0.5, 2.7)])
def test_same_class_as_the_full_search_on_digits(sigma, least):
    """200 noisy images: at least 99.5 % of predictions equal. Measured: all of 256, 82 and 48 of 161 evaluations."""
    from common.checkpoints.loading import load_denoiser
    from common.data.digits import Digits

    data = Digits()
    data.load()
    noise = Noise.of(11, torch.arange(200))
    clean = torch.stack([data.held_out[i][0] for i in range(200)])
    image = clean + sigma * noise.stream("gaussian").normal(0, clean.shape[1:])
    denoiser = load_denoiser(TRAINED).eval()
    full, sifted, saved = both(denoiser, image, noise, Elimination(), sigma, "apndc")
    assert (full.argmax(1) == sifted.argmax(1)).double().mean() >= 0.995
    assert saved > least


def test_certificates_are_those_of_the_full_search():
    """Two samples in a thousand may differ: counts within 2 of 100, and far fewer evaluations."""
    mixture = world(10, 16, 0.4, 0.3)
    image, noise = to_pixel(mixture.means[:4]), Noise.of(3, torch.arange(4))
    smoothing, found, rows = Smoothing(0.25, n0=20, n=100), [], []
    for elimination in (None, Elimination()):
        denoiser = Counting(ExactDenoiser(mixture))
        classifier = NoisedDiffusionClassifier(denoiser, 10, 0.25, elimination=elimination)
        found.append(smoothing.certify(classifier, image, noise))
        rows.append(denoiser.rows)
    for full, sifted in zip(*found, strict=True):
        assert full.prediction == sifted.prediction
        assert abs(full.count - sifted.count) <= 2
    assert rows[0] > 3.5 * rows[1]


# Soundness: the randomness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes", [Nodes(12, control=False), Nodes(12, antithetic=True, control=False)], ids=["independent", "antithetic"]
)
def test_a_nodes_noise_depends_on_the_noise_alone(nodes):
    """Recovered from the network's inputs: for any image, batch and remaining classes, an image's z at a node is
    that of `Noise` for this row and node."""
    mixture = world(6, 8, 0.5, 0.3)
    used, dropped = [], []
    for seed in (0, 1):
        image = torch.rand(20, 1, 8, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 0.5
        noise = Noise.of(7, torch.arange(20) + 100)
        denoiser = Counting(ExactDenoiser(mixture))
        classifier = NoisedDiffusionClassifier(
            denoiser, 6, 0.25, "epndc", nodes, elimination=Elimination(), engine=Engine(batch_size=64)
        )
        classifier(image, noise)
        evaluated = {}
        spread = dict(zip(classifier.bound.sigma.tolist(), classifier.bound.spread.tolist(), strict=True))
        level = classifier.bound.sigma.tolist()
        normal = cache(partial(noise.stream("ndc").normal, shape=(1, 8, 1), dtype=torch.float64))
        for x, sigma, _ in denoiser.calls:
            for row, s in zip(x, sigma.tolist(), strict=True):
                z = (row - to_model(image)) / spread[s]  # (20,...): that of the right image is the noise's own
                i = level.index(s)
                step, sign = (i // 2, 1 - 2 * (i % 2)) if nodes.antithetic else (i, 1)
                own = sign * normal(step)
                match = (z - own).abs().flatten(1).amax(1) < 1e-9
                assert match.sum() == 1
                b = int(match.nonzero())
                evaluated[b, i] = evaluated.get((b, i), 0) + 1
        used.append({(b, i) for b, i in evaluated})
        dropped.append(sum(evaluated.values()))
    assert used[0] != used[1] or dropped[0] != dropped[1]  # the choice of classes did depend on the image
    assert max(dropped) < 20 * 12 * 6


@pytest.mark.parametrize("batch_size", [1, 5, 64, "auto"])
def test_an_image_sees_neither_its_batch_nor_the_batch_size(batch_size):
    mixture = world(6, 8, 0.5, 0.3)
    image, noise = noisy(mixture, 24, 0.25)

    def classifier(size):
        engine = Engine(batch_size=size)
        return NoisedDiffusionClassifier(ExactDenoiser(mixture), 6, 0.25, elimination=Elimination(), engine=engine)

    with torch.no_grad():
        whole = classifier(10**6)(image, noise)
        parts = [classifier(batch_size)(image[b], noise.rows(b)) for b in (slice(0, 7), slice(7, 8), slice(8, 24))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-10, atol=1e-12)


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "settings"), [("apndc", {}), ("epndc", {"nodes": Nodes(8, control=True)})])
@pytest.mark.parametrize("batch_size", [7, 512])
def test_gradcheck_of_the_computed_logits(variant, settings, batch_size):
    mixture = world(5, 4, 0.7, 0.3)
    image, noise = noisy(mixture, 3, 0.25)
    denoiser, prior = Counting(ExactDenoiser(mixture)), Posterior(log_prior=[0.0, 0.1, 0.0, 0.0, -0.1])
    settings = {"nodes": 8, "elimination": Elimination(), "engine": Engine(batch_size=batch_size), **settings}
    classifier = NoisedDiffusionClassifier(denoiser, 5, 0.25, variant, posterior=prior, **settings)
    with torch.no_grad():
        quiet = classifier(image, noise)
    assert denoiser.rows < 3 * 8 * 5  # some classes are dropped
    image = image.requires_grad_()
    torch.testing.assert_close(classifier(image, noise), quiet, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda i: classifier(i, noise), image)


def test_nothing_dropped_is_the_full_search():
    mixture = world(5, 4, 0.7, 0.3)
    image, noise = noisy(mixture, 6, 0.25)
    all_of_them = Elimination((2, 4), errors=0.0, margin=math.inf)
    full, sifted, saved = both(
        ExactDenoiser(mixture),
        image,
        noise,
        all_of_them,
        0.25,
        "apndc",
        posterior=Posterior(log_prior=[0.0, -1.0, 0.5, 0.0, 0.0]),
    )
    torch.testing.assert_close(sifted, full, rtol=1e-12, atol=1e-12)
    assert 0.9 < saved <= 1  # last calls are rounded up


# Contradictory settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"errors": -1.0}, "errors must be a finite number >= 0"),
        ({"errors": math.inf}, "errors must be a finite number >= 0"),
        ({"margin": -0.1}, "margin must be a finite number >= 0"),
        ({"margin": math.nan}, "margin must be a finite number >= 0"),
        ({"stages": ()}, "stages, .* must be a list of at least 1"),
        ({"stages": (4, 2)}, "ascending"),
        ({"stages": (0, 2), "errors": 0.0}, "each of stages, .* must be an integer >= 1"),
        ({"stages": (1, 2)}, "two nodes"),
        ({"stages": (2,), "keep": 0}, "keep, a number of classes, must be an integer >= 1"),
        ({"stages": (2, 4), "keep": (10,)}, "one number for each"),
        ({"stages": (2,), "keep": (10, 5)}, "one number for each"),
        ({"keep": 10}, "keep needs stages, the numbers of nodes after which it applies"),
        ({"stages": (2.5, 3)}, "must be an integer >= 1; got 2.5"),
        ({"stages": (2,), "keep": 2.5}, "must be an integer >= 1; got 2.5"),
        ({"stages": (2,), "keep": True}, "must be an integer >= 1; got True"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Elimination(**settings)


def test_stages_that_do_not_suit_the_nodes_are_refused():
    with pytest.raises(ValueError, match="below the number of nodes, 16"):
        Elimination((4, 16)).plan(16)
    with pytest.raises(ValueError, match="must be even"):
        Elimination((3, 6)).plan(16, antithetic=True)
    with pytest.raises(ValueError, match=r"two pairs of antithetic nodes: start at 4 or more; got \[2, 6\]"):
        Elimination((2, 6)).plan(16, antithetic=True)
    assert Elimination((2, 6), errors=0, margin=1.0).plan(16, antithetic=True)[0] == [14, 15]
    denoiser, nodes = ExactDenoiser(world(2, 2, 1.0, 0.3)), Nodes(8, antithetic=True)
    with pytest.raises(ValueError, match="must be even"):
        NoisedDiffusionClassifier(denoiser, 2, 0.25, "epndc", nodes, elimination=Elimination((3,)))


def test_a_class_with_more_variance_than_its_rivals_is_given_more_room():
    """29 classes that hardly differ and one whose differences vary a lot: 99.85 % of 2,000 predictions equal those of
    the full search, 95.65 % if the class's own error did not count."""
    generator = torch.Generator().manual_seed(5)
    values = 0.01 * torch.randn(32, 2000, 30, generator=generator, dtype=torch.float64)
    values[:, :, 0] += 0.3 * torch.randn(32, 2000, generator=generator, dtype=torch.float64) + 0.2
    terms, _ = table(values)
    elimination = Elimination(stages=(4, 8, 16))
    logits = elimination.logits(terms, elimination.plan(32), torch.zeros(30, dtype=torch.float64), 2000)
    assert (logits.argmax(1) == values.sum(0).argmax(1)).double().mean() >= 0.99
