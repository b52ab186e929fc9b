"""Files that belong to a report: a hidden list beside the page names them, and no other file is overwritten."""

from collections.abc import Iterable
from pathlib import Path

from common.files.replacing import write


def list_path(page: Path) -> Path:
    """Path of the list of a report's files, one name per line: ``.report.html.files``."""
    return page.with_name(f".{page.name}.files")


def check_own(page: Path, paths: Iterable[Path]) -> None:
    """Raise ``ValueError`` if any of ``paths`` exists and is not among the files of the report at ``page``."""
    own = _listed(page)
    foreign = [path for path in paths if path.name not in own and (path.exists() or path.is_symlink())]
    if foreign:
        raise ValueError(
            f"{', '.join(map(str, foreign[:3]))} exists and is not of this report, which would overwrite it. Name "
            "another folder (--out), or remove it."
        )


def list_own(page: Path, paths: Iterable[Path]) -> None:
    """Write the list of a report's files: those of ``paths``, and earlier ones that still exist."""
    earlier = {name for name in _listed(page) if page.with_name(name).exists()}
    write(list_path(page), "".join(f"{name}\n" for name in sorted(earlier | {path.name for path in paths})))


def _listed(page: Path) -> set[str]:
    if not list_path(page).is_file():
        return set()
    names = list_path(page).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name for name in names if name.strip(".") and "/" not in name}
