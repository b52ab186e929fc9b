"""Test subsets: the images of a test set that are evaluated, in order.

A test takes the first ``test_images`` of a subset, so a longer test continues a shorter one of the same subset.
Indices in records are those of the whole data set. The subsets of the papers are in `common.data.published_subsets`.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from common.checks.settings import MissingFileError, check_count, check_path, check_seed


class Subset:
    """Base of the subsets.

    ``of_any_images``: True for a rule that applies to held-out training images (``test_on="validation"``) as well.
    """

    of_any_images: ClassVar[bool] = False

    def order(self, labels: Tensor) -> list[int]:
        """Positions in a test set with these labels (N,), each at most once, in the order of the test.

        Raises ``ValueError`` for a test set that the subset is not defined on.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Seeded(Subset):
    """Random order: NumPy's ``RandomState(seed).permutation(N)``.

    Its first n are ``RandomState(seed).choice(N, n, replace=False)``, the papers' usual draw.
    """

    of_any_images: ClassVar[bool] = True

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("seed, one of NumPy's,", self.seed, 2**32)

    def order(self, labels: Tensor) -> list[int]:
        return draw_without_replacement(self.seed, len(labels), len(labels))


@dataclass(frozen=True)
class Balanced(Subset):
    """Classes in turn, a random image of each: of K classes, the first m K images hold m of each class.

    A class without images left is passed over.
    """

    of_any_images: ClassVar[bool] = True

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("seed, one of NumPy's,", self.seed, 2**32)

    def order(self, labels: Tensor) -> list[int]:
        generator, label = np.random.RandomState(self.seed), labels.numpy()
        classes = [generator.permutation(np.flatnonzero(label == c)).tolist() for c in np.unique(label)]
        longest = max(map(len, classes), default=0)
        return [members[turn] for turn in range(longest) for members in classes if turn < len(members)]


@dataclass(frozen=True)
class Every(Subset):
    """Every ``step``-th image, beginning at ``start``."""

    of_any_images: ClassVar[bool] = True

    step: int
    start: int = 0

    def __post_init__(self) -> None:
        check_count("step", self.step)
        check_count("start", self.start, 0)

    def order(self, labels: Tensor) -> list[int]:
        return list(range(self.start, len(labels), self.step))


@dataclass(frozen=True)
class Jobs(Subset):
    """Union of the images that ``jobs`` runs with data seeds 0, 1, … draw, ``images`` each.

    A run draws without replacement, but two runs may draw the same image: the union may be smaller than jobs x images.
    """

    jobs: int
    images: int

    def __post_init__(self) -> None:
        check_count("jobs", self.jobs)
        check_count("images", self.images)

    def order(self, labels: Tensor) -> list[int]:
        if self.images > len(labels):
            raise ValueError(f"a job draws at most the {len(labels)} test images; got images={self.images}")
        draws = [draw_without_replacement(seed, len(labels), self.images) for seed in range(self.jobs)]
        return list(dict.fromkeys(index for draw in draws for index in draw))


class Listed(Subset):
    """Indices from a file, in its order: numbers separated by blanks, commas or lines, or a JSON list; # for comments.

    Records identify the list by its length and sha256, so the file may move.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"_file", "_indices"})

    def __init__(self, file: str | Path) -> None:
        path = check_path("file", file)
        if not path.is_file():
            raise MissingFileError(f"file: no index file {path}; it holds the indices of test images, one per line")
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8-sig", errors="replace")).strip()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        words = [word for word in re.split(r"[\s,]+", text) if word]
        wrong = [word[:20] for word in words if not word.isdecimal()]
        if wrong or not words:
            raise ValueError(f"{path} must hold indices >= 0, one per line; got {wrong[:3] or 'none'}")
        self._file, self._indices = path, [int(word) for word in words]
        if again := [index for index, times in Counter(self._indices).items() if times > 1]:
            raise ValueError(f"{path} must name each image once; it names {again[:3]} more than once")
        self.images = len(words)
        self.sha256 = hashlib.sha256(json.dumps(self._indices).encode()).hexdigest()

    def order(self, labels: Tensor) -> list[int]:
        if max(self._indices) >= len(labels):
            many = f"indices must be below {len(labels)}, the number of test images"
            raise ValueError(f"{many}; {self._file} has {max(self._indices)}")
        return list(self._indices)


def draw_without_replacement(seed: int, total: int, images: int) -> list[int]:
    """``images`` positions of ``total``, drawn by NumPy's ``RandomState(seed).choice``."""
    drawn: list[int] = np.random.RandomState(seed).choice(total, images, replace=False).tolist()
    return drawn
