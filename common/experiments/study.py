"""Studies: one test config, run with every combination of some settings.

A study is a YAML file, whose first line is its title:

    base: ndc-digits.test.yaml                 # a test config beside this file, or a preset
    records: runs/studies/ndc-nodes            # folder of the records, one directory per run
    set: {data.init_args.test_images: 64}      # optional: settings of all runs
    cases:                                     # optional: named sets of settings
      APNDC: {model.init_args.classifier.init_args.variant: apndc}
      EPNDC: {model.init_args.classifier.init_args.variant: epndc}
    vary:                                      # optional: lists of values of a setting, combined with each other
      nodes: {model.init_args.classifier.init_args.nodes.init_args.count: [4, 8, 16]}
    curves: ndc-nodes.curves.csv               # optional: curves over the first of these, drawn below the scores

A setting is named by its path in the base; numbers are positions in a list, and the position after the last appends.
Every combination of a case and values is an ordinary test with its own records: a study that was stopped continues,
and its runs can be shared out among machines.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from common.checks.settings import check_folder, check_mapping, check_optional, check_path, check_text, refusal
from common.experiments.curves import Curves
from common.experiments.preset_layers import find_base, read_config
from common.experiments.yaml_files import parse_mapping, read_text
from common.files.replacing import remove_leftovers, write

RECORDS = "model.init_args.records"
CONFIGS = "configs"
KEYS = ("base", "records", "set", "cases", "vary", "curves")
WANTED = "a study has base, records, and cases or vary"
Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Combination:
    """One run of a study: its ``case`` ("" if there are none), its varied ``values``, and its complete config."""

    case: str
    values: Values
    settings: dict[str, Any]

    @property
    def parts(self) -> list[str]:
        """The case, if there is one, and ``NAME=VALUE`` of every varied setting."""
        return [*([self.case] if self.case else []), *(f"{name}={value}" for name, value in self.values)]

    @property
    def name(self) -> str:
        """File name: ``EPNDC_nodes=8``."""
        return re.sub(r"[^\w.,=+-]+", "-", "_".join(self.parts)) or "run"

    @property
    def title(self) -> str:
        """Name to show: ``EPNDC, nodes=8``."""
        return ", ".join(self.parts)


@dataclass(frozen=True)
class Study:
    """The ``combinations`` of settings to test; ``records`` is the folder of all their records.

    ``curves`` are over its first varied setting, or None. Raises ``ValueError`` for curves over another one.
    """

    name: str
    title: str
    records: Path
    combinations: list[Combination]
    curves: Curves | None = None

    def __post_init__(self) -> None:
        if self.curves is not None:
            varied = [one.values[0] for one in self.combinations if one.values]
            self.curves.check_axis(varied[0][0] if varied else "", [value for _, value in varied])

    @classmethod
    def read(cls, path: str | Path) -> "Study":
        """Read a study file. Raises ``ValueError`` for keys and settings that are missing, unknown or duplicate."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"study file not found: {path}")
        text = read_text(path)
        entries = parse_mapping(text, str(path), WANTED)
        if not {"base", "records"} <= set(entries) <= {*KEYS}:
            raise ValueError(f"{WANTED}; {path} has {', '.join(entries)}")
        records = check_folder(f"{path}: records", entries["records"])
        base = check_text(f"{path}: base", entries["base"], "Name one test config")
        settings = read_config(find_base(base, path))
        for place, value in _settings("set", entries.get("set")).items():
            put(settings, place, value)
        cases = entries.get("cases") or {"": {}}
        if not isinstance(cases, dict):
            raise ValueError(refusal("cases", "a mapping, NAME: {PATH: VALUE}", cases))
        combinations = combine(settings, cases, _settings("vary", entries.get("vary")), records)
        curves = check_optional(check_path, f"{path}: curves", entries.get("curves"))
        if curves is not None and not (curves := path.parent / curves).is_file():
            raise ValueError(f"{path}: curves must be a CSV file beside the study; {curves} is missing")
        title, found = text.splitlines()[0].lstrip("# "), None if curves is None else Curves.read(curves)
        return cls(path.name.split(".")[0], title, records, combinations, found)

    def write(self) -> list[Path]:
        """Write the config of every run into the records folder. Returns their paths, in order."""
        folder = self.records / CONFIGS
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        paths = []
        for one in self.combinations:
            paths.append(folder / f"{one.name}.test.yaml")
            settings = yaml.safe_dump(one.settings, sort_keys=False, allow_unicode=True, width=120)
            text = f"# {self.title}\n{settings}"
            if not paths[-1].is_file() or paths[-1].read_text(encoding="utf-8", errors="replace") != text:
                write(paths[-1], text, "write the config")
        return paths


def combine(
    base: Mapping[str, Any], cases: Mapping[str, Any], vary: Mapping[str, Any], records: Path
) -> list[Combination]:
    """Every case with every combination of values, in the order of the file."""
    axes = [[(name, path, value) for value in values] for name, path, values in _axes(vary)]
    combinations = []
    for case, changes in cases.items():
        for chosen in product(*axes):
            settings = deepcopy(dict(base))
            own = _settings(f"the case {case}", changes)
            for path, value in [*own.items(), *((path, value) for _, path, value in chosen)]:
                put(settings, path, value)
            one = Combination(case, tuple((name, value) for name, _, value in chosen), settings)
            put(settings, RECORDS, str(records / one.name))
            combinations.append(one)
    names = [one.name for one in combinations]
    if len(set(names)) < len(names):
        raise ValueError(f"runs must have distinct names; got {sorted(names)}")
    return combinations


def _settings(name: str, value: Any) -> Mapping[str, Any]:
    """The settings of a part of a study, none for null."""
    return {} if value is None else check_mapping(name, value, "Write PATH: VALUE, without dashes")


def _axes(vary: Mapping[str, Any]) -> list[tuple[str, str, list[Any]]]:
    """(name, path, values) of every varied setting."""
    axes = []
    for name, setting in vary.items():
        pairs = list(setting.items()) if isinstance(setting, Mapping) else []
        if len(pairs) != 1 or not isinstance(pairs[0][0], str) or not isinstance(pairs[0][1], list) or not pairs[0][1]:
            raise ValueError(f"vary needs name: {{path: [values]}}; got {name}: {setting}")
        axes.append((name, pairs[0][0], pairs[0][1]))
    return axes


def put(settings: Any, path: str, value: Any) -> None:
    """Set the setting at ``path``, in place. Raises ``ValueError`` unless all but its last part exist."""
    *parents, last = path.split(".")
    node = settings
    for key in parents:
        node = _child(node, key, path)
    if isinstance(node, list):
        if last == str(len(node)):
            node.append(value)
        _child(node, last, path)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ValueError(f"the base config has no {path}: the parent of {last!r} holds no settings")


def _child(node: Any, key: str, path: str) -> Any:
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    if isinstance(node, dict) and key in node:
        return node[key]
    known = list(node) if isinstance(node, dict) else f"{len(node)} entries" if isinstance(node, list) else node
    raise ValueError(f"the base config has no {path}: there is no {key!r} in {known}")
