"""The training objective of φ: its terms, its adversary and its noise."""

import pytest
import torch
from torch import nn

from agdm.networks import GuidanceNetwork
from agdm.objective import DIFFUSION, OTHER, START, Trades, draw_sigma
from common.diffusion.schedules import VP
from common.noise import Noise
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.spatial import SpatialThreat
from common.units import to_model

SHAPE = (1, 4, 4)


@pytest.fixture
def batch():
    """Eight images with room for L-inf 0.1 on either side, labels, noise levels (half of them zero) and noise."""
    image = 0.2 + 0.6 * torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    return image, torch.arange(8) % 3, sigma, Noise(7, torch.arange(8) * 5, torch.full((8,), 2))


def unmoved(network, image, sigma, noise):
    return image


def test_half_of_the_levels_are_zero_and_times_are_uniform():
    """4,000 rows: the share of zeros is 0.5 +- 0.024, and the mean of t / t_max 0.5 +- 0.02, both at three sigma."""
    schedule, rows = VP(), Noise.of(0, torch.arange(4000))
    sigma = draw_sigma(rows, schedule, t_max=0.12)
    assert abs((sigma == 0).float().mean() - 0.5) < 0.024
    t = schedule.time(sigma[sigma > 0]) / 0.12
    assert 0 < t.min() < 0.01
    assert 0.99 < t.max() <= 1 + 1e-4
    assert abs(t.mean() - 0.5) < 0.02
    assert abs(t.square().mean() - 1 / 3) < 0.02
    assert (draw_sigma(rows, schedule, 0.12, clean=0.0) > 0).all()


def test_noise_belongs_to_image_and_epoch(linear, batch):
    """A row's loss is the same in any batch, on any rank and after a resume; another epoch draws another."""
    image, label, _, noise = batch
    phi, objective, schedule = linear(16), Trades(ThreatModel("inf", 0.1), steps=3), VP()

    def loss(rows, epoch=2):
        here = Noise(7, noise.index[rows], torch.full((len(rows),), epoch))
        level = draw_sigma(here, schedule, 0.12, clean=0.2).double()
        return objective(phi, image[rows], label[rows], level, here).total.detach()

    everything = loss(torch.arange(8))
    torch.testing.assert_close(loss(torch.tensor([6, 1])), everything[[6, 1]], rtol=1e-12, atol=0)
    assert (loss(torch.arange(8), epoch=3) - everything).abs().min() > 1e-6


def test_both_branches_share_their_noise(linear, batch, monkeypatch):
    """An adversary that does nothing leaves the same diffused image, hence a divergence of exactly zero."""
    objective = Trades(ThreatModel("inf", 0.1))
    monkeypatch.setattr(objective, "craft", unmoved)
    image, label, sigma, noise = batch
    losses = objective(linear(16), image, label, sigma, noise)
    assert torch.equal(losses.robust, torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(losses.total, losses.natural)


def test_terms_of_a_linear_network_by_hand(linear, batch, monkeypatch):
    """natural = -log p_y(x_t), robust = KL(p(x_t) || p(x_t')), λ = 4; x_t in the model frame, where δ counts twice."""
    image, label, sigma, noise = batch
    phi, delta = linear(16), 0.05 * torch.ones(SHAPE, dtype=torch.float64)
    objective = Trades(ThreatModel("inf", 0.1), weight=4.0)
    monkeypatch.setattr(objective, "craft", lambda network, image, sigma, noise: image + delta)
    losses = objective(phi, image, label, sigma, noise)
    z = noise.normal(DIFFUSION, SHAPE, torch.float64)
    for b in range(8):
        xt = (2 * image[b] - 1 + sigma[b] * z[b]).flatten()
        p, q = (((1 + sigma[b]) * (phi.W @ v)).softmax(0) for v in (xt, xt + 2 * delta.flatten()))
        natural, robust = -p[label[b]].log(), sum(p[k] * (p[k] / q[k]).log() for k in range(3))
        torch.testing.assert_close(losses.natural[b], natural)
        torch.testing.assert_close(losses.robust[b], robust)
        torch.testing.assert_close(losses.total[b], natural + 4 * robust)


@pytest.mark.parametrize(("norm", "eps"), [("inf", 0.1), (2, 0.5), (1, 1.5)])
def test_adversary_stays_in_the_budget_and_raises_the_divergence(linear, batch, norm, eps):
    image, _, sigma, noise = batch
    image = image.clone()
    image[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    threat, phi = ThreatModel(norm, eps), linear(16)
    objective = Trades(threat, steps=10)
    adv = objective.craft(phi, image, sigma, noise)
    assert threat.check(image, adv).all()
    assert not adv.requires_grad
    start = threat.project(image, image + 1e-3 * noise.normal(START, SHAPE, torch.float64))
    reached, begun = (divergence(phi, image, x, sigma, noise) for x in (adv, start))
    assert (reached > 100 * begun).all()


def divergence(phi, image, adv, sigma, noise):
    n = sigma[:, None, None, None] * noise.normal(DIFFUSION, SHAPE, torch.float64)
    log_p, log_q = (phi(to_model(x) + n, sigma)[1].log_softmax(1).detach() for x in (image, adv))
    return (log_p.exp() * (log_p - log_q)).sum(1)


def test_adversary_reaches_an_optimum_of_a_linear_network(linear, batch):
    """Two classes, L-inf: the divergence is convex in the logit difference, so its maxima are the two corners
    x +- eps sign(w_1 - w_0); started next to x, the ascent ends in one of them, and knows the noise it attacks."""
    image, _, sigma, noise = batch
    phi, eps = linear(16, classes=2), 0.1
    adv = Trades(ThreatModel("inf", eps), steps=10).craft(phi, image, sigma, noise)
    corner = eps * (phi.W[1] - phi.W[0]).sign().view(SHAPE)
    reached = torch.stack([(adv - image - sign * corner).flatten(1).abs().amax(1) for sign in (-1, 1)]).amin(0)
    assert reached.max() < 1e-12


def test_adversary_runs_in_eval_mode_and_restores_training(batch):
    """Dropout is off while crafting and on again afterwards; parameters get no gradient and stay trainable."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3), nn.Softplus()).double()
            self.layers[1].eval()  # a part that its owner keeps in eval mode

        def forward(self, x, sigma):
            assert self.layers[0].training is self.expected
            return x, self.layers(x)

    image, _, sigma, noise = batch
    phi, objective = Dropping(), Trades(ThreatModel("inf", 0.1), steps=3)
    phi.expected = False
    torch.testing.assert_close(objective.craft(phi, image, sigma, noise), objective.craft(phi, image, sigma, noise))
    assert [layer.training for layer in phi.layers] == [True, False, True, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in phi.parameters())
    with torch.no_grad():
        objective.craft(phi, image, sigma, noise)


def test_weight_zero_is_standard_training_without_an_adversary(linear, batch, monkeypatch):
    image, label, sigma, noise = batch
    objective = Trades(ThreatModel("inf", 0.1), weight=0.0)
    monkeypatch.setattr(objective, "craft", None)
    losses = objective(linear(16), image, label, sigma, noise)
    assert torch.equal(losses.total, losses.natural)
    assert not losses.robust.any()


def test_objective_falls_and_the_network_becomes_robust():
    """Left half bright against right half bright, 0.5 apart, of which a budget of 0.15 can take 0.3."""
    torch.manual_seed(0)
    label = torch.arange(64) % 2
    image = 0.25 + 0.1 * torch.randn(64, *SHAPE)
    image[label == 0, :, :, :2] += 0.5
    image[label == 1, :, :, 2:] += 0.5
    image.clamp_(0, 1)
    phi, objective = GuidanceNetwork(1, 2, width=8, strides=(1, 2)), Trades(ThreatModel("inf", 0.15), steps=3)
    optimizer, history = torch.optim.Adam(phi.parameters(), 1e-2), []
    for step in range(40):
        noise = Noise(0, torch.arange(64), torch.full((64,), step))
        loss = objective(phi, image, label, draw_sigma(noise, VP(), 0.12), noise).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-5:]) / 5 < 0.3 * sum(history[:5]) / 5
    zero = torch.zeros(64)
    adv = objective.craft(phi, image, zero, Noise.of(9, torch.arange(64)))
    assert (phi(to_model(adv), zero)[1].argmax(1) == label).float().mean() > 0.9


def test_independent_noise_costs_even_without_an_adversary(linear, batch, monkeypatch):
    """With a noise of its own the attacked branch differs where σ > 0 and nowhere else, by as much as by hand."""
    image, label, sigma, noise = batch
    phi, objective = linear(16), Trades(ThreatModel("inf", 0.1), shared_noise=False)
    monkeypatch.setattr(objective, "craft", unmoved)
    losses = objective(phi, image, label, sigma, noise)
    assert torch.equal(losses.robust[:4], torch.zeros(4, dtype=torch.float64))
    branches = []
    for step in (DIFFUSION, OTHER):
        x = to_model(image) + sigma[:, None, None, None] * noise.normal(step, SHAPE, torch.float64)
        branches.append(phi(x, sigma)[1].softmax(1))
    p, q = branches
    torch.testing.assert_close(losses.robust, (p * (p / q).log()).sum(1))
    assert losses.robust[4:].min() > 1e-3


def test_adversary_uses_the_noise_of_its_own_branch(linear, batch):
    """Two classes: the divergence from p(x + σ n) of the image diffused by n' has its maximum over δ in one of the two
    corners, and the adversary of independent noise finds the larger, or stays on the side where it began."""
    image, _, sigma, noise = batch
    phi, eps = linear(16, classes=2), 0.1
    objective = Trades(ThreatModel("inf", eps), shared_noise=False)
    adv = objective.craft(phi, image, sigma, noise)
    corner = eps * (phi.W[1] - phi.W[0]).sign().view(SHAPE)
    n, other = (sigma[:, None, None, None] * noise.normal(step, SHAPE, torch.float64) for step in (DIFFUSION, OTHER))
    p = phi(to_model(image) + n, sigma)[1].softmax(1)

    def gap(x):
        return (p * (p / phi(to_model(x) + other, sigma)[1].softmax(1)).log()).sum(1).detach()

    found, start = gap(adv), gap(image)
    assert (found > start).all()
    best = torch.maximum(gap(image + corner), gap(image - corner))
    torch.testing.assert_close(found[4:], best[4:])


def test_the_adversary_may_raise_the_cross_entropy(linear, batch):
    """Two classes: its maximum over an L-inf ball is the corner against the label, whatever the noise."""
    image, _, sigma, noise = batch
    phi, eps, label = linear(16, classes=2), 0.1, torch.arange(8) % 2
    objective = Trades(ThreatModel("inf", eps), inner="cross_entropy")
    adv = objective.craft(phi, image, sigma, noise, label)
    corner = eps * (phi.W[1] - phi.W[0]).sign().view(SHAPE) * (1 - 2.0 * label)[:, None, None, None]
    torch.testing.assert_close(adv, image + corner)
    assert (objective(phi, image, label, sigma, noise).robust > 0).all()
    with pytest.raises(ValueError, match="needs the labels"):
        objective.craft(phi, image, sigma, noise)


@pytest.mark.parametrize(("norm", "eps"), [("inf", 0.1), (2, 0.4), (1, 0.4)])
def test_adversary_is_near_the_optimum_in_every_norm(linear, batch, norm, eps):
    """Two classes: the divergence grows with |<w, δ>| on either side, whose largest value in a ball that no edge
    cuts is eps times the dual norm of w. Without diffusion; 99 % is what the ten steps of any norm reach at least."""
    image, _, _, noise = batch
    phi, image = linear(16, classes=2), 0.5 + 0.2 * (image - 0.5)  # 0.44 of room for every pixel
    w = (phi.W[1] - phi.W[0]).detach()
    dual = {"inf": w.abs().sum(), 2: w.norm(), 1: w.abs().max()}[norm]
    adv = Trades(ThreatModel(norm, eps), steps=10).craft(phi, image, torch.zeros(8, dtype=torch.float64), noise)
    reached = ((adv - image).flatten(1) @ w).abs() / (eps * dual)
    assert reached.max() <= 1 + 1e-6
    assert reached.min() > 0.99


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"weight": value} for value in (-1.0, NAN, INF)),
        *({"steps": value} for value in (0, NAN)),
        *({"step_size": value} for value in (0.0, NAN, INF, "-1/255")),
    ],
)
def test_impossible_settings_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"^{name}( of the inner maximum)? must be "):
        Trades(ThreatModel("inf", 0.1), **wrong)


def test_a_step_may_be_written_as_a_ratio():
    assert Trades(ThreatModel("inf", "8/255"), step_size="2/255").step_size == 2 / 255


@pytest.mark.parametrize("threat", [SpatialThreat(0.1), "inf"])
def test_a_threat_without_a_ball_is_refused(threat):
    with pytest.raises(ValueError, match="adversarial training attacks within a norm"):
        Trades(threat)


def test_an_unknown_inner_loss_is_refused():
    with pytest.raises(ValueError, match="inner must be one of kl, cross_entropy"):
        Trades(ThreatModel("inf", 0.1), inner="dlr")
