"""Every adapter, fed with the prediction that its network should make, is the exact posterior mean."""

import math

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser, VDenoiser, X0Denoiser
from common.diffusion.schedules import DDPM, EDM, VP
from common.diffusion.wrappers import ClassifierFree
from common.exact import ExactDenoiser, GaussianMixture

F64 = torch.float64
VP_TIME, TABLE = VP(), DDPM().sigmas


@pytest.fixture
def mixture() -> GaussianMixture:
    means = torch.randn(4, 3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    return GaussianMixture(means, 0.2, labels=torch.tensor([0, 1, 2, 0]))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(2))


class Body(nn.Module):
    """A perfect network: sigma from its time label, the scaling undone, the requested target predicted."""

    def __init__(self, mixture: GaussianMixture, sigma_of: object, predicts: str, variance: bool = False) -> None:
        super().__init__()
        self.mixture, self.sigma_of, self.predicts, self.variance = mixture, sigma_of, predicts, variance

    def forward(self, u: torch.Tensor, time_label: torch.Tensor) -> torch.Tensor:
        self.time_label = time_label
        sigma = self.sigma_of(time_label)
        level = sigma.view(-1, 1, 1, 1)
        s = 1 / (1 + level**2).sqrt()
        x0 = self.mixture.denoiser(u / s, sigma)
        n = (u / s - x0) / level
        prediction = {"eps": n, "v": s * n - s * level * x0, "x0": x0}[self.predicts]
        return torch.cat((prediction, torch.tanh(u)), 1) if self.variance else prediction


def continuous(label: torch.Tensor) -> torch.Tensor:
    return VP_TIME.sigma(label / 999)


def table(label: torch.Tensor) -> torch.Tensor:
    assert label.dtype == torch.int64
    return TABLE[label]


def fractional(label: torch.Tensor) -> torch.Tensor:
    return DDPM().sigma((label + 1) / 1000)


LEVELS = torch.tensor([0.05, 0.34, 1.0, 3.0, 60.0], dtype=F64)


@pytest.mark.parametrize(("adapter", "predicts"), [(EpsDenoiser, "eps"), (VDenoiser, "v"), (X0Denoiser, "x0")])
@pytest.mark.parametrize(
    ("rounding", "sigma_of", "sigma"),
    [
        ("continuous", continuous, LEVELS),
        ("interpolate", fractional, LEVELS),
        ("nearest", table, TABLE[[0, 99, 149, 499, 999]]),
    ],
)
def test_body_to_denoiser(mixture, x, adapter, predicts, rounding, sigma_of, sigma):
    denoiser = adapter(Body(mixture, sigma_of, predicts), rounding=rounding)
    torch.testing.assert_close(denoiser(x, sigma), mixture.denoiser(x, sigma), rtol=1e-8, atol=1e-8)


def test_conventions_of_published_networks(mixture, x):
    sigma = torch.tensor([0.340, 0.5, 1.0, 2.0, 0.1], dtype=F64)
    score_sde = EpsDenoiser.score_sde(Body(mixture, continuous, "eps"))
    torch.testing.assert_close(score_sde(x, sigma), mixture.denoiser(x, sigma), rtol=1e-8, atol=1e-8)
    assert score_sde.network.time_label[:4].tolist() == pytest.approx([99.9, 144.8, 258.7, 396.6], abs=0.5)
    assert (score_sde.sigma_min, score_sde.sigma_max) == pytest.approx((1.0005e-3, 152.167), rel=1e-3)
    guided = EpsDenoiser.guided_diffusion(Body(mixture, table, "eps", variance=True))
    levels = TABLE[[75, 100, 500, 10, 3]]
    torch.testing.assert_close(guided(x, levels), mixture.denoiser(x, levels), rtol=1e-8, atol=1e-8)
    assert guided.network.time_label.tolist() == [75, 100, 500, 10, 3]
    assert guided.sigma_min == pytest.approx(float(TABLE[0]))


@pytest.mark.parametrize("rounding", ["nearest", "interpolate"])
@pytest.mark.parametrize(("adapter", "predicts"), [(EpsDenoiser, "eps"), (X0Denoiser, "x0")])
def test_rescaled_indices_of_a_cosine_schedule(mixture, x, adapter, predicts, rounding):
    """Improved diffusion: 4000 cosine levels (arXiv 2102.09672, eq. 17), labelled 0, 0.25, 0.5, ..."""
    f = [math.cos((i / 4000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(4001)]
    sigmas = torch.tensor([math.sqrt(f[0] / value - 1) for value in f[1:-1]], dtype=F64)

    def sigma_of(label):
        assert label.dtype == F64
        return sigmas[(4 * label).round().long()]

    body = Body(mixture, sigma_of, predicts)
    denoiser = adapter(body, DDPM(4000, betas="cosine"), rounding, index_scale=0.25)
    levels = sigmas[[0, 1, 777, 2000, 3990]]
    torch.testing.assert_close(denoiser(x, levels), mixture.denoiser(x, levels), rtol=1e-7, atol=1e-7)
    assert body.time_label.tolist() == pytest.approx([0, 0.25, 194.25, 500, 997.5], abs=1e-4)


def test_rounding_touches_the_label_alone():
    """Between two trained levels the input has unit variance and D subtracts sigma, not sigma_i, times eps."""

    class Spy(nn.Module):
        def forward(self, u, time_label):
            self.u, self.time_label = u, time_label
            return torch.ones_like(u)

    sigma = 0.6 * TABLE[500] + 0.4 * TABLE[501]
    x = torch.ones(1, 1, 2, 2, dtype=F64) * (1 + sigma**2).sqrt()
    spy = Spy()
    denoised = EpsDenoiser(spy)(x, sigma)
    torch.testing.assert_close(spy.u, torch.ones_like(x))
    assert spy.time_label.tolist() == [500]
    torch.testing.assert_close(denoised, x - sigma)


@pytest.mark.parametrize("sigma", [LEVELS, torch.tensor(0.7, dtype=F64)])
def test_edm_preconditioning(x, sigma):
    """A network that predicts nothing leaves c_skip x, the exact denoiser of N(0, sigma_d^2 I)."""

    class Zero(nn.Module):
        def forward(self, u, c_noise, class_labels):
            self.u, self.c_noise, self.class_labels = u, c_noise, class_labels
            return torch.zeros_like(u)

    network = Zero()
    denoiser = EDMDenoiser(network, sigma_data=0.4)
    exact = GaussianMixture(torch.zeros(1, 3, 2, 2, dtype=F64), 0.4)
    torch.testing.assert_close(denoiser(x, sigma), exact.denoiser(x, sigma))
    torch.testing.assert_close(network.c_noise, sigma.log().expand(5) / 4)
    expected = x / (0.16 + sigma.view(-1, 1, 1, 1) ** 2).sqrt()
    torch.testing.assert_close(network.u, expected)
    assert network.class_labels is None


def test_edm_output_scale(mixture, x):
    """The ideal F = (x0 - c_skip x)/c_out makes D exact; F reads sigma from c_noise, the class from its one-hot."""

    class Ideal(nn.Module):
        def forward(self, u, c_noise, class_labels):
            sigma = (4 * c_noise).exp()
            level = sigma.view(-1, 1, 1, 1)
            x = u * (level**2 + 0.25).sqrt()
            ideal = mixture.denoiser(x, sigma, class_labels.argmax(1))
            return (ideal - x * 0.25 / (level**2 + 0.25)) * (level**2 + 0.25).sqrt() / (0.5 * level)

    sigma, label = LEVELS, torch.tensor([0, 1, 2, 1, 0])
    denoiser = EDMDenoiser(Ideal(), num_classes=3)
    torch.testing.assert_close(denoiser(x, sigma, label), mixture.denoiser(x, sigma, label), rtol=1e-8, atol=1e-8)


def test_class_labels(x):
    class Spy(nn.Module):
        def forward(self, u, c_noise, class_labels):
            self.class_labels = class_labels
            return u

    spy = Spy()
    denoiser = EDMDenoiser(spy, num_classes=3)
    denoiser(x, torch.tensor(1.0), torch.tensor([0, 1, 2, -1, 1]))
    assert spy.class_labels.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert spy.class_labels.dtype == F64
    denoiser(x, torch.tensor(1.0))
    assert spy.class_labels.shape == (5, 3)
    assert not spy.class_labels.any()
    for outside in (3, -2):
        with pytest.raises(IndexError):
            denoiser(x, torch.tensor(1.0), torch.full((5,), outside))
    with pytest.raises(ValueError, match="takes no label"):
        EDMDenoiser(spy)(x, torch.tensor(1.0), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_guidance_with_the_posterior_is_the_conditional_denoiser(mixture, x, sigma):
    """D + sigma^2 grad log p(y | x) = D(., y): Bayes' rule under Tweedie's formula."""
    level, label = torch.full((5,), sigma, dtype=F64), torch.tensor([0, 1, 2, 1, 0])

    x = x.clone().requires_grad_()
    log_posterior = mixture.bayes_logits(x, level).gather(1, label[:, None])
    (gradient,) = torch.autograd.grad(log_posterior.sum(), x)
    guided = mixture.denoiser(x, level) + sigma**2 * gradient
    torch.testing.assert_close(guided, mixture.denoiser(x, level, label), rtol=1e-9, atol=1e-9)


def test_classifier_free(mixture, x):
    level, label = torch.tensor(0.5, dtype=F64), torch.tensor([0, 1, 2, 1, 0])
    without, given = mixture.denoiser(x, level), mixture.denoiser(x, level, label)
    for weight, expected in ((0.0, without), (1.0, given), (3.0, 3 * given - 2 * without)):
        denoiser = ClassifierFree(ExactDenoiser(mixture), weight)
        torch.testing.assert_close(denoiser(x, level, label), expected)
        torch.testing.assert_close(denoiser(x, level), without)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EpsDenoiser(nn.Identity(), rounding="floor"),
        lambda: EpsDenoiser(nn.Identity(), VP(), "nearest"),
        lambda: EpsDenoiser(nn.Identity(), EDM(), "interpolate"),
        lambda: EpsDenoiser(nn.Identity(), index_scale=0.0),
        lambda: EDMDenoiser(nn.Identity(), sigma_data=0.0),
        lambda: EDMDenoiser(nn.Identity(), sigma_min=2.0, sigma_max=1.0),
        lambda: EDMDenoiser(nn.Identity(), num_classes=0),
        lambda: ClassifierFree(EDMDenoiser(nn.Identity())),
    ],
)
def test_impossible_denoisers_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|needs"):
        make()
