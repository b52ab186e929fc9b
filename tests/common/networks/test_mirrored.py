"""Mean of the logits over an image and its mirror image."""

import torch

from common.checkpoints.loading import load_classifier
from common.checkpoints.saving import save
from common.networks import Mirrored, WhitenedConvNet
from common.noise import Noise
from common.robustness.classifiers import NetworkClassifier

X = Noise.of(3, torch.arange(4)).uniform(0, (1, 32, 32), torch.float64)


def test_the_mean_over_both_in_evaluation_and_the_network_alone_in_training():
    network = WhitenedConvNet(in_channels=1, widths=[8]).double()
    mirrored = Mirrored(network).eval()
    mean = (network(X) + network(torch.flip(X, [3]))) / 2
    torch.testing.assert_close(mirrored(X), mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(mirrored(X.flip(3)), mirrored(X), rtol=0, atol=1e-12)
    assert not torch.allclose(mirrored(X), network(X), atol=1e-6)
    torch.testing.assert_close(mirrored.train()(X), network(X), rtol=0, atol=0)


def test_a_mirrored_classifier_is_saved_and_loaded(tmp_path):
    classifier = NetworkClassifier(Mirrored(WhitenedConvNet(in_channels=1, widths=[8]))).eval()
    save(classifier, tmp_path / "classifier.safetensors")
    loaded = load_classifier(tmp_path / "classifier.safetensors").eval()
    assert torch.equal(loaded(X.float()), classifier(X.float()))
