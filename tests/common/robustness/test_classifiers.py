"""Classifiers: normalisation, freezing, noise streams, padding and votes."""

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified, deployed
from common.robustness.padding import Padded, whole_batches
from common.robustness.voting import Voting


class Scripted(Classifier):
    """Logits ``table[draw]`` (n,K) for every image; counts its rows."""

    randomised = True

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))
        self.rows = 0

    def forward(self, image, noise=None):
        self.rows += len(image)
        return self.table[noise.draw]


class Jitter(nn.Module):
    """A purifier that only adds noise."""

    def forward(self, image, noise):
        return image + noise.normal(0, image.shape[1:])

    def diffuse(self, image, noise):
        return image + 2 * noise.normal(0, image.shape[1:])


class Listening(Classifier):
    def forward(self, image, noise=None):
        self.inputs = noise
        return image.flatten(1)[:, :3]


def noise(rows):
    return Noise.of(3, torch.arange(rows))


def layers():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4), nn.BatchNorm1d(4))


def test_network_classifier_normalises_per_channel():
    image = torch.rand(5, 3, 2, 2)
    logits = NetworkClassifier(nn.Flatten(), mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])(image)
    by_hand = [(image[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)])]
    torch.testing.assert_close(logits, torch.stack(by_hand, 1).flatten(1))
    assert torch.equal(NetworkClassifier(nn.Flatten())(image), image.flatten(1))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], None, "together"),
        (None, [0.5], "together"),
        ([0.5], [0.5, 0.5], "per channel"),
        ([0.5], [0.0], "each of std must be a finite number > 0"),
    ],
)
def test_incomplete_normalisation_raises(mean, std, message):
    with pytest.raises(ValueError, match=message):
        NetworkClassifier(nn.Flatten(), mean, std)


def test_frozen_stays_frozen_inside_a_training_parent():
    classifier = NetworkClassifier(layers())
    assert classifier.freeze() is classifier
    parent = nn.ModuleDict({"frozen": Purified(Jitter(), classifier), "free": NetworkClassifier(layers())})
    parent.train()
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert all(module.training for module in parent["free"].modules())
    before = classifier.network[3].running_mean.clone()
    image = torch.rand(8, 3, 2, 2)
    assert torch.equal(classifier(image), classifier(image)), "dropout is off"
    assert torch.equal(classifier.network[3].running_mean, before), "statistics do not move"


def test_freezing_a_pair_freezes_its_parts():
    pair = Purified(Jitter(), NetworkClassifier(layers())).freeze().train()
    assert not any(module.training for module in pair.modules())
    assert not any(parameter.requires_grad for parameter in pair.parameters())


def test_deployed_restores_modes_and_flags_even_after_an_error():
    classifier = NetworkClassifier(layers())
    classifier.network[1].eval()
    classifier.network[2].bias.requires_grad_(False)
    modes = [module.training for module in classifier.modules()]
    flags = [parameter.requires_grad for parameter in classifier.parameters()]

    def fail():
        with deployed(classifier):
            assert not any(module.training for module in classifier.modules())
            assert not any(parameter.requires_grad for parameter in classifier.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in classifier.modules()] == modes
    assert [parameter.requires_grad for parameter in classifier.parameters()] == flags


def test_purified_composes_and_has_views_of_both_stages():
    image, pair = torch.rand(4, 1, 2, 2), Purified(Jitter(), Listening())
    z = noise(4).normal(0, (1, 2, 2))
    assert pair.randomised
    assert torch.equal(pair(image, noise(4)), (image + z).flatten(1)[:, :3])
    views = pair.views(image, noise(4))
    assert list(views) == ["diffused", "purified"]
    assert torch.equal(views["diffused"], image + 2 * z)
    assert torch.equal(views["purified"], image + z)


def test_classifier_and_purifier_have_disjoint_noise():
    pair = Purified(Jitter(), Listening())
    pair(torch.rand(4, 1, 2, 2), noise(4))
    inputs = pair.classifier.inputs
    assert torch.equal(inputs.index, noise(4).index)
    assert inputs.seed != noise(4).seed


def test_a_deterministic_purifier_makes_a_deterministic_pair():
    class Identity(nn.Module):
        randomised = False

        def forward(self, image, noise):
            return image

    assert not Purified(Identity(), NetworkClassifier(nn.Flatten())).randomised
    assert Purified(Identity(), Scripted([[0.0, 1.0]])).randomised
    assert list(Purified(Identity(), Listening()).views(torch.rand(2, 1, 2, 2))) == ["purified"]


def test_randomised_classifier_without_noise_draws_its_own():
    image, pair = torch.rand(4, 1, 2, 2), Purified(Jitter(), Listening())
    assert not torch.equal(pair(image), pair(image))


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_padding_rows_are_discarded(size):
    class Counting(Listening):
        def forward(self, image, noise=None):
            self.rows = len(image)
            return super().forward(image, noise)

    listening, image = Counting(), torch.rand(size, 1, 2, 2, requires_grad=True)
    pair = Purified(Jitter(), listening)
    logits = Padded(pair, rows=5)(image, noise(size))
    assert listening.rows == max(size, 5)
    assert torch.equal(logits, pair(image, noise(size)))
    assert torch.equal(torch.autograd.grad(logits.sum(), image)[0][:, :, 0], torch.ones(size, 1, 2))
    assert torch.equal(Padded(pair, rows=5).views(image, noise(size))["purified"], pair.purifier(image, noise(size)))
    with pytest.raises(ValueError, match="rows must be an integer >= 1; got 0"):
        Padded(pair, rows=0)


def test_majority_beats_a_confident_minority():
    table = [[0.01, 0.0, 0.0], [0.01, 0.0, 0.0], [-50.0, 50.0, -50.0]]
    image = torch.rand(2, 1, 2, 2)
    assert Voting(Scripted(table), 3)(image, noise(2)).argmax(1).tolist() == [0, 0]
    assert Voting(Scripted(table), 3, "mean_logit")(image, noise(2)).argmax(1).tolist() == [1, 1]


def test_majority_logits_are_log_shares():
    table = [[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    logits = Voting(Scripted(table), 4)(torch.rand(1, 1, 2, 2), noise(1)).detach()
    probability = torch.tensor(table, dtype=torch.float64).softmax(1).mean(0)
    expected = ((torch.tensor([3.0, 1.0, 0.0]) + probability) / 5).log()
    torch.testing.assert_close(logits[0].double(), expected, atol=1e-5, rtol=1e-5)
    assert float(logits.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("table", "winner"),
    [
        ([[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]], 2),  # one vote each: the higher mean probability
        ([[0.0, 3.0, 0.0], [0.0, 0.0, 1.0]], 1),
        ([[0.0, 2.0, 1.0], [0.0, 1.0, 2.0]], 1),  # equal in everything: the lower index
    ],
)
def test_ties_are_broken_by_mean_probability_then_index(table, winner):
    assert int(Voting(Scripted(table), 2)(torch.rand(1, 1, 2, 2), noise(1)).argmax(1)) == winner


def test_gradients_flow_through_a_vote():
    classifier = Scripted([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    Voting(classifier, 3)(torch.rand(1, 1, 2, 2), noise(1))[0, 0].backward()
    assert bool((classifier.table.grad != 0).all())


def test_votes_are_independent_of_the_batch():
    voting = Voting(Purified(Jitter(), Listening()), 5)
    image = torch.rand(4, 1, 2, 2)
    together = voting(image, noise(4))
    parts = [voting(image[b : b + 1], noise(4).rows(slice(b, b + 1))) for b in range(4)]
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=0)
    assert torch.equal(voting.views(image, noise(4))["purified"], image + noise(4).draws(5).normal(0, (1, 2, 2))[::5])


def test_deterministic_classifier_is_evaluated_once():
    classifier = Scripted([[0.0, 1.0]])
    classifier.randomised = False
    voting = Voting(classifier, 7)
    voting(torch.rand(3, 1, 2, 2), noise(3))
    assert classifier.rows == 3
    assert not voting.randomised


def test_invalid_votes_raise():
    with pytest.raises(ValueError, match="draws must be an integer >= 1; got 0"):
        Voting(Scripted([[0.0]]), 0)
    with pytest.raises(ValueError, match="majority, mean_logit; got 'median'"):
        Voting(Scripted([[0.0]]), 2, "median")


class Sizes(Classifier):
    """It notes the number of images of each call."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image, noise=None):
        self.seen.append(len(image))
        return image.flatten(1)[:, :3].exp()


def test_calls_are_halved_down_to_the_least_rows():
    """Beginning with half of the largest call so far, whatever limit was set; the logits are those of one call."""
    sizes = Sizes()
    padded, image = Padded(sizes, rows=16), torch.rand(100, 1, 2, 2)
    assert not padded.halve()  # nothing was called yet
    logits = padded(image)
    assert padded.halve() and padded.at_once == 50
    padded.at_once = 4096  # of an engine, far above what ever came
    halved = []
    while padded.halve():
        sizes.seen.clear()
        assert torch.equal(padded(image), logits)
        halved.append(padded.at_once)
        assert max(sizes.seen) == padded.at_once
    assert halved == [50, 25, 16]
    with whole_batches():
        padded(image)
    assert sizes.seen[-1] == 100


def test_halved_calls_are_recomputed_for_their_gradient():
    """So one call bounds the memory: each runs again in the backward pass."""
    sizes = Sizes()
    padded, image = Padded(sizes, rows=16), torch.rand(64, 1, 2, 2, requires_grad=True)
    (whole,) = torch.autograd.grad(padded(image).square().sum(), image)
    assert len(sizes.seen) == 1
    padded.halve()
    (gradient,) = torch.autograd.grad(padded(image).square().sum(), image)
    assert sizes.seen[1:] == [32] * 4 and torch.equal(gradient, whole)
