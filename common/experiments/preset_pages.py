"""The page of a preset: title, source, numbers, cost and weights, read from its header and its settings.

A header is the comment at the top of a file. Its first line is the title. A line that begins with one of ``ENTRIES``
and a colon starts an entry; the indented lines below belong to it:

    # DiffPure on CIFAR-10, L-infinity 8/255: t* = 0.1, WRN-28-10 (Nie et al., arXiv 2205.07460).
    # Published: 89.02 % clean, 70.64 % under AutoAttack [read in DiffAttack, NeurIPS 2023, table 1].
    #   A second line of the entry.
    # Cost: 400 gradients per image, each through 100 steps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.experiments.preset_files import preset_name
from common.experiments.preset_layers import layers, read_config

ENTRIES = ("Published", "Measured", "Expected", "Cost", "Weights", "First")


@dataclass(frozen=True)
class PresetPage:
    """A preset by ``name``: its file, title, header entries, merged settings, and the files that make it up."""

    name: str
    path: Path
    header: str
    title: str
    entries: dict[str, str]
    settings: dict[str, Any]
    layers: list[Path]

    @classmethod
    def read(cls, path: Path) -> "PresetPage":
        """Read a preset. Raises ``ValueError`` for a file that is none, as `read_config` does."""
        lines = path.read_text(encoding="utf-8").splitlines()
        count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        texts = [line.removeprefix("#").removeprefix(" ") for line in lines[:count]]
        name = preset_name(path)
        is_study = name.endswith(".study")
        settings = {} if is_study else read_config(path)
        header, title = "\n".join(lines[:count]), texts[0] if texts else ""
        return cls(name, path, header, title, entries(texts[1:]), settings, [path] if is_study else layers(path))

    @property
    def command(self) -> str:
        """The command line that runs it, empty for a layer over others."""
        if self.name.endswith(".study"):
            return f"robust-diffusion study {self.name.removesuffix('.study')}"
        arguments = self.settings.get("model", {}).get("init_args", {})
        if "class_path" not in self.settings.get("model", {}):
            return ""
        return f"robust-diffusion {'fit' if 'export' in arguments else 'test'} -c {self.name}"

    @property
    def cards(self) -> list[str]:
        """Names of the published weights that it reads."""
        return list(dict.fromkeys(_arguments(self.settings, "published_", "name")))

    @property
    def files(self) -> list[str]:
        """Paths of the weights trained here that it reads."""
        return list(dict.fromkeys(_arguments(self.settings, "load_", "path")))


def entries(lines: list[str]) -> dict[str, str]:
    """The entries of a header, each on one line."""
    found: dict[str, str] = {}
    current = ""
    for line in lines:
        if match := re.match(rf"({'|'.join(ENTRIES)}):", line):
            current, line = match[1], line[match.end() :]
        elif not line.startswith("  "):
            current = ""
        if current:
            found[current] = f"{found.get(current, '')} {line.strip()}".strip()
    return found


def _arguments(node: Any, prefix: str, argument: str) -> Iterator[str]:
    """The value of an argument at every class or function whose own name begins with ``prefix``."""
    if isinstance(node, list):
        for part in node:
            yield from _arguments(part, prefix, argument)
    elif isinstance(node, dict):
        if str(node.get("class_path", "")).rpartition(".")[2].startswith(prefix):
            value = (node.get("init_args") or {}).get(argument)
            yield from [str(value)] if value is not None else []
        for part in node.values():
            yield from _arguments(part, prefix, argument)
