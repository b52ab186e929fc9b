"""Every defence is a classifier: an image in pixels (B,C,H,W) -> logits (B,K).

A defence that draws random numbers takes them from the ``Noise`` it is handed, one row per image, so that an attack
can average over draws and an evaluation can be repeated. ``forward`` does not check that pixels lie in [0,1]: the
certifier hands over images with Gaussian noise on them. The range is checked where data and attacks enter an evaluator.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.protocols import Randomised, SupportsDiffuse

C = TypeVar("C", bound="Classifier")

RULES = ("majority", "mean_logit")


class Classifier(nn.Module):
    """``forward(image, noise)``: pixels (B,C,H,W) and one row of noise per image -> logits (B,K).

    ``randomised`` says whether two draws may differ. A deterministic classifier ignores the noise; a randomised one
    that is given none makes its own, for interactive use.
    """

    randomised: bool = False
    _frozen: bool = False

    @property
    def evaluations(self) -> int | None:
        """Network evaluations of one image, for cost studies; None if the classifier does not declare them."""
        return None

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """Named pixel images (B,C,H,W) of what the defence does to its input, for figures; none by default."""
        return {}

    def freeze(self: C) -> C:
        """For good: evaluation mode, and no gradients for the parameters. Returns itself."""
        self._frozen = True
        self.requires_grad_(False)
        return self.train(False)

    def train(self: C, mode: bool = True) -> C:
        """As ``nn.Module.train``, except that a frozen classifier, with all it holds, stays in evaluation mode.

        A trainer calls ``train()`` on everything inside its module; dropout and batch statistics of a classifier
        that was frozen must not come back with it.
        """
        return super().train(mode and not self._frozen)


class NetworkClassifier(Classifier):
    """logits = network((image - mean) / std): the normalisation belongs to the classifier, budgets stay in pixels.

    ``mean`` and ``std`` have one entry per channel, in pixel units; both or neither. Deterministic in evaluation mode.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, network: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std must be given together; got mean={mean}, std={std}")
        if mean is not None and std is not None and (len(mean) != len(std) or min(std) <= 0):
            raise ValueError(f"mean and std need one entry per channel each and std > 0; got mean={mean}, std={std}")
        self.network = network
        for name, value in (("mean", mean), ("std", std)):
            channels = None if value is None else torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, channels, persistent=False)

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if self.mean is not None and self.std is not None:
            image = (image - self.mean) / self.std
        logits: Tensor = self.network(image)
        return logits


class Purified(Classifier):
    """logits = classifier(purifier(image)): DiffPure, AGDM and every other defence that cleans its input first.

    ``purifier(image, noise)`` maps pixels to pixels. The classifier behind it gets a noise stream of its own, so that
    a randomised one never sees the purifier's numbers again. A purifier with an attribute ``randomised = False``
    (a deterministic one) makes the pair deterministic, if the classifier is.
    """

    def __init__(self, purifier: nn.Module, classifier: Classifier):
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier
        declared = purifier.randomised if isinstance(purifier, Randomised) else True
        self.randomised = bool(declared) or classifier.randomised

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        noise = _given(noise, image)
        logits: Tensor = self.classifier(self.purifier(image, noise), noise.stream("classifier"))
        return logits

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """``diffused`` (where the purifier can show it) and ``purified``, from the same noise."""
        noise = _given(noise, image)
        purifier = self.purifier
        diffused = {"diffused": purifier.diffuse(image, noise)} if isinstance(purifier, SupportsDiffuse) else {}
        return {**diffused, "purified": self.purifier(image, noise)}


class Padded(Classifier):
    """The same classifier, never asked about fewer than ``rows`` images at a time.

    Convolution and matrix kernels for a handful of rows add up in another order than those for many; the last bits
    of the logits then depend on how many images happen to share a batch, and an attack that takes signs of gradients
    magnifies them. Small batches are filled up with copies of their first row, whose answers are thrown away. With
    16 rows, logits and gradients of our networks on a CPU are the same bits in every batch and for every number of
    threads.
    """

    def __init__(self, classifier: Classifier, rows: int = 16):
        super().__init__()
        if rows < 1:
            raise ValueError(f"rows must be at least 1; got {rows}")
        self.classifier, self.rows, self.randomised = classifier, rows, classifier.randomised

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        logits: Tensor = self.classifier(*self._filled(image, _given(noise, image)))
        return logits[: len(image)]

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """The classifier's own views."""
        views = self.classifier.views(*self._filled(image, _given(noise, image)))
        return {name: view[: len(image)] for name, view in views.items()}

    def _filled(self, image: Tensor, noise: Noise) -> tuple[Tensor, Noise]:
        missing = self.rows - len(image)
        if missing <= 0 or not len(image):
            return image, noise
        copies = image[:1].detach().expand(missing, *image.shape[1:])
        order = torch.arange(self.rows, device=image.device)
        return torch.cat((image, copies)), noise.rows(torch.where(order < len(image), order, 0))


class Voting(Classifier):
    """A defence that answers after several draws of a randomised classifier, evaluated as one batch of B*draws rows.

    ``rule="majority"``: logits ``log((v + p) / (n + 1))`` for v votes out of n draws and mean probability p. The
    class with most votes wins; among equals the one with the higher mean probability, then the lower index. Mean
    probabilities differ by less than one vote, so p never overrules one; it is also what a gradient flows through.

    ``rule="mean_logit"``: the mean of the logits over draws.

    A deterministic classifier is asked once, whatever ``draws`` says.
    """

    def __init__(self, classifier: Classifier, draws: int, rule: str = "majority"):
        super().__init__()
        if draws < 1:
            raise ValueError(f"draws must be at least 1; got {draws}")
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
        self.classifier = classifier
        self.randomised = classifier.randomised
        self.draws = draws if classifier.randomised else 1
        self.rule = rule

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        noise = _given(noise, image)
        logits = self.classifier(image.repeat_interleave(self.draws, 0), noise.draws(self.draws))
        logits = logits.view(len(image), self.draws, -1)
        return _majority(logits) if self.rule == "majority" else logits.mean(1)

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """The first draw's views."""
        return self.classifier.views(image, _given(noise, image).draws(self.draws).rows(slice(None, None, self.draws)))


def _majority(logits: Tensor) -> Tensor:
    """(B,n,K) logits of n draws -> (B,K) log shares of the votes, ties broken by the mean probability."""
    probability = logits.softmax(-1).mean(1)
    votes = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0).sum(1)
    share = (votes + probability) / (logits.shape[1] + 1)
    return share.clamp(min=torch.finfo(share.dtype).tiny).log()


def _given(noise: Noise | None, image: Tensor) -> Noise:
    return Noise.fresh(len(image), image.device) if noise is None else noise


@contextmanager
def deployed(classifier: nn.Module) -> Iterator[None]:
    """The classifier as it is deployed, while the context lasts: evaluation mode and no gradients for parameters.

    Modes and ``requires_grad`` flags are restored on the way out, so a classifier can be attacked or certified in
    the middle of its training.
    """
    modes = [(module, module.training) for module in classifier.modules()]
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    try:
        classifier.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def unpadded(classifier: Classifier) -> Classifier:
    """What a test wraps in `Padded`: who needs more than logits asks it directly, in batches of its own."""
    return classifier.classifier if isinstance(classifier, Padded) else classifier
