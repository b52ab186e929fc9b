"""The guidance network, and the gradient of its potential against closed forms of a linear network."""

import pytest
import torch

from agdm.distances import cosine, mse, relative
from agdm.guidance import AdversarialGuidance, GuidanceClassifier
from agdm.networks import GuidanceNetwork
from common.noise import Noise
from common.units import to_model

SHAPE = (1, 2, 3)
BAD = (-1.0, float("nan"), float("inf"))


def image(rows, seed=0):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed=0, **options):
    """A small φ in float64 whose time input has been trained, or at least is no longer zero."""
    torch.manual_seed(seed)
    phi = GuidanceNetwork(in_channels=1, num_classes=3, width=8, strides=(1, 2), **options).double()
    for block in phi.blocks:
        torch.nn.init.normal_(block.film.weight, std=0.3)
    return phi


def test_one_pass_gives_latent_and_logits_at_every_noise_level():
    phi = GuidanceNetwork(in_channels=3, num_classes=7, width=4, strides=(1, 2, 2))
    x = torch.randn(5, 3, 9, 8)
    for sigma in (torch.tensor(0.0), torch.tensor(80.0), torch.tensor([0.0, 1e-5, 0.3, 1.0, 1e4])):
        latent, logits = phi(x, sigma)
        assert latent.shape == (5, 12)
        assert logits.shape == (5, 7)
        assert latent.isfinite().all()
        assert logits.isfinite().all()
    assert GuidanceNetwork(**phi.config).load_state_dict(phi.state_dict())


def test_sigma_scales_the_input_and_modulates_the_features():
    """An untrained time input is ignored: only x / √(1+σ²) matters. A trained one is not."""
    x, sigma = image(4).tile(1, 1, 2, 2), torch.tensor(0.75, dtype=torch.float64)
    torch.manual_seed(0)
    fresh = GuidanceNetwork(in_channels=1, num_classes=3, width=8).double()
    torch.testing.assert_close(fresh(1.25 * x, sigma)[1], fresh(x, 0 * sigma)[1])  # 1.25 = √(1 + 0.75²)
    trained = network()
    assert (trained(1.25 * x, sigma)[1] - trained(x, 0 * sigma)[1]).abs().max() > 1e-3


def test_the_network_is_smooth():
    """Attacks need second derivatives of φ. Along a line, second differences of step 2h are 4 times those of step h
    where the function is twice differentiable, and 2 times across the kink of, say, a ReLU."""
    direction, start = image(2)
    step = torch.linspace(-2, 2, 4001, dtype=torch.float64).view(-1, 1, 1, 1)
    logits = network()(start + step * direction, torch.tensor(0.3))[1].detach()
    fine, coarse = ((logits[: -2 * k] - 2 * logits[k:-k] + logits[2 * k :]).abs().amax() for k in (1, 2))
    assert coarse / fine == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(
    "wrong", [{"num_classes": 1}, {"in_channels": 0}, {"width": 0}, {"strides": ()}, {"strides": (1, 0)}]
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be an integer >= |must be a list"):
        GuidanceNetwork(**wrong)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_gradient_of_the_potential_in_closed_form(linear, sigma):
    """d/dx of each term for latent (1+σ) A x and logits (1+σ) W x; ``reference`` at σ = 0."""
    phi, x, reference, c = linear(6), image(4), image(4, 1), 1 + sigma
    a, w = phi.A.detach(), phi.W.detach()
    flat, flat_reference = x.flatten(1), reference.flatten(1)
    p, q = (c * flat @ w.T).softmax(1), (flat_reference @ w.T).softmax(1)
    first = torch.nn.functional.one_hot((flat_reference @ w.T).argmax(1), 3)
    difference = (c * flat - flat_reference) @ a.T
    latents = {
        "mse": -2 * c * difference @ a / 5,
        "relative": -2 * c * difference @ a / (flat_reference @ a.T).square().sum(1, keepdim=True),
        "kl": c * (q - p) @ w,
    }
    labels = {"soft": c * (q - p) @ w, "hard": c * (first - p) @ w, "none": torch.zeros_like(flat)}
    for distance, towards in latents.items():
        for label, agreement in labels.items():
            guidance = AdversarialGuidance(phi, latent_scale=0.7, label_scale=3.0, label=label, distance=distance)
            found = guidance.gradient(x, torch.tensor(sigma), reference)
            torch.testing.assert_close(found.flatten(1), 0.7 * towards + 3 * agreement)
            embedding = guidance.embed(reference)
            torch.testing.assert_close(guidance.gradient_at(x, torch.tensor(sigma), *embedding), found)


def test_distances_of_known_vectors():
    a, b = torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    torch.testing.assert_close(mse(a, b), torch.tensor([16 / 3, 5 / 3]))
    torch.testing.assert_close(relative(a, b), torch.tensor([16 / 9, 5 / 4]))
    torch.testing.assert_close(cosine(a, b), torch.tensor([0.4, 1.0]))
    torch.testing.assert_close(relative(7 * a, 7 * b), relative(a, b))  # what carries over between networks


def test_potential_is_zero_and_greatest_at_the_reference(linear):
    guidance, x = AdversarialGuidance(linear(6), 2.0, 3.0), image(3)
    zero = torch.zeros((), dtype=torch.float64)
    embedding = guidance.embed(x)
    torch.testing.assert_close(guidance.log_potential(x, zero, *embedding), torch.zeros(3, dtype=torch.float64))
    assert (guidance.log_potential(x + 0.1 * image(3, 2), zero, *embedding) < 0).all()


@pytest.mark.parametrize("distance", ["mse", "relative", "cosine", "kl"])
@pytest.mark.parametrize("label", ["soft", "hard"])
def test_images_of_a_batch_are_independent(distance, label):
    guidance = AdversarialGuidance(network(), 1.0, 1.0, label, distance)
    x, reference, sigma = image(4), image(4, 1), torch.tensor([0.0, 0.1, 0.3, 0.9], dtype=torch.float64)
    together = guidance.gradient(x, sigma, reference)
    alone = [guidance.gradient(x[b : b + 1], sigma[b : b + 1], reference[b : b + 1]) for b in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", ["mse", "relative", "cosine", "kl"])
@pytest.mark.parametrize("label", ["soft", "hard", "none"])
def test_gradient_is_differentiable_in_state_and_reference(distance, label):
    guidance, sigma = AdversarialGuidance(network(), 1.0, 1.0, label, distance), torch.tensor(0.3)
    x, reference = image(2).requires_grad_(), image(2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, r: guidance.gradient(x, sigma, r), (x, reference))
    only_reference = torch.autograd.gradcheck(lambda r: guidance.gradient(x.detach(), sigma, r), (reference,))
    assert only_reference


@pytest.mark.parametrize("distance", ["mse", "relative", "cosine", "kl"])
def test_embedding_of_a_diffused_reference(linear, distance):
    """``embed`` at σ is φ of x' at σ; the gradient is zero where x is the reference."""
    guidance, x, sigma = AdversarialGuidance(linear(6), 1.0, 1.0, "soft", distance), image(3), torch.tensor(0.5)
    latent, log_p = guidance.embed(x, sigma)
    flat = 1.5 * x.flatten(1)
    torch.testing.assert_close(latent, flat @ guidance.network.A.T)
    torch.testing.assert_close(log_p, (flat @ guidance.network.W.T).log_softmax(1))
    assert guidance.gradient_at(x, sigma, latent, log_p).abs().max() < 1e-12
    assert guidance.gradient(x, sigma, x).abs().max() > 1e-2 or distance == "cosine"


def test_gradient_is_the_partial_one_where_state_and_reference_are_one_tensor(linear):
    """∇_x -|(1+σ)Ax - Ax'|²/F at x' = x is -2σ(1+σ)/F AᵀA x; differentiating through x' too would give -2σ²/F AᵀA x."""
    phi, x, sigma = linear(6), image(2).requires_grad_(), 0.5
    found = AdversarialGuidance(phi, 1.0, 0.0, "none", "mse").gradient(x, torch.tensor(sigma), x)
    expected = -2 * sigma * (1 + sigma) / 5 * x.flatten(1) @ phi.A.T @ phi.A
    torch.testing.assert_close(found.flatten(1), expected)


def test_no_graph_without_need_and_none_for_parameters():
    phi = network().train()
    guidance = AdversarialGuidance(phi)
    x, sigma = image(2), torch.tensor(0.3)
    assert not any(parameter.requires_grad for parameter in guidance.parameters())
    assert not guidance.gradient(x, sigma, x).requires_grad
    with torch.no_grad():
        inside = guidance.gradient(x.requires_grad_(), sigma, x)
    assert not inside.requires_grad
    torch.testing.assert_close(inside, guidance.gradient(x, sigma, x))
    guidance.train()
    assert guidance.training
    assert not phi.training


def test_inference_mode_is_refused_with_a_reason():
    guidance = AdversarialGuidance(network())
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode=False"):
        guidance.gradient(image(1), torch.tensor(0.3), image(1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "oracle"}, "soft"),
        ({"distance": "ssim"}, "cosine"),
        *(
            ({f"{part}_scale": value}, f"{part}_scale must be a finite number >= 0")
            for part in ("latent", "label")
            for value in BAD
        ),
    ],
)
def test_unknown_terms_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AdversarialGuidance(network(), **wrong)


def test_classifier_adds_noise_of_the_model_frame(linear):
    phi, pixels, noise = linear(6), image(3).sigmoid(), Noise.of(0, torch.tensor([5, 3, 9]))
    clean, diffused = GuidanceClassifier(phi), GuidanceClassifier(phi, 0.5)
    assert not clean.randomised
    assert diffused.randomised
    x = to_model(pixels).flatten(1)
    torch.testing.assert_close(clean(pixels), x @ phi.W.T)
    z = noise.normal(0, (6,), torch.float64)
    torch.testing.assert_close(diffused(pixels, noise), 1.5 * (x + 0.5 * z) @ phi.W.T)
    for sigma in BAD:
        with pytest.raises(ValueError, match=r"sigma.* must be a finite number >= 0"):
            GuidanceClassifier(phi, sigma)


@pytest.mark.parametrize(
    "answer",
    [
        lambda latent, logits: logits,
        lambda latent, logits: (latent, logits, logits),
        lambda latent, logits: (latent[:, :, None, None], logits),
        lambda latent, logits: (latent[:1], logits),
        lambda latent, logits: (latent, logits.float()),
        lambda latent, logits: (latent, None),
    ],
    ids=["logits alone", "three", "a map", "one row", "another type", "nothing"],
)
def test_a_network_must_give_latents_and_logits(linear, answer):
    """Of two images, too, whose logits alone would unpack as a pair."""
    phi = linear(6)

    class Other(torch.nn.Module):
        def forward(self, x, sigma):
            return answer(*phi(x, sigma))

    with pytest.raises(ValueError, match=r"φ must return \(latent .*, logits .*\) for 2 images in torch\.float64; got"):
        AdversarialGuidance(Other()).embed(image(2))


def test_outputs_in_autocast_dtype_are_accepted():
    guidance = AdversarialGuidance(network().float())
    with torch.autocast("cpu", torch.bfloat16):
        latent, log_p = guidance.embed(image(2).float())
    assert torch.bfloat16 in (latent.dtype, log_p.dtype) and log_p.isfinite().all()
