"""Certifiable without diffusion classifiers: denoise what smoothing has noised, then ask an ordinary classifier."""

import math

import torch

from common.diffusion.denoisers import Denoiser
from common.diffusion.gradients import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP, Schedule
from common.diffusion.solvers import DDIM, Solver
from common.robustness.classifiers import Classifier, ClassifierWrapper, Purified
from common.robustness.voting import Voting
from common.units import parse_number, sigma_to_model
from ndc.levels import check_input_level


class Denoising(DiffusionPurifier):
    """The reverse process of an image that has its noise already: pixels with noise of ``sigma`` to pixels.

        sigma(t*) = 2 sigma,    x_{t*} = s(t*) (2 image - 1),    then ``steps`` solver steps down to t = 0.

    None is added, so it starts where the certifier's noise has put the image. One step is one call of the denoiser,
    the posterior mean D(2 image - 1, 2 sigma), whatever the solver and the schedule. The rest is as in
    `DiffusionPurifier`, and ``diffuse`` gives x_{t*}.

    Raises ``ValueError`` for a ``sigma`` that the denoiser is not meant for, and as `DiffusionPurifier` does.
    """

    adds_noise = False

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float | str,
        steps: int = 1,
        solver: str | Solver = "ancestral",
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
    ) -> None:
        level = sigma_to_model(parse_number(sigma))
        if not 0 < level < math.inf:
            raise ValueError(f"sigma, the noise in the image, must be above 0, in pixel units; got {sigma}")
        check_input_level(denoiser, level)
        schedule = VP() if schedule is None else schedule
        t_star = float(schedule.time(torch.tensor(level, dtype=torch.float64)))
        super().__init__(denoiser, schedule, t_star, steps, DDIM() if steps == 1 else solver, gradient, t_end=0.0)
        self.randomised = self.solver.stochastic


class DenoisedClassifier(ClassifierWrapper):
    """Any classifier as one of images with noise of ``sigma`` (pixels), by denoising them first: to be smoothed.

    - **Diffusion-denoised smoothing**: ``steps=1``, ``votes=1``. One call of the denoiser at the level of the noise,
      then the classifier; deterministic. Source: Carlini et al., arXiv 2206.10550.
    - **DensePure-style voting**: ``steps`` of the reverse process from the noisy image, ``votes`` times with noise of
      their own, and the class that most of the clean images are put into. Source: Xiao et al., arXiv 2211.00322.

    The random numbers come from the noise that is handed in, a row per image, and so depend on neither the image nor
    its neighbours: `Smoothing` may certify it, for the probability over both. A published sampler clips the denoised
    image: hand in ``Clipped(denoiser)`` for that. A call has images x votes rows; where that is too much, lower the
    smoothing's ``batch_size``.

    Args:
        denoiser: asked without a label.
        classifier: what sees the denoised images; trained on clean ones, as a rule.
        sigma: PIXEL standard deviation of the noise in the image; that of `Smoothing`.
        steps: calls of the denoiser for one clean image.
        votes: clean images for one answer; see `Voting` for what its logits are.
        solver, gradient, schedule: as for `Denoising`.

    Raises ``ValueError`` as `Denoising` does, and for several votes that would all be the same.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: Classifier,
        sigma: float | str,
        steps: int = 1,
        votes: int = 1,
        solver: str | Solver = "ancestral",
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
    ) -> None:
        purified = Purified(Denoising(denoiser, sigma, steps, solver, gradient, schedule), classifier)
        if votes > 1 and not purified.randomised:
            raise ValueError(
                f"{votes} votes need randomness, else they are all the same: more steps of a solver that draws noise"
            )
        super().__init__(purified if votes == 1 else Voting(purified, votes))
        self.sigma = parse_number(sigma)
