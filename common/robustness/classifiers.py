"""Every defence is a classifier: an image in pixels (B,C,H,W) -> logits (B,K).

A defence that draws random numbers takes them from the ``Noise`` it is given, one row per image, so that an attack can
average over draws and an evaluation can be repeated. ``forward`` does not check that pixels lie in [0,1], since the
certifier adds Gaussian noise to its images. The range is checked where data and attacks enter an evaluator.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from common.checks.deferred import looked_at_once
from common.checks.images import check_layout, check_logits, check_purified, check_weights_dtype
from common.checks.settings import check_number, check_optional, check_part, check_positive, check_sequence
from common.noise import Noise
from common.numerics.copies import copied
from common.robustness.protocols import Randomised, SupportsDiffuse

C = TypeVar("C", bound="Classifier")


class Classifier(nn.Module):
    """``forward(image, noise)``: pixels (B,C,H,W) and one row of noise per image -> logits (B,K).

    ``randomised`` is True if two draws may differ. A deterministic classifier ignores the noise; a randomised one
    without noise draws its own, for interactive use. ``num_classes`` is K; None if it is not declared.
    A call hands ``forward`` copies of image and noise, so a defence may write into them.
    """

    randomised: bool = False
    num_classes: int | None = None
    not_identifying: ClassVar[frozenset[str]] = frozenset({"_frozen"})
    _frozen: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(_checked_copies, with_kwargs=True)  # a hook adds no frame around ``forward``

    @property
    def evaluations(self) -> int | None:
        """Network evaluations of one image, for cost studies; None if the classifier does not declare them."""
        return None

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """Named pixel images (B,C,H,W) of the defence's intermediate results, for figures; none by default."""
        return {}

    def freeze(self: C) -> C:
        """Switch to evaluation mode, without parameter gradients, for good. Returns the classifier itself."""
        self._frozen = True
        self.requires_grad_(False)
        return self.train(False)

    def train(self: C, mode: bool = True) -> C:
        """As ``nn.Module.train``, except that a frozen classifier and its parts stay in evaluation mode.

        A trainer calls ``train()`` on everything inside its module; it must not switch on dropout and batch statistics
        of a frozen classifier.
        """
        return super().train(mode and not self._frozen)


def _checked_copies(
    classifier: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the inputs of a call. Raises ``ValueError`` unless images are floats (B,C,H,W)."""
    for image in (*inputs[:1], *([named["image"]] if "image" in named else [])):
        check_weights_dtype(check_layout(image), classifier)
    return copied(*inputs), dict(zip(named, copied(*named.values()), strict=True))


class NetworkClassifier(Classifier):
    """logits = network((image - mean) / std): normalisation is part of the classifier, so budgets stay in pixels.

    ``mean`` and ``std`` have one entry per channel, in pixel units; both or neither. Deterministic in evaluation mode.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, network: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std must be given together; got mean={mean}, std={std}")
        check_part("network", network, nn.Module, "a module")
        check_optional(check_sequence, "mean", mean, check_number)
        check_optional(check_sequence, "std", std, check_positive)
        if mean is not None and std is not None and len(mean) != len(std):
            raise ValueError(f"mean and std need one entry per channel each and std > 0; got mean={mean}, std={std}")
        self.network = network
        for name, value in (("mean", mean), ("std", std)):
            channels = None if value is None else torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, channels, persistent=False)

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if self.mean is not None and self.std is not None:
            image = (image - self.mean) / self.std
        logits = self.network(image)
        return logits if isinstance(logits, Tensor) else check_logits(logits, len(image), "the network")


class Purified(Classifier):
    """logits = classifier(purifier(image)): DiffPure, AGDM and every other defence that purifies its input.

    ``purifier(image, noise)`` maps pixels to pixels. The classifier behind it draws from a noise stream of its own,
    independent of the purifier's. The pair is deterministic if the purifier declares ``randomised = False`` and the
    classifier is deterministic.
    """

    def __init__(self, purifier: nn.Module, classifier: Classifier):
        super().__init__()
        self.purifier = check_part("purifier", purifier, nn.Module, "a purifier")
        self.classifier = check_part("classifier", classifier, Classifier)
        declared = purifier.randomised if isinstance(purifier, Randomised) else True
        self.randomised = bool(declared) or classifier.randomised

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        with looked_at_once():
            noise = Noise.or_fresh(noise, image)
            purified = check_purified(self.purifier(*copied(image, noise)), image)
            logits: Tensor = self.classifier(purified, noise.stream("classifier"))
        return logits

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """``diffused`` (of a purifier with `SupportsDiffuse`) and ``purified``, under the same noise."""
        noise = Noise.or_fresh(noise, image)
        purifier = self.purifier
        views = {"purified": check_purified(purifier(*copied(image, noise)), image)}
        if isinstance(purifier, SupportsDiffuse):
            views = {"diffused": purifier.diffuse(*copied(image, noise)), **views}
        return views


class ClassifierWrapper(Classifier):
    """The same defence as ``classifier``, evaluated in another way: in other batches, by a vote, under fixed draws."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        check_part("classifier", classifier, Classifier)
        self.classifier, self.randomised = classifier, classifier.randomised

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        logits: Tensor = self.classifier(image, noise)
        return logits

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """The classifier's own views."""
        return self.classifier.views(image, noise)


@contextmanager
def deployed(classifier: nn.Module) -> Iterator[None]:
    """Context manager: the classifier in evaluation mode, without parameter gradients.

    Modes and ``requires_grad`` flags are restored on exit, so a classifier can be attacked or certified during its
    training.
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
