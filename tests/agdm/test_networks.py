"""Guidance networks: one pass, time by FiLM, images apart, files that load again and can be trained on."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from agdm.networks import AdaptedNetwork, Film, GuidanceNetwork
from common.checkpoints.loading import load_network
from common.checkpoints.saving import save
from common.networks import SmallCNN, TimmNetwork, WideResNet
from common.robustness.classifiers import NetworkClassifier
from common.units import to_pixel

SILU = {"act_layer": "silu"}


def small(**options):
    return GuidanceNetwork(3, 10, width=8, strides=(1, 2), **options)


def wide(time=True):
    return AdaptedNetwork(WideResNet(10, 1, activation="silu", norm="group"), time, film="bn2")


def resnet(time=True):
    return AdaptedNetwork(TimmNetwork("test_resnet", 10, options=SILU), time, film="bn1")


def convnext(time=True):
    return AdaptedNetwork(TimmNetwork("test_convnext", 10, options={"act_layer": "silu"}), time)


MADE = {"small": small, "wide": wide, "timm resnet": resnet, "timm convnext": convnext}


@pytest.fixture
def x():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def stirred(network):
    """FiLM layers start at zero; here they are not."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for film in (part for part in network.modules() if isinstance(part, Film)):
            film.weight.copy_(0.3 * torch.randn(film.weight.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_latent_and_logits_come_from_one_pass(make, x):
    phi = make().eval()
    runs = []
    phi.register_forward_hook(lambda *_: runs.append(1))
    latent, logits = phi(x, torch.tensor(0.3))
    assert logits.shape == (3, 10) and latent.ndim == 2 and len(latent) == 3
    (head,) = [part for name, part in phi.named_modules() if isinstance(part, nn.Linear) and part.out_features == 10]
    torch.testing.assert_close(head(latent), logits)  # the latent is all that the logits are made of


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_time_enters_by_film_that_starts_at_zero(make, x):
    """Untrained, φ is that of x / √(1+σ²) at any other time; with FiLM awake, times differ, per image."""
    phi, sigma = make().eval(), torch.tensor([0.0, 0.5, 2.0])
    scaled = x * (1 + sigma[:, None, None, None] ** 2).sqrt()  # each of these states is x inside
    still = phi(x, torch.tensor(0.0))
    torch.testing.assert_close(phi(scaled, sigma), still, rtol=1e-4, atol=1e-5)
    moved = stirred(phi)(scaled, sigma)[1]
    once = phi(x, torch.tensor(0.0))[1]
    torch.testing.assert_close(moved[0], once[0], rtol=1e-4, atol=1e-5)
    assert (moved - once)[1:].abs().amax(1).min() > 1e-4
    alone = torch.cat([phi(scaled[i : i + 1], sigma[i : i + 1])[1] for i in range(3)])
    torch.testing.assert_close(alone, moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_without_time_sigma_is_ignored(make, x):
    phi = make(time=False).eval()
    assert not any(isinstance(part, Film) for part in phi.modules())
    for level in (0.0, 3.0):
        assert torch.equal(phi(x, torch.tensor(level))[1], phi(x, torch.zeros(3))[1])


@pytest.mark.parametrize("make", [wide, resnet])
def test_guidance_may_be_differentiated_twice(make):
    """Second derivatives of a potential, as an attack needs them, agree with finite differences in float64."""
    phi = stirred(make()).double().requires_grad_(False)
    at = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    way = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def slope(x):
        latent, logits = phi(x, torch.tensor(0.2, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(latent.square().sum() + logits.logsumexp(1).sum(), x, create_graph=True)
        return (gradient * way).sum()

    x = at.clone().requires_grad_()
    (second,) = torch.autograd.grad(slope(x), x)
    h = 1e-4  # differences err by h^2 times a fourth derivative, and by 1e-16 / h
    ahead, behind = (slope((at + sign * h * way).requires_grad_()) for sign in (1, -1))
    expected = ((ahead - behind) / (2 * h)).item()
    assert (second * way).sum().item() == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 1e-6


def test_any_classifier_is_a_network_without_time(x):
    """The latent of ``SmallCNN`` is its mean of features, and its logits are those of the classifier of pixels."""
    body = SmallCNN(10, width=8)
    classifier = NetworkClassifier(body, mean=[0.5] * 3, std=[0.2] * 3).eval()
    latent, logits = AdaptedNetwork(classifier)(x, torch.tensor(1.0))
    image = to_pixel(x)
    assert torch.equal(logits, classifier(image))
    torch.testing.assert_close(latent, body.features((image - 0.5) / 0.2).mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [wide, resnet, convnext])
def test_an_untrained_film_changes_nothing(make, x):
    """φ at time σ is the network of x / √(1+σ²), to the last bit: scales and shifts are zero."""
    phi, scaled = make().eval(), x / (1 + torch.tensor(0.7) ** 2).sqrt()
    assert len(phi.films) > 2
    assert torch.equal(phi(x, torch.tensor(0.7))[1], phi.network(to_pixel(scaled)))


def test_hooks_are_removed_after_a_pass(x):
    phi = wide().eval()
    with pytest.raises(RuntimeError):
        phi(x[:, :2], torch.tensor(0.0))  # two channels instead of three
    phi(x, torch.tensor(0.0))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in phi.modules())


@pytest.mark.parametrize("make", [*MADE.values(), lambda: small(time=False)], ids=[*MADE, "small, no time"])
def test_a_file_gives_the_network_back_trainable(make, x, tmp_path):
    phi = stirred(make())
    again = load_network(save(phi, tmp_path / "phi.safetensors"))
    for one, two in zip(phi(x, torch.tensor(0.4)), again(x, torch.tensor(0.4)), strict=True):
        assert torch.equal(one, two)
    assert all(parameter.requires_grad for parameter in again.parameters())
    again.train()(x, torch.tensor(0.4))[1].sum().backward()


def test_files_that_name_the_old_module_still_load(tmp_path, x):
    phi = small()
    path = save(phi, tmp_path / "new.safetensors")
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["robust_diffusion"]
    assert json.loads(text)["class"] == "agdm.GuidanceNetwork"
    assert "time" not in json.loads(text)["config"]
    old = {"robust_diffusion": text.replace("agdm.networks", "agdm.guidance")}
    save_file(load_file(path), tmp_path / "old.safetensors", metadata=old)
    again = load_network(tmp_path / "old.safetensors")
    assert type(again) is GuidanceNetwork
    assert torch.equal(again(x, torch.tensor(0.1))[1], phi.eval()(x, torch.tensor(0.1))[1])


def test_a_resnet_of_timm_keeps_small_images(x):
    """Stride 8 instead of 32: a 32x32 image is 4x4 before the mean, as in CIFAR's ResNet-18 with 11.17 M parameters."""
    network = TimmNetwork("resnet18", 10, options=SILU, small_images=True).eval()
    assert network.model.forward_features(x).shape == (3, 512, 4, 4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962
    assert not any(isinstance(part, nn.ReLU) for part in network.modules())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptedNetwork(nn.Conv2d(3, 3, 1)), "head must name a linear layer"),
        (lambda: AdaptedNetwork(SmallCNN(10), head="tail"), "head must name a linear layer.*'tail'"),
        (lambda: AdaptedNetwork(SmallCNN(10), time=True, film="bn9"), "film must match the name"),
        (
            lambda: AdaptedNetwork(WideResNet(10, 1), time=True, film="("),
            r"film must be a regular expression; got '\('",
        ),
        (lambda: AdaptedNetwork(WideResNet(10, 1), time=True, time_dim=0), "time_dim must be an integer >= 1; got 0"),
        (lambda: WideResNet(10, 1, norm="layer"), "norm must be one of"),
        (lambda: WideResNet(10, 1, activation="tanh"), "activation must be one of"),
        (lambda: TimmNetwork("test_convnext", 10, small_images=True), "small_images"),
    ],
)
def test_invalid_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
