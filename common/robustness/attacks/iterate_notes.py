"""Notes on the best iterates of images in hand, climb by climb, which a killed process leaves to the next."""

import base64
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from common.checks.deferred import look
from common.noise import Noise
from common.records.notes import current_notes
from common.robustness.noted_cost import NotedCost


class IterateNotes:
    """The rows of ``state``, tensors (B, ...) by name, of the images in ``noise``, and how many climbs are in them."""

    def __init__(self, noise: Noise, state: Mapping[str, Tensor]) -> None:
        self._state, self._notes, self._keys = state, current_notes(), list[tuple[int, str]]()
        self._cost = NotedCost(len(noise))
        if self._notes is not None:
            rows = zip(noise.index.tolist(), noise.draw.tolist(), strict=True)
            self._keys = [(i, self._notes.turn(i, f"iterates {noise.seed} {noise.depth} {draw}")) for i, draw in rows]

    def restore(self, climbs: Tensor) -> bool:
        """Write what is noted into the state, and the number of climbs in it into ``climbs`` (B,).

        Returns False if nothing is noted.
        """
        found = False
        for row, key in enumerate(self._keys):
            noted = self._notes.get(*key) if self._notes is not None else None
            if isinstance(noted, dict) and type(done := noted.get("climbs")) is int and done > 0:
                values = {name: _decoded(noted.get(name), tensor[row]) for name, tensor in self._state.items()}
                if all(value is not None for value in values.values()) and self._cost.resume(row, noted.get("cost")):
                    climbs[row], found = done, True
                    for name, value in values.items():
                        self._state[name][row] = value  # type: ignore[assignment]
        return found

    def keep(self, rows: Tensor, climbs: int) -> None:
        """Note the state of ``rows`` (A,) after so many climbs, if it is time to."""
        if self._notes is None:
            return
        climbed = {*rows.tolist()}
        self._cost.divide([float(row in climbed) for row in range(len(self._keys))])
        if not self._notes.due:
            return
        look()
        for row in climbed:
            values = {name: _encoded(tensor[row]) for name, tensor in self._state.items()}
            index, key = self._keys[row]
            self._notes.put(index, key, {"climbs": climbs, "cost": self._cost.note(row), **values})
        self._notes.save()


def _encoded(value: Tensor) -> str:
    return base64.b64encode(value.detach().cpu().contiguous().numpy().tobytes()).decode()


def _decoded(text: object, like: Tensor) -> Tensor | None:
    """The tensor with dtype and shape of ``like`` in a text; None of any other text."""
    try:
        content = base64.b64decode(str(text), validate=True)
    except ValueError:
        return None
    dtype = like.detach().cpu().numpy().dtype
    if len(content) != like.numel() * dtype.itemsize:
        return None
    return torch.from_numpy(np.frombuffer(content, dtype).copy()).view(like.shape).to(like.device)
