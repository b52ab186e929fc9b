"""Small published networks of tests/parity: config, seeded weights, an input and the publishers' output."""

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

SOURCE = "import os\nos.system('touch RAN')\n"
PARITY = Path(__file__).parents[1] / "parity"


@dataclass(frozen=True)
class Published:
    """``spec`` is the manifest, ``state`` its seeded state dict, ``arrays`` the stored input and output."""

    spec: dict[str, Any]
    state: dict[str, Tensor]
    arrays: dict[str, Tensor]

    @property
    def config(self) -> dict[str, Any]:
        """The publishers' options, with the image size."""
        size = {"image_size": self.spec["image_size"]} if "image_size" in self.spec else {}
        return size | self.spec["config"]


@pytest.fixture(scope="session")
def published() -> Callable[[str], Published]:
    """``published(name)`` reads ``tests/parity/name.*``."""
    module = importlib.util.spec_from_file_location("parity_weights", PARITY / "weights.py")
    assert module is not None
    assert module.loader is not None
    weights = importlib.util.module_from_spec(module)
    module.loader.exec_module(weights)

    @cache
    def read(name: str) -> Published:
        arrays = {key: torch.from_numpy(value) for key, value in np.load(PARITY / f"{name}.npz").items()}
        manifest = PARITY / f"{name}.json"
        return Published(json.loads(manifest.read_text()), weights.seeded_state_dict(manifest), arrays)

    return read


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """``max |a - b| / max |b|``; parity requires less than 1e-4 in float32."""
    return lambda a, b: float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.fixture(scope="session")
def awake() -> Callable[..., nn.Module]:
    """``awake(network, seed=0)``: random weights of ordinary size, in evaluation mode.

    At initialisation branches are nearly zero, which hides mistakes.
    """

    def fill(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        return network.eval()

    return fill


@pytest.fixture
def persistent(monkeypatch):
    """Module class pickled as by EDM: a call that would execute the source of the class, with the state as argument."""
    utils, persistence = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")
    monkeypatch.setitem(sys.modules, "torch_utils", utils)
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)

    def reconstruct(meta):
        raise AssertionError("the source was executed")

    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = reconstruct

    class Persistent(nn.Module):
        def __reduce__(self):
            meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": type(self).__name__}
            return reconstruct, ({**meta, "state": self.__dict__},), None

    return Persistent
