"""Interleaved timing: the pieces of a benchmark in turn, round by round, so that a slow minute hits all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Piece:
    """A piece of work and the bare pieces that it cannot do without.

    ``contains``: names of bare pieces, and how often the piece must run each of them: its limit. A piece that contains
    nothing is bare itself.
    """

    name: str
    work: Callable[[], object]
    contains: Mapping[str, float]


@dataclass(frozen=True)
class Timing:
    """Median ``seconds`` of a piece, and medians over the rounds of its ratios.

    ``to_limit``: to the bare pieces that it contains, in the same round; None for a bare piece. ``to_network``: to one
    evaluation of the bare network.
    """

    name: str
    seconds: float
    to_limit: float | None
    to_network: float


def interleaved(pieces: Sequence[Piece], repeat: int, device: torch.device, elapsed: bool = False) -> list[Timing]:
    """Time all pieces ``repeat`` times after one warm-up; the first is the bare network.

    Seconds are ``elapsed`` ones on a GPU, and those of the processor on a CPU, where other programs would count
    otherwise.
    """
    clock = time.perf_counter if elapsed or device.type != "cpu" else time.process_time
    rounds: list[dict[str, float]] = []
    for number in range(-1, repeat):
        seconds = {}
        start = number % len(pieces)
        for piece in (*pieces[start:], *pieces[:start]):
            synchronise(device)
            begin = clock()
            piece.work()
            synchronise(device)
            seconds[piece.name] = clock() - begin
        rounds.append(seconds)
    return [_timing(piece, rounds[1:], pieces[0].name) for piece in pieces]


def _timing(piece: Piece, rounds: Sequence[Mapping[str, float]], network: str) -> Timing:
    seconds = [one[piece.name] for one in rounds]
    limits = [sum(times * one[name] for name, times in piece.contains.items()) for one in rounds]
    to_limit = median(s / limit for s, limit in zip(seconds, limits, strict=True)) if piece.contains else None
    return Timing(piece.name, median(seconds), to_limit, median(one[piece.name] / one[network] for one in rounds))


def synchronise(device: torch.device) -> None:
    """Wait for the work on a device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
