"""A masking suite varies one setting at a time, on few images, and detects a masked gradient."""

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.records.fingerprint import identify
from common.records.masking.checks import masking_checks
from common.robustness.attacks.attack import Attack
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.through import Through
from common.robustness.attacks.transfer import Transfer
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.masking.baseline import Baseline, undefended
from common.robustness.masking.variants import masking_suite
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.threat import Threat
from common.robustness.voting import Voting


def attacked(attack=None, norm="inf", eps=0.1, **settings):
    return Attacked(attack or PGD(steps=8, eot=2), ThreatModel(norm, eps), name="pgd", keep_images=0, **settings)


def network(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(16, 3)
    layer.weight.data = scale * torch.randn(3, 16, generator=generator)
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def batch(classifier, images=40):
    index = torch.arange(images)
    image = Noise.of(0, index).uniform(0, (1, 4, 4))
    return image, classifier(image).argmax(1), index


def run(evaluators, classifier, images=40):
    """Records and header of a test."""
    image, label, index = batch(classifier, images)
    records = []
    for evaluator in evaluators:
        rows = slice(None, evaluator.limit)
        records += evaluator(classifier, (image[rows], label[rows], index[rows]))
    return records, identify({"evaluators": evaluators})[1]


def test_one_setting_at_a_time():
    base = attacked(draws=10, resubmissions=4)
    suite = {evaluator.name: evaluator for evaluator in masking_suite(base, limit=16)}
    assert list(suite) == ["eps=0.2", "eps=0.5", "steps=2", "eot=1"]
    assert [evaluator.threat.eps for evaluator in suite.values()] == [0.2, 0.5, 0.1, 0.1]
    assert suite["steps=2"].attack == PGD(steps=2, eot=2)
    assert suite["eot=1"].attack == PGD(steps=8, eot=1)
    assert {(e.draws, e.resubmissions, e.limit, e.seed) for e in suite.values()} == {(1, 1, 16, 0)}
    assert base.threat.eps == 0.1


def test_variants_that_do_not_apply_are_left_out():
    assert [e.name for e in masking_suite(attacked(PGD(steps=1), eps=0.3))] == ["eps=0.6", "eps=0.5"]
    assert [e.name for e in masking_suite(attacked(PGD(steps=1), eps=1.0))] == []
    black = Transfer(NetworkClassifier(network()), PGD(steps=8))
    assert "steps=2" in {e.name for e in masking_suite(attacked(black))}
    assert {e.limit for e in masking_suite(attacked(limit=4))} == {4}

    class Own(Threat):
        eps, name = 0.1, "LPIPS"
        distance = check = None

    class Nothing(Attack):
        def __call__(self, classifier, image, label, threat, noise):
            return image

    Own.__abstractmethods__ = frozenset()
    assert masking_suite(Attacked(Nothing(), Own())) == []
    with pytest.raises(ValueError, match="no threat to vary"):
        masking_suite(Attacked(PGD()))


def test_step_sizes_grow_with_the_budget_also_inside_wrappers():
    (double, huge, *_) = masking_suite(attacked(PGD(steps=8, step_size="4/255")))
    assert double.attack.step_size == pytest.approx(8 / 255)
    assert huge.attack.step_size == pytest.approx(20 / 255)
    inner = {e.name: e.attack.attack for e in masking_suite(attacked(Through(PGD(steps=8, eot=2), "bpda")))}
    assert inner["steps=2"].steps == 2
    assert inner["eot=1"].eot == 1


@pytest.mark.parametrize(("norm", "grey"), [(2, 0.5 * 16**0.5), (1, 8.0)])
def test_grey_budget_reaches_a_grey_image_from_everywhere(norm, grey):
    suite = {e.name: e for e in masking_suite(attacked(norm=norm, eps=0.5), pixels=16)}
    threat = suite["grey"].threat
    assert threat.eps == pytest.approx(grey)
    worst = torch.ones(1, 1, 4, 4)
    assert bool(threat.check(worst, worst / 2))
    assert not {e.name for e in masking_suite(attacked(norm=norm, eps=0.5))} & {"grey"}


def test_a_working_attack_passes_and_is_paired_by_the_header():
    classifier = NetworkClassifier(network()).freeze()
    base = attacked(PGD(steps=8))
    records, config = run([base, *masking_suite(base), Baseline(base, classifier, "linear", name="linear")], classifier)
    found = masking_checks(records, config)
    assert [check.sentence for check in found if not check.passed or not check.decided] == []
    assert {check.name for check in found} >= {
        "eps=0.2: not weaker than pgd", "eps=0.5: not weaker than eps=0.2",
        "pgd: not weaker than steps=2", "eps=0.5: a huge budget breaks everything",
        "linear: attack breaks the baseline",
    }  # fmt: skip


def test_masked_gradient_fails_at_a_huge_budget():
    """Saturated logits stop the gradient at every budget."""
    classifier = NetworkClassifier(nn.Sequential(network(), nn.Hardtanh(-1e-3, 1e-3))).freeze()
    base = attacked(PGD(steps=8))
    records, config = run([base, *masking_suite(base)], classifier)
    failed = {check.name for check in masking_checks(records, config) if not check.passed}
    assert "eps=0.5: a huge budget breaks everything" in failed


class Adding(nn.Module):
    randomised = False

    def forward(self, image, noise=None):
        return image + 0.01


def test_undefended_classifier_is_behind_the_purifier():
    plain = NetworkClassifier(network())
    defence = Padded(Voting(Purified(Adding(), plain), 3), 4)
    assert undefended(defence) is plain
    assert undefended(plain) is undefended(Padded(plain)) is None
    base = attacked(PGD(steps=4))
    image, label, index = batch(plain, 8)
    rows = Baseline(base)(defence.freeze(), (image, label, index))
    assert {row.evaluator for row in rows} == {"undefended"}
    assert {row.baseline for row in rows} == {"undefended"}
    expected = base(plain.freeze(), (image, label, index))
    assert [row.predictions for row in rows] == [row.predictions[:1] for row in expected]
    assert Baseline(base)(plain, (image, label, index)) == []
