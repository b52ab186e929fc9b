"""Noise schedules: scale of the image and noise level at time t.

Every schedule is written in one parameterisation (Karras et al., arXiv 2206.00364),

    x_t = s(t) (x0 + sigma(t) n),    n ~ N(0, I),

and as the stochastic differential equation that has these marginals,

    dx = f(t) x dt + g(t) dw,    f = s'/s,    g^2 = 2 s^2 sigma sigma'.

All levels belong to the model frame, where data lie in [-1,1]. Arguments are tensors of shape (B,) or (); results
keep the argument's shape, dtype and device. Ranges are checked where grids are made, not here.
"""

import math
from typing import ClassVar, Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from common.checks.settings import check_one_of, check_positive, check_size, refusal


class Schedule(Protocol):
    """``sigma``, ``scale`` (s), ``drift`` (f) and ``diffusion`` (g) at time t, and ``time``, the inverse of ``sigma``.

    Times run from 0 (data) to ``t_max`` (noise).
    """

    t_max: float

    def sigma(self, t: Tensor) -> Tensor: ...

    def scale(self, t: Tensor) -> Tensor: ...

    def time(self, sigma: Tensor) -> Tensor: ...

    def drift(self, t: Tensor) -> Tensor: ...

    def diffusion(self, t: Tensor) -> Tensor: ...


def check_schedule(name: str, schedule: object) -> Schedule:
    """The schedule. Raises ``ValueError`` for an object without its members."""
    members = ("t_max", "sigma", "scale", "time", "drift", "diffusion")
    if isinstance(schedule, type) or any(not hasattr(schedule, member) for member in members):
        raise ValueError(refusal(name, "a Schedule, such as VP()", schedule))
    return cast(Schedule, schedule)


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """Shape a level (B,) so that it multiplies the rows of x (B, ...), in x's dtype; a level () stays as it is.

    A zero-dimensional tensor on the CPU multiplies a tensor of any dtype and device at full precision.
    """
    return value.to(x).reshape(-1, *(1,) * (x.ndim - 1)) if value.ndim else value


class _VariancePreserving:
    """Process with ``s^2 (1 + sigma^2) = 1`` at every t, by its ``beta(t)`` and the integral ``B(t) = int_0^t beta``:

    ``s = exp(-B/2)``, ``sigma^2 = exp(B) - 1``, ``f = -beta/2``, ``g = sqrt(beta)``.
    """

    def _beta(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _integral(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(self._integral(t)).sqrt()

    def scale(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def drift(self, t: Tensor) -> Tensor:
        return -self._beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        return self._beta(t).sqrt()


class VP(_VariancePreserving):
    """Variance-preserving diffusion in continuous time (Song et al., arXiv 2011.13456; DiffPure's process).

    ``beta(t) = beta_min + t (beta_max - beta_min)`` on [0,1], ``B(t) = int_0^t beta``, so that
    ``s = exp(-B/2)``, ``sigma^2 = exp(B) - 1``, ``f = -beta/2``, ``g = sqrt(beta)``.
    """

    t_max = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        check_positive("beta_min", beta_min)
        if not 0 < beta_min <= check_positive("beta_max", beta_max):
            raise ValueError(f"VP needs 0 < beta_min <= beta_max; got beta_min={beta_min}, beta_max={beta_max}")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / 2))

    def time(self, sigma: Tensor) -> Tensor:
        integral = torch.log1p(sigma**2)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2 * integral / (self.beta_min + root)  # the quadratic's root in the form that never cancels


Betas = Literal["linear", "scaled_linear", "cosine"]


def _beta_table(betas: Betas, num_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """The published tables of ``beta_i``, (N,) float64."""
    if betas == "linear":
        return torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
    if betas == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64) ** 2
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    abar = ((u + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


class DDPM(_VariancePreserving):
    """The discrete process of Ho et al. (arXiv 2006.11239), extended to continuous time.

    ``betas`` names the table of ``beta_i``, i = 0 .. N-1:

    * ``"linear"``: from ``beta_start`` to ``beta_end``;
    * ``"scaled_linear"``: ``sqrt(beta_i)`` is linear between the roots of these;
    * ``"cosine"``: ``abar_i = f((i+1)/N) / f(0)`` with ``f(u) = cos^2(pi/2 (u + 0.008) / 1.008)``, and beta at most
      0.999 (Nichol & Dhariwal, arXiv 2102.09672, eq. 17); ``beta_start`` and ``beta_end`` are not used.

    ``abar_i = prod_{j <= i} (1 - beta_j)`` and ``sigma_i = sqrt(1/abar_i - 1)``. Index i sits at time ``t = (i+1)/N``;
    between the indices ``log abar`` is linear in t, with ``log abar(0) = 0``. Hence ``beta(t) = -d log abar / dt`` is
    constant between neighbours, and drift and diffusion belong to exactly the same process as sigma and scale. At an
    index beta(t) is the value on its left, the one that a reverse step from there needs.
    """

    t_max = 1.0
    not_identifying: ClassVar[frozenset[str]] = frozenset({"_tables"})

    def __init__(
        self, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2, betas: Betas = "linear"
    ) -> None:
        check_one_of("betas", betas, get_args(Betas))
        check_size("num_steps", num_steps)
        check_positive("beta_start", beta_start)
        check_positive("beta_end", beta_end)
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"DDPM needs 0 < beta_start <= beta_end < 1; got {beta_start} and {beta_end}")
        self.num_steps, self.beta_start, self.beta_end, self.betas = num_steps, beta_start, beta_end, betas
        beta = _beta_table(betas, num_steps, beta_start, beta_end)
        rate = -torch.log1p(-beta)  # increase of B(t) = -log abar(t) over interval i
        self.sigmas = torch.expm1(rate.cumsum(0)).sqrt()
        """The trained noise levels sigma_i, (N,) float64, ascending."""
        self._tables = {(rate.device, rate.dtype): torch.stack((rate, rate.cumsum(0), self.sigmas))}

    def _table(self, like: Tensor) -> Tensor:
        """Rates, integrals B and sigmas (3, N) in the dtype and on the device of ``like``; copied there once."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = next(iter(self._tables.values())).to(like)
        return self._tables[key]

    def _interval(self, u: Tensor) -> Tensor:
        """The i with u = N t in (i, i + 1]."""
        return (torch.ceil(u) - 1).long().clamp(0, self.num_steps - 1)

    def _integral(self, t: Tensor) -> Tensor:
        u = t * self.num_steps
        i = self._interval(u)
        rate, integral, _ = self._table(t)
        result: Tensor = integral[i] - (i + 1 - u) * rate[i]
        return result

    def _beta(self, t: Tensor) -> Tensor:
        i = self._interval(t * self.num_steps - 1e-3)  # round-off at a node must not reach the next interval
        beta: Tensor = self.num_steps * self._table(t)[0][i]
        return beta

    def time(self, sigma: Tensor) -> Tensor:
        integral = torch.log1p(sigma**2)
        rate, ends, _ = self._table(sigma)
        i = torch.searchsorted(ends, integral.detach()).clamp(max=self.num_steps - 1)
        t: Tensor = (i + 1 - (ends[i] - integral) / rate[i]) / self.num_steps
        return t

    def index(self, sigma: Tensor, rounding: Literal["nearest", "interpolate"] = "nearest") -> Tensor:
        """The index that was trained at ``sigma``.

        ``"nearest"``: the i with the smallest ``|sigma_i - sigma|``, int64. ``"interpolate"``: ``N t(sigma) - 1``, a
        float in [0, N-1] that is not rounded.
        """
        if rounding == "nearest":
            sigmas = self._table(sigma)[2]
            return torch.searchsorted((sigmas[1:] + sigmas[:-1]) / 2, sigma.detach().contiguous())
        if rounding == "interpolate":
            return (self.num_steps * self.time(sigma) - 1).clamp(0, self.num_steps - 1)
        raise ValueError(f'rounding must be "nearest" or "interpolate"; got {rounding!r}')


class EDM:
    """Noise levels as times, without scaling (Karras et al., arXiv 2206.00364): ``sigma = t``, ``s = 1``.

    Hence ``f = 0`` and ``g = sqrt(2 t)``. Times are noise levels, up to ``t_max = sigma_max``.
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        self.t_max = check_positive("sigma_max", sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * t).sqrt()
