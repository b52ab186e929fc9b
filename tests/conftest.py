"""Fixtures and hooks of the whole suite: readable ids, one thread per process, trained weights shared by workers."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a shell's background job; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from filelock import FileLock

from tests.tiny_test import write_tiny_test

ROOT = Path(__file__).parent.parent


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name of a parameter's class, where pytest has no text for it; ``None`` leaves the choice to pytest."""
    if isinstance(val, torch.dtype):
        return str(val).removeprefix("torch.")
    plain = str | bytes | int | float | complex | bool | None | list | tuple | dict | set | torch.Tensor
    return None if isinstance(val, plain) or hasattr(val, "__name__") else type(val).__name__


FIRST = ("test_invariance.py", "test_cli.py", "test_configs.py")
"""Files of long tests: the last minute of a run would have one worker with a long test and the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse ids that differ between processes; skip what needs a missing accelerator; put long files first."""
    items.sort(key=lambda item: item.path.name not in FIRST)
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"ids of parameters must not hold addresses, workers would disagree: {unstable[:5]}")
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a digits classifier trained for a second, an untrained denoiser and an untrained guidance network.

    The first worker of a run that needs it makes it; the others wait at a lock and read the same files.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "weights"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = tmp_path_factory.mktemp("weights")
            _train(unfinished)
            unfinished.rename(folder)
    return folder


def _train(folder: Path) -> None:
    import cli
    from agdm.networks import GuidanceNetwork
    from common.checkpoints.saving import save
    from common.diffusion.denoisers import EDMDenoiser
    from common.diffusion.networks import DDPMpp

    torch.manual_seed(0)
    body = DDPMpp(img_resolution=8, img_channels=1, label_dim=10, model_channels=16, channel_mult=[1], num_blocks=1,
                  attn_resolutions=[4], dropout=0.0)  # fmt: skip
    save(EDMDenoiser(body, num_classes=10), folder / "denoiser.safetensors")
    save(GuidanceNetwork(in_channels=1, num_classes=10), folder / "guidance.safetensors")
    cli.main(
        ["fit", "-c", str(ROOT / "configs" / "tour" / "01-classifier.fit.yaml"), "--trainer.max_epochs=4",
         f"--model.init_args.export={folder / 'classifier.safetensors'}", "--trainer.enable_progress_bar=false",
         f"--trainer.default_root_dir={folder}"]
    )  # fmt: skip


@pytest.fixture
def tiny_test(weights: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writer of the YAML of a small DiffPure test on 13 digits; keyword arguments replace entries."""
    return partial(write_tiny_test, weights, tmp_path)


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """Reader of the merged records of a folder as plain JSON, without their cost."""

    def read(path: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "cost"} for line in lines if "evaluator" in line]

    return read
