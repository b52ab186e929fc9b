"""Commands of the benchmark of two processes: an attack, a certification of unequal images, and a training."""

import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from common.networks import WideResNet
from common.noise import Noise
from common.robustness.classifiers import Classifier

LARGE = {"depth": 16, "widen_factor": 6, "norm": "group"}  # 5.3 M parameters
SMALL = {"depth": 10, "widen_factor": 1, "norm": "group"}


class Unequal(Classifier):
    """A network's cost, and votes of which every fourth image is hard to certify."""

    randomised = True

    def __init__(self, depth: int = 10, widen_factor: int = 1, norm: str = "group") -> None:
        super().__init__()
        self.network = WideResNet(depth=depth, widen_factor=widen_factor, norm=norm)  # type: ignore[arg-type]

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        logits = 0 * self.network(image)
        rows = Noise.or_fresh(noise, image)
        chance = rows.stream("vote").uniform(0, ())
        logits[:, 0] += 1.0 * (chance < torch.where(rows.index % 4 == 1, 0.68, 0.99))
        logits[:, 1] += 0.5
        logits[:, 2] += 0.1 * chance
        return logits


def write_config(kind: str, folder: Path, network: dict[str, Any], images: int, steps: int) -> Path:
    """YAML of one of the commands: ``images`` are tested, ``steps`` are those of the attack or the training."""
    body = {
        "class_path": "NetworkClassifier",
        "init_args": {"network": {"class_path": "WideResNet", "init_args": network}},
    }
    data = {"class_path": "Synthetic", "init_args": {"num_classes": 10, "shape": [3, 32, 32], "batch_size": 64}}
    trainer: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False,
                               "default_root_dir": str(folder)}  # fmt: skip
    if kind == "fit":
        task, arguments = "ClassifierTask", {"classifier": body, "export": str(folder / "export.safetensors")}
        trainer |= {"max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": False}
    else:
        data["init_args"] |= {"test_images": images}
        ball = {"class_path": "ThreatModel", "init_args": {"norm": "inf", "eps": "8/255"}}
        evaluator = {"class_path": "Attacked", "init_args": {
            "attack": {"class_path": "PGD", "init_args": {"steps": steps}}, "threat": ball, "draws": 1,
            "keep_images": 0,
        }}  # fmt: skip
        if kind == "certification":
            body = {"class_path": "tests.benchmarks.two_processes.Unequal", "init_args": network}
            smoothing = {
                "sigma": 0.25,
                "n0": 32,
                "n": 1000,
                "alpha": 0.01,
                "targets": [0.1],
                "first": 64,
                "batch_size": 64,
            }
            evaluator = {"class_path": "Certified", "init_args": {
                "smoothing": {"class_path": "Sequential", "init_args": smoothing},
            }}  # fmt: skip
        task = "RobustTask"
        arguments = {"classifier": body, "evaluators": [evaluator], "records": str(folder / "records"), "masking": 0,
                     "verify": "off"}  # fmt: skip
    model = {"class_path": task, "init_args": arguments}
    config = {"seed_everything": 0, "model": model, "data": data, "trainer": trainer}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def timed(file: Path, kind: str) -> None:
    """In a command's process: one thread, and the time of its work, without its start, written to ``file``."""
    from common.tasks.interruption import Interruptible

    torch.set_num_threads(1)
    begin, end = ("on_train_start", "on_fit_end") if kind == "fit" else ("on_test_batch_start", "teardown")
    begun, ended, start = getattr(Interruptible, begin), getattr(Interruptible, end, None), [0.0]

    def started(self: Any, *args: Any) -> None:
        start[0] = start[0] or time.monotonic()
        begun(self, *args)

    def stopped(self: Any, *args: Any, **more: Any) -> None:
        if ended is not None:
            ended(self, *args, **more)
        file.write_text(json.dumps([start[0], time.monotonic()]))

    setattr(Interruptible, begin, started)
    setattr(Interruptible, end, stopped)


def span(*files: Path) -> float:
    """Seconds from the first beginning to the last end."""
    times = [json.loads(file.read_text()) for file in files]
    return float(max(end for _, end in times) - min(begin for begin, _ in times if begin))
