"""Denoised smoothing: a denoiser before any classifier of clean images, so that smoothing may certify it."""

import torch

from common.checks.settings import check_count, check_noise_level, check_size
from common.diffusion.denoisers import Denoiser, check_denoiser
from common.diffusion.differentiation import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP, Schedule, check_schedule
from common.diffusion.solvers import DDIM, Solver, as_solver
from common.robustness.classifiers import Classifier, ClassifierWrapper, Purified
from common.robustness.voting import Voting
from common.units import parse_number, sigma_to_model
from ndc.levels import check_input_level


class Denoising(DiffusionPurifier):
    """Reverse process that starts from the noise of its input: pixels with noise of ``sigma`` to pixels.

        sigma(t*) = 2 sigma,    x_{t*} = s(t*) (2 image - 1),    then ``steps`` solver steps down to t = 0.

    It adds no noise: the certifier has. One step is one call of the denoiser, the posterior mean
    D(2 image - 1, 2 sigma), for any solver and schedule. Everything else is as in `DiffusionPurifier`; ``diffuse``
    gives x_{t*}.

    Raises ``ValueError`` for a ``sigma`` outside of the denoiser's range, and as `DiffusionPurifier` does.
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
        level = sigma_to_model(check_noise_level("sigma, the noise in the image,", sigma))
        check_denoiser("denoiser", denoiser)
        check_size("steps", steps)
        as_solver(solver)  # of one step it has no effect
        check_input_level(denoiser, level)
        schedule = VP() if schedule is None else check_schedule("schedule", schedule)
        t_star = float(schedule.time(torch.tensor(level, dtype=torch.float64)))
        super().__init__(denoiser, schedule, t_star, steps, DDIM() if steps == 1 else solver, gradient, t_end=0.0)
        self.randomised = self.solver.stochastic


class DenoisedClassifier(ClassifierWrapper):
    """Classifier of images with noise of ``sigma`` (pixels): denoise, then classify. For use with `Smoothing`.

    - **Diffusion-denoised smoothing**: ``steps=1``, ``votes=1``. One call of the denoiser at the level of the noise,
      then the classifier; deterministic. Source: Carlini et al., arXiv 2206.10550.
    - **DensePure-style voting**: ``steps`` of the reverse process from the noisy image, ``votes`` times with
      independent noise, and the majority class of the denoised images. Source: Xiao et al., arXiv 2211.00322.

    All random numbers come from the image's row of ``noise``, independent of the image and of the other rows, so that
    `Smoothing` may certify it for the probability over both. A published sampler clips the denoised image: pass
    ``Clipped(denoiser)`` for that. A call has images x votes rows; if that is too many, lower the smoothing's
    ``batch_size``.

    Args:
        denoiser: called without a label.
        classifier: classifies the denoised images; usually trained on clean images.
        sigma: PIXEL standard deviation of the noise in the image; that of `Smoothing`.
        steps: calls of the denoiser per denoised image.
        votes: denoised images per prediction; `Voting` defines the logits.
        solver, gradient, schedule: as for `Denoising`.

    Raises ``ValueError`` as `Denoising` does, and for several votes without randomness.
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
        check_count("votes", votes)
        purified = Purified(Denoising(denoiser, sigma, steps, solver, gradient, schedule), classifier)
        if votes > 1 and not purified.randomised:
            raise ValueError(
                f"{votes} votes need randomness, else they are all the same: use more steps of a stochastic solver"
            )
        super().__init__(purified if votes == 1 else Voting(purified, votes))
        self.sigma = parse_number(sigma)
