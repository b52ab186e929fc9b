"""Predictions of the planner against the counts of `Meter` in the evaluation itself."""

import time

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import Denoiser
from common.engine.meter import Meter
from common.experiments.planning.devices import divided, image_seconds
from common.experiments.planning.dry_run import dry_run
from common.experiments.planning.images import ImageForecast
from common.experiments.planning.measuring import Cost, measure
from common.experiments.planning.samples import SampleForecast
from common.experiments.planning.terms import Term, relative_error
from common.experiments.planning.unit_costs import UnitCosts
from common.experiments.planning.workload import Workload, spread
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.staged import Staged
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Certified, Clean
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel
from diffpure.purifier import DiffPure

CLASSES, SIDE, IMAGES = 4, 4, 21
LINF = ThreatModel("inf", 0.1)


class Halving(Denoiser):
    """D(x, sigma) = x / 2, with a network to count."""

    num_classes = None

    def __init__(self):
        super().__init__()
        self.network = nn.Identity()

    def forward(self, x, sigma, label=None):
        return self.network(x) / 2


def linear() -> NetworkClassifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(CLASSES, SIDE * SIDE, generator=torch.Generator().manual_seed(0)))
        network[1].bias.zero_()
    return NetworkClassifier(network)


def workload(classifier, *evaluators, batch=7, first=None) -> Workload:
    """The classifier on random images, with the labels that it gives them."""
    image = torch.rand(IMAGES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    padded = Padded(classifier.freeze())
    with torch.no_grad():
        label = padded(image).argmax(1)

    def take(positions):
        rows = torch.tensor(list(positions))
        return image[rows], label[rows], rows

    return Workload(padded, evaluators, IMAGES, batch, take, lambda evaluator: first)


def forecast(evaluator, load) -> ImageForecast:
    return ImageForecast(evaluator, load, UnitCosts(load.classifier.classifier, load.take(range(16)), 0.0), CLASSES)


def counted(evaluator, load, portions) -> float:
    """Rows of all networks in the evaluation itself."""
    with Meter(load.classifier) as meter:
        for portion in portions:
            evaluator(load.classifier, load.take(portion))
    return meter.cost(1)["evaluations"]


BATCHES = [range(7), range(7, 14), range(14, 21)]


@pytest.mark.parametrize("mode", ["full", "checkpoint", "bpda"])
@pytest.mark.parametrize(
    "evaluator",
    [
        Clean(draws=3),
        Attacked(PGD(steps=2, eot=3), LINF, draws=2, keep_images=9),
        Attacked(PGD(steps=2, eot=8, chunk=10), LINF, draws=2, keep_images=0),
    ],
    ids=["clean", "pgd", "chunks"],
)
def test_evaluations_of_a_purified_classifier_are_exact(mode, evaluator):
    """Counted without a run of the evaluator: the padding of calls, recomputed steps and controls included."""
    defence = Purified(DiffPure(Halving(), 0.1, steps=3, gradient=mode), linear())
    load = workload(defence, evaluator)
    term = forecast(evaluator, load).first()
    if evaluator.name == "attacked" and evaluator.attack.chunk:
        assert term.cost.evaluations == pytest.approx(counted(evaluator, load, BATCHES), rel=0.1)
    else:
        assert term.cost.evaluations == pytest.approx(counted(evaluator, load, BATCHES), abs=0.5)
    assert term.exact


def test_a_measured_evaluator_is_counted_whole():
    evaluator = Attacked(PGD(steps=5, early_stop=True), ThreatModel("inf", 0.02), keep_images=0)
    load = workload(linear(), evaluator, batch=IMAGES)
    plan = forecast(evaluator, load)
    first = plan.first()
    least, most = plan.counted(resists=False).evaluations, plan.counted().evaluations
    actual = counted(evaluator, load, [range(IMAGES)])
    assert not first.exact and least < actual < most
    assert plan.measured(first, seconds=60).cost.evaluations == actual


def test_a_dry_run_runs_no_purifier_and_leaves_no_trace():
    """Neither the denoiser's network nor the classifier behind the purifier, which is the staged attack's surrogate."""
    evaluator = Attacked(Staged(pool_steps=2, steps=2), LINF, keep_images=2)
    load = workload(Purified(DiffPure(Halving(), 0.1, steps=3), linear()), evaluator)
    batch = load.take(range(2))
    before = load.classifier(batch[0])
    with Meter(load.classifier) as meter:
        passes = dry_run(evaluator, load.classifier, batch, CLASSES, resists=True, padded=False)
    assert meter.cost(1)["evaluations"] == sum(rows for kind, rows in passes.rows.items() if kind.surrogate)
    assert all("forward" not in vars(part) for part in load.classifier.modules())
    assert load.classifier(batch[0]).shape == before.shape
    budget = evaluator.attack.budget(CLASSES)
    gradients = {kind.surrogate: rows for kind, rows in passes.rows.items() if kind.gradient}
    assert gradients[False] == 2 * (budget.gradients + 1)  # one more for the signs of masking
    assert gradients[True] == 2 * budget.surrogate_gradients


def certified(smoothing, load, portions=BATCHES) -> float:
    return counted(Certified(smoothing), load, portions)


def test_evaluations_of_smoothing_are_those_of_its_samples():
    """n0 + n samples an image, and the rows that pad the first calls; measured on few samples."""
    smoothing = Smoothing(0.25, n0=4, n=400, num_classes=CLASSES)
    load = workload(linear(), batch=3)
    forecast = SampleForecast(Certified(smoothing), load)
    forecast._sample(range(5), 10, 60.0)
    actual = certified(smoothing, load, [range(i, i + 3) for i in range(0, IMAGES, 3)])
    check = 37  # rows of the check of soundness, before the first image
    assert forecast._term().cost.evaluations == pytest.approx(actual - check, rel=0.01)


def test_evaluations_of_a_sequential_certification_are_forecast_from_few_samples():
    """Images stop after 60 to 800 samples; from 30 samples of each the total is known to a quarter."""
    smoothing = Sequential(0.25, n0=16, n=800, targets=[0.1], first=60, num_classes=CLASSES)
    load = workload(linear())
    forecast = SampleForecast(Certified(smoothing), load)
    forecast._sample(range(IMAGES), 30, 60.0)
    actual = certified(smoothing, load)
    assert actual > 2 * 30 * IMAGES
    assert forecast._term().cost.evaluations == pytest.approx(actual, rel=0.25)
    whole = SampleForecast(Certified(smoothing), load).predict(60.0)
    assert whole.cost.evaluations == pytest.approx(actual, rel=0.01)


def test_a_measurement_ends_at_its_limit():
    """At the next call of a network; the calls before it count."""
    classifier, image = linear(), torch.rand(1, 1, SIDE, SIDE)

    def work():
        for _ in range(1000):
            classifier(image)
            time.sleep(0.01)

    cost, ended = measure(classifier, work, 0.05)
    assert not ended
    assert 1 <= cost.evaluations < 100


def test_devices_take_shares_of_unequal_images():
    """Two devices: 5 | 1 + 1 + 1, then 1 + 1 of the second."""
    seconds = [5.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert divided(seconds, 2, [1] * 6) == 5.0
    assert divided(seconds, 2, [1, 3, 2]) == 5.0
    assert divided(seconds, 2, [3, 3]) == 7.0
    assert divided(seconds, 1, [6]) == 10.0
    terms = [Term("a", 4, Cost(8.0), 0, 0, "", shares=(1.0, 3.0)), Term("b", 2, Cost(1.0), 0, 0, "")]
    assert image_seconds(terms) == [1.5, 3.5, 1.0, 3.0]


def test_samples_are_spread_and_their_error_shrinks_to_none():
    assert sorted(spread(50)) == list(range(50))
    assert sorted(position // 10 for position in spread(50)[:5]) == [0, 1, 2, 3, 4]
    assert relative_error([1.0, 3.0], 2) == 0.0
    assert relative_error([1.0], 2) == 1.0
    assert relative_error([1.0, 3.0], 8) == pytest.approx(2 * 2**0.5 / 2 / 2**0.5 * (6 / 8) ** 0.5)
