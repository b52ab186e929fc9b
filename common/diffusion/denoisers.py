"""Denoisers: E[x0 | x] from networks that predict the noise, the velocity, the image or EDM's F.

Every method uses a diffusion model through its denoiser D. With x = x0 + sigma n in the model frame, D(x, sigma) is the
posterior mean of the image; score and noise follow from it (Tweedie's formula):

    grad_x log p(x; sigma) = (D(x, sigma) - x) / sigma^2,      E[n | x] = (x - D(x, sigma)) / sigma.
"""

import math
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from common.checks.images import check_shape
from common.checks.settings import (
    check_count,
    check_not_negative,
    check_one_of,
    check_optional,
    check_part,
    check_positive,
    refusal,
)
from common.diffusion.schedules import DDPM, VP, Schedule, check_schedule, per_row

D = TypeVar("D", bound=nn.Module)


class Denoiser(nn.Module):
    """``forward(x, sigma, label=None)`` = E[x0 | x, label] for x = x0 + sigma n, n ~ N(0, I).

    x is (B, C, H, W) in the model frame, sigma (B,) or () and positive, label (B,) int64 in 0..num_classes-1; the
    result is (B, C, H, W). The mean is unconditional if label is None, and in the rows where label is -1.
    ``num_classes`` is None for a denoiser that takes no label.
    Valid for ``sigma_min <= sigma <= sigma_max``, which is checked once, where the levels are chosen.
    """

    num_classes: int | None = None
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    @property
    def data_deviation(self) -> float:
        """Standard deviation of the data in the model frame, sigma_d of EDM's loss: 0.5 unless a subclass states it."""
        return 0.5

    def one_hot(self, x: Tensor, label: Tensor | None) -> Tensor | None:
        """One-hot ``class_labels`` of a network: (B, num_classes) in x's dtype.

        Zeros without a label, None if there are no classes; then a label raises ``ValueError``.
        """
        if self.num_classes is None:
            if label is not None:
                raise ValueError("this denoiser takes no label; got one. Set num_classes, or pass label=None")
            return None
        if label is None:
            return x.new_zeros(len(x), self.num_classes)
        rows = torch.eye(self.num_classes + 1, dtype=x.dtype, device=x.device)[:, 1:]  # row 0, of label -1, is all zero
        return nn.functional.embedding(label + 1, rows)  # raises for labels outside -1..K-1, unsynchronised

    def _set_levels(self, sigma_min: float, sigma_max: float, num_classes: int | None) -> None:
        check_not_negative("sigma_min", sigma_min)
        if not sigma_min < check_positive("sigma_max", sigma_max):
            raise ValueError(f"a denoiser needs 0 <= sigma_min < sigma_max; got {sigma_min} and {sigma_max}")
        check_optional(check_count, "num_classes", num_classes, note="None is an unconditional denoiser")
        self.sigma_min, self.sigma_max, self.num_classes = sigma_min, sigma_max, num_classes


def check_denoiser(name: str, denoiser: D) -> D:
    """The denoiser. Raises ``ValueError`` for an object other than a module with a noise range and classes."""
    members = ("sigma_min", "sigma_max", "num_classes")
    if not isinstance(denoiser, nn.Module) or any(not hasattr(denoiser, member) for member in members):
        raise ValueError(refusal(name, "a Denoiser", denoiser, "Load a file by load_denoiser(path)"))
    return denoiser


@runtime_checkable
class HasNoiseRange(Protocol):
    """A denoiser with noise levels ``sigma_min`` .. ``sigma_max`` (model frame) for which it is valid."""

    sigma_min: float
    sigma_max: float


def noise_range(denoiser: nn.Module) -> tuple[float, float]:
    """Smallest and largest noise level (model frame) of a denoiser; (0, inf) if it declares none."""
    return (denoiser.sigma_min, denoiser.sigma_max) if isinstance(denoiser, HasNoiseRange) else (0.0, math.inf)


class EDMDenoiser(Denoiser):
    """The preconditioned denoiser of Karras et al. (arXiv 2206.00364), sigma_d = ``sigma_data``:

        D = c_skip x + c_out F(c_in x, c_noise, class_labels),
        c_skip = sigma_d^2 / (sigma^2 + sigma_d^2),    c_out = sigma sigma_d / sqrt(sigma^2 + sigma_d^2),
        c_in = 1 / sqrt(sigma^2 + sigma_d^2),          c_noise = ln(sigma) / 4.

    ``network(x, c_noise, class_labels)`` takes c_noise (B,) and ``class_labels`` (B, num_classes) one-hot, all zero
    without a label, or None when ``num_classes`` is None.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float = 0.5,
        num_classes: int | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__()
        check_positive("sigma_data, the standard deviation of the data in [-1,1],", sigma_data)
        self.network = check_part("network", network, nn.Module, "a module")
        self.sigma_data = sigma_data
        self._set_levels(sigma_min, sigma_max, num_classes)

    @property
    def data_deviation(self) -> float:
        return self.sigma_data

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        c_skip, c_out, c_in, c_noise = preconditioning(self.sigma_data, x, sigma)
        prediction = check_shape("a denoiser's network", self.network(c_in * x, c_noise, self.one_hot(x, label)), x)
        return c_skip * x + c_out * prediction.to(x.dtype)


def preconditioning(sigma_data: float, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in of an ``EDMDenoiser``, which broadcast against x (B,C,H,W), and c_noise (B,)."""
    level = per_row(sigma, x)
    total = level**2 + sigma_data**2
    c_skip, c_out, c_in = sigma_data**2 / total, level * sigma_data / total.sqrt(), total.rsqrt()
    return c_skip, c_out, c_in, sigma.to(x).log().expand(len(x)) / 4


class EpsDenoiser(Denoiser):
    """Denoiser of a network that predicts the noise in a variance-preserving input:

        D = x - sigma eps(x / sqrt(1 + sigma^2), time label).

    The time label depends on how the network was trained:

    * ``rounding="nearest"``: the index i of the nearest trained sigma_i, int64 (needs a ``DDPM`` schedule);
    * ``rounding="interpolate"``: the index at sigma, not rounded, a float (needs a ``DDPM`` schedule);
    * ``rounding="continuous"``: ``time_scale * t(sigma)``, a float, for any schedule.

    A network trained on rescaled indices receives ``index_scale * i``, a float unless ``index_scale`` is 1.
    Rounding touches the label alone. The input is scaled to unit variance with the true sigma and noise of the true
    sigma is subtracted; at the trained levels both readings agree. If the network
    returns 2C channels, as those with a learned variance do, the first C are used.

    ``network(x, label)`` or, with ``num_classes``, ``network(x, label, class_labels)`` as in ``EDMDenoiser``.
    ``sigma_min`` and ``sigma_max`` default to the levels of the schedule: the table's ends, or t = 1e-5 and t_max.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule | None = None,
        rounding: Literal["nearest", "interpolate", "continuous"] = "nearest",
        time_scale: float = 999.0,
        num_classes: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        index_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("index_scale, the factor of an index in the time label,", index_scale)
        check_positive("time_scale, the factor of the time in the time label,", time_scale)
        check_one_of("rounding", rounding, ("nearest", "interpolate", "continuous"))
        check_optional(check_schedule, "schedule", schedule)
        self.schedule = schedule or (VP() if rounding == "continuous" else DDPM())
        if rounding != "continuous" and not isinstance(self.schedule, DDPM):
            got = type(self.schedule).__name__
            raise ValueError(f'rounding={rounding!r} needs the indices of a DDPM schedule; got {got}. Use "continuous"')
        self.network = check_part("network", network, nn.Module, "a module")
        self.rounding = rounding
        self.time_scale = time_scale
        self.index_scale = index_scale
        low, high = self._trained_levels()
        self._set_levels(low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max, num_classes)

    @classmethod
    def score_sde(cls, network: nn.Module) -> "EpsDenoiser":
        """A Score-SDE network (arXiv 2011.13456): VP-SDE with beta 0.1..20, label 999 t, not rounded."""
        return cls(network, VP(), "continuous", time_scale=999.0)

    @classmethod
    def guided_diffusion(cls, network: nn.Module) -> "EpsDenoiser":
        """A guided-diffusion or Ho et al. network (arXiv 2105.05233, 2006.11239): integer index 0..999, linear beta."""
        return cls(network, DDPM(), "nearest")

    def _trained_levels(self) -> tuple[float, float]:
        if self.rounding != "continuous" and isinstance(self.schedule, DDPM):
            return float(self.schedule.sigmas[0]), float(self.schedule.sigmas[-1])
        ends = self.schedule.sigma(torch.tensor([1e-5, self.schedule.t_max], dtype=torch.float64))
        return float(ends[0]), float(ends[1])

    def time_label(self, sigma: Tensor) -> Tensor:
        """Time label of the network at a noise level, sigma's shape."""
        if self.rounding != "continuous" and isinstance(self.schedule, DDPM):
            index = self.schedule.index(sigma, "nearest" if self.rounding == "nearest" else "interpolate")
            return index if self.index_scale == 1 else self.index_scale * index.to(sigma.dtype)
        return self.time_scale * self.schedule.time(sigma.clone())

    def denoised(self, x: Tensor, level: Tensor, prediction: Tensor) -> Tensor:
        """D from the network's prediction (B,C,H,W); ``level`` is sigma, as it broadcasts against x (B,C,H,W)."""
        return x - level * prediction

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        level, classes = per_row(sigma, x), self.one_hot(x, label)
        time_label = self.time_label(sigma.to(x)).expand(len(x))
        scaled = x * (1 + level**2).rsqrt()
        arguments = (scaled, time_label) if classes is None else (scaled, time_label, classes)
        prediction = check_shape("a denoiser's network", self.network(*arguments)[:, : x.shape[1]], x)
        return self.denoised(x, level, prediction.to(x.dtype))


class VDenoiser(EpsDenoiser):
    """Denoiser of a network that predicts ``v = s n - s sigma x0``, s = 1/sqrt(1 + sigma^2) (arXiv 2202.00512):

        D = (x / sqrt(1 + sigma^2) - sigma v(x / sqrt(1 + sigma^2), time label)) / sqrt(1 + sigma^2).

    Arguments as for ``EpsDenoiser``.
    """

    def denoised(self, x: Tensor, level: Tensor, prediction: Tensor) -> Tensor:
        scale = (1 + level**2).rsqrt()
        return scale * (scale * x - level * prediction)


class X0Denoiser(EpsDenoiser):
    """Denoiser of a network that predicts the image itself from ``x / sqrt(1 + sigma^2)``: D = network's output.

    Arguments as for ``EpsDenoiser``.
    """

    def denoised(self, x: Tensor, level: Tensor, prediction: Tensor) -> Tensor:
        return prediction
