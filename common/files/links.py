"""Links among the files of an output folder."""

from pathlib import Path


def inside(folder: Path, name: str) -> Path:
    """Path of the file ``name`` (relative, with sub-folders) in ``folder``.

    Raises ``ValueError`` if a sub-folder on the way is a symbolic link or the name leads out: the file would be
    written elsewhere. A link in place of the file itself is replaced by `replacing`.
    """
    path = folder / name
    between = [parent for parent in path.parents if folder in parent.parents]
    if folder not in path.parents or ".." in Path(name).parts:
        raise ValueError(f"{name!r} must lie in {folder}; it leads out of it.")
    for parent in between:
        if parent.is_symlink():
            raise ValueError(f"{parent} is a link: files would be written to {parent.resolve()}. Remove it.")
    return path
