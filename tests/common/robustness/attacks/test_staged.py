"""The staged attack: its stages, its selection on held-out draws, its budget, and independence of the batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.candidates import Candidates
from common.robustness.attacks.climb import Climb, Starts
from common.robustness.attacks.eot import EOTLoss
from common.robustness.attacks.staged import Staged
from common.robustness.attacks.surrogates import surrogates
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import ThreatModel
from tests.common.robustness.attacks.test_pgd import largest_gain

LINF = ThreatModel("inf", 0.1)
SMALL = Staged(
    pool=2,
    pool_targets=2,
    pool_steps=5,
    kept=2,
    warm=1,
    targets=1,
    steps=4,
    eot=2,
    refine_steps=3,
    refine_eot=3,
    draws=8,
)
NONE = {"pool": 0, "pool_targets": 0, "warm": 0, "random": 0, "targets": 0, "refinements": 0}
STAGES = {
    "pool": {"pool": 2, "pool_targets": 2},
    "warm": {"warm": 1},
    "random": {"random": 1},
    "targets": {"targets": 1},
    "refinement": {"refinements": 1},
}


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


class Counted(Classifier):
    """Randomised, with several maxima in the ball; counts the rows of its calls with and without a gradient."""

    randomised = True

    def __init__(self):
        super().__init__()
        self.inside = Sines()
        self.gradients = self.forwards = 0

    def forward(self, image, noise=None):
        counted = "gradients" if image.requires_grad else "forwards"
        setattr(self, counted, getattr(self, counted) + len(image))
        return self.inside(image + 0.1 * noise.normal(0, image.shape[1:], image.dtype))


class Sines(Classifier):
    """Deterministic logits of three classes; counts the rows of its calls with a gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
        self.gradients = 0

    def forward(self, image, noise=None):
        self.gradients += len(image) * image.requires_grad
        return torch.sin(9 * image.flatten(1)) @ self.weight.T


def batch(n=10):
    image = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return image, Sines()(image).argmax(1)


def share_of_wrong(classifier, adv, label, draws=200):
    noise = rows(len(adv), seed=99).draws(draws)
    predictions = classifier(adv.repeat_interleave(draws, 0), noise).argmax(1)
    return (predictions != label.repeat_interleave(draws)).double().view(-1, draws).mean(1)


def test_it_finds_at_least_what_each_stage_finds_alone():
    """Shares of 200 fresh draws; the selection by 64 errs by less than 0.15 (four standard errors of a difference)."""
    classifier, (image, label) = Counted(), batch()
    attack = replace(SMALL, draws=64)
    shares = share_of_wrong(classifier, attack(classifier, image, label, LINF, rows(10)), label)
    assert shares.mean() > share_of_wrong(classifier, image, label).mean() + 0.1
    for name, settings in STAGES.items():
        alone = replace(attack, **{**NONE, **settings})(classifier, image, label, LINF, rows(10))
        assert shares.mean() >= share_of_wrong(classifier, alone, label).mean() - 0.02, name
        assert bool((shares >= share_of_wrong(classifier, alone, label) - 0.15).all()), name


def test_each_stage_can_be_left_out_and_finds_something_alone():
    classifier, (image, label) = Counted(), batch()
    for name, settings in STAGES.items():
        alone = replace(SMALL, **{**NONE, **settings})(classifier, image, label, LINF, rows(10))
        assert bool(LINF.check(image, alone).all()), name
        assert share_of_wrong(classifier, alone, label).mean() > share_of_wrong(classifier, image, label).mean(), name


@pytest.mark.parametrize("stage", ["whole", *STAGES])
def test_the_budget_is_what_a_meter_counts(stage):
    attack = SMALL if stage == "whole" else replace(SMALL, **{**NONE, **STAGES[stage]})
    (image, label), classifier = batch(4), Counted()
    result = attack.search(classifier, image, label, LINF, rows(4))
    budget = attack.budget(classes=3)
    surrogate = classifier.inside.gradients - classifier.gradients  # the defence calls it too
    assert (classifier.gradients, classifier.forwards) == (4 * budget.gradients, 4 * budget.forwards)
    assert surrogate == 4 * budget.surrogate_gradients
    assert result.queries.tolist() == [budget.gradients + budget.forwards] * 4


def test_the_budget_against_a_deterministic_classifier():
    """One draw in place of many; the classifier is its own surrogate."""
    (image, label), classifier = batch(4), Sines()
    result = SMALL.search(classifier, image, label, LINF, rows(4))
    budget = SMALL.budget(classes=3, deterministic=True)
    assert classifier.gradients == 4 * (budget.gradients + budget.surrogate_gradients)
    assert result.queries.tolist() == [budget.gradients + budget.surrogate_gradients + budget.forwards] * 4


def test_results_are_independent_of_the_batch():
    classifier, (image, label) = Counted(), batch(3)
    attack = replace(SMALL, early_stop=True, chunk=7)
    together = attack(classifier, image, label, LINF, rows(3))
    parts = [
        attack(classifier, image[i : i + 1], label[i : i + 1], LINF, rows(3).rows(slice(i, i + 1))) for i in (0, 2)
    ]
    torch.testing.assert_close(together[[0, 2]], torch.cat(parts), rtol=0, atol=1e-12)


def test_early_stop_ends_the_search_of_an_image_that_no_held_out_draw_survives():
    """A classifier that always predicts class 0: images of class 1 are done after the clean image's held-out draws."""

    class Constant(Classifier):
        randomised = True

        def forward(self, image, noise=None):
            logits = image.flatten(1)[:, :3] * 1e-3
            return logits + torch.tensor([1.0, 0.0, 0.0])

    image, label = batch(4)[0], torch.tensor([0, 1, 1, 0])
    settings = {"pool": 0, "pool_targets": 0}
    budget = replace(SMALL, **settings).budget(classes=3)
    for early_stop, done in ((True, SMALL.draws), (False, budget.gradients + budget.forwards)):
        attack = replace(SMALL, early_stop=early_stop, **settings)
        result = attack.search(Constant(), image, label, LINF, rows(4))
        assert result.queries.tolist() == [budget.gradients + budget.forwards, done, done, result.queries[0]]
        assert result.broken.tolist() == [False, True, True, False]


def test_early_stop_ends_no_search_while_a_held_out_draw_survives():
    """The loss is the share of misclassified held-out draws, 1 or more where there is none left."""
    classifier, (image, label) = Counted(), batch(8)
    result = replace(SMALL, early_stop=True).search(classifier, image, label, LINF, rows(8))
    budget = SMALL.budget(classes=3)
    full = result.queries == budget.gradients + budget.forwards
    assert bool(full[result.loss < 1].all()) and not bool(full.all())
    assert bool((result.loss[~full] >= 1).all())


def test_a_batch_that_is_done_at_once_and_an_empty_one():
    classifier, (image, label) = Sines(), batch(3)
    attack = replace(SMALL, early_stop=True)
    result = attack.search(classifier, image, (label + 1) % 3, LINF, rows(3))
    assert torch.equal(result.adv, image) and result.queries.tolist() == [1, 1, 1]
    empty = attack.search(classifier, image[:0], label[:0], LINF, rows(0))
    assert empty.adv.shape == (0, 3, 2, 2)


def test_held_out_draws_rank_candidates_and_no_climb_uses_them():
    """The share of wrong draws ranks first, then the margin; `best_of` is the order, image by image."""
    classifier, (image, label) = Counted(), batch(4)
    candidates = Candidates(EOTLoss(classifier, label, rows(4), 16), image, 4, settled=False)
    moved = [image, (image + 0.1).clamp(0, 1), (image - 0.1).clamp(0, 1)]
    for points in moved:
        candidates.add(points, candidates.rows)
    noise = rows(4).stream("held out").draws(16)
    logits = [classifier(points.repeat_interleave(16, 0), noise).detach() for points in moved]
    repeated = label.repeat_interleave(16)
    wrong = torch.stack([(each.argmax(1) != repeated).double().view(4, 16).mean(1) for each in logits])
    margins = torch.stack([margin(each, repeated).view(4, 16).mean(1) for each in logits])
    for i in range(4):
        order = sorted(range(3), key=lambda k: (float(wrong[k, i]), float(margins[k, i])), reverse=True)
        for place, k in enumerate(order):
            assert torch.equal(candidates.best_of(3)[place][i], moved[k][i])
        assert torch.equal(candidates.result().adv[i], moved[order[0]][i])


def test_a_larger_share_of_wrong_draws_ranks_above_a_higher_margin():
    """A point at level p is misclassified with chance p, by a margin that falls with p."""

    class Lottery(Classifier):
        randomised = True

        def forward(self, image, noise=None):
            level = image.flatten(1)[:, 0]
            won = noise.uniform(0, (1,), image.dtype)[:, 0] < level
            margins = torch.where(won, 0.1 / level**4, -100 * level**4)
            return torch.stack((torch.zeros_like(margins), margins), 1)

    image = torch.full((3, 1, 2, 2), 0.1, dtype=torch.float64)
    held_out = EOTLoss(Lottery(), torch.zeros(3, dtype=torch.int64), rows(3), 64)
    candidates = Candidates(held_out, image, 4, settled=False)
    levels = (0.1, 0.75, 0.25, 0.5)
    for level in levels:
        candidates.add(torch.full_like(image, level), candidates.rows)
    means = [float(held_out(torch.full_like(image, p), margin, "held out").margin.mean()) for p in sorted(levels)]
    assert means == sorted(means, reverse=True)
    assert [float(best[0, 0, 0, 0]) for best in candidates.best_of(4)] == sorted(levels, reverse=True)
    assert bool((candidates.result().adv == 0.75).all())


STAGE_CLIMBS = {  # steps, length over PGD's default path, draws
    "pool": (SMALL.pool_steps, 2.0, 1),
    "warm": (SMALL.steps, 0.4, SMALL.eot),
    "random": (SMALL.steps, 2.0, SMALL.eot),
    "target": (SMALL.steps, 0.4, SMALL.eot),
    "refinement": (SMALL.refine_steps, 0.2, SMALL.refine_eot),
}


def test_each_stage_climbs_with_its_own_steps_length_and_draws(monkeypatch):
    found = {}

    class Recorded(Climb):
        def __call__(self, eot, ball, starts, best=None):
            found.setdefault(starts.name.split()[0], set()).add((self.steps, self.path, eot.draws))
            return super().__call__(eot, ball, starts, best)

    monkeypatch.setattr("common.robustness.attacks.staged.Climb", Recorded)
    SMALL(Counted(), *batch(2), LINF, rows(2))
    assert found == {stage: {settings} for stage, settings in STAGE_CLIMBS.items()}


def test_held_out_draws_are_the_same_for_all_candidates_and_each_step_of_a_climb_has_its_own():
    """By the seeds of the noise: of calls without a gradient there is one, of those with one as many as steps."""

    class Seeds(Counted):
        def __init__(self):
            super().__init__()
            self.seeds = {True: [], False: []}

        def forward(self, image, noise=None):
            self.seeds[image.requires_grad].append(noise.seed)
            return super().forward(image, noise)

    classifier = Seeds()
    replace(SMALL, source=Sines())(classifier, *batch(2), LINF, rows(2))
    steps = 3 * SMALL.steps + SMALL.refine_steps
    assert len({*classifier.seeds[True]}) == len(classifier.seeds[True]) == steps
    assert len({*classifier.seeds[False]}) == 1
    assert not {*classifier.seeds[True]} & {*classifier.seeds[False]}


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_the_steps_of_a_climb_are_those_of_the_formula(steps):
    """Momentum 0.75 and half a cosine from eta_0 on, inside the ball, of a quadratic objective."""

    class Quadratic(Classifier):
        def __init__(self):
            super().__init__()
            self.met = []

        def forward(self, image, noise=None):
            self.met.append(image.detach().clone())
            value = -(scale * (image - peak)).square().flatten(1).sum(1)
            return torch.stack((torch.zeros_like(value), value), 1)

    random = torch.Generator().manual_seed(3)
    scale, peak = 0.5 + torch.rand(2, 3, 2, 2, generator=random, dtype=torch.float64)
    scale = 4 * scale**2
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    classifier, threat, path = Quadratic(), ThreatModel(2, 0.3), 0.1  # 5 eps path = 0.15 of the radius 0.3
    eot = EOTLoss(classifier, torch.zeros(1, dtype=torch.int64), rows(1), 1)
    Climb(steps, margin, path)(eot, threat, Starts(x, x, torch.arange(1), "climb"))
    cosines = [(1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]
    momentum, expected = torch.zeros_like(x), [x]
    for cosine in cosines:
        gradient = -2 * scale**2 * (expected[-1] - peak)
        momentum = 0.75 * momentum + gradient / gradient.abs().mean()
        eta = path * 5 * threat.eps * cosine / sum(cosines)
        expected.append(expected[-1] + eta * momentum / momentum.norm())
    torch.testing.assert_close(torch.cat(classifier.met), torch.cat(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("norm", "eps"), [("inf", 0.1), (2, 0.4), (1, 1.5)])
def test_a_climb_reaches_the_optimum_of_linear_models(norm, eps):
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = nn.Linear(48, 2, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    classifier, gain = NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), weight[1] - weight[0]
    image = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round(decimals=1)
    threat, label = ThreatModel(norm, eps), torch.zeros(6, dtype=torch.int64)
    starts = Starts(image, threat.random_start(image, rows(6)), torch.arange(6), "climb")
    adv = Climb(40, margin)(EOTLoss(classifier, label, rows(6), 1), threat, starts)
    assert bool(threat.check(image, adv).all())
    for x, moved in zip(image.flatten(1), adv.flatten(1), strict=True):
        assert float((moved - x) @ gain) >= 0.98 * largest_gain(gain.numpy(), x.numpy(), threat.norm, eps)


def test_surrogates_of_a_defence():
    """A deterministic one itself; what a part declares; else the classifier behind a purifier; none."""

    class Blur(nn.Module):
        def forward(self, image, noise=None):
            return image

    class Guided(Blur):
        def surrogate(self):
            return declared

    declared, behind = Sines(), Sines()
    assert surrogates(behind) == [behind]
    assert surrogates(Purified(Blur(), behind)) == [behind]
    assert surrogates(Purified(nn.Sequential(Guided()), behind)) == [declared]

    class Bare(Classifier):
        randomised = True

    assert surrogates(Bare()) == []
    with pytest.raises(ValueError, match="no surrogate to search against, and the pool is the only stage"):
        replace(SMALL, **{**NONE, "pool": 1})(Bare(), *batch(2), LINF, rows(2))
    (image, label), attack = batch(2), replace(SMALL, source=declared, **{**NONE, "pool": 1})
    attack(Counted(), image, label, LINF, rows(2))
    assert declared.gradients == 2 * SMALL.pool_steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (NONE, "needs a stage"),
        ({"warm": -1}, "warm must be an integer >= 0"),
        ({"targets": 0.5}, "targets must be an integer >= 0"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"draws": 0}, "draws must be an integer >= 1"),
        ({"loss": "hinge"}, "loss"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **settings)
