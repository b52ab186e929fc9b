"""Steps of gradient ascent on the likelihood bound, as solvers: by plain gradients or by Adam."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.checks.settings import check_count, check_flag, check_number, check_positive, check_sequence
from common.diffusion.bound_denoiser import Denoise
from common.diffusion.solvers import Solver
from common.diffusion.steps import Step
from diffpure.likelihood_bound import LikelihoodBound

_TINY = 1e-12


class Ascent(Solver):
    """One step of ascent from x in the model frame, g the gradient of the `LikelihoodBound` at the levels of the step:

        x <- P(x + lr d(g)),

    P the projection onto the ball around the input and, in the last step, onto [-1,1]. Subclasses define ``direction``.
    ``draws``: levels and noises in each step, over which the bound is averaged.
    """

    stochastic = True

    def __init__(self, lr: float, draws: int = 1) -> None:
        self.lr = check_positive("lr", lr)
        self.draws = check_count("draws", draws)

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        if not isinstance(denoise, LikelihoodBound):
            raise TypeError(f"{type(self).__name__} needs a LikelihoodBound; got {type(denoise).__name__}")
        x, *memory = x.chunk(1 + self.memory, dim=1)
        moved, memory = self.direction(step.k, denoise.gradient(x, step.level, step.z), memory)
        x = denoise.project(x + self.lr * moved)
        return torch.cat([x.clamp(-1, 1) if step.last else x, *memory], dim=1)

    def direction(self, k: int, g: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """d(g) and the new memory in step ``k`` >= 1; g, d and each image of the memory are (B,C,H,W)."""
        raise NotImplementedError


class GradientAscent(Ascent):
    """Ascent by the gradient: d = g, or ``normalised``: d = g / rms(g), rms over the C H W numbers of an image.

    g is a sum over the numbers of an image. For Gaussian data of variance s^2 and one level, a step by d = g contracts
    the distance from the mode by 1 - 2 lr w sigma^4 / (s^2 + sigma^2)^2.
    """

    def __init__(self, lr: float, normalised: bool = False, draws: int = 1) -> None:
        super().__init__(lr, draws)
        self.normalised = check_flag("normalised", normalised)

    def direction(self, k: int, g: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if not self.normalised:
            return g, memory
        return g / (_norms(g) / g[0].numel() ** 0.5).clamp(min=_TINY) if len(g) else g, memory


class AdamAscent(Ascent):
    """Ascent by Adam (Kingma and Ba, arXiv 1412.6980), its moments in the state; beta_1 and beta_2 are ``betas``:

        m <- beta_1 m + (1 - beta_1) g,    v <- beta_2 v + (1 - beta_2) g^2,
        d = m / (1 - beta_1^k) / (sqrt(v / (1 - beta_2^k)) + eps).

    The state holds sqrt(v), a norm, whose gradient is 0 and not infinite where v = 0. The first step is
    d = g / (|g| + eps), a sign, whose derivative is 0 almost everywhere: from it an attack's gradient learns nothing.
    """

    memory = 2

    def __init__(
        self, lr: float = 0.1, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, draws: int = 1
    ) -> None:
        super().__init__(lr, draws)
        first, second, *others = check_sequence("betas", betas, _check_decay, 2, "Adam has beta_1 and beta_2")
        if others:
            raise ValueError(f"betas must be beta_1 and beta_2; got {betas!r}")
        self.betas, self.eps = (first, second), check_positive("eps", eps)

    def direction(self, k: int, g: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        (first, second), (m, root) = self.betas, memory
        m = first * m + (1 - first) * g
        root = torch.linalg.vector_norm(torch.stack((second**0.5 * root, (1 - second) ** 0.5 * g)), dim=0)
        unbiased = root / (1 - second**k) ** 0.5
        return m / (1 - first**k) / (unbiased + self.eps), [m, root]


def _check_decay(name: str, value: float) -> float:
    return check_number(name, value, at_least=0, below=1)


def _norms(g: Tensor) -> Tensor:
    """Euclidean norm of each row of g (B,C,H,W), (B,1,1,1)."""
    norms: Tensor = torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True)
    return norms
