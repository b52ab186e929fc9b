"""GuidanceTask trains the guidance network of AGDM; AGDMTask tests a classifier behind AGDM."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from agdm.guidance import GuidanceClassifier
from agdm.objective import Trades, draw_sigma
from agdm.purifier import AGDM
from common.checks.settings import check_count, check_function, check_number, check_part
from common.diffusion.purifiers import Purifier
from common.diffusion.schedules import VP, Schedule, check_schedule
from common.noise import Noise
from common.robustness.classifiers import Classifier, Purified
from common.robustness.evaluation.batches import Batch
from common.tasks.recipes import Recipe
from common.tasks.robust import RobustTask
from common.tasks.training import TrainingTask, check_gradients, validation_attack
from common.units import to_model, to_pixel


class GuidanceTask(TrainingTask):
    """Train the guidance network φ on diffused images with an adversarial objective (arXiv 2403.16067).

    No diffusion model is involved. Each image has noise level 0 with probability ``clean``, else σ(t) with t uniform in
    (0, ``t_max``]. Validation logs the accuracy of φ alone at σ = 0 and σ(``t_star``), on clean images and under PGD of
    the same threat: ``val/clean_accuracy``, ``val/clean_robust``, ``val/diffused_accuracy``, ``val/diffused_robust``.

    To adapt φ to another threat, load it by ``common.checkpoints.load_network`` and train a few epochs with the new
    objective (configs/adapt).

    Parameters
    ----------
    network:
        φ, a module with ``GuidanceNetwork``'s ``forward``.
    objective:
        TRADES loss with the threat model.
    t_star:
        Diffusion time of the purifier that φ will guide, in (0, t_max of ``schedule``].
    clean:
        Share of images without noise, in [0, 1).
    val_steps:
        Steps of PGD in validation, 0 for none.
    num_classes:
        Number of classes, 0..K-1.
    recipe:
        Optimiser settings.
    export:
        Safetensors file for φ.
    schedule:
        Noise schedule; ``VP()`` by default.
    t_max:
        Largest time in training; 1.2 ``t_star`` by default.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Trades,
        t_star: float = 0.1,
        clean: float = 0.5,
        val_steps: int = 10,
        num_classes: int = 10,
        recipe: Recipe | None = None,
        export: str | None = None,
        schedule: Schedule | None = None,
        t_max: float | None = None,
    ) -> None:
        super().__init__(recipe, export)
        check_part("network", network, nn.Module, "a module")
        check_function("objective", objective)
        schedule = VP() if schedule is None else check_schedule("schedule", schedule)
        check_count("val_steps", val_steps, 0)
        check_count("num_classes", num_classes, 2)
        if not 0 < check_number("t_star", t_star) <= schedule.t_max:
            raise ValueError(f"t_star must be a time in (0, {schedule.t_max:g}]; got {t_star}")
        check_number("clean, the share of images without noise,", clean, at_least=0, below=1)
        t_max = min(schedule.t_max, 1.2 * t_star) if t_max is None else t_max
        if not 0 < check_number("t_max", t_max) <= schedule.t_max:
            raise ValueError(f"t_max must be a time in (0, {schedule.t_max:g}]; got {t_max}")
        self.t_max, self.attack = t_max, validation_attack(val_steps)
        self.network, self.objective, self.t_star, self.clean = network, objective, t_star, clean
        self.schedule, self.num_classes = schedule, num_classes
        sigma = float(self.schedule.sigma(torch.tensor(t_star, dtype=torch.float64)))
        self.views = {"clean": GuidanceClassifier(network), "diffused": GuidanceClassifier(network, sigma)}
        kinds = ("accuracy", "robust") if val_steps else ("accuracy",)
        self.metrics = nn.ModuleDict(
            {
                f"{view}_{kind}": MulticlassAccuracy(num_classes, average="micro")
                for view in self.views
                for kind in kinds
            }
        )

    def trained(self) -> nn.Module:
        return self.network

    @property
    def classes(self) -> int:
        return self.num_classes

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, index = self.checked(batch)
        noise = self.noise(index)
        sigma = draw_sigma(noise, self.schedule, self.t_max, self.clean)
        losses = self.objective(self.network, image, label, sigma, noise)
        loss = losses.total.mean()
        parts = {"train/loss": loss, "train/natural": losses.natural.mean(), "train/robust": losses.robust.mean()}
        self.log_dict(parts, prog_bar=True, batch_size=len(image))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.attack is not None:
            check_gradients()
        image, label, index = self.checked(batch)
        noise = Noise.of(self.recipe.seed, index).stream("validation")
        for view, classifier in self.views.items():
            self._score(f"{view}_accuracy", classifier, image, label, noise)
            if self.attack is not None:
                adv = self.attack(classifier, image, label, self.objective.threat, noise.stream("attack"))
                self._score(f"{view}_robust", classifier, adv, label, noise)

    def image_rows(self, batch: Batch) -> Tensor:
        """Clean images and images diffused to σ(``t_star``), each followed by the adversarial ones if PGD validates."""
        image, label, index = batch
        noise, rows = Noise.of(self.recipe.seed, index).stream("images"), list[Tensor]()
        for classifier in self.views.values():
            sigma = classifier.sigma
            z = noise.normal(0, image.shape[1:], image.dtype)
            shown = [image]
            if self.attack is not None:
                shown.append(self.attack(classifier, image, label, self.objective.threat, noise.stream("attack")))
            rows += [to_pixel(to_model(one) + sigma * z) for one in shown]
        return torch.stack(rows)

    def _score(self, name: str, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> None:
        metric = self.metrics[name]
        with torch.no_grad():
            metric(classifier(image, noise.stream("score")), label)
        self.log(f"val/{name}", metric, on_step=False, on_epoch=True, prog_bar=True)  # type: ignore[arg-type]


class AGDMTask(RobustTask):
    """Test ``classifier`` behind AGDM: ``robust-diffusion test -c configs/agdm/….yaml``.

    Attacks differentiate the guidance too, through x_t and through the reference. Raises ``ValueError`` for a purifier
    without guidance.

    Parameters
    ----------
    purifier:
        An ``AGDM``, or a purifier that holds one: at another resolution, repeated, in a chain.
    classifier:
        Classifier of purified images.
    args, kwargs:
        The other arguments of ``RobustTask``: evaluators, records, threat, verify, masking.
    """

    def __init__(self, purifier: Purifier, classifier: Classifier, *args: Any, **kwargs: Any) -> None:
        check_part("purifier", purifier, nn.Module, "a purifier")
        if not any(isinstance(part, AGDM) for part in purifier.modules()):
            kind = type(purifier).__name__
            raise ValueError(f"purifier must be an AGDM, or one of common.diffusion.composed around it; got {kind}")
        super().__init__(Purified(purifier, classifier), *args, **kwargs)
