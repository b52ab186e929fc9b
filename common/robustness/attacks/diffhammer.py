"""DiffHammer: a gradient weighted towards draws that one perturbation breaks together."""

from dataclasses import dataclass, replace

from torch import Tensor

from common.checks.settings import check_count, check_flag, check_not_negative, check_positive
from common.noise import Noise
from common.robustness.attacks.attack import AttackResult, is_empty
from common.robustness.attacks.diffhammer_gradient import ReweightedGradient, graftable_purifier
from common.robustness.attacks.diffhammer_weights import DrawWeights
from common.robustness.attacks.wrapper import GradientWrapper, loss_of
from common.robustness.classifiers import Classifier
from common.robustness.padding import whole_batches
from common.robustness.threats.norm_ball import require_norm_ball
from common.robustness.threats.threat import Threat


@dataclass(frozen=True)
class DiffHammer(GradientWrapper):
    """``attack`` with the gradient of DiffHammer (Wang et al., NeurIPS 2024) in place of the EOT mean.

    The draws of an image may be weak in different directions, and their mean gradient in none. Let l_j be the loss of
    draw j of n = ``attack.eot`` and g_j its gradient, and d(r) a step along r, in the direction of the threat's norm
    (`ThreatModel.direction`), from the centre of its ball to the surface. Expectation-maximisation selects the draws
    that one step can break together:

        r_0 = g_i,    i = argmax_i sum_j elu(l_j + d(g_i) . g_j),
        E:  w_j = sigmoid((l_j + d(r) . g_j) / temperature),        M:  r = sum_j w_j g_j / sum_j w_j,

    ``rounds`` times. In step t the attack receives ``v r + (1 - v) (its gradient in step t - 1)``, v = t^(-memory).

    ``graft=False`` uses exact gradients g_j: n backward passes through the purifier. ``graft=True`` is the paper's
    shortcut: the purifier counts as the identity in the g_j (BPDA), and only the purification of draw i is
    differentiated, by its vector-Jacobian product with r: one backward pass instead of n.

    From the paper: the reweighting by linearised losses, memory 1/2, grafting, and runs with the margin, the
    cross-entropy and DLR: here an evaluator each, the worst of which counts. The formulas for i, w and v are those of
    the paper's code. Our choices: d in w as well; the iteration of E and M; ``temperature`` 1; and the ranking of
    points by the EOT mean of ``2 temperature tanh(l_j / (2 temperature))``, a smooth share of the broken draws, since a
    mean loss has the same weakness as a mean gradient. ``loss="margin"`` suits it best: it is zero on the decision
    boundary. As the temperature grows the weights become equal, and the ranking values l_j; with ``memory`` 0 this is
    then the attack itself.

    Needs ``eot`` of 2 or more, a single restart (the gradient of the step before would carry over), all draws of an
    image in one chunk, and for grafting a `Purified` classifier without a vote. Raises ``ValueError`` otherwise.
    """

    temperature: float = 1.0
    rounds: int = 3
    memory: float = 0.5
    graft: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_of(self.attack)
        settings = self.attack.settings()
        eot = settings.get("eot", 1)
        if eot < 2:
            raise ValueError(f"DiffHammer chooses among draws: the attack inside needs eot >= 2; got {eot}")
        if settings.get("restarts", 1) != 1:
            raise ValueError("DiffHammer averages gradients over steps: use restarts=1, and several seeds instead")
        if self.chunk is not None and self.chunk % eot:
            raise ValueError(f"chunk must be a multiple of eot, {eot}: draws are weighed together; got {self.chunk}")
        check_positive("temperature", self.temperature)
        check_count("rounds", self.rounds)
        check_not_negative("memory", self.memory)
        check_flag("graft", self.graft)

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "DiffHammer")
        super().check(threat)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        if self.graft:
            graftable_purifier(classifier)
        ball = require_norm_ball(threat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        formulas = (self.temperature, self.rounds, self.memory)
        weights = DrawWeights(ball, loss_of(self.attack), noise.index, *formulas)
        counts = [value for name, value in self.attack.settings().items() if name.endswith("eot")] or [1]
        draws = None if len(counts) > 1 else counts[0]  # of `Staged`: several
        reweighted = ReweightedGradient(classifier, weights, draws if classifier.randomised else 1, self.graft)
        with whole_batches():
            result = self.attack.vary(loss=weights.ranking_loss).search(reweighted, image, label, threat, noise)
        if result.queries is None or not self.graft:
            return result
        grafts = result.steps  # also those of an earlier process, whose climb is taken over
        if grafts is None:
            grafts = weights.steps(noise.index)
        return replace(result, queries=result.queries + grafts.to(result.queries.dtype))
