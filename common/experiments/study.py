"""A study: one test config, run for every combination of settings that it names.

A study is a YAML file whose first line says what it asks:

    base: ndc-digits.test.yaml                 # a test config, beside this file
    records: runs/studies/ndc-nodes            # one directory below it for each run
    set: {data.init_args.test_images: 64}      # optional: settings that all runs share
    cases:                                     # optional: named sets of settings
      APNDC: {model.init_args.classifier.init_args.variant: apndc}
      EPNDC: {model.init_args.classifier.init_args.variant: epndc}
    vary:                                      # optional: settings with a list of values each, all combined
      nodes: {model.init_args.classifier.init_args.nodes.init_args.count: [4, 8, 16]}

Settings are named by their path in the base; numbers count the entries of a list from 0, and the number behind the
last adds one. Every combination of a case and
of values is an ordinary test with records of its own, so a study that is stopped continues, and may be shared out.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

RECORDS = "model.init_args.records"
CONFIGS = "configs"
Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Combination:
    """One run of a study: its ``case`` ("" if there are none), its values of what varies, and its whole config."""

    case: str
    values: Values
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """A file name: ``EPNDC_nodes=8``."""
        parts = [*([self.case] if self.case else []), *(f"{name}={value}" for name, value in self.values)]
        return re.sub(r"[^\w.,=+-]+", "-", "_".join(parts)) or "run"


@dataclass(frozen=True)
class Study:
    """``combinations`` of settings to test; ``records`` is the folder of all their records."""

    name: str
    purpose: str
    records: Path
    combinations: list[Combination]

    @classmethod
    def read(cls, path: str | Path) -> "Study":
        """The study in a YAML file. Raises ``ValueError`` for what is missing, unknown or named twice."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"a study is a YAML file; {path} is none")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = set(found) - {"base", "records", "set", "cases", "vary"} if isinstance(found, dict) else {"?"}
        if unknown or not {"base", "records"} <= set(found):
            raise ValueError(f"a study has base, records, and cases or vary; {path} has {sorted(found or ())}")
        base = path.parent / found["base"]
        if not base.is_file():
            raise ValueError(f"base must be a test config beside the study; there is no {base}")
        purpose = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        records, settings = Path(found["records"]), yaml.safe_load(base.read_text(encoding="utf-8"))
        for place, value in (found.get("set") or {}).items():
            put(settings, place, value)
        combinations = combine(settings, found.get("cases") or {"": {}}, found.get("vary") or {}, records)
        return cls(path.name.split(".")[0], purpose, records, combinations)

    def write(self) -> list[Path]:
        """Writes the config of every run into the records' folder; their paths, in order."""
        folder = self.records / CONFIGS
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for one in self.combinations:
            paths.append(folder / f"{one.name}.test.yaml")
            text = yaml.safe_dump(one.settings, sort_keys=False, allow_unicode=True, width=120)
            paths[-1].write_text(f"# {self.purpose}\n{text}", encoding="utf-8")
        return paths


def combine(
    base: Mapping[str, Any], cases: Mapping[str, Any], vary: Mapping[str, Any], records: Path
) -> list[Combination]:
    """Every case with every combination of values, in the order of the file."""
    axes = [[(name, path, value) for value in values] for name, path, values in _axes(vary)]
    found = []
    for case, changes in cases.items():
        for chosen in product(*axes):
            settings = deepcopy(dict(base))
            for path, value in (changes or {}).items():
                put(settings, path, value)
            for _, path, value in chosen:
                put(settings, path, value)
            one = Combination(case, tuple((name, value) for name, _, value in chosen), settings)
            put(settings, RECORDS, str(records / one.name))
            found.append(one)
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"every run needs a name of its own; got {sorted(names)}")
    return found


def _axes(vary: Mapping[str, Any]) -> list[tuple[str, str, list[Any]]]:
    axes = []
    for name, setting in vary.items():
        pairs = list(setting.items()) if isinstance(setting, Mapping) else []
        if len(pairs) != 1 or not isinstance(pairs[0][1], list) or not pairs[0][1]:
            raise ValueError(f"vary needs name: {{path: [values]}}; got {name}: {setting}")
        axes.append((name, pairs[0][0], pairs[0][1]))
    return axes


def put(settings: Any, path: str, value: Any) -> None:
    """Sets what ``path`` names, in place. Raises ``ValueError`` where the way to it does not exist."""
    *way, last = path.split(".")
    place = settings
    for step in way:
        place = _step(place, step, path)
    if isinstance(place, list):
        if last == str(len(place)):
            place.append(value)
        _step(place, last, path)
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ValueError(f"{path} names nothing in the base config: what is before {last!r} holds no settings")


def _step(place: Any, step: str, path: str) -> Any:
    if isinstance(place, list) and step.isdigit() and int(step) < len(place):
        return place[int(step)]
    if isinstance(place, dict) and step in place:
        return place[step]
    known = list(place) if isinstance(place, dict) else f"{len(place)} entries" if isinstance(place, list) else place
    raise ValueError(f"{path} names nothing in the base config: there is no {step!r} in {known}")


def numeric(values: Sequence[Any]) -> bool:
    """Whether all are numbers, which an axis can be drawn for."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
