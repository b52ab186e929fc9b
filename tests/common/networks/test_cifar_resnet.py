"""The CIFAR ResNet: torchvision's ResNet-50 with another stem, and the tensor names of PyTorch's CIFAR models."""

import pytest
import torch
import torchvision
from torch import nn

from common.checkpoints.loading import load_classifier
from common.checkpoints.saving import save
from common.hub.published import load_weights
from common.networks import CIFARResNet
from common.robustness.classifiers import NetworkClassifier


def reference(**options):
    """torchvision's bottleneck network with a 3x3 stem of stride 1 and no pooling."""
    network = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, num_classes=10, **options)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def renamed(state):
    return {name.replace("downsample", "shortcut").replace("fc.", "linear."): value for name, value in state.items()}


def test_resnet50_has_23_5_million_parameters():
    """23,520,842: the stem 1,856; by stage 215,808, 1,219,584, 7,098,368 and 14,964,736; the linear layer 20,490."""
    with torch.device("meta"):
        network = CIFARResNet()
    assert sum(p.numel() for p in network.parameters()) == 23_520_842
    stages = [sum(p.numel() for p in getattr(network, f"layer{i}").parameters()) for i in (1, 2, 3, 4)]
    assert stages == [215_808, 1_219_584, 7_098_368, 14_964_736]


def test_names_are_those_of_the_pytorch_models():
    with torch.device("meta"):
        names = list(CIFARResNet().state_dict())
    assert len(names) == 320  # 53 convolutions, 53 norms of 5 tensors, weight and bias of the last layer
    assert names[0] == "conv1.weight" and names[-2:] == ["linear.weight", "linear.bias"]
    block = {name.removeprefix("layer3.0.") for name in names if name.startswith("layer3.0.")}
    convolutions = {"conv1.weight", "conv2.weight", "conv3.weight", "shortcut.0.weight"}
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert block == convolutions | {f"{norm}.{n}" for norm in ("bn1", "bn2", "bn3", "shortcut.1") for n in norms}
    assert not any(name.startswith("layer3.1.shortcut") for name in names)


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (1, 2, 1, 1)])
def test_outputs_equal_those_of_torchvision(blocks, awake):
    theirs = awake(reference(layers=list(blocks)))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    ours = CIFARResNet(blocks=blocks).eval()
    ours.load_state_dict(renamed(theirs.state_dict()), strict=True)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-6)  # the same sums in float32


def test_it_survives_our_format(tmp_path):
    classifier = NetworkClassifier(CIFARResNet(7, (1, 1, 1, 1)), [0.4914, 0.4822, 0.4465], [0.2, 0.2, 0.2]).eval()
    again = load_classifier(save(classifier, tmp_path / "resnet.safetensors"))
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(image), classifier(image))


@pytest.mark.parametrize("blocks", [(3, 4, 6), (3, 0, 6, 3)])
def test_other_shapes_are_refused(blocks):
    with pytest.raises(ValueError, match=r"four numbers of at least 1|each of blocks must be"):
        CIFARResNet(blocks=blocks)


BASIC = {(2, 2, 2, 2): 11_173_962, (3, 4, 6, 3): 21_282_122}  # ResNet-18 and 34, as published with the PyTorch models


@pytest.mark.parametrize("blocks", BASIC)
def test_resnet18_and_34_have_basic_blocks(blocks):
    with torch.device("meta"):
        network = CIFARResNet(blocks=blocks, block="basic")
        theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(blocks), num_classes=10)
    assert sum(p.numel() for p in network.parameters()) == BASIC[blocks]
    assert list(network.state_dict()) == list(renamed(theirs.state_dict()))
    assert network.config == {"num_classes": 10, "blocks": list(blocks), "in_channels": 3, "block": "basic"}


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (2, 1, 1, 1)])
def test_outputs_of_basic_blocks_equal_those_of_torchvision(blocks, awake, tmp_path):
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(blocks), num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs = awake(theirs)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    torch.save(
        {"net": {f"module.{name}": value for name, value in renamed(theirs.state_dict()).items()}}, tmp_path / "a"
    )
    ours = load_weights(CIFARResNet(blocks=blocks, block="basic"), tmp_path / "a")
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-6)  # the same sums in float32
        again = load_classifier(save(NetworkClassifier(ours), tmp_path / "a.safetensors"))
        torch.testing.assert_close(again(image), ours(image))


@pytest.mark.parametrize("block", ["Basic", "preact", 1, None])
def test_other_blocks_are_refused(block):
    with pytest.raises(ValueError, match="block must be one of bottleneck, basic"):
        CIFARResNet(block=block)
