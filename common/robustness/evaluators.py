"""Evaluators: classifier x batch -> records, one per image.

Every random number comes from ``Noise.of(seed, index)``, split into streams that cannot overlap: ``score`` for the
draws that are scored, ``attack`` for all that an attack draws, ``control`` for the clean queries beside an attack,
``smoothing`` for certificates. So an attack never sees the noise it will be scored on, and nothing in a record
depends on how images were batched, except through the rounding of floats.

This is a border: whatever arrives in a batch, and whatever an attack returns, is checked here.
"""

import base64
import io
import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks import Attack
from common.robustness.checks import probe
from common.robustness.classifiers import Classifier, deployed
from common.robustness.records import Record
from common.robustness.smoothing import Smoothing
from common.robustness.threat import ThreatModel

Batch = tuple[Tensor, Tensor, Tensor]


class Evaluator(Protocol):
    """``evaluator(classifier, (image, label, index))`` -> one record per image, in the batch's order.

    ``image`` (B,C,H,W) float32 in [0,1], ``label`` (B,) int64 in 0..K-1, ``index`` (B,) int64, distinct: the image's
    number in the data set, which names its record and its noise. Anything else raises ``ValueError``, as does
    inference mode. The classifier is evaluated as deployed: evaluation mode, float32, no parameter gradients.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]: ...


@dataclass(frozen=True)
class Clean:
    """Accuracy on the images as they are: ``predictions`` and ``correct``, one entry per draw.

    A deterministic classifier is asked once, whatever ``draws`` says.
    """

    draws: int = 1
    seed: int = 0
    name: str = "clean"

    def __post_init__(self) -> None:
        _check_settings(self.name, self.seed, self.draws)

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]:
        start = time.perf_counter()
        image, label, index = _checked(classifier, batch)
        logits = _ask(classifier, image, label, Noise.of(self.seed, index).stream("score"), self.draws)
        rows = [{"predictions": p, "correct": c} for p, c in zip(*_scores(logits, label), strict=True)]
        return _records(self.name, label, index, rows, start)


@dataclass(frozen=True)
class Attacked:
    """Accuracy under an attack, which is not trusted: its budget is checked and its images are classified anew.

    - ``predictions``, ``correct``: the attacked image on ``draws`` fresh draws (one if deterministic).
    - ``clean_predictions``: the unattacked image on as many other draws, what mere asking again achieves.
    - ``distance`` in the threat's norm, ``norm``, ``eps`` (pixels), ``within_budget``, ``white_box`` (an attack may
      carry ``white_box = False``: it uses no gradient of the defence).
    - ``zero_gradient``, ``probabilities``, ``repeatable``: signs of masking (`checks.probe`), for white-box attacks.
    - ``images``, for images with index below ``keep_images``: PNG in base64 of ``clean``, ``adversarial`` and the
      classifier's own views of the attacked image, under the noise of the first scored draw.

    An attack that leaves the threat model is a bug, not a result: ``ValueError``, and no record of that batch.
    """

    attack: Attack
    threat: ThreatModel
    draws: int = 10
    seed: int = 0
    name: str = "attacked"
    keep_images: int = 8

    def __post_init__(self) -> None:
        _check_settings(self.name, self.seed, self.draws)
        if self.keep_images < 0:
            raise ValueError(f"keep_images must be at least 0; got {self.keep_images}")

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]:
        start = time.perf_counter()
        image, label, index = _checked(classifier, batch)
        if not len(index):
            return []
        noise = Noise.of(self.seed, index)
        control = _ask(classifier, image, label, noise.stream("control"), self.draws)
        flags = self._flags(classifier, image, label, noise.stream("control"), control[0])
        adv = self._attacked(classifier, image, label, noise.stream("attack"))
        logits = _ask(classifier, adv, label, noise.stream("score"), self.draws)
        predictions, correct = _scores(logits, label)
        distance = self.threat.distance(image, adv).tolist()
        rows: list[dict[str, Any]] = [
            {"predictions": p, "correct": c, "clean_predictions": q, "distance": d, "within_budget": True, **flag}
            for p, c, q, d, flag in zip(predictions, correct, _scores(control, label)[0], distance, flags, strict=True)
        ]
        for row, pictures in zip(rows, self._pictures(classifier, image, adv, noise.stream("score")), strict=True):
            row |= {"norm": self.threat.name, "eps": float(self.threat.eps)} | pictures
        return _records(self.name, label, index, rows, start)

    def _flags(
        self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, logits: Tensor
    ) -> list[dict[str, Any]]:
        """Signs of masking per image, in pieces no larger than those the attack works in."""
        if not getattr(self.attack, "white_box", True):
            return [{"white_box": False} for _ in label]
        size = getattr(self.attack, "chunk", None) or len(image)
        flags: list[dict[str, Any]] = []
        with deployed(classifier), torch.autocast(image.device.type, enabled=False):
            for begin in range(0, len(image), size):
                rows = slice(begin, begin + size)
                flags += probe(classifier, image[rows], label[rows], noise.rows(rows), logits[rows])
        return [{"white_box": True, **flag} for flag in flags]

    def _attacked(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> Tensor:
        with deployed(classifier), torch.autocast(image.device.type, enabled=False):
            adv = self.attack(classifier, image.clone(), label.clone(), self.threat, noise).detach()
        if adv.shape != image.shape or adv.dtype != image.dtype:
            got = f"{adv.dtype} of shape {tuple(adv.shape)} for {image.dtype} of shape {tuple(image.shape)}"
            raise ValueError(f"{self.name!r}: an attack returns images as it got them; it returned {got}")
        allowed = self.threat.check(image, adv)
        if not bool(allowed.all()):
            distance = self.threat.distance(image, adv)
            worst = int(torch.where(allowed, -torch.inf, distance.nan_to_num(torch.inf)).argmax())
            raise ValueError(
                f"{self.name!r}: the attack left {self.threat} on {int((~allowed).sum())} of {len(adv)} images, "
                f"worst at index {int(noise.index[worst])}: distance {float(distance[worst]):.6g}, pixels from "
                f"{float(adv[worst].min()):.6g} to {float(adv[worst].max()):.6g}. Let it end with threat.project."
            )
        return adv

    def _pictures(self, classifier: Classifier, image: Tensor, adv: Tensor, noise: Noise) -> list[dict[str, Any]]:
        """``{"images": {name: PNG}}`` for the first images of the data set, ``{}`` for all others."""
        keep = (noise.index < self.keep_images).nonzero().flatten()
        if image.shape[1] not in (1, 3):
            keep = keep[:0]
        pictures: list[dict[str, Any]] = [{} for _ in image]
        if not len(keep):
            return pictures
        with torch.no_grad(), deployed(classifier), torch.autocast(image.device.type, enabled=False):
            seen = {"clean": image[keep], "adversarial": adv[keep]} | classifier.views(adv[keep], noise.rows(keep))
        for row, position in enumerate(keep.tolist()):
            pictures[position] = {"images": {name: encode(views[row]) for name, views in seen.items()}}
        return pictures


@dataclass(frozen=True)
class Certified:
    """Randomised-smoothing certificates: ``prediction`` (-1: abstained), ``radius`` (L2, pixels), ``p_lower``,
    ``samples``, ``count``, and ``correct`` (right class, hence not abstained)."""

    smoothing: Smoothing
    seed: int = 0
    name: str = "certified"

    def __post_init__(self) -> None:
        _check_settings(self.name, self.seed)

    def __call__(self, classifier: Classifier, batch: Batch) -> list[Record]:
        start = time.perf_counter()
        image, label, index = _checked(classifier, batch)
        check_labels(label, self.smoothing.num_classes)
        with deployed(classifier), torch.autocast(image.device.type, enabled=False):
            certificates = self.smoothing.certify(classifier, image, Noise.of(self.seed, index).stream("smoothing"))
        rows = [
            {"prediction": c.prediction, "radius": float(c.radius), "p_lower": float(c.p_lower), "samples": c.samples}
            | {"count": c.count, "correct": c.prediction == truth}
            for c, truth in zip(certificates, label.tolist(), strict=True)
        ]
        return _records(self.name, label, index, rows, start)


def encode(image: Tensor) -> str:
    """A pixel image (C,H,W), C 1 or 3, as a PNG with 8 bits per channel, in base64."""
    grey = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _ask(classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, draws: int) -> Tensor:
    """Logits (draws, B, K), one draw at a time: no more memory than the batch needs. Checks the labels against K."""
    draws = draws if classifier.randomised else 1
    answers = []
    with torch.no_grad(), deployed(classifier), torch.autocast(image.device.type, enabled=False):
        for draw in range(draws):
            logits = classifier(image, noise.draws(1, start=draw))
            if logits.ndim != 2 or len(logits) != len(image):
                got = f"{tuple(logits.shape)} for {len(image)} images"
                raise ValueError(f"a classifier returns logits (B, K); got shape {got}")
            check_labels(label, logits.shape[1])
            if not bool(logits.isfinite().all()):
                where = noise.index[~logits.isfinite().all(1)].tolist()
                raise ValueError(f"the classifier's logits are not finite for the images with index {where[:8]}")
            answers.append(logits)
    return torch.stack(answers)


def _scores(logits: Tensor, label: Tensor) -> tuple[list[list[int]], list[list[bool]]]:
    """(draws, B, K) -> predictions and correctness, per image and draw."""
    guess = logits.argmax(-1).T
    return guess.tolist(), (guess == label[:, None]).tolist()


def _records(name: str, label: Tensor, index: Tensor, rows: list[dict[str, Any]], start: float) -> list[Record]:
    cost = {"seconds": (time.perf_counter() - start) / max(1, len(rows))}
    pairs = zip(index.tolist(), label.tolist(), rows, strict=True)
    return [Record(name, i, y, values, cost) for i, y, values in pairs]


def _check_settings(name: str, seed: int, draws: int = 1) -> None:
    if not name:
        raise ValueError("an evaluator needs a name: it is the key of its records")
    if draws < 1:
        raise ValueError(f"draws must be at least 1; got {draws}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in 0 .. 2^63 - 1; got {seed}")


def check_batch(batch: Batch) -> Batch:
    """The batch, if it is one: (image, label, index), see `Evaluator`; the border of tests and of training alike."""
    if not isinstance(batch, tuple | list) or len(batch) != 3 or not all(isinstance(part, Tensor) for part in batch):
        got = f"{len(batch)} entries" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(
            f"a batch is (image, label, index), three tensors; got {got}. The index is the image's number in the data "
            "set: let the data set return it, else a record cannot be resumed or merged."
        )
    image, label, index = batch
    _check_image(image)
    for name, value in (("label", label), ("index", index)):
        if value.dtype != torch.int64 or value.shape != (len(image),):
            got = f"{value.dtype} of shape {tuple(value.shape)}"
            raise ValueError(f"{name} must be int64 (B,), one per image of {len(image)}; got {got}")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < 2**32:
        raise ValueError(f"an index must be in 0 .. 2^32 - 1; got {int(index.min())} to {int(index.max())}")
    return image, label, index


def _checked(classifier: Classifier, batch: Batch) -> Batch:
    """The batch, if it is one; see `Evaluator`."""
    if torch.is_inference_mode_enabled():
        raise ValueError("attacks and guidance need gradients, but inference mode is on: Trainer(inference_mode=False)")
    if not hasattr(classifier, "randomised"):
        kind = type(classifier).__name__
        raise ValueError(f"an evaluator needs a Classifier; got {kind}. Wrap a network as NetworkClassifier(network).")
    image, label, index = check_batch(batch)
    if image.dtype != torch.float32:
        raise ValueError(f"images must be float32: half precision would round the budget; got {image.dtype}")
    if len(set(index.tolist())) != len(index):
        raise ValueError(f"indices must be distinct within a batch; got {index.tolist()}")
    return image, label, index


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"images must be floats (B,C,H,W); got {image.dtype} of shape {tuple(image.shape)}")
    if not bool(image.isfinite().all()):
        raise ValueError("images must be finite; got NaN or infinity")
    if image.numel() and not 0 <= float(image.min()) <= float(image.max()) <= 1:
        low, high = float(image.min()), float(image.max())
        raise ValueError(f"images must be in [0,1]; got {low:.4g} to {high:.4g}. The classifier normalises them.")


def check_labels(label: Tensor, num_classes: int) -> None:
    """Raises ``ValueError`` unless every label is in 0..K-1."""
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
        got = f"{int(label.min())} to {int(label.max())}"
        raise ValueError(f"labels must be in 0..{num_classes - 1}, the classifier has {num_classes} classes; got {got}")
