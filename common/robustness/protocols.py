"""Interfaces of the parts inside a classifier that attacks and gradient checks use.

They are declared here, by their user: `common.robustness` imports no purifier, and any module with these members
conforms. Parts at any depth count: ``[part for part in classifier.modules() if isinstance(part, Protocol)]``.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from common.noise import Noise
from common.numerics.finding import Finding


@runtime_checkable
class Randomised(Protocol):
    """A part that declares its randomness: False if its output does not depend on the noise. Undeclared means True."""

    @property
    def randomised(self) -> bool: ...


@runtime_checkable
class NoisyClassifier(Protocol):
    """A classifier of images with Gaussian noise.

    ``sigma`` is the noise level that it expects (pixels; 0 for clean images), ``num_classes`` is K, or None if it does
    not declare its classes.
    """

    @property
    def sigma(self) -> float | str: ...

    @property
    def num_classes(self) -> int | None: ...


@runtime_checkable
class DeclaresGradients(Protocol):
    """An attack function that declares its use of gradients: ``white_box`` False if it needs none. Undeclared: True."""

    white_box: bool


@runtime_checkable
class SupportsDiffuse(Protocol):
    """A purifier that returns its diffused image, the start of the reverse process, in pixels (B,C,H,W)."""

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor: ...


@runtime_checkable
class SupportsDifferentiation(Protocol):
    """A purifier whose differentiation mode can be replaced.

    ``differentiated(mode)`` is a context manager. It yields True if, while a gradient is recorded, the output is still
    that of the deployed process, and restores the purifier's own mode on exit. Raises ``ValueError`` on entry for an
    unknown mode and for one that does not apply to the process.
    """

    def differentiated(self, mode: Any) -> AbstractContextManager[bool]: ...


@runtime_checkable
class SupportsProcessNames(Protocol):
    """A purifier that names the process that a mode runs while a gradient is recorded, with its exact gradient."""

    def process_name(self, mode: Any) -> str: ...

    def exact_gradient(self, mode: Any) -> Any: ...


@runtime_checkable
class SupportsSurrogate(Protocol):
    """A part with a classifier whose adversarial images transfer to the defence: the guidance network of AGDM.

    ``surrogate()`` is that classifier, deterministic, on the part's own networks.
    """

    def surrogate(self) -> Any: ...


class RecordedTrajectory(Protocol):
    """The states of one purification whose gradient is recorded."""

    def deviation(self, times: int | None = None) -> Tensor:
        """Mean squared distance (B,) of diffused and reverse states at ``times`` times of the grid (None: all)."""
        ...


@runtime_checkable
class SupportsRecording(Protocol):
    """A purifier that records its trajectories.

    ``recorded()`` is a context manager. It yields a list to which every purification with a recorded gradient appends
    its `RecordedTrajectory`. Raises ``ValueError`` on entry if the differentiation mode does not reach the states.
    """

    def recorded(self) -> AbstractContextManager[list[Any]]: ...


@runtime_checkable
class SupportsGradientCheck(Protocol):
    """A part with gradient checks of its own, for what cannot be measured from outside.

    ``gradient_findings(image, noise, double)`` checks the part at an image (1,C,H,W) under one row of noise; ``double``
    is its float64 copy, or None.
    """

    def gradient_findings(self, image: Tensor, noise: Noise, double: Any = None) -> list[Finding]: ...


@runtime_checkable
class TwiceDifferentiated(Protocol):
    """A part with modules whose gradient is part of its forward pass: an attack needs their second derivatives."""

    @property
    def differentiated_twice(self) -> tuple[nn.Module, ...]: ...
