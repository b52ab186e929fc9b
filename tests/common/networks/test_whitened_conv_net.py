"""The classifier with a whitening first layer: statistics of that layer, size, storage in half precision."""

import pytest
import torch

from common.checkpoints.loading import load_classifier
from common.checkpoints.saving import save
from common.networks import WhitenedConvNet
from common.robustness.classifiers import NetworkClassifier


def smooth_images(count=64):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear").clamp(0, 1)


def test_the_default_has_two_million_parameters_and_gives_logits():
    net = WhitenedConvNet()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert 1.9e6 < sum(p.numel() for p in net.parameters()) < 2.1e6


def test_whitened_patches_are_centred_and_uncorrelated():
    net, images = WhitenedConvNet(widths=[8]), smooth_images()
    net.whiten(images, floor=0.0)
    with torch.no_grad():
        response = net.whitening(images)[:, :12].permute(1, 0, 2, 3).flatten(1).double()
    assert response.mean(1).abs().max() < 1e-2
    assert torch.allclose(response.cov(), torch.eye(12, dtype=torch.float64), atol=1e-2)


def test_the_second_half_of_the_filters_is_the_negative_of_the_first():
    net = WhitenedConvNet(widths=[8])
    net.whiten(smooth_images())
    response = net.whitening(torch.rand(2, 3, 32, 32))
    assert torch.allclose(response[:, :12], -response[:, 12:], atol=1e-4)


def test_the_first_layers_weight_is_not_trained():
    trained = {name for name, p in WhitenedConvNet().named_parameters() if p.requires_grad}
    assert "whitening.weight" not in trained
    assert "whitening.bias" in trained


def test_half_precision_storage_loads_as_single(tmp_path):
    classifier = NetworkClassifier(WhitenedConvNet(widths=[8, 16])).eval()
    image = torch.rand(4, 3, 32, 32)
    expected = classifier(image)
    loaded = load_classifier(save(classifier.half(), tmp_path / "half.safetensors"))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.allclose(loaded(image), expected, atol=1e-2)


def test_no_stages_are_refused():
    with pytest.raises(ValueError, match=r"widths.* must be"):
        WhitenedConvNet(widths=[])
