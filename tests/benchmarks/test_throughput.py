"""Time of the pieces of ``robust-diffusion bench``, and of noise, on networks of 0.19 million parameters.

Absolute times depend on the machine: compare two commits on one machine (``--benchmark-autosave``, then
``--benchmark-compare``). The ratios to the bare networks, measured in one run, are what `bench` prints.
"""

import pytest
import torch

from common.engine.engine import Engine
from common.experiments.benchmarks.pieces import around, bare, ours
from common.experiments.benchmarks.subject import Subject
from common.experiments.benchmarks.timing import interleaved
from common.noise import Noise

pytestmark = pytest.mark.bench
pytest.importorskip("pytest_benchmark", reason='timings need the extra "bench"')

CPU = torch.device("cpu")
SUBJECT = Subject.of("small", 8, Engine(), CPU)
PIECES = [*bare(SUBJECT), *ours(SUBJECT, 4), *around(SUBJECT)[:1]]


def test_normals(benchmark):
    """2^18 standard normal numbers from the counter-based generator."""
    z = benchmark(Noise.of(0, torch.arange(8)).normal, 0, (1, 128, 256))
    assert z.shape == (8, 1, 128, 256)


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_piece(benchmark, piece):
    benchmark.pedantic(piece.work, rounds=5, warmup_rounds=1)
    assert benchmark.stats.stats.rounds == 5


LIMITS = {
    "purification": 1.01,
    "its gradient, recomputed": 1.05,
    "guided purification": 1.05,
    "its gradient": 1.05,
    "attack step with EOT": 1.05,
}
"""Largest cost of a piece, in that of its networks, with 5 million parameters."""
NOISE = 0.03
"""What three rounds of processor time differ by on a machine with other work."""


@pytest.mark.parametrize(("size", "own"), [("medium", 0.0), ("small", 0.02)])
def test_pieces_cost_little_more_than_their_networks(size, own):
    """With 64 images; ``own`` is what a network of 0.19 million parameters lets our part weigh more."""
    subject = Subject.of(size, 64, Engine(), CPU)
    timings = {one.name: one for one in interleaved([*bare(subject), *ours(subject, 4)], 3, CPU)}
    found = {name: timings[name].to_limit for name in LIMITS}
    print("\n", found)
    assert {name for name, ratio in found.items() if ratio is None or ratio > LIMITS[name] + own + NOISE} == set()
    recomputed, kept = timings["its gradient, recomputed"], timings["its gradient, kept"]
    assert recomputed.to_limit is not None
    assert kept.seconds <= 0.80 * recomputed.seconds / recomputed.to_limit
