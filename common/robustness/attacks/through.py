"""The differentiation mode as a setting of the attack, so that several modes attack one defence in one test."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args, runtime_checkable

from torch import Tensor

from common.checks.settings import check_one_of
from common.naming.differentiation_modes import Mode
from common.noise import Noise
from common.robustness.attacks.attack import AttackResult
from common.robustness.attacks.wrapper import GradientWrapper
from common.robustness.classifiers import Classifier
from common.robustness.protocols import SupportsDifferentiation
from common.robustness.threats.threat import Threat


@runtime_checkable
class SupportsSampler(Protocol):
    """A differentiation mode that checks whether it applies to a sampler: a ``common.diffusion.Differentiation``."""

    def check(self, sampler: Any) -> None: ...


@dataclass(frozen=True)
class Through(GradientWrapper):
    """``attack`` against the same classifier, whose purifiers differentiate by ``gradient`` during the attack.

    Everything else stays as deployed: the sampler, the draws, and the evaluator's scores. ``gradient`` is

    * "checkpoint" or "full": exact, independent of the purifier's own mode;
    * "bpda": the purifier counts as the identity. ``Through(PGD(steps=50, step_size="2/255", eot=15), "bpda")`` is the
      BPDA+EOT attack of DiffPure's code (arXiv 2205.07460), but for its decision rule: its gradient is averaged over 15
      purifications, and it scores the mean logit of 150, which is ``Attacked(rule="mean_logit", votes=150)``;
    * "adjoint": the adjoint SDE of DiffPure's paper;
    * "surrogate": a coarser sampler of 20 steps (Lee and Kim, arXiv 2303.09051);
    * or a ``Differentiation`` with its settings, such as ``Surrogate(steps=5, solver="ddim")``: another sampler in the
      attack than in the defence.

    All but the first two are weaker attacks, offered for comparison. Where the attack differentiates another process
    than the deployed one, its own statistics (``curve``, ``broken``) do not describe the defence and are left out.

    The purifiers are the modules of the classifier, at any depth, that satisfy `SupportsDifferentiation`. Raises
    ``ValueError`` before the attack starts where there is none, or where the mode does not apply to it.
    """

    gradient: Mode | SupportsSampler = "bpda"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gradient, SupportsSampler):
            check_one_of("gradient", self.gradient, get_args(Mode), ", or a Differentiation")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        purifiers = [part for part in classifier.modules() if isinstance(part, SupportsDifferentiation)]
        if not purifiers:
            raise ValueError(
                f"no part of {type(classifier).__name__} can be differentiated in another way: it has no diffusion "
                "purifier. Use the attack without Through"
            )
        with ExitStack() as stack:
            deployed = [stack.enter_context(part.differentiated(self.gradient)) for part in purifiers]
            result = super().search(classifier, image, label, threat, noise)
        return result if all(deployed) else replace(result, curve=None, broken=None)
