"""List of a study's runs, ``study.json`` beside its records: a report needs no study file."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.checks.settings import check_mapping, check_part, check_text
from common.experiments.curves import Curves
from common.experiments.study import CONFIGS, Combination, Study
from common.files.replacing import remove_leftovers, write

LIST = "study.json"


def write_list(study: Study, folder: Path) -> Path:
    """Write name, title, combinations and curves of a study, without settings, into the folder of its records."""
    runs = [{"case": one.case, "values": dict(one.values)} for one in study.combinations]
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    entries: dict[str, Any] = {"name": study.name, "title": study.title, "runs": runs}
    if study.curves is not None:
        entries["curves"] = asdict(study.curves)
    text = json.dumps(entries, indent=1, ensure_ascii=False, default=str)
    return write(folder / LIST, f"{text}\n", "list the runs of the study in")


def read_list(folder: Path) -> Study:
    """The study whose records a folder holds; its combinations have no settings.

    Without a list the study has the name of the folder, the title of its configs and no combinations. Raises
    ``ValueError`` for a list that is damaged.
    """
    file = folder / LIST
    if not file.is_file():
        return Study(folder.resolve().name, _title_of_configs(folder), folder, [])
    try:
        entries: Mapping[str, Any] = check_mapping(str(file), json.loads(file.read_text(encoding="utf-8")))
        name, title = (check_part(f"{file}: {key}", entries.get(key, ""), str, "a text") for key in ("name", "title"))
        runs = check_part(f"{file}: runs", entries.get("runs", []), list, "a list")
        combinations = [_combination(file, check_mapping(f"{file}: run", run)) for run in runs]
        curves = _curves(check_mapping(f"{file}: curves", entries["curves"])) if "curves" in entries else None
        return Study(name, title, folder, combinations, curves)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not the list of a study ({error}). Delete it: the report then has neither title nor settings"
        ) from error


def _combination(file: Path, run: Any) -> Combination:
    case = check_part(f"{file}: case", run.get("case", ""), str, "a text")
    values = check_mapping(f"{file}: values", run.get("values", {}))
    return Combination(case, tuple(values.items()), {})


def _curves(entries: Mapping[str, Any]) -> Curves:
    panels = check_mapping("panels", entries.get("panels"))
    lines = {label: check_mapping(label, panel) for label, panel in panels.items()}
    for line in (entries.get("places"), *(line for panel in lines.values() for line in panel.values())):
        check_part("each of curves", line, list, "a list")
    return Curves(check_text("axis", entries.get("axis")), entries["places"], lines)


def _title_of_configs(folder: Path) -> str:
    """First line of the first config; empty without one."""
    for path in sorted((folder / CONFIGS).glob("*.yaml")):
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        if first.startswith("# "):
            return first.removeprefix("# ").strip()
    return ""
