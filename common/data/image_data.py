"""Base of the data modules: batches of (image, label, index), and a test that counts each image once."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Subset as Selection

from common.checks.settings import check_count, check_one_of, check_optional, check_part, check_path
from common.data.crop import Crop
from common.data.datasets import LabelledImages
from common.data.samplers import ShardSampler, TrainingLoader, world_size
from common.data.shared_loader import SharedLoader
from common.data.subsets import Balanced, Subset
from common.data.unlabelled import UnlabelledBatches, UnlabelledImages, read_class_names


class ImageData(L.LightningDataModule):
    """Base of the data modules: subclasses fill ``train``, ``val`` and ``held_out`` in ``load``.

    Training batches come from a `TrainingLoader`, validation batches through a `ShardSampler`, test batches from a
    `SharedLoader`. Attributes:
    ``num_classes`` and ``shape`` (C,H,W), set after ``setup`` at the latest; ``classes``, names or None; ``channels``,
    3 or 1, to which the images of ``path`` are converted; ``files``, the images of ``path`` after ``setup("predict")``.
    ``not_identifying``: arguments that do not decide the test images, or that `identity` states in another way.

    Parameters
    ----------
    batch_size, workers:
        images per batch, and processes that load them (0: the main process, as in a test on several ranks).
    subset:
        test images and their order, see `common.data.subsets`; all test images in order without it.
    test_images:
        number of test images, the first of the subset; all without it.
    test_on:
        "validation" tests on the validation images, on which settings are to be chosen.
    path:
        images for ``predict``: a folder with its sub-folders, or one file. Without it ``predict`` takes the test
        images.
    size:
        side to which the images of ``path`` are resized and cropped; without it they keep their size.
    class_file:
        file of class names, one per line, for the table of ``predict``.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset(
        {"batch_size", "test_images", "workers", "subset", "class_file", "test_on"}
    )
    num_classes: int
    shape: tuple[int, int, int]
    channels: int = 3
    classes: Sequence[str] | None = None
    train: LabelledImages
    val: LabelledImages
    held_out: LabelledImages

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
        check_count("batch_size", batch_size)
        check_optional(check_count, "test_images", test_images, note="null takes all of them")
        check_count("workers, the number of processes that load images,", workers, 0)
        check_optional(check_part, "subset", subset, Subset)
        check_one_of("test_on", test_on, ("test", "validation"))
        if test_on == "validation" and subset is not None and not subset.of_any_images:
            raise ValueError(
                f"test_on 'validation' takes no list of test images, which {type(subset).__name__} is. Leave one out, "
                "or take Seeded, Balanced or Every."
            )
        self.batch_size, self.test_images, self.workers, self.test_on = batch_size, test_images, workers, test_on
        self.subset, self.path, self.size = subset, check_optional(check_path, "path", path), size
        self.crop = Crop(size)  # of the images of ``path``
        if class_file is not None:
            self.classes = read_class_names(check_path("class_file", class_file))
        self.files: UnlabelledImages | None = None
        self._training: TrainingLoader | None = None
        self._resumed = NO_BATCH

    @property
    def declared_classes(self) -> int | None:
        """Number of classes of the data set, which a tested classifier must have; None if it is not known."""
        return getattr(self, "num_classes", None)

    def load(self, stage: str | None = None) -> None:
        """Fill ``train``, ``val`` and ``held_out``, as far as ``stage`` (Lightning's, None for all) needs them."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        if stage == "predict" and self.path is not None:
            self.files = UnlabelledImages(self.path, self.crop, self.channels)
        else:
            self.load("validate" if stage == "test" and self.test_on == "validation" else stage)

    def identity(self) -> dict[str, Any]:
        """Settings that decide the test images: the constructor's own arguments, and the subset if there is one.

        Settings of place, speed and number are left out (``not_identifying``): records of another machine, or of a
        shorter test of the same subset, belong to the same run. ``path`` and ``size`` count where a subclass declares
        them as its own.
        """
        parameters = inspect.signature(type(self)).parameters.values()
        own = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in self.not_identifying]
        if missing := [name for name in own if not hasattr(self, name)]:
            raise ValueError(f"{type(self).__name__} must keep its arguments {missing} as attributes for the records")
        subset = {} if self.subset is None else {"subset": self.subset}
        test_on = {} if self.test_on == "test" else {"test_on": self.test_on}
        return {name: getattr(self, name) for name in own} | subset | test_on

    def train_dataloader(self) -> DataLoader[Any]:
        self._training = TrainingLoader(self.train, self.batch_size, self.workers)
        self._training.load_state_dict(self._resumed)
        self._resumed = NO_BATCH
        return self._training

    def state_dict(self) -> dict[str, Any]:
        """Position of the training within its epoch; Lightning restores a loader's only if no schedule counts steps."""
        if self._training is None:
            return {}
        ended = self.trainer is not None and self.trainer.is_last_batch  # also where limit_train_batches ends the epoch
        return dict(NO_BATCH) if ended else self._training.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = NO_BATCH | state_dict

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images, classes in turn: folders sort by class, and ``limit_val_batches`` takes the first."""
        labels = getattr(self.val, "labels", None)  # a subclass's data set may lack them: in its own order
        order = range(len(self.val)) if labels is None else Balanced().order(torch.as_tensor(labels))
        return self._in_order(Selection(self.val, order))  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Any]:
        """The first ``test_images`` of the subset, or of all held-out images; indices are those of the whole set."""
        images = self.held_out if self.test_on == "test" else self.val
        order = range(len(images)) if self.subset is None else self.subset.order(torch.as_tensor(images.labels))
        if self.test_images is not None and self.test_images > len(order):
            which = f"{self.test_on} images" if self.subset is None else f"images of {type(self.subset).__name__}"
            raise ValueError(f"test_images must be at most {len(order)}, the {which}; got {self.test_images}")
        chosen: Any = Selection(images, order[: self.test_images])  # type: ignore[arg-type]
        return SharedLoader(chosen, self.batch_size, self.workers)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the images of ``path``, one size per batch, with label -1; the test images without ``path``."""
        if self.path is None:
            return self._in_order(self.test_dataloader().dataset)
        files = self.files or UnlabelledImages(self.path, self.crop, self.channels)
        batches = UnlabelledBatches(files, self.batch_size, world_size())
        return DataLoader(batches, batch_size=None, sampler=ShardSampler(batches), num_workers=self.workers)

    def _in_order(self, dataset: Any) -> DataLoader[Any]:
        sampler = ShardSampler(dataset)  # by keyword below: Lightning builds a predicting loader again from keywords
        return DataLoader(dataset, batch_size=self.batch_size, sampler=sampler, num_workers=self.workers)


NO_BATCH = {"batches_done": 0}
"""State of a `TrainingLoader` at the start of an epoch."""
