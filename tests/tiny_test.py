"""YAML of a small DiffPure test on 13 digits, for the tests of commands."""

from pathlib import Path
from typing import Any

import yaml


def write_tiny_test(
    weights: Path, folder: Path, records: Path | str | None = None, attack: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write the configuration into a folder; keyword arguments replace entries of its parts."""
    part = {
        name: {
            "class_path": f"common.checkpoints.load_{name}",
            "init_args": {"path": str(weights / f"{name}.safetensors")},
        }
        for name in ("denoiser", "classifier")
    }
    purifier = {"denoiser": part["denoiser"], "t_star": 0.1, "steps": 2, **changes.pop("purifier", {})}
    threat = {"norm": "inf", "eps": "51/255", **changes.pop("threat", {})}
    attacked = {
        "attack": {
            "class_path": "common.robustness.PGD",
            "init_args": {"steps": 3, "eot": 2} | (attack or {}),
        },
        "threat": {"class_path": "common.robustness.ThreatModel", "init_args": threat},
        "draws": 3,
        "keep_images": 2,
    }
    config = {
        "model": {
            "class_path": "diffpure.DiffPureTask",
            "init_args": {
                "purifier": {"class_path": "diffpure.DiffPure", "init_args": purifier},
                "classifier": part["classifier"],
                "evaluators": [
                    {"class_path": "common.robustness.Clean", "init_args": {"draws": 2}},
                    {"class_path": "common.robustness.Attacked", "init_args": attacked},
                ],
                "records": str(records or folder / "records"),
            },
        },
        "data": {"class_path": "common.data.Digits", "init_args": {"batch_size": 7, "test_images": 13}},
        "trainer": {
            "logger": False,
            "enable_progress_bar": False,
            "default_root_dir": str(folder),
            "accelerator": "cpu",
        },
    }
    config["data"]["init_args"] |= changes.pop("data", {})
    config["trainer"] |= changes.pop("trainer", {})
    assert not changes, f"unknown parts {sorted(changes)}"
    path = folder / f"test-{len(list(folder.glob('test-*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
