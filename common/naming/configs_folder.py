"""Folder of the presets: the configurations, studies and cluster scripts that come with the project."""

from pathlib import Path

INSTALLED = Path("robust_diffusion", "configs")  # beside `common` in an installed wheel; pyproject.toml maps it
CLONED = Path("configs")


def presets_root() -> Path:
    """The folder that holds ``diffpure/``, ``tour/``, ``suites/`` and the others, of a clone or an installed wheel.

    Read-only: nothing is written there. Raises ``ValueError`` if it is missing.
    """
    beside = Path(__file__).parents[2]
    for folder in (beside / INSTALLED, beside / CLONED):  # site-packages may hold a "configs" of another project
        if folder.is_dir():
            return folder
    raise ValueError(f"the presets are missing from {beside}: install the package again, or run from a whole clone")
