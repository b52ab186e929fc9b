"""DiffPure's two theorems in numbers, over t*: curves for the figure of a study that varies t*."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.checks.images import check_pixels
from common.checks.settings import check_number, check_positive, check_sequence
from common.diffusion.schedules import VP, Schedule, check_schedule
from common.exact import GaussianMixture
from common.experiments.curves import Curves
from common.noise import Noise
from common.units import to_model, to_pixel
from diffpure.divergence import kl_divergence, paired_kl_bound, random_sign_kl_bound
from diffpure.reconstruction import drift_integral, mean_reconstruction_bound, noise_radius, reconstruction_bound

DELTA = 0.05  # of the reconstruction bound
DRAWS = 64  # of an estimate, and as many opposite ones
BATCH = 64  # images that are purified at once
Lines = dict[str, list[float | None]]


def theory_curves(
    images: Tensor,
    eps: float,
    t_star: Sequence[float],
    purifiers: Mapping[float, nn.Module] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
) -> Curves:
    """Divergence of the diffused laws and distance of the purified image, at each time of ``t_star``, ascending.

    ``images`` (N,C,H,W) are pixels in [0,1]. The attack adds a random sign, +-``eps`` in pixels, to each number without
    clipping: the largest Euclidean norm within L-infinity ``eps``. ``schedule`` is the purifier's, by default `VP`.

    Divergence in nats, see `diffpure.divergence`: the bound for any attack, the estimate for these N images, and the
    bound for attacks that ignore the image, as random signs do. Distance as the root mean square over the numbers of an
    image in [-1,1], see `diffpure.reconstruction`: the mean bound for the exact score; theorem 3.2 at probability 95 %
    without its C_s term; the mean that ``purifiers``, by t*, reach on the attacked images; the mean between two images.

        data = Folder("~/data/cifar10-jpeg", subset=Balanced(), test_images=256)
        data.setup("test")
        images = torch.cat([image for image, _, _ in data.test_dataloader()])
        denoiser = published_denoiser("cifar10_jpeg_denoiser")
        times = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
        purifiers = {t: DiffPure(denoiser, t, steps=5, solver="ddim") for t in times}
        curves = theory_curves(images, 8 / 255, [k / 80 for k in range(1, 17)], purifiers)
        curves.write("configs/studies/cifar10/t-star.curves.csv")  # that file: 5 minutes on a busy thread
    """
    check_pixels(images)
    if len(images) < 2:
        raise ValueError(f"images must be two or more; got {len(images)}")
    times = check_sequence("t_star", t_star, check_positive)
    if unknown := [t for t in purifiers or {} if t not in times]:
        raise ValueError(f"purifiers must be by times of t_star; {unknown} are none")
    schedule = VP() if schedule is None else check_schedule("schedule", schedule)
    rows, x = Noise.of(seed, torch.arange(len(images))), to_model(images)
    attacked = x + 2 * check_number("eps, in pixels,", eps, above=0, at_most=1) * _signs(rows, x)
    sigmas = [float(schedule.sigma(torch.tensor(t, dtype=torch.float64))) for t in times]
    gammas = [drift_integral(schedule, t) for t in times]
    distances = {t: _distance(purifier, x, attacked, rows) for t, purifier in (purifiers or {}).items()}
    lengths = _bounds(2 * eps * math.sqrt(x[0].numel()), sigmas, gammas, x[0].numel())
    if distances:
        lengths["purified, measured"] = [distances.get(t) for t in times]
    lengths["two images"] = [float(torch.pdist(x.flatten(1)).mean())] * len(times)
    root = {name: [v if v is None else v / math.sqrt(x[0].numel()) for v in line] for name, line in lengths.items()}
    panels = {"divergence, nats": _divergences(x, attacked, sigmas, seed), "distance, RMS in [-1,1]": root}
    return Curves("t*", times, panels)


def _divergences(x: Tensor, attacked: Tensor, sigmas: Sequence[float], seed: int) -> Lines:
    clean, moved, a = GaussianMixture(x, 0.0), GaussianMixture(attacked, 0.0), float((attacked - x).abs().max())
    draws = Noise.of(seed, torch.arange(DRAWS)).stream("divergence")
    return {
        "any attack, bound": [paired_kl_bound(x, attacked, sigma) for sigma in sigmas],
        f"{len(x)} images, estimate": [kl_divergence(clean, moved, sigma, draws).mean for sigma in sigmas],
        "random signs, bound": [random_sign_kl_bound(a, sigma, x[0].numel()) for sigma in sigmas],
    }


def _bounds(perturbation: float, sigmas: Sequence[float], gammas: Sequence[float], d: int) -> Lines:
    radius = noise_radius(d, DELTA)
    return {
        "mean, exact score, bound": [mean_reconstruction_bound(perturbation, sigma, d) for sigma in sigmas],
        "95 %, C_s = 0, bound": [reconstruction_bound(perturbation, gamma, radius, 0.0) for gamma in gammas],
    }


def _signs(rows: Noise, x: Tensor) -> Tensor:
    """+-1 in each number, in the shape and type of x (N,C,H,W)."""
    return rows.stream("attack").normal(0, x.shape[1:]).sign().to(x)


def _distance(purifier: nn.Module, x: Tensor, attacked: Tensor, rows: Noise) -> float:
    """Mean distance between the purified attacked images and the clean ones, x (N,C,H,W) in the model frame."""
    with torch.no_grad():
        parts = [slice(start, start + BATCH) for start in range(0, len(x), BATCH)]
        purified = torch.cat([purifier(to_pixel(attacked[part]), rows.rows(part)) for part in parts])
    return float((to_model(purified) - x).flatten(1).norm(dim=1).mean())
