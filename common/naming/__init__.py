"""Public names of classes and functions, independent of the module that holds them."""

from common.naming.public_names import PACKAGES, import_public, is_ours, public_name

__all__ = [
    "PACKAGES",
    "import_public",
    "is_ours",
    "public_name",
]
