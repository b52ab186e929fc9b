"""Purifiers made of purifiers, on Gaussian data where one denoising is an affine map."""

import math

import pytest
import torch

from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.purifiers import DiffusionPurifier, Purifier
from common.diffusion.schedules import EDM
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.classifiers import NetworkClassifier, Purified

F64 = torch.float64
MEAN, STD = 0.2, 0.5
NOISE = Noise.of(3, torch.tensor([8, 1, 5]))
SHAPE = (1, 4, 4)


def one_step(sigma: float, gradient: str = "checkpoint") -> DiffusionPurifier:
    """Diffuse to sigma, then the posterior mean."""
    denoiser = ExactDenoiser(GaussianMixture(torch.full((1, *SHAPE), MEAN, dtype=F64), STD))
    return DiffusionPurifier(denoiser, EDM(), sigma, steps=1, solver="ddim", gradient=gradient, t_end=0.0)


def two_modes(sigma: float, gradient: str = "checkpoint", side: int = 4) -> DiffusionPurifier:
    """Something whose gradient is not constant."""
    means = torch.stack((torch.full((1, side, side), -0.3, dtype=F64), torch.full((1, side, side), 0.4, dtype=F64)))
    denoiser = ExactDenoiser(GaussianMixture(means, 0.5))
    return DiffusionPurifier(denoiser, EDM(), sigma, steps=2, gradient=gradient, t_end=0.01)


def by_hand(image: torch.Tensor, sigma: float, noise: Noise) -> torch.Tensor:
    """The conjugate posterior mean of x0 ~ N(MEAN, STD^2) seen with noise sigma, in pixels."""
    x = 2 * image - 1 + sigma * noise.normal(0, SHAPE).to(F64)
    return ((STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2) + 1) / 2


def logits(purified: torch.Tensor) -> torch.Tensor:
    features = purified.flatten(1)
    weight = torch.linspace(-2, 2, 3 * features.shape[1], dtype=features.dtype).sin().view(-1, 3)
    return torch.tanh(features @ weight)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(0))


class Spy(Purifier):
    """Leaves the image as it is and remembers whose noise it was given."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, image, noise=None):
        self.seen.append(noise.seed)
        return image

    diffuse = forward


def test_chain(image):
    expected = image
    for k, sigma in enumerate((0.1, 0.4)):
        expected = by_hand(expected, sigma, NOISE.stream(f"stage {k}"))
    chain = Chain([one_step(0.1), one_step(0.4)])
    torch.testing.assert_close(chain(image, NOISE), expected, rtol=0, atol=1e-12)
    diffused = image + 0.05 * NOISE.stream("stage 0").normal(0, SHAPE).to(F64)
    torch.testing.assert_close(chain.diffuse(image, NOISE), diffused, rtol=0, atol=1e-12)


def test_repeated(image):
    """With shrinkage a = s^2 / (s^2 + sigma^2) and n rounds, mean and variance of the result are those of an AR(1)."""
    expected = image
    for k in range(3):
        expected = by_hand(expected, 0.3, NOISE.stream(f"round {k}"))
    repeated = Repeated(one_step(0.3), 3)
    assert repeated(image, NOISE).shape == image.shape
    torch.testing.assert_close(repeated(image, NOISE), expected, rtol=0, atol=1e-12)
    once = Repeated(one_step(0.3), 1)
    assert torch.equal(once(image, NOISE), one_step(0.3)(image, NOISE.stream("round 0")))
    assert torch.equal(once.diffuse(image, NOISE), one_step(0.3).diffuse(image, NOISE.stream("round 0")))


def test_rounds_are_independent():
    """Many rounds forget the start: the stationary variance of x <- a (x + sigma z) is (a sigma)^2 / (1 - a^2).

    Were the noise of the rounds the same, it would be (a sigma / (1 - a))^2, here 3.7 times as much. Over 3 x 16
    pixels and 400 draws the standard error of a variance is 1 %; the bound is 5 of them.
    """
    sigma = 0.4
    a = STD**2 / (STD**2 + sigma**2)
    noise = NOISE.draws(400)
    x = 2 * Repeated(one_step(sigma), 12)(torch.rand(1200, *SHAPE, dtype=F64), noise) - 1
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float((x - MEAN).square().mean()) == pytest.approx((a * sigma) ** 2 / (1 - a**2), rel=0.05)


def test_no_two_stages_share_noise_however_they_are_nested(image):
    seen: list[int] = []
    spy = Spy(seen)
    nested = Chain([Chain([spy, Repeated(spy, 2)]), Repeated(Chain([spy, spy]), 2), spy])
    assert torch.equal(nested(image, NOISE), image)
    assert len(seen) == len(set(seen)) == 8


def test_resizing_is_bilinear_between_pixel_centres():
    seen = []

    class Look(Spy):
        def forward(self, image, noise=None):
            seen.append(image)
            return image

        diffuse = forward

    image = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=F64).view(1, 1, 2, 2)
    noise = Noise.of(0, torch.arange(1))
    resized = Resized(Look([]), 4)
    back = resized(image, noise)
    assert seen[0][0, 0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 4
    assert back[0, 0].tolist() == [[0.125, 0.875]] * 2  # each pixel is the mean of the four nearest
    assert torch.equal(resized.diffuse(image, noise), back)
    assert Resized(Look([]), (6, 3))(image, noise).shape == image.shape
    assert seen[-1].shape == (1, 1, 6, 3)


def test_resizing_to_the_same_size_is_nothing(image):
    assert torch.equal(Resized(one_step(0.2), 4)(image, NOISE), one_step(0.2)(image, NOISE))


def test_fixed_noise_is_the_same_for_every_image(image):
    fixed = FixedNoise(one_step(0.3), seed=9)
    expected = by_hand(image, 0.3, Noise.of(9, torch.zeros(3, dtype=torch.int64)))
    torch.testing.assert_close(fixed(image, NOISE), expected, rtol=0, atol=1e-12)
    assert torch.equal(fixed(image), fixed(image, Noise.of(77, torch.arange(3))))
    assert torch.equal(fixed(image[1:2]), fixed(image)[1:2])
    assert torch.equal(fixed.diffuse(image), one_step(0.3).diffuse(image, Noise.of(9, torch.zeros(3).long())))
    classifier = NetworkClassifier(torch.nn.Flatten())
    assert not Purified(fixed, classifier).randomised
    assert Purified(one_step(0.3), classifier).randomised


@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
@pytest.mark.parametrize(
    "make",
    [
        lambda g: Chain([two_modes(0.3, g), one_step(0.4, g)]),
        lambda g: Repeated(two_modes(0.3, g), 2),
        lambda g: Resized(two_modes(0.3, g, side=6), 6),
        lambda g: FixedNoise(two_modes(0.3, g)),
    ],
    ids=["chain", "repeated", "resized", "fixed"],
)
def test_image_to_logits(make, gradient, image):
    purifier = make(gradient)
    torch.autograd.gradcheck(lambda x: logits(purifier(x, NOISE)), image.requires_grad_())


def test_gradient_of_a_chain_of_identities_is_the_identity(image):
    """BPDA in each of three rounds."""
    (gradient,) = torch.autograd.grad(Repeated(one_step(0.3, "bpda"), 3)(image.requires_grad_(), NOISE).sum(), image)
    assert torch.equal(gradient, torch.ones_like(image))


def test_gradient_of_repeated_shrinking(image):
    """a^n in closed form."""
    a = STD**2 / (STD**2 + 0.3**2)
    (gradient,) = torch.autograd.grad(Repeated(one_step(0.3), 3)(image.requires_grad_(), NOISE).sum(), image)
    torch.testing.assert_close(gradient, torch.full_like(image, a**3), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Chain([two_modes(0.3), one_step(0.4)]),
        lambda: Repeated(two_modes(0.3), 2),
        lambda: Resized(two_modes(0.3, side=6), 6),
        lambda: FixedNoise(two_modes(0.3)),
    ],
    ids=["chain", "repeated", "resized", "fixed"],
)
def test_rows_do_not_depend_on_their_batch(make, image):
    purifier = make()
    rows = torch.cat([purifier(image[b : b + 1], NOISE.rows(slice(b, b + 1))) for b in (2, 0, 1)])
    torch.testing.assert_close(rows, purifier(image, NOISE)[[2, 0, 1]], rtol=0, atol=1e-12)
    assert make()(image).shape == image.shape  # noise of its own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chain([]), "at least one purifier"),
        (lambda: Repeated(one_step(0.1), 0), "rounds must be an integer >= 1"),
        (lambda: Resized(one_step(0.1), 0), "size must be"),
        (lambda: Resized(one_step(0.1), (4, -1)), "size must be"),
        (lambda: FixedNoise(one_step(0.1), -1), "seed must be an integer in 0"),
        (lambda: Chain([one_step(0.1)])(torch.rand(2, *SHAPE), NOISE), "a row of noise per image"),
    ],
)
def test_impossible_compositions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_round_is_not_clamped():
    """Between rounds the state is handed on as it is, like the reference: values beyond [0,1] survive."""
    far = torch.full((3, *SHAPE), 3.0, dtype=F64)
    a = STD**2 / (STD**2 + 0.01**2)
    x = MEAN + a**2 * (2 * far - 1 - MEAN)
    assert math.isclose(float(Repeated(one_step(0.01), 2)(far, NOISE).mean()), float((x.mean() + 1) / 2), abs_tol=0.01)
