"""A fingerprint changes with everything that decides a record, and with nothing else."""

import hashlib
import json

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import EDMDenoiser
from common.networks import SmallCNN
from common.records.fingerprint import identify, weights_hash
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.transfer import Transfer
from common.robustness.certification.forecast import Forecast
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import NetworkClassifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.threats.norm_ball import ThreatModel
from ndc.bounded import BoundedDiffusionClassifier


def classifier(seed=0):
    torch.manual_seed(seed)
    return NetworkClassifier(SmallCNN(num_classes=10, in_channels=1))


def run(network=None, attack=None, eps=0.1, **settings):
    evaluator = Attacked(attack or PGD(steps=20), ThreatModel("inf", eps), **settings)
    return identify({"classifier": network or classifier(), "evaluators": [evaluator]})[0]


def test_equal_runs_are_equal_and_speed_does_not_count():
    assert run() == run()
    assert run(attack=PGD(steps=20, chunk=8)) == run()
    assert run(keep_images=3) == run()
    assert run(limit=3) == run()
    frozen = classifier().freeze()
    assert run(frozen) == run()


@pytest.mark.parametrize(
    "change",
    [
        {"attack": PGD(steps=21)}, {"attack": PGD(steps=20, eot=2)}, {"eps": 0.11}, {"draws": 3}, {"seed": 1},
        {"network": classifier(1)}, {"network": nn.Sequential(nn.Flatten(), nn.Linear(4, 2))},
        {"attack": Transfer(classifier(0), PGD(steps=20))},
    ],
)  # fmt: skip
def test_every_setting_and_every_weight_counts(change):
    assert run(**change) != run()


def test_a_limit_counts_where_it_decides_numbers():
    """An evaluator's says how many images it sees; a certifier's how many samples, a classifier's where it is cut."""
    denoiser = EDMDenoiser(nn.Identity(), num_classes=10)
    cut = [identify({"classifier": BoundedDiffusionClassifier(denoiser, 10, limit=at)})[0] for at in (0.1, 5.0, None)]
    seen = [
        identify({"evaluators": [Certified(Forecast(0.25, n=10_000, limit=limit))]})[0] for limit in (150, 1500, None)
    ]
    assert len({*cut}) == len({*seen}) == 3
    fewer = [identify({"evaluators": [Certified(Smoothing(0.25), limit=limit)]})[0] for limit in (2, None)]
    assert fewer[0] == fewer[1]


def test_weights_hidden_in_an_evaluator_count():
    """The source of a transfer attack lies in an evaluator, which is no module."""
    attacks = [Transfer(classifier(seed), PGD(steps=20)) for seed in (0, 1)]
    assert run(attack=attacks[0]) != run(attack=attacks[1])


VALUES = torch.arange(12.0).reshape(3, 4)
STORED = {  # the same values in memory of another order, type or length
    "transposed": (VALUES.t().contiguous().t(), VALUES),
    "every second column": (VALUES.repeat_interleave(2, 1)[:, ::2], VALUES),
    "expanded": (torch.tensor([[2.0]]).expand(3, 4), torch.full((3, 4), 2.0)),
    "one expanded value": (torch.tensor(2.0).expand(1), torch.tensor([2.0])),
    "no value": (torch.empty(0, 3)[:, ::2], torch.empty(0, 2)),
    "bool": (torch.tensor([[True, False]]).t(), torch.tensor([[True], [False]])),
    "bfloat16": (VALUES.bfloat16().t().contiguous().t(), VALUES.bfloat16()),
    "conjugate": (torch.tensor([1 + 2j, 3j]).conj(), torch.tensor([1 - 2j, complex(0, -3)])),
    "negative view": (torch.tensor([1 + 2j, 3j]).conj().imag, torch.tensor([-2.0, -3.0])),
    "sparse": (VALUES.to_sparse(), VALUES),
}


@pytest.mark.parametrize(("tensor", "plain"), STORED.values(), ids=STORED)
def test_equal_values_have_one_hash_however_they_are_stored(tensor, plain):
    parts = [nn.Module(), nn.Module()]
    for part, value in zip(parts, (tensor, plain), strict=True):
        part.register_buffer("value", value)
    assert weights_hash(parts[0]) == weights_hash(parts[1])
    assert identify({"kernel": tensor}) == identify({"kernel": plain})
    if plain.numel():
        parts[1].value = ~plain if plain.dtype is torch.bool else plain + 1
        assert weights_hash(parts[0]) != weights_hash(parts[1])


def test_the_hash_is_that_of_names_types_shapes_and_row_major_values():
    module = nn.Module()
    module.register_buffer("value", VALUES)
    expected = hashlib.sha256(b"value torch.float32 (3, 4)" + VALUES.numpy().tobytes()).hexdigest()
    assert weights_hash(module) == expected


def test_the_description_is_plain_json_with_one_hash_per_nest():
    _, description = identify({"classifier": classifier()})
    assert json.loads(json.dumps(description)) == description
    assert description["classifier"]["weights"] == weights_hash(classifier())
    assert "weights" not in description["classifier"]["network"]
