"""Parts of the images of a test, and their locks: two jobs never test one image at a time."""

from pathlib import Path

from common.files.locking import LOCK, check_free, lock, unlock

Part = tuple[int, int]
"""(k, n): the k-th of n parts of the images."""
WHOLE: Part = (1, 1)


def lock_part(path: Path, part: Part) -> None:
    """Lock a directory of records for this process, which tests ``part`` of the images.

    Raises ``ValueError`` if another one tests the same part, all images, or one of another number of parts.
    """
    own = lock_file(path, part)
    try:
        lock(path, own)
        for file in (path / LOCK, *path.glob(f"{LOCK}-*-of-*")):
            if overlap(file.name, part):
                _check_part_free(path, file, part)
    except ValueError:
        unlock(path, own)
        raise


def lock_file(path: Path, part: Part) -> Path:
    """The lock file of a directory of records, or of a part (k, n) of its images."""
    return path / (LOCK if part == WHOLE else f"{LOCK}-{part[0]}-of-{part[1]}")


def overlap(name: str, part: Part) -> bool:
    """True of the lock file ``name`` of a part that shares images with ``part``, which has a file of its own."""
    return part == WHOLE or name == LOCK or not name.endswith(f"-of-{part[1]}")


def _check_part_free(path: Path, file: Path, part: Part) -> None:
    try:
        check_free(path, file)
    except ValueError as error:
        if part == WHOLE or file.name == LOCK:
            raise
        raise ValueError(
            f"{error} Part {part[0]}/{part[1]} shares images with its part {file.name.removeprefix(f'{LOCK}-')}: "
            "all jobs at one time need the same N in --part K/N."
        ) from error
