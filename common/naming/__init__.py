"""Names: public and short names of classes and functions, differentiation modes, the folder of the presets."""

from common.naming.configs_folder import presets_root
from common.naming.differentiation_modes import APPROXIMATE, Mode
from common.naming.public_names import PACKAGES, import_public, is_ours, public_name
from common.naming.short_names import SHORT_NAMES, nearest_short_names, resolve_short_name

__all__ = [
    "APPROXIMATE",
    "Mode",
    "PACKAGES",
    "SHORT_NAMES",
    "import_public",
    "is_ours",
    "nearest_short_names",
    "presets_root",
    "public_name",
    "resolve_short_name",
]
