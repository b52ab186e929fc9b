"""Pieces of a benchmark: bare networks, and what the project does with them."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.diffusion.denoising_loss import edm_loss
from common.engine.engine import Engine
from common.experiments.benchmarks.subject import CLASSES, Subject, part
from common.experiments.benchmarks.timing import Piece
from common.robustness.attacks.pgd import PGD
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, Purified
from common.robustness.threats.norm_ball import ThreatModel

NETWORK, NETWORK_GRADIENT, TRAINING = "network", "network, input gradient", "network, weight gradients"
GUIDANCE, GUIDANCE_GRADIENT, GUIDANCE_SECOND = "φ", "φ, input gradient", "φ, second derivative"
CLASSIFIER, CLASSIFIER_GRADIENT = "classifier", "classifier, input gradient"
T_STAR, NODES, EOT = 0.1, 4, 2
SAMPLES = 12  # of a certification
LEVEL = 0.3  # noise level of bare evaluations, model frame


def bare(subject: Subject) -> list[Piece]:
    """One call of each network on the whole batch, by itself; the denoiser's is first."""
    x, sigma = 2 * subject.image, subject.image.new_full((len(subject.image),), LEVEL)
    network = subject.guidance.network

    def denoise(leaf: Tensor) -> Tensor:
        denoised: Tensor = subject.denoiser(leaf, sigma)
        return denoised

    def latent(leaf: Tensor) -> Tensor:
        outputs = network(leaf, sigma)
        squares: Tensor = outputs[0].square().sum(1) + outputs[1].square().sum(1)
        return squares

    def second() -> None:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(latent(leaf).sum(), leaf, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), leaf)

    def trained() -> None:
        _learned(subject, lambda: denoise(x).square().mean())

    works: dict[str, Callable[[], object]] = {
        NETWORK: lambda: _plain(denoise, x),
        NETWORK_GRADIENT: lambda: _gradient(denoise, x),
        TRAINING: trained,
        GUIDANCE: lambda: _plain(latent, x),
        GUIDANCE_GRADIENT: lambda: _gradient(latent, x),
        GUIDANCE_SECOND: second,
        CLASSIFIER: lambda: _plain(subject.classifier, subject.image),
        CLASSIFIER_GRADIENT: lambda: _gradient(subject.classifier, subject.image),
    }
    return [Piece(name, work, {}) for name, work in works.items()]


def ours(subject: Subject, steps: int) -> list[Piece]:
    """Purifications of ``steps`` steps, their gradients, attack, certification, guidance and a training step."""
    image, x = subject.image, 2 * subject.image
    sigma = image.new_full((len(image),), LEVEL)
    return [
        *_purifications(subject, steps),
        *_guided(subject, steps),
        Piece(
            "guidance of a step",
            lambda: subject.guidance.gradient(x, sigma, x),
            {GUIDANCE_GRADIENT: 1, GUIDANCE: 1},
        ),
        _certification(subject),
        Piece(
            "training step",
            lambda: _learned(subject, lambda: edm_loss(subject.denoiser, image, sigma, x, subject.label).mean()),
            {TRAINING: 1},
        ),
    ]


def _purifications(subject: Subject, steps: int) -> list[Piece]:
    """DiffPure, its gradient in both exact modes, and a step of an attack on it."""
    image, noise, count = subject.image, subject.noise, len(subject.image)
    settings = {"denoiser": subject.denoiser, "t_star": T_STAR, "steps": steps}
    recomputed, kept = (part("DiffPure", **settings, gradient=mode) for mode in ("checkpoint", "full"))
    defence = Purified(kept, subject.classifier).freeze()
    few = max(1, count // EOT)
    attacked = (image[:few], subject.label[:few], ThreatModel("inf", "8/255"), noise.rows(slice(0, few)))
    attack, share = PGD(steps=1, eot=EOT, random_start=False), few * EOT / count
    both = {NETWORK_GRADIENT: steps * share, CLASSIFIER_GRADIENT: share, NETWORK: steps * share, CLASSIFIER: share}
    return [
        Piece("purification", lambda: _plain(recomputed, image, noise), {NETWORK: steps}),
        Piece(
            "its gradient, recomputed",
            lambda: _gradient(recomputed, image, noise),
            {NETWORK: steps, NETWORK_GRADIENT: steps},
        ),
        Piece("its gradient, kept", lambda: _gradient(kept, image, noise), {NETWORK_GRADIENT: steps}),
        Piece("attack step with EOT", lambda: attack(defence, *attacked), both),  # and the loss where it leads to
    ]


def _guided(subject: Subject, steps: int) -> list[Piece]:
    """AGDM and its recomputed gradient, which differentiates the guidance."""
    settings = {"denoiser": subject.denoiser, "t_star": T_STAR, "steps": steps}
    guided = part("AGDM", **settings, guidance=subject.guidance, scale=1.0)
    forward = {NETWORK: steps, GUIDANCE_GRADIENT: steps, GUIDANCE: 1}
    backward = {NETWORK: steps, GUIDANCE_GRADIENT: steps + 1, NETWORK_GRADIENT: steps, GUIDANCE_SECOND: steps}
    return [
        Piece("guided purification", lambda: _plain(guided, subject.image, subject.noise), forward),
        Piece("its gradient", lambda: _gradient(guided, subject.image, subject.noise), backward),
    ]


def around(subject: Subject) -> list[Piece]:
    """Loading a batch, and the start of a command: no network runs."""
    images = subject.image.cpu().repeat(4, 1, 1, 1)
    data = part("InMemory", images=images, labels=subject.label.cpu().repeat(4), batch_size=len(subject.image))
    return [
        Piece("loading a batch", lambda: next(iter(data.test_dataloader())), {}),
        Piece("start of a command", lambda: _python("import common.commands.lightning_commands"), {}),
    ]


def _certification(subject: Subject) -> Piece:
    """APNDC on one image by smoothing, in calls of as many rows as the batch has."""
    engine = Engine(batch_size=len(subject.image))
    classifier: Classifier = part(
        "NoisedDiffusionClassifier",
        denoiser=subject.denoiser, num_classes=CLASSES, sigma=0.25, nodes=NODES, engine=engine,
    )  # fmt: skip
    smoothing = Smoothing(0.25, n0=SAMPLES // 3, n=SAMPLES - SAMPLES // 3, alpha=0.01, num_classes=CLASSES)
    rows = SAMPLES * (classifier.evaluations or 0)
    first = slice(0, 1)
    return Piece(
        "certification",
        lambda: smoothing.certify(classifier, subject.image[first], subject.noise.rows(first)),
        {NETWORK: rows / len(subject.image)},
    )


def _plain(function: Callable[..., Tensor], image: Tensor, *given: object) -> None:
    with torch.no_grad():
        function(image, *given)


def _gradient(function: Callable[..., Tensor], image: Tensor, *given: object) -> None:
    leaf = image.clone().requires_grad_()
    torch.autograd.grad(function(leaf, *given).square().sum(), leaf)


def _learned(subject: Subject, loss: Callable[[], Tensor]) -> None:
    weights: Sequence[Tensor] = list(subject.denoiser.parameters())
    subject.denoiser.requires_grad_(True)
    try:
        torch.autograd.grad(loss(), weights, allow_unused=True)
    finally:
        subject.denoiser.requires_grad_(False)


def _python(text: str) -> None:
    subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
