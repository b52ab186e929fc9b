"""The published sift and refine: a loop by hand, its costs, noise, gradient and settings."""

import math

import pytest
import torch

from common.engine.engine import Engine
from common.exact import ExactDenoiser
from common.noise import Noise
from common.units import to_model
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination
from ndc.nodes import Nodes
from ndc.posterior import Posterior
from ndc.sifting import PUBLISHED_MARGIN, Sifting
from tests.ndc.elimination_worlds import Counting, noisy, table, world


def by_hand(sift, refine, margin, keep, cumulative=True):
    """Losses (m,K) and (T,K) of one image: predicted class, refined classes, (node, class) pairs of the sift."""
    alive, total, pairs = list(range(sift.shape[1])), [0.0] * sift.shape[1], []
    for i, losses in enumerate(sift.tolist()):
        if (keep is not None and len(alive) <= keep) or len(alive) == 1:
            break
        for y in alive:
            total[y] = total[y] + losses[y] if cumulative else losses[y]
            pairs.append((i, y))
        least = min(total[y] for y in alive)
        alive = [y for y in alive if total[y] - least < margin]
    if keep is not None and len(alive) > keep:
        alive = sorted(alive, key=lambda y: total[y])[:keep]
    refined = {y: sum(refine[:, y].tolist()) for y in alive}
    return min(refined, key=refined.__getitem__), sorted(alive), pairs


def tables(images, sift=12, refine=20, classes=60, seed=0):
    """Losses of a sift and of a refinement with a common part, in which classes differ."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.rand(images, classes, generator=generator, dtype=torch.float64)
    return (
        common + 0.5 * torch.rand(n, images, classes, generator=generator, dtype=torch.float64) for n in (sift, refine)
    )


@pytest.mark.parametrize(
    ("margin", "keep", "cumulative"),
    [(1.0, 10, True), (3.0, 10, True), (99.0, 10, True), (1.0, None, True), (0.35, None, False),
     (0.4, 10, False)],
)  # fmt: skip
def test_it_is_the_published_loop(margin, keep, cumulative):
    """Predictions, refined classes and evaluated pairs of 40 images, of which each ends its sift at another node."""
    sift, refine = tables(40)
    sifted, sift_calls = table(-sift)
    refined, refine_calls = table(-refine)
    sifting = Sifting(Nodes(12), margin, keep, cumulative)
    logits = sifting.logits(sifted, refined, torch.zeros(60, dtype=torch.float64), 40, 20)
    evaluated = {b: [] for b in range(40)}
    for (node,), rows, candidates in sift_calls:
        for b, row in zip(rows.tolist(), candidates, strict=True):
            evaluated[b] += [(node, y) for y in row.nonzero().flatten().tolist()]
    kept = {b: [] for b in range(40)}
    for _, rows, candidates in refine_calls:
        kept |= {b: row.nonzero().flatten().tolist() for b, row in zip(rows.tolist(), candidates, strict=True)}
    ends = set()
    for b in range(40):
        prediction, alive, pairs = by_hand(sift[:, b], refine[:, b], margin, keep, cumulative)
        assert logits[b].argmax() == prediction
        assert kept[b] == (alive if len(alive) > 1 else [])
        assert evaluated[b] == pairs
        if len(alive) > 1:
            torch.testing.assert_close(logits[b, alive], -refine[:, b, alive].sum(0))
        dropped = [y for y in range(60) if y not in alive]
        assert (logits[b, dropped] < logits[b, prediction]).all()
        ends.add(max(i for i, _ in pairs))
    assert len(ends) > 1 or margin > 50


def test_a_dropped_class_is_as_far_behind_as_in_the_sift():
    """Three classes: the last is dropped after the first node, 5 behind; the others are refined."""
    sift, refine = torch.tensor([[[1.0, 2, 6]], [[1.5, 1, 0]]]), torch.tensor([[[4.0, 3, 0]]])
    prior = torch.tensor([0.0, 0.5, 0.0])
    logits = Sifting(Nodes(2), margin=3.0, keep=1).logits(table(-sift)[0], table(-refine)[0], prior, 1, 1)
    torch.testing.assert_close(logits, torch.tensor([[-4.0 + 0, -3 + 0.5, -2.5 - (6 - 1.5)]])[:, [0, 1, 2]])


def test_the_classifier_sifts_with_noise_and_nodes_of_their_own():
    """Losses of sift and refinement at the inner points of their grids, written out with the noise of each stream.

    Weights are those of the published sum; 30 classes in 16 dimensions, images of which some end the sift early.
    """
    mixture, count = world(30, 16, 0.4, 0.3), 12
    image, noise = noisy(mixture, count, 0.25)
    exact = ExactDenoiser(mixture)
    sifting, denoiser = Sifting(Nodes(8, "reference"), margin=0.1, keep=4), Counting(exact)
    nodes = Nodes(14, "reference")
    classifier = NoisedDiffusionClassifier(denoiser, 30, 0.25, "apndc", nodes, "reference", elimination=sifting)
    logits = classifier(image, noise)
    x0 = exact(to_model(image), torch.tensor(0.5, dtype=torch.float64))

    def losses(points, stream):
        grid = torch.linspace(0.5, 3, points, dtype=torch.float64)
        rows = torch.zeros(points - 2, count, 30, dtype=torch.float64)
        for i in range(points - 2):
            z = stream.normal(i, x0.shape[1:], torch.float64)
            density = torch.exp(-((grid[i].log() + 1.2) ** 2) / 2 * 1.44) / (grid[i] * 1.2 * math.sqrt(2 * math.pi))
            scale = (grid[i + 1] ** 2 + 0.25) / (grid[i + 1] * 0.5) ** 2 * density * (grid[i + 1] - grid[i])
            for y in range(30):
                denoised = exact(x0 + grid[i + 1] * z, grid[i + 1], torch.full((count,), y))
                rows[i, :, y] = scale * (denoised - x0).square().flatten(1).mean(1)
        return rows

    sift, refine = losses(10, noise.stream("ndc").stream("sift")), losses(16, noise.stream("ndc"))
    total, ends = count, set()
    for b in range(count):
        prediction, alive, pairs = by_hand(sift[:, b], refine[:, b], 0.1, 4)
        assert logits[b].argmax() == prediction
        if len(alive) > 1:
            torch.testing.assert_close(logits[b, alive], -refine[:, b, alive].sum(0))
        total += len(pairs) + 14 * len(alive) * (len(alive) > 1)
        ends.add(max(i for i, _ in pairs))
    assert len(ends) > 1
    assert total <= denoiser.rows <= 1.2 * total  # last calls are rounded up
    assert denoiser.rows < count * classifier.evaluations == count * (1 + 8 * 30 + 14 * 4)


def test_the_published_margin_in_other_units():
    """A threshold of 5e-5 on losses of width (3 - 2 sigma) / 1000 is PUBLISHED_MARGIN on those of our nodes."""
    for sigma in (0.25, 0.5, 1.0):
        classifier = NoisedDiffusionClassifier(
            ExactDenoiser(world(3, 4, 0.5, 0.3)), 3, sigma, "apndc", Nodes(48, "reference", sigma_max=3.0), "reference"
        )
        width = (3 - 2 * sigma) / 1000
        grid = torch.linspace(2 * sigma, 3, 50, dtype=torch.float64)
        lamb = (grid[1:-1] ** 2 + 0.25) / (grid[1:-1] * 0.5) ** 2
        density = torch.exp(-((grid[:-2].log() + 1.2) ** 2) / 2 * 1.44) / (grid[:-2] * 1.2 * math.sqrt(2 * math.pi))
        torch.testing.assert_close(classifier.bound.weight / (lamb * density * width) * 5e-5,
                                   torch.full((48,), PUBLISHED_MARGIN, dtype=torch.float64))  # fmt: skip
    assert Sifting().margin == PUBLISHED_MARGIN and len(classifier.bound) == Sifting().nodes.count


def test_the_most_evaluations_of_the_published_procedure():
    """One denoising, 48 nodes of 1,000 classes and 124 of ten: 54 million with n0 + n = 1,100."""
    assert 1 + Sifting().most_evaluations(1000, 124) == 49_241
    assert Sifting().most_evaluations(10, 124) == 1240  # ten classes need no sift
    assert Sifting(keep=None).most_evaluations(10, 124) == 10 * (48 + 124)


@pytest.mark.parametrize("batch_size", [1, 7, 64, "auto"])
def test_an_image_sees_neither_its_batch_nor_the_batch_size(batch_size):
    mixture = world(20, 8, 0.5, 0.3)
    image, noise = noisy(mixture, 24, 0.25)
    sifting = Sifting(Nodes(6), margin=0.02, keep=3)

    def classifier(size):
        return NoisedDiffusionClassifier(
            ExactDenoiser(mixture), 20, 0.25, nodes=8, elimination=sifting, engine=Engine(batch_size=size)
        )

    with torch.no_grad():
        whole = classifier(10**6)(image, noise)
        parts = [classifier(batch_size)(image[b], noise.rows(b)) for b in (slice(0, 7), slice(7, 8), slice(8, 24))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("settings", [{"keep": 2}, {"keep": None, "cumulative": False}])
def test_gradcheck_of_the_computed_logits(settings):
    mixture = world(6, 4, 0.7, 0.3)
    image, noise = noisy(mixture, 3, 0.25)
    sifting, prior = Sifting(Nodes(4), margin=0.05, **settings), Posterior(log_prior=[0.0, 0.01, 0, 0, -0.01, 0])
    denoiser = Counting(ExactDenoiser(mixture))
    classifier = NoisedDiffusionClassifier(denoiser, 6, 0.25, nodes=5, posterior=prior, elimination=sifting)
    classifier(image, noise)
    assert denoiser.rows < 3 * classifier.evaluations
    assert torch.autograd.gradcheck(lambda i: classifier(i, noise), image.requires_grad_())


def test_overflowed_classes_are_dropped_and_nan_does_not_spread():
    sift, refine = tables(2, classes=5)
    sift[0, 0, 3], sift[0, 1, 1] = math.inf, math.nan
    logits = Sifting(Nodes(12), 50.0, 2).logits(
        table(-sift)[0], table(-refine)[0], torch.zeros(5, dtype=torch.float64), 2, 20
    )
    expected = [
        by_hand(sift[:, b, keep], refine[:, b, keep], 50.0, 2)[0] for b, keep in ((0, [0, 1, 2, 4]), (1, [0, 2, 3, 4]))
    ]
    assert [logits[0].argmax().item(), logits[1].nan_to_num(-math.inf).argmax().item()] == [
        [0, 1, 2, 4][expected[0]], [0, 2, 3, 4][expected[1]],
    ]  # fmt: skip


def test_sift_and_elimination_predict_alike_on_an_exact_mixture():
    """100 classes, 12 images: the class of the full search each time, for at most a tenth of its evaluations."""
    mixture = world(100, 16, 0.5, 0.2)
    image, noise = noisy(mixture, 12, 0.25)
    found, rows = [], []
    for elimination in (None, Elimination((2, 4), keep=10), Sifting(Nodes(16), margin=0.02)):
        denoiser = Counting(ExactDenoiser(mixture))
        classifier = NoisedDiffusionClassifier(denoiser, 100, 0.25, nodes=32, elimination=elimination)
        with torch.no_grad():
            found.append(classifier(image, noise).argmax(1))
        rows.append(denoiser.rows)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert rows[0] > 10 * max(rows[1:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": -0.1}, "margin must be a finite number >= 0"),
        ({"margin": math.nan}, "margin must be a finite number >= 0"),
        ({"keep": 0}, "keep, a number of classes, must be an integer >= 1"),
        ({"nodes": 8}, "nodes must be a Nodes"),
        ({"cumulative": 1}, "cumulative must be"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sifting(**settings)


def test_the_sifts_nodes_suit_weight_and_denoiser():
    denoiser = ExactDenoiser(world(3, 4, 0.5, 0.3))
    with pytest.raises(ValueError, match="the weight 'reference' is the published code's sum"):
        NoisedDiffusionClassifier(
            denoiser, 3, 0.25, nodes=Nodes(8, "reference"), weight="reference", elimination=Sifting(Nodes(4))
        )
    with pytest.raises(ValueError, match=r"sigma_min of the nodes must not lie below 2 sigma = 0.5; got 0.1"):
        NoisedDiffusionClassifier(denoiser, 3, 0.25, elimination=Sifting(Nodes(4, sigma_min=0.1)))
    noise = Noise.of(0, torch.arange(2))
    assert (
        NoisedDiffusionClassifier(denoiser, 3, 0.25, elimination=Sifting())(torch.zeros(2, 1, 4, 1), noise)
        .isfinite()
        .all()
    )
