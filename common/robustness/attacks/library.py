"""The attacks of the package torchattacks, against any classifier."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from common.checks.deferred import looked_at_each
from common.checks.settings import (
    check_count,
    check_flag,
    check_length,
    check_mapping,
    check_not_negative,
    check_number,
    check_optional,
    check_text,
)
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.global_state import seeded_generators
from common.robustness.attacks.known_noise import KnownNoise, attack_one_by_one
from common.robustness.attacks.library_model import LibraryModel
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat
from common.units import parse_number

_L2_ATTACKS = ("PGDL2", "PGDRSL2")  # every other attack with a fixed radius is an L-inf attack
_RADII = ("eps", "max_epsilon")  # names of the radius in torchattacks
_BLACK_BOX = ("GN", "OnePixel", "Pixle", "SPSA", "Square", "VANILA")
_COUNTS = {
    "N", "batch_max", "binary_search_steps", "eot_iter", "inf_batch", "len_kernel", "m", "max_batch_size",
    "max_iterations", "n_classes", "n_queries", "n_restarts", "nb_iter", "nb_sample", "noise_batch_size",
    "num_iter_set", "pixels", "popsize", "restarts", "steps",
}  # fmt: skip
_LENGTHS = {*_RADII, "alpha", "eps_iter", "lr", "step_size"}
_SIGNED = "theta"  # of JSMA: darker or brighter pixels
_NOT_ATTACKS = ("MultiAttack", "LGV")  # take attacks or data, not a model and numbers


class TorchAttacks(Attack):
    """``torchattacks.<name>(model, **options)`` (Kim, arXiv 2010.01950), for example ``TorchAttacks("MIFGSM")``.

    Radius and norm come from the threat model; ``options`` are the attack's own (also ratios such as ``"2/255"``), and
    another radius or norm there is an error. The returned images are not changed: the evaluator checks the budget.
    Attacks without a radius (CW, DeepFool, ...) search for the nearest adversarial image and may leave the ball;
    ``project=True`` ends with ``threat.project`` and so makes them attacks at this budget. ``white_box`` is False for
    those that use no gradient.

    Every call of the classifier has fresh noise, so averaging over draws works. But torchattacks picks rows out of a
    batch without their index: rows of noise follow the position within the call and the number of the call, not the
    image. Results are reproducible for the same batch, not across batch sizes; with known draws (``knows="noise"``),
    which belong to images, these are attacked one at a time. Against randomised classifiers the package counts a
    single misclassified draw as a success (APGD, Square, FAB, CW): report PGD beside it.

    The package seeds and uses the global generators of torch, numpy and random. They are seeded from ``noise`` for
    the attack and restored afterwards.
    """

    by_image = False

    def __init__(self, name: str, options: Mapping[str, Any] | None = None, project: bool = False):
        self.name = check_text("name", name)
        self.project = check_flag("project", project)
        check_optional(check_mapping, "options", options)
        self.white_box = name not in _BLACK_BOX
        self.options = {key: _read(value) for key, value in (options or {}).items()}
        self._attack = _find(name)
        self._parameters = [p for p in inspect.signature(self._attack).parameters if p != "model"]
        unknown = sorted(set(self.options) - set(self._parameters))
        if unknown:
            allowed = ", ".join(self._parameters) or "none"
            raise ValueError(f"torchattacks.{name} has no option {', '.join(unknown)}. Its options: {allowed}.")
        for key, value in self.options.items():
            self._check_option(key, value)

    def _check_option(self, key: str, value: Any) -> None:
        """``ValueError`` for a value that means nothing, by the option's name and the kind of its default."""
        name, default = f"options[{key!r}]", inspect.signature(self._attack).parameters[key].default
        if key in _COUNTS:
            check_count(key, value)
        elif isinstance(default, bool):
            check_flag(name, value)
        elif key in _LENGTHS:
            check_optional(check_length, name, value)
        elif key == _SIGNED:
            check_number(name, value)
        elif isinstance(default, int | float) or not isinstance(value, bool | str | list | tuple | None):
            check_not_negative(name, value)

    def check(self, threat: Threat) -> None:
        self._settings(require_norm_ball(threat, str(self)))

    def __str__(self) -> str:
        """Name in tables. The package's AutoAttack runs its parts for 10 steps instead of the published 100."""
        if self.name == "AutoAttack":
            return "torchattacks.AutoAttack (10 steps)"
        return f"torchattacks.{self.name}({', '.join(f'{key}={value}' for key, value in self.options.items())})"

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, str(self))
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        if isinstance(classifier, KnownNoise) and len(image) > 1:
            return AttackResult(attack_one_by_one(self, classifier, image, label, threat, noise))
        settings = self._settings(ball)
        seed = noise.stream(f"torchattacks {noise.index[:1].tolist()}").seed % 2**32
        if "seed" in self._parameters:
            settings.setdefault("seed", seed)
        with attacking(classifier, image, label, noise), looked_at_each(), seeded_generators(seed):
            model = LibraryModel(classifier, noise, image.device)
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


def _find(name: str) -> Any:
    try:
        import torchattacks
    except ImportError as error:
        message = 'TorchAttacks needs the torchattacks package: pip install "robust-diffusion[attacks]"'
        raise ImportError(message) from error
    known = sorted(set(torchattacks.__all__) - set(_NOT_ATTACKS))
    if name not in known:
        raise ValueError(f"name: torchattacks has no attack {name!r}. It has: {', '.join(known)}.")
    return getattr(torchattacks, name)


def _read(value: Any) -> Any:
    return parse_number(value) if isinstance(value, str) and "/" in value else value
