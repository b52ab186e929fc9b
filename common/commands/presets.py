"""``presets [PATTERN]``: list the presets with purpose, weights and expected numbers, or show one in full."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from common.commands.errors import UsageError
from common.commands.parsing import Arguments
from common.experiments.preset_files import find_preset, makers, preset_files
from common.experiments.preset_pages import PresetPage
from common.files import replacing
from common.hub.cache import cached_path, file_size
from common.hub.cards import CARDS
from common.naming.configs_folder import presets_root
from common.naming.nearest import did_you_mean

NUMBERS = ("Published", "Measured", "Expected")
INDENT, WIDTH = " " * 4, 110


def run(arguments: Sequence[str]) -> None:
    """List presets, show one, or write one to a file of the user's."""
    parser = Arguments(
        "presets",
        "List the presets with purpose, weights and expected numbers. The name of one shows it in full: "
        "`presets diffpure/cifar10 > my.yaml` starts an experiment of one's own.",
    )
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="name of a preset, or part of names and titles")
    parser.add_argument("--copy", metavar="FILE", help="write the preset to a file, which must not exist")
    options = parser.read(arguments)
    path = find_preset(options.pattern) if options.pattern else None
    if path is None and options.copy:
        advice = did_you_mean(options.pattern or "", preset_files()) or " robust-diffusion presets lists them."
        raise UsageError(f"--copy needs the name of one preset.{advice}")
    if path is not None:
        text = complete(PresetPage.read(path))
        if options.copy:
            write(Path(options.copy).expanduser(), text)
        print(f"Wrote {options.copy}; give it a records or export path of its own" if options.copy else text)
        return
    pages = [PresetPage.read(path) for path in preset_files().values()]
    wanted = (options.pattern or "").lower()
    found = [page for page in pages if wanted in page.name.lower() or wanted in page.title.lower()]
    if not found:
        advice = did_you_mean(options.pattern, preset_files()) or " robust-diffusion presets lists them."
        raise UsageError(f"no preset matches {options.pattern!r}.{advice}")
    made = makers()
    print("\n\n".join(entry(page, made) for page in found))


def entry(page: PresetPage, made: dict[str, str]) -> str:
    """Name, purpose, weights, expected numbers and command of a preset, one paragraph."""
    numbers = [(name.lower(), page.entries[name]) for name in NUMBERS if name in page.entries]
    paragraphs = [
        ("", page.title),
        *([("weights", weights(page, made))] if page.cards or page.files else []),
        *(numbers or ([("number", "none stated")] if page.command.startswith("robust-diffusion test") else [])),
        *([("run", page.command)] if page.command else []),
    ]
    return "\n".join([page.name, *(_paragraph(label, text) for label, text in paragraphs)])


def weights(page: PresetPage, made: dict[str, str]) -> str:
    """The commands that fetch or train the weights that are missing here, and the number of those present."""
    absent = [name for name in CARDS if name in page.cards and not cached_path(name).exists()]
    missing = [file for file in page.files if not Path(file).exists()]
    commands = list(dict.fromkeys(made.get(file, f"none of the presets makes {file}") for file in missing))
    if absent:
        size = sum(file_size(name)[0] for name in absent) / 1e9
        commands.insert(0, f"robust-diffusion fetch {' '.join(absent)} ({size:.1f} GB)")
    present = len(page.cards) + len(page.files) - len(absent) - len(missing)
    return "; ".join([*([f"{present} present"] if present else []), *commands])


def complete(page: PresetPage) -> str:
    """A preset as one YAML file without bases: its header, the files that it was made of, and its settings."""
    if page.name.endswith(".study"):
        return page.path.read_text(encoding="utf-8").rstrip()
    made_of = ", ".join(path.relative_to(presets_root()).as_posix() for path in page.layers)
    settings = yaml.safe_dump(
        _class_first(page.settings), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return f"{page.header}\n# Layers, the last one wins: {made_of}\n{settings}".rstrip()


def _class_first(node: Any) -> Any:
    """A copy of settings in which every mapping begins with its class, which a layer may have named last."""
    if isinstance(node, list):
        return [_class_first(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {key: _class_first(node[key]) for key in sorted(node, key=lambda key: key != "class_path")}


def write(path: Path, text: str) -> None:
    """Write a new file. Raises ``FileExistsError`` for one that exists."""
    if path.exists():
        raise FileExistsError(f"{path} exists already; name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    replacing.write(path, f"{text}\n", "write the preset")


def _paragraph(label: str, text: str) -> str:
    start = f"{INDENT}{label}: " if label else INDENT
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=INDENT + "  ", break_on_hyphens=False)
