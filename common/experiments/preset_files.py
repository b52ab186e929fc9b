"""Presets by name: ``diffpure/cifar10`` for ``configs/diffpure/cifar10.yaml``, from a clone or an installed wheel."""

import re
import sys
from pathlib import Path

from common.naming.configs_folder import presets_root
from common.naming.nearest import did_you_mean

KINDS, STUDY = (".test", ".fit", ""), (".study", "")  # before .yaml
BASES = "bases"
TOUR = "robust-diffusion tour"


def preset_files() -> dict[str, Path]:
    """The file of every preset by its name, bases left out."""
    root = presets_root()
    files = {preset_name(path): path for path in sorted(root.rglob("*.yaml"))}
    return {name: path for name, path in files.items() if not name.startswith(f"{BASES}/")}


def preset_name(path: Path) -> str:
    """The name of a preset's file: its path below the presets, without ``.yaml``, ``.test.yaml`` or ``.fit.yaml``."""
    name = path.resolve().relative_to(presets_root().resolve()).as_posix().removesuffix(".yaml")
    return next(name.removesuffix(kind) for kind in KINDS if name.endswith(kind))


def find_preset(name: str, kinds: tuple[str, ...] = KINDS) -> Path | None:
    """The file of a preset, by its name with or without ``configs/`` and the ending; None if there is none."""
    root, stem = presets_root(), name.removeprefix("configs/").removesuffix(".yaml")
    paths = [root / f"{stem}{kind}.yaml" for kind in kinds]
    return next((path for path in paths if path.is_file() and path.resolve().is_relative_to(root.resolve())), None)


def find_config(name: str, kinds: tuple[str, ...] = KINDS) -> Path:
    """The file that ``-c NAME`` means: a local path, else a preset.

    Raises ``FileNotFoundError`` with the nearest names, or with the command of a preset of another kind.
    """
    if not name.strip():
        raise FileNotFoundError(
            f"a file or preset must have a name; got {name!r}. robust-diffusion presets lists them."
        )
    local, preset = Path(name).expanduser(), find_preset(name, kinds)
    if local.is_file():
        if preset is not None and not preset.samefile(local):
            print(f"-c {name}: the local file is used, not the preset {preset_name(preset)}", file=sys.stderr)
        return local
    if preset is not None:
        return preset
    if local.is_dir():
        raise FileNotFoundError(f"{name} is a folder: name a file in it, or a preset (robust-diffusion presets)")
    if (other := find_preset(name, KINDS if kinds == STUDY else STUDY)) is not None:
        command = "study" if kinds != STUDY else "fit -c" if other.name.endswith(".fit.yaml") else "test -c"
        raise FileNotFoundError(f"the preset {name} is run by another command: robust-diffusion {command} {name}")
    beside = [str(path) for path in local.parent.glob("*.yaml")] if local.parent.is_dir() else []
    short = name.removeprefix("configs/").removesuffix(".yaml")
    advice = did_you_mean(name, beside) or did_you_mean(short, preset_files())
    raise FileNotFoundError(
        f"there is no file and no preset {name}.{advice} robust-diffusion presets lists the presets."
    )


def with_remedy(error: Exception) -> Exception:
    """The error of a missing weights file with the command that makes it, if a preset does; else the same error."""
    found = re.match(r"there is no checkpoint (\S+) ", str(error))
    command = makers().get(found[1]) if found and isinstance(error, FileNotFoundError) else None
    return FileNotFoundError(f"there is no {found[1]}. Make it with: {command}") if found and command else error


def makers() -> dict[str, str]:
    """The command that makes each weights file that a preset exports."""
    commands = {}
    for name, path in preset_files().items():
        if found := re.search(r"^\s*export: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            commands[found[1]] = TOUR if name.startswith("tour/") else f"robust-diffusion fit -c {name}"
    return commands
