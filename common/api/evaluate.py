"""Evaluation and certification of a defence in one call."""

from pathlib import Path
from typing import Any

from common.api.arguments import Defence, Suite, as_classifier, as_suite, as_threat
from common.api.images import as_data
from common.api.result import Result
from common.api.running import Settings, run_evaluation
from common.engine.engine import Engine
from common.naming.parameters import name_arguments
from common.robustness.certification.smoothing import Smoothing
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.protocols import NoisyClassifier
from common.robustness.threats.threat import Threat
from common.tasks.robust import Verification
from common.units import parse_number

__all__ = ["certify", "evaluate"]


@name_arguments
def evaluate(
    defence: Defence,
    images: Any,
    labels: Any = None,
    threat: str | Threat = "Linf 8/255",
    suite: Suite = "quick",
    records: str | Path | None = None,
    *,
    seed: int | None = None,
    draws: int | None = None,
    batch_size: int | None = None,
    verify: Verification = "refuse",
    masking: int | None = None,
    accelerator: str = "auto",
    progress: bool = True,
    engine: Engine | None = None,
) -> Result:
    """Accuracy of a defence on clean and on attacked images.

        result = evaluate(network, images, labels, threat="Linf 8/255")
        print(result)

    The evaluation is that of ``robust-diffusion test``, with the same records: the gradients are checked before an
    attack, and attacks with other settings are compared for masking afterwards. The module is in the end as it was.

    Parameters
    ----------
    defence:
        Module from pixels in [0,1] to logits (B,K), a `Classifier`, or a pair of a purifier (images to images) and such
        a module. Normalisation belongs into the module: ``NetworkClassifier(network, mean, std)``. A part whose
        ``forward`` takes ``noise`` as well draws from it (`Noise`) and is randomised, unless its attribute
        ``randomised`` is False.
    images, labels:
        Float tensor (N,C,H,W) in [0,1] and N class numbers. Or a data set or data module without ``labels``.
    threat:
        "Linf 8/255", "L2 0.5", "L1 12", or a `Threat`.
    suite:
        "quick", "standard", "gold" or "perceptual" (configs/suites), whose attacks run on all images; or a list of
        evaluators, attacks and functions ``(classifier, image, label, threat, noise) -> images``:
        ``[PGD(steps=20), my_attack]``.
    records:
        Directory of the records, from which an interrupted evaluation goes on, with the same weights, settings and
        images. All attributes of a module are settings, public or private, but those that its class lists in
        ``not_identifying``; or a method ``identity()`` of the module returns them. With lambdas and closures, which
        cannot be determined, an evaluation runs, but is not resumed. None keeps the records in the result alone.
    seed:
        Seed of all random numbers; None for the suite's.
    draws:
        Scored decisions per image of a randomised defence; None for the suite's.
    batch_size:
        Images at a time; None for the data module's, and 128 of tensors. It changes no record, and an interrupted
        evaluation loses one batch at most.
    verify:
        "refuse" raises ``ValueError`` if the gradient check fails, "warn" goes on, "off" skips it.
    masking:
        Number of images for the comparisons of attacks, at most one in sixteen; None for the suite's, 0 for none.
    accelerator:
        "auto": the module's own device, or for a module on the CPU the machine's GPU, if there is one; "cpu", "gpu".
    progress:
        Show a progress bar with the accuracies so far.
    engine:
        How the defence's networks run, ``Engine(precision="bf16")`` for instance; None is float32.

    Raises ``ValueError`` for arguments of another form, in one sentence with the remedy.
    """
    classifier, bound = as_classifier(defence), as_threat(threat)
    named = as_suite(suite, seed, draws)
    if masking is None:
        masking = 16 if named.masking is None else named.masking
    data = as_data(images, labels, batch_size)
    settings = Settings(records, verify, masking, accelerator, progress, engine)
    return run_evaluation(classifier, data, lambda classes: named.evaluators, bound, settings)


@name_arguments
def certify(
    defence: Defence,
    images: Any,
    labels: Any = None,
    sigma: float | str = 0.25,
    n: int = 1000,
    records: str | Path | None = None,
    *,
    n0: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 128,
    accelerator: str = "auto",
    progress: bool = True,
    engine: Engine | None = None,
) -> Result:
    """Certified accuracy of a defence by randomised smoothing (Cohen et al., arXiv 1902.02918): L2 radii in pixels.

        result = certify(network, images, labels, sigma=0.25)
        print(result.certified_at(0.5))

    Parameters
    ----------
    defence, images, labels, records, accelerator, progress, engine:
        As in `evaluate`. The defence sees images with Gaussian noise, so it has to classify those.
    sigma:
        Noise level in pixels.
    n, n0:
        Samples per image for the bound, and for the choice of the class; papers report n = 100,000.
    alpha:
        Chance of a wrong certificate.
    seed:
        Seed of all random numbers.
    batch_size:
        Noisy images at a time.

    Raises ``ValueError`` for arguments of another form, and for a classifier of another noise level.
    """
    classifier = as_classifier(defence)
    check_level(classifier, sigma)
    arguments = {"sigma": sigma, "n0": n0, "n": n, "alpha": alpha, "batch_size": batch_size}
    Smoothing(**arguments)  # type: ignore[arg-type]  # refuses wrong values before a network runs

    def make(classes: int) -> list[Certified]:
        return [Certified(Smoothing(**arguments, num_classes=classes), seed=seed)]  # type: ignore[arg-type]

    data = as_data(images, labels, max(1, batch_size // n0))
    return run_evaluation(classifier, data, make, None, Settings(records, "off", 0, accelerator, progress, engine))


def check_level(classifier: Any, sigma: float | str) -> None:
    """Raise ``ValueError`` for a classifier of noisy images whose noise level is not ``sigma``."""
    if isinstance(classifier, NoisyClassifier) and parse_number(classifier.sigma) != parse_number(sigma):
        raise ValueError(
            f"this classifier expects noise of level {classifier.sigma} (pixels); got sigma {sigma}. Give both the same"
        )
