"""A defence that decides by a vote over several draws."""

import torch
from torch import Tensor

from common.checks.images import check_logits
from common.checks.settings import check_count, check_one_of
from common.noise import Noise
from common.robustness.classifiers import Classifier, ClassifierWrapper

RULES = ("majority", "mean_logit")


class Voting(ClassifierWrapper):
    """A randomised classifier that decides by ``draws`` draws, evaluated as one batch of B*draws rows.

    ``rule="majority"``: logits ``log((v + p) / (n + 1))`` for v votes out of n draws and mean probability p. The
    class with most votes wins; among equals the one with the higher mean probability, then the lower index. Mean
    probabilities differ by less than one vote, so p never overrules one; gradients flow through p.

    ``rule="mean_logit"``: the mean of the logits over draws.

    A deterministic classifier is evaluated once; ``draws`` has no effect.
    """

    def __init__(self, classifier: Classifier, draws: int, rule: str = "majority"):
        super().__init__(classifier)
        check_count("draws", draws)
        check_one_of("rule", rule, RULES)
        self.draws = draws if classifier.randomised else 1
        self.rule = rule

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        draws = Noise.or_fresh(noise, image).draws(self.draws)
        logits = check_logits(self.classifier(image.repeat_interleave(self.draws, 0), draws), len(draws))
        logits = logits.view(len(image), self.draws, logits.shape[1])
        return _majority(logits) if self.rule == "majority" else logits.mean(1)

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """Views under the first draw."""
        draws = Noise.or_fresh(noise, image).draws(self.draws)
        return self.classifier.views(image, draws.rows(slice(None, None, self.draws)))


def _majority(logits: Tensor) -> Tensor:
    """(B,n,K) logits of n draws -> (B,K) log shares of the votes, ties broken by the mean probability."""
    probability = logits.softmax(-1).mean(1)
    votes = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0).sum(1)
    share = (votes + probability) / (logits.shape[1] + 1)
    return share.clamp(min=torch.finfo(share.dtype).tiny).log()
