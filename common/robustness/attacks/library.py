"""The attacks of the packages torchattacks and autoattack, against any classifier."""

import inspect
import math
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.eot import check_counts
from common.robustness.attacks.known_noise import KnownNoise, attack_one_by_one
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import Threat, ThreatModel, require_norm_ball
from common.units import parse_number

_L2_ATTACKS = ("PGDL2", "PGDRSL2")  # every other attack with a fixed radius is an L-inf attack
_RADII = ("eps", "max_epsilon")  # what torchattacks calls the radius
_BLACK_BOX = ("GN", "OnePixel", "Pixle", "SPSA", "Square", "VANILA")
_COUNTS = {"steps", "eot_iter", "n_queries", "n_restarts", "restarts"}
_NOT_ATTACKS = ("MultiAttack", "LGV")  # take attacks or data, not a model and numbers


class TorchAttacks(Attack):
    """``torchattacks.<name>(model, **options)`` (Kim, arXiv 2010.01950), for example ``TorchAttacks("MIFGSM")``.

    Radius and norm come from the threat model; ``options`` are the attack's own (ratios such as ``"2/255"`` are
    read), and naming another radius or norm there is an error. What comes back is handed on as it is: the evaluator
    checks the budget. Attacks without a radius (CW, DeepFool, ...) look for the nearest adversarial image and may
    leave the ball; ``project=True`` ends with ``threat.project`` and so makes them attacks at this budget.
    ``white_box`` is false for those that use no gradient.

    Every call of the classifier gets fresh noise, so averaging over draws does average. But torchattacks picks
    rows out of a batch without saying which: rows of noise follow the position within the call and the number of
    the call, not the image. Results are reproducible for the same batch, not across batch sizes; where the draws are
    known (``knows="noise"``) and belong to images, these are attacked one at a time. Against randomised
    classifiers its bookkeeping takes one lucky draw for a success (APGD, Square, FAB, CW): report PGD beside it.

    The package seeds and uses the global generators of torch, numpy and random. They are seeded from ``noise`` for
    the attack and restored afterwards.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None, project: bool = False):
        self.name = name
        self.project = project
        self.white_box = name not in _BLACK_BOX
        self.options = {key: _read(value) for key, value in (options or {}).items()}
        self._attack = _find(name)
        self._parameters = [p for p in inspect.signature(self._attack).parameters if p != "model"]
        unknown = sorted(set(self.options) - set(self._parameters))
        if unknown:
            allowed = ", ".join(self._parameters) or "none"
            raise ValueError(f"torchattacks.{name} has no option {', '.join(unknown)}. Its options: {allowed}.")
        for key in _COUNTS & set(self.options):
            check_counts(None, **{key: self.options[key]})

    def check(self, threat: Threat) -> None:
        self._settings(require_norm_ball(threat, str(self)))

    def __str__(self) -> str:
        """What to call it in a table. The package's AutoAttack runs its parts for 10 steps, the published one for
        100, so the plain name would be wrong."""
        if self.name == "AutoAttack":
            return "torchattacks.AutoAttack (10 steps)"
        return f"torchattacks.{self.name}({', '.join(f'{key}={value}' for key, value in self.options.items())})"

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, str(self))
        if isinstance(classifier, KnownNoise) and len(image) > 1:
            return AttackResult(attack_one_by_one(self, classifier, image, label, threat, noise))
        settings = self._settings(ball)
        seed = noise.stream(f"torchattacks {noise.index[:1].tolist()}").seed % 2**32
        if "seed" in self._parameters:
            settings.setdefault("seed", seed)
        with attacking(classifier, image, label, noise), _own_generators(seed):
            model = _Model(classifier, noise, image.device)
            if "n_classes" in self._parameters and "n_classes" not in settings:
                settings["n_classes"] = model(image[:1]).shape[1]
            adv: Tensor = self._attack(model, **settings)(image.clone(), label.clone())
        adv = adv.detach().to(image.dtype)
        return AttackResult(ball.project(image, adv) if self.project else adv, queries=model.queries(len(image)))

    def _settings(self, ball: ThreatModel) -> dict[str, Any]:
        """The options, with radius and norm filled in from the threat model; ``ValueError`` where they disagree."""
        settings = dict(self.options)
        radius = next((key for key in _RADII if key in self._parameters), None)
        if radius is None:
            return settings
        if not math.isclose(settings.setdefault(radius, ball.eps), ball.eps):
            raise ValueError(f"{radius} must be the threat's, {ball.eps}; got {settings[radius]}. Leave it out.")
        fixed = "L2" if self.name in _L2_ATTACKS else "Linf"
        norm = settings.setdefault("norm", ball.name) if "norm" in self._parameters else fixed
        if norm != ball.name:
            raise ValueError(f"{self.name} attacks in {norm}; the threat is {ball.name}. Choose another attack.")
        return settings


class ReferenceAutoAttack(Attack):
    """AutoAttack (Croce & Hein, arXiv 2003.01690) by its authors' package ``autoattack``, with the settings of their
    versions "standard" and "rand", except that there are no more target classes than other classes.

    An image that it does not break comes back unperturbed. It is made for deterministic classifiers: of a randomised
    one it averages the gradient alone (rand: over 20 draws) and takes the last draw's loss and prediction for its step
    sizes and for success, and one misclassified draw ends an image's attack. What it returns for purifiers is
    therefore weak under fresh draws, and often the clean image: report APGD beside it. Rows of noise, generators and
    ``queries`` are as for `TorchAttacks`.

    Raises ``ImportError`` where the package is not installed.
    """

    def __init__(self, version: str = "standard", chunk: int | None = None) -> None:
        if not installed("autoattack"):
            raise ImportError("ReferenceAutoAttack needs the package autoattack of github.com/fra31/auto-attack")
        self.version, self.chunk = version, chunk

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "AutoAttack")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        from autoattack import AutoAttack

        ball = require_norm_ball(threat, "AutoAttack")
        if isinstance(classifier, KnownNoise) and len(image) > 1:
            return AttackResult(attack_one_by_one(self, classifier, image, label, threat, noise))
        seed = noise.stream(f"autoattack {noise.index[:1].tolist()}").seed % 2**32
        with attacking(classifier, image, label, noise), _own_generators(seed), _own_trace():
            model = _Model(classifier, noise, image.device)
            others = model(image[:1]).shape[1] - 1
            settings = {"norm": ball.name, "eps": ball.eps, "seed": seed, "version": self.version}
            attack = AutoAttack(model, **settings, device=image.device, verbose=False)
            for part in (attack.apgd_targeted, attack.fab):
                part.n_target_classes = min(part.n_target_classes, others)
            adv = attack.run_standard_evaluation(image.clone(), label.clone(), bs=self.chunk or len(image))
        adv = ball.project(image, adv.detach().to(image.dtype))
        return AttackResult(adv, queries=model.queries(len(image)))


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


class _Model(nn.Module):
    """What a package sees: image -> logits, with fresh noise at every call, and a parameter that tells the device.

    The classifier is kept out of the module tree, where the package would switch it between modes.
    """

    def __init__(self, classifier: Classifier, noise: Noise, device: torch.device):
        super().__init__()
        self.device = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self._ask = classifier.__call__
        self._noise = noise
        self._calls = self._rows = 0

    def forward(self, image: Tensor) -> Tensor:
        self._calls += 1
        self._rows += len(image)
        draws = self._noise.stream(f"call {self._calls}").draws(math.ceil(len(image) / len(self._noise)))
        logits: Tensor = self._ask(image, draws.rows(slice(len(image))))
        return logits

    def queries(self, images: int) -> Tensor:
        """Answers given per image, (images,), rounded up: nobody says which row was which image."""
        return torch.full((images,), math.ceil(self._rows / images), device=self.device.device)


def _find(name: str) -> Any:
    try:
        import torchattacks
    except ImportError as error:
        message = 'TorchAttacks needs the torchattacks package: pip install "robust-diffusion[attacks]"'
        raise ImportError(message) from error
    known = sorted(set(torchattacks.__all__) - set(_NOT_ATTACKS))
    if name not in known:
        raise ValueError(f"torchattacks has no attack {name!r}. It has: {', '.join(known)}.")
    return getattr(torchattacks, name)


def _read(value: Any) -> Any:
    return parse_number(value) if isinstance(value, str) and "/" in value else value


@contextmanager
def _own_generators(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and random seeded for the duration, then as they were."""
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the package's choice)
    with torch.random.fork_rng(devices=gpus):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _own_trace() -> Iterator[None]:
    """Debuggers and coverage as they were: a check of the reference implementation switches them off."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
