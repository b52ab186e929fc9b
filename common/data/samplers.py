"""Samplers and the training loader: test shards without padding, resumable training order."""

import os
from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

import torch.distributed
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


def world_size() -> int:
    """Number of processes that share a run."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def _rank() -> int:
    return torch.distributed.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class ShardSampler(DistributedSampler[int]):
    """Rank r takes images r, r + world, r + 2 world, ...: each exactly once, no padding, empty shards allowed.

    Lightning's own test sampler repeats images until the ranks are even, which counts some of them twice; a
    ``DistributedSampler`` keeps Lightning from sharding this one again.
    """

    def __init__(self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None) -> None:
        world, rank = num_replicas or world_size(), _rank() if rank is None else rank
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.positions = range(rank, len(dataset), world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class ShuffleSampler(DistributedSampler[int]):
    """Training order: each rank's share of a permutation that depends on (seed, epoch) alone.

    An interrupted run continues in the same order, and two ranks with half a batch each see together what one process
    sees. ``seed`` defaults to that of ``seed_everything``; Lightning sets the epoch. A few images come twice where the
    ranks would be uneven. ``skip`` leaves out the first images of the next pass.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        super().__init__(dataset, num_replicas=world_size(), rank=_rank(), shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        start, self.skip = self.skip, 0
        return islice(super().__iter__(), start, None)


class TrainingLoader(DataLoader[Any]):
    """Batches in the order of `ShuffleSampler`; restored in the middle of an epoch, it yields the remaining ones.

    ``state_dict`` holds the number of batches of the epoch that were yielded.
    """

    def __init__(self, dataset: Any, batch_size: int, workers: int) -> None:
        self.order = ShuffleSampler(dataset)
        super().__init__(dataset, batch_size=batch_size, sampler=self.order, num_workers=workers)
        self.batches_done = self.resume_at = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.batches_done, self.resume_at = self.resume_at, 0
        self.order.skip = self.batches_done * (self.batch_size or 1)
        for batch in super().__iter__():
            self.batches_done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """``{"batches_done": n}``, 0 at the end of an epoch."""
        return {"batches_done": self.batches_done % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next epoch after its first ``state["batches_done"]`` batches."""
        self.resume_at = state["batches_done"]
