"""What every data module shares: batches of (image, label, index), and a test sampler that counts each image once."""

from collections.abc import Iterator, Sized

import lightning as L
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

Example = tuple[Tensor, int, int]  # image (C,H,W) in [0,1], label, index


class ImageDataset(Dataset[Example]):
    """Images in memory. ``images`` (N,C,H,W) float32 in [0,1], ``labels`` (N,) int64; the index is the position."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if len(images) != len(labels):
            raise ValueError(f"one label per image; got {len(images)} images and {len(labels)} labels")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return self.images[index], int(self.labels[index]), index


class ShardSampler(DistributedSampler[int]):
    """Rank r takes images r, r + world, r + 2 world, ...: each exactly once, no padding, empty shards allowed.

    Lightning's own test sampler repeats images until the ranks are even, which counts some of them twice; being a
    ``DistributedSampler`` keeps Lightning from sharding this one again.
    """

    def __init__(self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None) -> None:
        active = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = num_replicas if num_replicas is not None else torch.distributed.get_world_size() if active else 1
        mine = rank if rank is not None else torch.distributed.get_rank() if active else 0
        super().__init__(dataset, num_replicas=world, rank=mine, shuffle=False)  # type: ignore[arg-type]
        self.positions = range(mine, len(dataset), world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class ImageData(L.LightningDataModule):
    """Base of the data modules: subclasses fill ``train``, ``val`` and ``held_out`` in ``setup``.

    Training batches are shuffled (Lightning shards them over ranks); validation and test go through
    :class:`ShardSampler`. Attributes ``num_classes`` and ``shape`` (C,H,W) are known before ``setup``.
    """

    num_classes: int
    shape: tuple[int, int, int]
    train: Dataset[Example]
    val: Dataset[Example]
    held_out: Dataset[Example]

    def __init__(self, batch_size: int = 128, test_images: int | None = None, workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1; got {batch_size}")
        if test_images is not None and test_images < 1:
            raise ValueError(f"test_images must be >= 1, or null for all of them; got {test_images}")
        self.batch_size, self.test_images, self.workers = batch_size, test_images, workers

    def train_dataloader(self) -> DataLoader[Example]:
        return DataLoader(self.train, self.batch_size, shuffle=True, num_workers=self.workers, drop_last=False)

    def val_dataloader(self) -> DataLoader[Example]:
        return self._in_order(self.val)

    def test_dataloader(self) -> DataLoader[Example]:
        """The first ``test_images`` of the held-out images, in order."""
        dataset = self.held_out
        if self.test_images is not None:
            available = len(dataset)  # type: ignore[arg-type]
            if self.test_images > available:
                raise ValueError(
                    f"test_images must be at most {available}, the held-out images; got {self.test_images}"
                )
            dataset = torch.utils.data.Subset(dataset, range(self.test_images))
        return self._in_order(dataset)

    def predict_dataloader(self) -> DataLoader[Example]:
        return self.test_dataloader()

    def _in_order(self, dataset: Dataset[Example]) -> DataLoader[Example]:
        return DataLoader(dataset, self.batch_size, sampler=ShardSampler(dataset), num_workers=self.workers)  # type: ignore[arg-type]
