"""Public names of classes and functions, independent of the module that holds them; names of differentiation modes."""

from common.naming.differentiation_modes import APPROXIMATE, Mode
from common.naming.public_names import PACKAGES, import_public, is_ours, public_name

__all__ = [
    "APPROXIMATE",
    "Mode",
    "PACKAGES",
    "import_public",
    "is_ours",
    "public_name",
]
