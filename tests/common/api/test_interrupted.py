"""An evaluation from Python that a signal ends: one line, the right end, and it goes on with the same records."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.api import evaluate
from common.processes.interrupts import Interrupted
from common.robustness import PGD

IMAGES, LABELS = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4


CALLS: list[int] = []  # of the network: its own attributes are as before, afterwards


class Signalling(nn.Module):
    """A linear network that sends this process a signal in one of its calls."""

    not_identifying = ("place", "name")

    def __init__(self, place: int, name: str) -> None:
        super().__init__()
        self.place, self.name = place, name
        self.register_buffer("weight", torch.linspace(-1, 1, 192).sin().reshape(4, 48))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        CALLS.append(1)
        if len(CALLS) == self.place:
            os.kill(os.getpid(), getattr(signal, self.name))
        return image.flatten(1) @ self.weight.T


def run(place: int, name: str, records: Path | None) -> Any:
    """Evaluate 8 images, two at a time, with a signal in a call of the network."""
    CALLS.clear()
    options: dict[str, Any] = {"verify": "off", "masking": 0, "batch_size": 2, "progress": False, "accelerator": "cpu"}
    return evaluate(Signalling(place, name), IMAGES, LABELS, suite=[PGD(steps=3)], records=records, **options), len(
        CALLS
    )


@pytest.mark.parametrize(("name", "end"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", Interrupted)])
@pytest.mark.parametrize("place", ["middle", "end"])
def test_a_signal_ends_it_in_one_line(tmp_path: Path, capsys: Any, name: str, end: type, place: str) -> None:
    straight, calls = run(0, name, None)
    for records, advice in (
        (tmp_path, "the same call goes on"),
        (None, "nothing was kept: records= names a directory"),
    ):
        with pytest.raises(end) as left:
            run(calls if place == "end" else calls // 2, name, records)
        if end is Interrupted:
            assert left.value.code == 143
        assert left.value.__cause__ is None and (left.value.__suppress_context__ or not left.value.__context__)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("interrupted")]
        assert line.startswith("interrupted after ") and advice in line
    assert str(run(0, name, tmp_path)[0]) == str(straight)
