"""Records as a test would have written them, made by a small model of defence and attack instead of a network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.numerics.finding import Finding
from common.records.schema import AttackedRecord, CleanRecord, Cost, GradientCheckRecord, Record, Role
from common.records.store import Records
from common.robustness.evaluation.stored_images import encode

EPS = 8 / 255


def purified(gradient: str = "Checkpoint", **settings: Any) -> dict[str, Any]:
    """The header's description of a purified classifier."""
    mode = {
        "class": f"common.diffusion.{gradient}",
        **({"steps": 3} if gradient == "Surrogate" else {}),
    }
    grid = {"class": "common.diffusion.TimeGrid", "times": [0.1, 0.08, 0.06, 0.04, 0.02, 1e-5]}
    solver = {"class": "common.diffusion.EulerMaruyama"}
    purifier = {"class": "diffpure.DiffPure", "gradient": mode, "grid": grid, "solver": solver, **settings}
    return {"class": "common.robustness.Purified", "purifier": purifier, "randomised": True}


def attack_part(name: str, **settings: Any) -> dict[str, Any]:
    """The header's description of an attacked evaluator; ``steps``, ``eot``, ``loss`` and ``kind`` are the attack's."""
    attack = {"class": f"common.robustness.attacks.attack.x.{settings.pop('kind', 'PGD')}", "restarts": 1}
    attack |= {key: settings.pop(key) for key in ("steps", "eot", "loss", "random_start") if key in settings}
    threat = {"class": "common.robustness.ThreatModel", "norm": "inf", "eps": settings.pop("eps", EPS)}
    protocol = {"draws": 10, "rule": "single", "votes": 1, "resubmissions": 1, "knows": "model", "seed": 0}
    protocol["role"] = Role.RESULT
    return {"class": "x.Attacked", "name": name, "attack": attack, "threat": threat, **protocol, **settings}


@dataclass
class Made:
    """A run in the making. ``margin`` is how sure the defence is of each image, ``noise`` how much a draw moves it."""

    classifier: dict[str, Any]
    n: int = 100
    seed: int = 0
    strength: float = 1.5
    parts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Record] = field(default_factory=list)
    classes: int = 10

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        self.label = random.integers(0, self.classes, self.n)  # the same images for every run
        self.margin = self.strength + random.normal(0, 0.8, self.n)

    def decisions(self, harm: Any, draws: int, seed: int) -> list[list[int]]:
        """``draws`` decisions on each image whose margin shrank by ``harm``."""
        random = np.random.default_rng((self.seed, seed))
        right = (self.margin - harm)[:, None] + random.normal(0, 0.6, (self.n, draws)) > 0
        wrong = (self.label[:, None] + random.integers(1, self.classes, (self.n, draws))) % self.classes
        return np.where(right, self.label[:, None], wrong).tolist()

    def clean(self, draws: int = 10, name: str = "clean") -> "Made":
        """Adds clean accuracy."""
        self.parts.append({"class": "x.Clean", "name": name, "draws": draws, "seed": 0})
        values = [{"predictions": predictions} for predictions in self.decisions(0.0, draws, 1)]
        self.rows += self._records(CleanRecord, name, values, 0.05, 11)
        return self

    def attacked(
        self, name: str, harm: float = 2.0, pictured: int = 0, baseline: str | None = None, **settings: Any
    ) -> "Made":
        """Adds an attack that lowers every margin by about ``harm`` in the end."""
        part = attack_part(name, **settings)
        self.parts.append(part)
        steps, draws, seed = part["attack"].get("steps", 20), part["draws"], len(self.parts)
        random = np.random.default_rng((self.seed, seed, 5))
        each = harm * random.uniform(0.8, 1.2, self.n)
        rise = 1 - np.exp(-3 * np.arange(steps + 1) / steps)
        chance = 1 / (1 + np.exp(-3 * (self.margin[:, None] - 0.15 - each[:, None] * rise)))
        columns = {
            "predictions": self.decisions(each, draws, seed),
            "clean_predictions": self.decisions(0.0, draws, seed + 100),
            "random_predictions": self.decisions(0.1, draws, seed + 200),
            "curve": chance.tolist(),
            "broken": (chance.min(1) < 0.8).tolist(),
        }
        flags = {"zero_gradient": False, "probabilities": False, "repeatable": True, "white_box": True}
        eps = part["threat"]["eps"]
        plain = {"distance": eps, "norm": "Linf", "eps": eps, "within_budget": True, "dead": 0.0, **flags}
        plain |= {key: part[key] for key in ("knows", "resubmissions", "rule", "votes", "seed", "role")} | {
            "baseline": baseline
        }
        eot = part["attack"].get("eot", 1)
        values = [dict(zip(columns, row, strict=True)) | plain for row in zip(*columns.values(), strict=True)]
        for index, entry in enumerate(values):
            entry["queries"] = (steps + 1) * eot
            if index < pictured:
                entry["images"] = self._images(index)
        rows = self._records(AttackedRecord, name, values, 0.02 * steps * eot, 11 * steps * eot)
        self.rows += rows[: part.get("limit")]
        return self

    def verified(self, *findings: Finding) -> "Made":
        """Adds a gradient check."""
        self.parts.append({"class": "x.GradientCheck", "name": "verify"})
        passed = all(finding.passed for finding in findings)
        common = {"evaluator": "verify", "index": 0, "label": int(self.label[0])}
        self.rows.append(GradientCheckRecord(**common, verified=passed, findings=list(findings)))
        return self

    def write(self, path: Path) -> Path:
        """Into a records directory."""
        records = Records(path, f"{self.seed}", {"classifier": self.classifier, "evaluators": self.parts})
        records.append(self.rows)
        records.close()
        return path

    def _records(
        self, kind: type[Record], name: str, values: list[dict[str, Any]], seconds: float, evaluations: float
    ) -> list[Record]:
        cost = Cost(evaluations, seconds, 1_500_000_000)
        common = [{"evaluator": name, "index": i, "label": int(self.label[i]), "cost": cost} for i in range(self.n)]
        return [kind(**known, **entry) for known, entry in zip(common, values, strict=True)]

    def _images(self, index: int) -> dict[str, str]:
        random = torch.Generator().manual_seed(index)
        x, y = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
        turn = float(self.label[index]) / 2
        shapes = [torch.sin(4 * (x * np.cos(turn + c) + y * np.sin(turn + c))) for c in range(3)]
        clean = 0.5 + 0.35 * torch.stack(shapes) * torch.exp(-(x**2) - y**2)
        change = EPS * torch.randn(clean.shape, generator=random).sign()
        diffused = clean + 0.2 * torch.randn(clean.shape, generator=random)
        views = {"clean": clean, "adversarial": clean + change, "diffused": diffused, "purified": clean + change / 3}
        return {name: encode(view) for name, view in views.items()}


@pytest.fixture(scope="session")
def made() -> Callable[..., Made]:
    """``made(gradient="Checkpoint", **fields)``: a run of a purified classifier, still empty."""
    return lambda gradient="Checkpoint", **fields: Made(purified(gradient), **fields)
