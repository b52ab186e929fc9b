"""Loader of the images that several ranks test together: each takes its next share when it has done the last one."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from common.data.samplers import ShardSampler, world_size


class SharedLoader(DataLoader[Any]):
    """Batches of test images, in order on one process.

    ``shares`` yields the positions of one batch at a time, when that batch is fetched; a test sets it
    (`common.tasks.shares`). These batches are loaded by the main process: ``workers`` would claim images far ahead.
    Without ``shares`` each rank takes the fixed images of a `ShardSampler`.
    """

    dataset: Any

    def __init__(self, dataset: Any, batch_size: int, workers: int) -> None:
        super().__init__(dataset, batch_size=batch_size, sampler=ShardSampler(dataset), num_workers=workers)
        self.shares: Iterator[Sequence[int]] | None = None
        self.several = world_size() > 1

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.shares is None:
            yield from super().__iter__()
            return
        for positions in self.shares:
            yield self.collate_fn([self.dataset[position] for position in positions])

    def __len__(self) -> int:
        """Number of batches, at most: one of several ranks may come to all images, one by one."""
        return len(self.dataset) if self.several else super().__len__()
