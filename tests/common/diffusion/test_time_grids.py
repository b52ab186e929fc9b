"""Grids with a start for each row: row b has the times of a grid of its own."""

import pytest
import torch

from common.diffusion.time_grids import RowGrid, TimeGrid

F64 = torch.float64
STARTS = [0.1, 0.085, 0.115]


@pytest.mark.parametrize("steps", [1, 7])
def test_rows_are_uniform_grids_of_their_own(steps):
    grid = RowGrid(TimeGrid.uniform(0.1, 1e-5, steps), torch.tensor(STARTS, dtype=F64))
    own = torch.tensor([TimeGrid.uniform(t, 1e-5, steps).times for t in STARTS], dtype=F64)
    torch.testing.assert_close(grid.nodes, own.T, rtol=0, atol=1e-15)


def test_rows_end_together():
    grid = RowGrid(TimeGrid.uniform(0.1), torch.tensor(STARTS, dtype=F64))
    assert grid.steps == 100
    assert grid.nodes.shape == (101, 3)
    assert grid.nodes[-1].tolist() == [1e-5] * 3
    torch.testing.assert_close(grid.nodes[0], grid.t_star, rtol=0, atol=1e-15)
    assert (grid.nodes.diff(dim=0) < 0).all()


def test_coarsening_keeps_the_ends():
    assert TimeGrid.uniform(0.1).coarsen(5) == TimeGrid.uniform(0.1, 1e-5, 5)
    assert TimeGrid.uniform(30.0, 0.1, dt=1.0, t_max=80.0).coarsen(3).times == pytest.approx(
        (30, 20.033333, 10.0666, 0.1), rel=1e-4
    )
    coarse = RowGrid(TimeGrid.uniform(0.1), torch.tensor(STARTS, dtype=F64)).coarsen(5)
    own = torch.tensor([TimeGrid.uniform(t, 1e-5, 5).times for t in STARTS], dtype=F64)
    torch.testing.assert_close(coarse.nodes, own.T, rtol=0, atol=1e-15)
