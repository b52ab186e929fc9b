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


def test_a_purification_costs_little_more_than_its_networks():
    """At most 1.1 with a network of 0.19 million parameters at 32x32, in processor time; the median of seven rounds."""
    wanted = ("network", "network, input gradient", "purification", "its gradient, recomputed")
    timings = interleaved([piece for piece in PIECES if piece.name in wanted], 7, CPU)
    ratios = {one.name: one.to_limit for one in timings if one.to_limit is not None}
    assert all(ratio < 1.1 for ratio in ratios.values()), ratios
