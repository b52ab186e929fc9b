"""What every data module shares: batches of (image, label, index), and a test sampler that counts each image once."""

import inspect
import os
from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import Subset as Selection
from torch.utils.data.distributed import DistributedSampler

from common.data.image_files import Crop
from common.data.subsets import Subset
from common.data.unlabelled import PictureBatches, Pictures, class_names

Example = tuple[Tensor, int, int]  # image (C,H,W) in [0,1], label, index
Batch = tuple[Tensor, Tensor, Tensor]  # the same of B images


class Images(Protocol):
    """A data set of images: ``labels`` (N,) int64, and ``[i]`` is (image, label, i)."""

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class ImageDataset(Dataset[Example]):
    """Images in memory. ``images`` (N,C,H,W), float32 in [0,1] or uint8 up to 255; ``labels`` (N,) int64.

    The index is the position.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if len(images) != len(labels):
            raise ValueError(f"one label per image; got {len(images)} images and {len(labels)} labels")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        image = self.images[index]
        return image / 255 if image.dtype == torch.uint8 else image, int(self.labels[index]), index


class ShardSampler(DistributedSampler[int]):
    """Rank r takes images r, r + world, r + 2 world, ...: each exactly once, no padding, empty shards allowed.

    Lightning's own test sampler repeats images until the ranks are even, which counts some of them twice; being a
    ``DistributedSampler`` keeps Lightning from sharding this one again.
    """

    def __init__(self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None) -> None:
        world = num_replicas if num_replicas is not None else world_size()
        active = torch.distributed.is_available() and torch.distributed.is_initialized()
        mine = rank if rank is not None else torch.distributed.get_rank() if active else 0
        super().__init__(dataset, num_replicas=world, rank=mine, shuffle=False)  # type: ignore[arg-type]
        self.positions = range(mine, len(dataset), world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class ShuffleSampler(DistributedSampler[int]):
    """Training order: each rank's share of a permutation that (seed, epoch) decides and nothing else.

    So a run that was killed goes on in the order it would have had, and two ranks with half a batch each see together
    what one process sees. ``seed`` is by default that of ``seed_everything``; Lightning sets the epoch. A few images
    come twice where the ranks would be uneven. ``skip`` leaves out the first so many, once.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        active = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if active else 0
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        super().__init__(dataset, num_replicas=world_size(), rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        start, self.skip = self.skip, 0
        return islice(super().__iter__(), start, None)


class TrainingLoader(DataLoader[Any]):
    """Batches in the order of :class:`ShuffleSampler`; one that is restored in the middle of an epoch gives the rest.

    ``state_dict`` says how many batches of the epoch were given.
    """

    def __init__(self, dataset: Any, batch_size: int, workers: int) -> None:
        self.order = ShuffleSampler(dataset)
        super().__init__(dataset, batch_size=batch_size, sampler=self.order, num_workers=workers)
        self.given = self.first = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.given, self.first = self.first, 0
        self.order.skip = self.given * (self.batch_size or 1)
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """``{"given": n}``, 0 at the end of an epoch."""
        return {"given": self.given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next epoch begins behind its first ``state["given"]`` batches."""
        self.first = state["given"]


def world_size() -> int:
    """The number of processes that share a run."""
    active = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if active else 1


class ImageData(L.LightningDataModule):
    """Base of the data modules: subclasses fill ``train``, ``val`` and ``held_out`` in ``load``.

    Training batches go through :class:`ShuffleSampler`, validation and test through
    :class:`ShardSampler`. Attributes ``num_classes`` and ``shape`` (C,H,W) are known after ``setup`` at the latest;
    ``classes``, the classes' names, may be None; ``channels`` is what ``path``'s pictures are converted to, 3 or 1.

    Parameters
    ----------
    batch_size, workers:
        images in a batch, and processes that load them (0: the main one).
    subset:
        which test images and in which order, see ``common.data.subsets``; all of them in order without it.
    test_images:
        test only the first so many of these.
    test_on:
        "validation" makes a test see the validation images, which settings are to be chosen on.
    path:
        images for ``predict``: a folder, whose sub-folders count too, or one file. Without it ``predict`` takes the
        test images.
    size:
        resize the images of ``path`` to this side, cropping what is longer; without it they stay as they are.
    class_file:
        a file with the classes' names, one per line, for ``predict``'s table.
    """

    num_classes: int
    shape: tuple[int, int, int]
    channels: int = 3
    classes: Sequence[str] | None = None
    train: Images
    val: Images
    held_out: Images

    def __init__(
        self,
        batch_size: int = 128,
        test_images: int | None = None,
        workers: int = 0,
        subset: Subset | None = None,
        path: str | Path | None = None,
        size: int | None = None,
        class_file: str | Path | None = None,
        test_on: Literal["test", "validation"] = "test",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1; got {batch_size}")
        if test_images is not None and test_images < 1:
            raise ValueError(f"test_images must be >= 1, or null for all of them; got {test_images}")
        if workers < 0:
            raise ValueError(f"workers must be >= 0, the number of processes that load images; got {workers}")
        if test_on not in ("test", "validation"):
            raise ValueError(f"test_on must be 'test' or 'validation'; got {test_on!r}")
        if test_on == "validation" and subset is not None:
            raise ValueError(f"a subset is one of the test images; {type(subset).__name__} has none of validation")
        self.batch_size, self.test_images, self.workers, self.test_on = batch_size, test_images, workers, test_on
        self.subset, self.path, self.size = subset, None if path is None else Path(path).expanduser(), size
        self.crop = Crop(size)  # what happens to the pictures of ``path``
        if class_file is not None:
            self.classes = class_names(class_file)
        self.files: Pictures | None = None
        self._training: TrainingLoader | None = None
        self._resumed = {"given": 0}

    def load(self, stage: str | None = None) -> None:
        """Fill ``train``, ``val`` and ``held_out``, as far as ``stage`` (Lightning's, None for all) needs them."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        if stage == "predict" and self.path is not None:
            self.files = Pictures(self.path, self.crop, self.channels)
        else:
            self.load("validate" if stage == "test" and self.test_on == "validation" else stage)

    def identity(self) -> dict[str, Any]:
        """What decides the test images: the constructor's own arguments and the subset, if there is one.

        Left out is what says where they are, how fast they are read or how many are tested: records of another machine
        or of a shorter test of the same subset belong to the same run.
        """
        parameters = inspect.signature(type(self)).parameters.values()
        own = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in ELSEWHERE]
        if lost := [name for name in own if not hasattr(self, name)]:
            raise ValueError(f"{type(self).__name__} must keep its arguments {lost} as attributes: records name them")
        subset = {} if self.subset is None else {"subset": self.subset}
        where = {} if self.test_on == "test" else {"test_on": self.test_on}
        return {name: getattr(self, name) for name in own} | subset | where

    def train_dataloader(self) -> DataLoader[Any]:
        self._training = TrainingLoader(self.train, self.batch_size, self.workers)
        self._training.load_state_dict(self._resumed)
        self._resumed = {"given": 0}
        return self._training

    def state_dict(self) -> dict[str, Any]:
        """Where in an epoch training is: Lightning would restore a loader only where no schedule counts its batches."""
        return {} if self._training is None else self._training.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = {"given": state_dict.get("given", 0)}

    def val_dataloader(self) -> DataLoader[Any]:
        return self._in_order(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """The first ``test_images`` of the subset, or of all held-out images; indices are those of the whole set."""
        images = self.held_out if self.test_on == "test" else self.val
        labels = images.labels
        order = range(len(images)) if self.subset is None else self.subset.order(labels)
        if self.test_images is not None and self.test_images > len(order):
            what = (
                f"the {self.test_on} images" if self.subset is None else f"the images of {type(self.subset).__name__}"
            )
            raise ValueError(f"test_images must be at most {len(order)}, {what}; got {self.test_images}")
        return self._in_order(Selection(images, order[: self.test_images]))  # type: ignore[arg-type]

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the pictures in ``path``, all of one size within a batch, with -1 for labels; see ``files``."""
        if self.path is None:
            return self.test_dataloader()
        files = self.files or Pictures(self.path, self.crop, self.channels)
        batches = PictureBatches(files, self.batch_size, world_size())
        return DataLoader(batches, batch_size=None, sampler=ShardSampler(batches), num_workers=self.workers)

    def _in_order(self, dataset: Any) -> DataLoader[Any]:
        sampler = ShardSampler(dataset)  # by name: Lightning makes a predicting loader again, with its own arguments
        return DataLoader(dataset, batch_size=self.batch_size, sampler=sampler, num_workers=self.workers)


ELSEWHERE = {
    *("root", "download", "batch_size", "test_images", "workers", "subset", "path", "class_file"),
    *("size", "crop_pct", "interpolation", "timm_model"),  # data sets of pictures name their crop as a whole
}
"""Constructor arguments that are no part of a data set's identity."""
