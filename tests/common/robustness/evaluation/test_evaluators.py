"""Records do not depend on batches; attack and score never share noise; bad input is named before work is done."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.noise import Noise
from common.robustness.attacks.pgd import PGD
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Certified, Clean
from common.robustness.evaluation.stored_images import encode
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks.robust import RobustTask

LINF = ThreatModel("inf", 0.1)


class Noisy(Classifier):
    """Bright or dark, seen through noise; notes which noise it was handed."""

    randomised = True

    def __init__(self, strength=0.6):
        super().__init__()
        self.strength, self.seen = strength, []
        self.dropout = nn.Dropout(0.5)

    def forward(self, image, noise=None):
        self.seen.append(noise)
        z = noise.normal(0, image.shape[1:])
        score = self.dropout((image - 0.5) + self.strength * z).flatten(1).sum(1)
        return torch.stack([-score, score], 1)

    def views(self, image, noise=None):
        return {"diffused": image + self.strength * noise.normal(0, image.shape[1:]), "purified": image}


def network(classes=3):
    torch.manual_seed(0)
    return NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, classes, bias=False)), [0.5], [0.1])


def batch(n=13, start=0, classes=2):
    index = torch.arange(start, start + n)
    image = Noise.of(7, index).uniform(0, (1, 4, 4))
    return image, index % classes, index


def in_pieces(evaluator, classifier, whole, size, order=None):
    order = torch.arange(len(whole[0])) if order is None else order
    pieces = [evaluator(classifier, tuple(part[rows] for part in whole)) for rows in order.split(size)]
    return sorted((record for piece in pieces for record in piece), key=lambda record: record.key)


EVALUATORS = [
    Clean(draws=3),
    Attacked(PGD(steps=3, eot=2), LINF, draws=3),
    Attacked(PGD(steps=2), ThreatModel(2, 0.5), draws=1, seed=5),
    Certified(Smoothing(0.25, n0=8, n=40, alpha=0.05, num_classes=2)),
]


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda evaluator: evaluator.name)
@pytest.mark.parametrize("classifier", [Noisy(), network(2)], ids=["randomised", "deterministic"])
def test_records_do_not_depend_on_the_partition(evaluator, classifier):
    whole = batch(13)
    expected = in_pieces(evaluator, classifier, whole, 64)
    assert [record.index for record in expected] == list(range(13))
    assert in_pieces(evaluator, classifier, whole, 1) == expected
    shuffled = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    assert in_pieces(evaluator, classifier, whole, 7, shuffled) == expected


def test_another_seed_is_another_evaluation():
    predictions = [
        [record.predictions for record in Clean(draws=8, seed=seed)(Noisy(3.0), batch(32))] for seed in (0, 0, 1)
    ]
    assert predictions[0] == predictions[1] != predictions[2]


def test_global_randomness_is_neither_used_nor_touched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for evaluator in EVALUATORS:
        evaluator(Noisy(), batch(4))
    assert torch.equal(before, torch.get_rng_state())


def test_scores_controls_and_attacks_use_disjoint_noise():
    classifier = Noisy()
    seeds = {}

    def attack(classifier, image, label, threat, noise):
        begin = len(classifier.seen)
        adv = PGD(steps=2, eot=2)(classifier, image, label, threat, noise)
        seeds["attack"] = {noise.seed for noise in classifier.seen[begin:]} | {noise.seed}
        return adv

    Attacked(attack, LINF, draws=4)(classifier, batch(2))
    origin = Noise.of(0, torch.arange(2))
    score, control, random = (origin.stream(name).seed for name in ("score", "control", "random"))
    everything = {noise.seed for noise in classifier.seen}
    assert seeds["attack"].isdisjoint({score, control, random, 0})
    assert everything == seeds["attack"] - {origin.stream("attack").seed} | {score, control, random}
    draws = [noise.draw.tolist() for noise in classifier.seen if noise.seed == score]
    assert draws == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_clean_predictions_by_hand():
    image, label, index = batch(5)
    classifier = Noisy().eval()
    noise = Noise.of(2, index).stream("score").draws(4)
    by_hand = classifier(image.repeat_interleave(4, 0), noise).argmax(1).view(5, 4)
    records = Clean(draws=4, seed=2, name="asked")(classifier, (image, label, index))
    assert [record.predictions for record in records] == by_hand.tolist()
    assert [record.correct for record in records] == (by_hand == label[:, None]).tolist()
    assert [(record.evaluator, record.index, record.label) for record in records] == [
        ("asked", i, i % 2) for i in range(5)
    ]
    assert all(record.cost.seconds > 0 for record in records)


def test_a_deterministic_classifier_is_queried_once():
    (record,) = Clean(draws=20)(network(), batch(1))
    assert len(record.predictions) == 1
    (record,) = Attacked(PGD(steps=1), LINF, draws=20)(network(), batch(1))
    assert len(record.predictions) == len(record.clean_predictions) == 1


def test_attacked_scores_what_the_attack_returned():
    classifier, whole, threat = network(3), batch(32, classes=3), ThreatModel("inf", 0.45)

    def invert(classifier, image, label, threat, noise):
        return threat.project(image, 1 - image)

    adv = threat.project(whole[0], 1 - whole[0])
    records = Attacked(invert, threat)(classifier, whole)
    after, before = classifier(adv).argmax(1).tolist(), classifier(whole[0]).argmax(1).tolist()
    assert after != before
    assert [r.predictions[0] for r in records] == after
    assert [r.correct[0] for r in records] == [a == y for a, y in zip(after, whole[1].tolist(), strict=True)]
    assert [r.clean_predictions[0] for r in records] == before
    distance = (adv - whole[0]).abs().flatten(1).amax(1)
    assert [r.distance for r in records] == pytest.approx(distance.tolist(), rel=1e-5)
    assert all(r.within_budget and r.white_box for r in records)
    assert {(r.norm, r.eps) for r in records} == {("Linf", 0.45)}


def test_attacked_works_where_gradients_are_off_and_leaves_modes_alone():
    classifier = Noisy()
    classifier.train()
    with torch.no_grad():
        with_dropout_off = Attacked(PGD(steps=2), LINF, draws=2)(classifier, batch(4))
    assert classifier.training
    assert classifier.dropout.training
    assert with_dropout_off == Attacked(PGD(steps=2), LINF, draws=2)(Noisy().eval(), batch(4))


def test_evaluators_run_in_float32_under_autocast():
    seen = []

    class Watch(NetworkClassifier):
        def forward(self, image, noise=None):
            logits = super().forward(image, noise)
            seen.append(logits.dtype)
            return logits

    classifier = Watch(network().network)
    with torch.autocast("cpu", torch.bfloat16):
        for evaluator in EVALUATORS[:2]:
            evaluator(classifier, batch(2))
        Certified(Smoothing(0.25, n0=8, n=40, num_classes=3))(classifier, batch(2))
    assert set(seen) == {torch.float32}


def test_images_are_kept_for_the_first_images_only_and_show_the_scored_draw():
    image, _, index = whole = batch(6, start=2)
    records = Attacked(PGD(steps=1, random_start=False), LINF, draws=2, keep_images=4)(Noisy(0.05), whole)
    assert [bool(record.images) for record in records] == [True, True, False, False, False, False]
    kept = records[1].images
    assert list(kept) == ["clean", "adversarial", "diffused", "purified"]
    decoded = {name: np.array(Image.open(io.BytesIO(base64.b64decode(png)))) / 255 for name, png in kept.items()}
    assert decoded["clean"] == pytest.approx(image[1, 0].numpy(), abs=0.51 / 255)
    assert abs(decoded["adversarial"] - decoded["clean"]).max() <= 0.1 + 1 / 255
    z = Noise.of(0, index[1:2]).stream("score").normal(0, (1, 4, 4))[0, 0].numpy()
    assert decoded["diffused"] == pytest.approx(np.clip(decoded["adversarial"] + 0.05 * z, 0, 1), abs=1.1 / 255)


def test_encode_keeps_colours_and_clips():
    image = torch.zeros(3, 2, 2)
    image[0, 0, 1], image[2, 1, 0] = 2.0, -1.0
    decoded = np.array(Image.open(io.BytesIO(base64.b64decode(encode(image)))))
    assert decoded.shape == (2, 2, 3)
    assert decoded[0, 1].tolist() == [255, 0, 0]
    assert decoded.sum() == 255


def test_certified_reports_the_certificates():
    smoothing = Smoothing(0.25, n0=8, n=40, alpha=0.05, num_classes=3)
    classifier, whole = network(3), batch(5, classes=3)
    expected = smoothing.certify(classifier, whole[0], Noise.of(4, whole[2]).stream("smoothing"))
    for record, certificate in zip(Certified(smoothing, seed=4)(classifier, whole), expected, strict=True):
        assert (record.prediction, record.count) == (certificate.prediction, certificate.count)
        assert record.samples == 40
        assert record.radius == pytest.approx(certificate.radius, rel=1e-5)
        assert record.correct == (certificate.prediction == record.label)


def test_an_empty_batch_gives_no_records():
    empty = tuple(part[:0] for part in batch())
    assert [evaluator(Noisy(), empty) for evaluator in EVALUATORS] == [[]] * 4


def test_a_black_box_attack_needs_no_gradients():
    def attack(classifier, image, label, threat, noise):
        return image

    attack.white_box = False

    class NoGradient(Classifier):
        def forward(self, image, noise=None):
            return torch.from_numpy(image.numpy().reshape(len(image), -1)[:, :2])

    (record,) = Attacked(attack, LINF)(NoGradient(), batch(1))
    assert record.white_box is False
    assert record.zero_gradient is None


# Refusals


def with_part(position, value):
    return tuple(value if i == position else part for i, part in enumerate(batch(2)))


BAD = {
    r"three tensors; got 2 entries. The index identifies": batch(2)[:2],
    r"three tensors; got Tensor": batch(2)[0],
    r"three tensors; got 3 entries": (*batch(2)[:2], [0, 1]),
    r"images must be float32: .* torch.float64": with_part(0, batch(2)[0].double()),
    r"images must be float32: .* torch.float16": with_part(0, batch(2)[0].half()),
    r"images must be floats .* \(4, 4\)": with_part(0, batch(2)[0][0, 0]),
    r"images must be finite": with_part(0, batch(2)[0] * float("nan")),
    r"images must be in \[0,1\]; got .* to 1.0": with_part(0, batch(2)[0] + 0.1),
    r"images must be in \[0,1\]; got -": with_part(0, batch(2)[0] - 0.5),
    r"label must be int64 .* torch.int32": with_part(1, torch.tensor([0, 1], dtype=torch.int32)),
    r"label must be int64 .* shape \(3,\)": with_part(1, torch.tensor([0, 1, 0])),
    r"labels must be in 0\.\.1, .* got 0 to 2": with_part(1, torch.tensor([0, 2])),
    r"labels must be in 0\.\.1, .* got -1 to 0": with_part(1, torch.tensor([-1, 0])),
    r"index must be int64 .* torch.float32": with_part(2, torch.tensor([0.0, 1.0])),
    r"an index must be in 0": with_part(2, torch.tensor([-1, 1])),
    r"indices must be distinct": with_part(2, torch.tensor([4, 4])),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("evaluator", EVALUATORS[:2] + EVALUATORS[3:], ids=lambda evaluator: evaluator.name)
def test_bad_batches_are_refused_before_the_attack(evaluator, message):
    def attack(*_):
        raise AssertionError("the attack was started")

    if isinstance(evaluator, Attacked):
        evaluator = Attacked(attack, LINF)
    with pytest.raises(ValueError, match=message):
        evaluator(Noisy(), BAD[message])


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"Trainer\(inference_mode=False\)"):
        Clean()(network(), batch(2))


def test_a_bare_network_is_refused():
    with pytest.raises(ValueError, match=r"classifier must be a Classifier; got Linear\. Wrap"):
        Clean()(nn.Linear(2, 2), batch(2))


def test_a_module_that_declares_its_randomness_is_no_classifier():
    module = nn.Linear(2, 2)
    module.randomised = False
    with pytest.raises(ValueError, match=r"classifier must be a Classifier; got Linear\. Wrap"):
        Clean()(module, batch(2))
    with pytest.raises(ValueError, match=r"classifier must be a Classifier; got Linear\. Wrap"):
        RobustTask(module, [Clean()])


@pytest.mark.parametrize("logits", [torch.zeros(2), torch.zeros(3, 2), torch.full((2, 2), float("nan"))])
def test_odd_logits_are_refused(logits):
    class Odd(Classifier):
        def forward(self, image, noise=None):
            return logits

    with pytest.raises(ValueError, match="logits"):
        Clean()(Odd(), batch(2))


def nan_pixel(image):
    adv = image.clone()
    adv[1, 0, 0, 0] = float("nan")
    return adv


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda image: (image + 0.2).clamp(0, 1), r"left ThreatModel\(Linf.* on 2 of 2 images.*distance 0\.2"),
        (lambda image: image + 0.05 * torch.tensor([0.0, 2.1]).view(2, 1, 1, 1), "on 1 of 2 images, worst at index 1"),
        (nan_pixel, "on 1 of 2 images, worst at index 1: distance nan"),
        (lambda image: image[:1], r"returned torch.float32 of shape \(1, 1, 4, 4\)"),
        (lambda image: image.double(), "returned torch.float64"),
        (lambda image: image * 0 - 0.01, "left"),
    ],
)
def test_an_attack_outside_its_budget_is_an_error(returned, message):
    image, label, index = batch(2)
    whole = (image * 0.5 + 0.1, label, index)
    with pytest.raises(ValueError, match=message):
        Attacked(lambda classifier, image, *_: returned(image), LINF)(network(), whole)


def test_an_attack_that_writes_into_its_input_cannot_fool_the_check():
    def attack(classifier, image, label, threat, noise):
        return image.add_(0.3).clamp_(0, 1)

    with pytest.raises(ValueError, match="left ThreatModel"):
        Attacked(attack, LINF)(network(), batch(2))


@pytest.mark.parametrize(
    "settings", [{"draws": 0}, {"seed": -1}, {"seed": 2**63}, {"name": ""}], ids=lambda settings: next(iter(settings))
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Clean(**settings)
    with pytest.raises(ValueError, match="keep_images"):
        Attacked(PGD(), LINF, keep_images=-1)
