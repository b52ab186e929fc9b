"""Arguments of the Python interface: the defence, the threat and the suite, checked before a network runs."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from common.experiments.suites import NamedSuite, read_suite
from common.noise import Noise
from common.robustness.attacks.function_attack import as_attack
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Clean
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.threat import Threat

Defence = nn.Module | tuple[nn.Module, nn.Module]
"""A module from pixels in [0,1] to logits (a `Classifier` of the project included), or (purifier, such a module)."""

Suite = str | Sequence[Evaluator | Callable[..., Tensor]]
"""Name of a suite, or evaluators; attacks, and functions of their signature, are scored as `Attacked`."""

_THREAT = re.compile(r"l?[-_]?(inf|∞|2|1)[\s,=:(]+(\d.*?|\S+?)\)?", re.IGNORECASE)


class PlainPurifier(nn.Module):
    """A deterministic module from images to images as a purifier, which is also given noise."""

    randomised = False

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        purified: Tensor = self.module(image)
        return purified


class RandomisedNetwork(Classifier):
    """A module ``forward(image, noise)`` from pixels to logits; randomised unless it declares the contrary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.randomised = bool(getattr(network, "randomised", True))

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        logits: Tensor = self.network(image, noise=Noise.or_fresh(noise, image))
        return logits


def as_classifier(defence: Defence) -> Classifier:
    """The defence as a `Classifier`. Raises ``ValueError`` for anything but a module or a pair of modules."""
    if isinstance(defence, Classifier):
        return defence
    if isinstance(defence, tuple | list) and len(defence) == 2 and all(isinstance(part, nn.Module) for part in defence):
        purifier, network = defence
        return Purified(purifier if _takes_noise(purifier) else PlainPurifier(purifier), as_classifier(network))
    if not isinstance(defence, nn.Module):
        parts = defence if isinstance(defence, tuple | list) else [defence]
        classes = [part.__name__ for part in parts if isinstance(part, type)]
        remedy = f"Write {classes[0]}(...)" if classes else "Put a function into the forward of an nn.Module."
        kind = f"a {type(defence).__name__}" + (f" of {len(defence)}" if isinstance(defence, tuple | list) else "")
        raise ValueError(
            f"defence must be an nn.Module from pixels to logits, or a pair (purifier, such a module); got {kind}. "
            f"{remedy}"
        )
    takes_noise = "noise" in inspect.signature(defence.forward).parameters
    return RandomisedNetwork(defence) if takes_noise else NetworkClassifier(defence)


def name_of(classifier: nn.Module) -> str:
    """Name of a defence in tables, of the classes that the user knows: ``"DiffPure + ResNet"``."""
    if isinstance(classifier, Purified):
        return f"{name_of(classifier.purifier)} + {name_of(classifier.classifier)}"
    if isinstance(classifier, NetworkClassifier | RandomisedNetwork):
        return type(classifier.network).__name__
    return type(classifier.module if isinstance(classifier, PlainPurifier) else classifier).__name__


def _takes_noise(purifier: nn.Module) -> bool:
    """True if ``forward`` takes a second positional argument."""
    parameters = list(inspect.signature(purifier.forward).parameters.values())
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return len(places) > 1 or any(one.kind is one.VAR_POSITIONAL for one in parameters)


def as_threat(threat: str | Threat) -> Threat:
    """The threat of a text such as "Linf 8/255". Raises ``ValueError`` for a text of another form."""
    if isinstance(threat, Threat):
        return threat
    found = _THREAT.fullmatch(threat.strip()) if isinstance(threat, str) else None
    if found is None:
        raise ValueError(
            f"threat must be a norm and a radius in pixel units, 'Linf 8/255', 'L2 0.5' or 'L1 12', or a Threat; got "
            f"{threat!r}"
        )
    norm = {"1": "L1", "2": "L2"}.get(found[1], "Linf")
    return ThreatModel(norm, re.sub(r"\s*/\s*", "/", found[2]))


def as_suite(suite: Suite, seed: int | None, draws: int | None) -> NamedSuite:
    """The evaluators of a suite, with another seed or number of scored draws where given.

    A list without a clean evaluation gets one. Raises ``ValueError`` for an unknown name and for other entries.
    """
    if isinstance(suite, str):
        named = read_suite(suite)
    else:
        evaluators = _evaluators(list(suite) if isinstance(suite, Sequence) else [suite])
        attacked = any(isinstance(one, Attacked) for one in evaluators)
        scored = max((one.draws for one in evaluators if isinstance(one, Attacked)), default=1)
        clean = [] if not attacked or any(isinstance(one, Clean) for one in evaluators) else [Clean(draws=scored)]
        named = NamedSuite([*clean, *evaluators])
    return replace(named, evaluators=[_adjusted(one, seed, draws) for one in named.evaluators])


def _evaluators(parts: Sequence[Any]) -> list[Evaluator]:
    """Evaluators as they are; attacks and attack functions as `Attacked`, under their own name, numbered if alike."""
    names: list[str] = []
    evaluators: list[Evaluator] = []
    for part in parts:
        kind = str(getattr(part, "__name__", type(part).__name__))
        if inspect.isclass(part) or not (isinstance(part, Evaluator) or callable(part)):
            raise ValueError(
                f"a suite holds evaluators and attacks such as PGD(steps=20), or is the name of one; got {kind}"
            )
        if not isinstance(part, Evaluator):
            names.append(kind)
            number = names.count(kind)
            part = Attacked(as_attack(part), name=kind if number == 1 else f"{kind} {number}")
        evaluators.append(part)
    return evaluators


def _adjusted(evaluator: Evaluator, seed: int | None, draws: int | None) -> Evaluator:
    change: dict[str, Any] = {} if seed is None else {"seed": seed}
    if draws is not None and isinstance(evaluator, Clean | Attacked):
        change["draws"] = draws
    if draws is not None and isinstance(evaluator, Attacked):
        every = evaluator.resubmissions == evaluator.draws
        change["resubmissions"] = draws if every else min(evaluator.resubmissions, draws)
    make: Callable[..., Evaluator] = replace
    return make(evaluator, **change) if change else evaluator
