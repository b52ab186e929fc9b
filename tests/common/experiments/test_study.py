"""Studies: combinations, paths of settings, refused files, tables and shares of a study."""

import pytest
import yaml

from common.commands import study as command
from common.commands.parts import parse_part
from common.experiments.study import Study, put
from common.records.store import Records
from common.report.build import build
from common.report.figures.study_figures import study_figures
from common.report.runs import read_runs
from common.report.tables.study_table import outcomes, study_table
from tests.common.records.made import clean_record

INIT = {"records": "runs/x", "steps": 5, "evaluators": [{"eps": 0.1}, {"eps": 0.2}]}
BASE = {"model": {"init_args": INIT}, "data": {}}


def write(folder, **study):
    (folder / "base.test.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "ask.study.yaml"
    text = yaml.safe_dump({"base": "base.test.yaml", "records": str(folder / "out"), **study}, sort_keys=False)
    path.write_text(f"# Accuracy by setting.\n{text}")
    return path


CASES = {"plain": None, "strong": {"model.init_args.evaluators.1.eps": 0.4}}
VARY = {"steps": {"model.init_args.steps": [1, 2]}, "kind": {"data.kind": ["a", "b"]}}


def test_every_combination_is_one_config_with_records_of_its_own(tmp_path):
    study = Study.read(write(tmp_path, cases=CASES, vary=VARY))
    paths = study.write()
    found = [yaml.safe_load(path.read_text()) for path in paths]
    parts = [
        (f["model"]["init_args"]["steps"], f["data"]["kind"], f["model"]["init_args"]["evaluators"][1]["eps"])
        for f in found
    ]
    assert parts == [(s, k, e) for e in (0.2, 0.4) for s in (1, 2) for k in ("a", "b")]
    assert len({f["model"]["init_args"]["records"] for f in found}) == 8
    assert paths[0].name == "plain_steps=1_kind=a.test.yaml" and paths[0].read_text().startswith(
        "# Accuracy by setting.\n"
    )
    assert BASE["model"]["init_args"]["steps"] == 5


def test_common_settings_are_set_first(tmp_path):
    study = Study.read(write(tmp_path, set={"model.init_args.steps": 9, "data.n": 3}, cases=CASES))
    assert all(one.settings["model"]["init_args"]["steps"] == 9 for one in study.combinations)
    varied = Study.read(write(tmp_path, set={"model.init_args.steps": 9}, vary=VARY))
    assert {one.settings["model"]["init_args"]["steps"] for one in varied.combinations} == {1, 2}


def test_a_study_of_cases_alone_and_of_values_alone(tmp_path):
    assert [one.name for one in Study.read(write(tmp_path, cases=CASES)).combinations] == ["plain", "strong"]
    assert Study.read(write(tmp_path, vary=VARY)).combinations[0].name == "steps=1_kind=a"


def test_the_position_after_the_last_appends(tmp_path):
    study = Study.read(write(tmp_path, set={"model.init_args.evaluators.2": {"eps": 0.3}}))
    assert [e["eps"] for e in study.combinations[0].settings["model"]["init_args"]["evaluators"]] == [0.1, 0.2, 0.3]
    assert len(BASE["model"]["init_args"]["evaluators"]) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.init_arg.steps", "there is no 'init_arg' in"),
        ("model.init_args.evaluators.2.eps", "there is no '2' in 2 entries"),
        ("model.init_args.evaluators.3", "there is no '3' in 2 entries"),
        ("model.init_args.steps.count", "holds no settings"),
        ("model.init_args.steps.count.more", "there is no 'count' in 5"),
    ],
)
def test_a_path_that_names_nothing_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        put(BASE, path, 1)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"vary": {"steps": [1, 2]}}, "vary needs name"),
        ({"vary": {"steps": {"model.init_args.steps": []}}}, "vary needs name"),
        ({"vary": {"steps": {"model.init_args.steps": [1, 1]}}}, "must have distinct names"),
        ({"cases": {"a b": None, "a;b": None}}, "must have distinct names"),
        ({"base": "none.yaml"}, "no file beside it"),
        ({"more": 1}, "a study has base, records"),
        ({"set": [1]}, "set must be a mapping"),
        ({"set": "x"}, "set must be a mapping"),
        ({"set": {3: 1}}, "set must be a mapping"),
        ({"cases": ["a"]}, "cases must be a mapping"),
        ({"cases": {"a": [1]}}, "the case a must be a mapping"),
        ({"vary": [1]}, "vary must be a mapping"),
        ({"vary": {"steps": {3: [1]}}}, "vary needs name"),
        ({"records": ["x"]}, "records must be a path"),
        ({"records": None}, "records must be a path"),
        ({"base": ["base.test.yaml"]}, "base must be a text"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(tmp_path, study, message):
    with pytest.raises(ValueError, match=message):
        Study.read(write(tmp_path, **study))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="study file not found"):
        Study.read(tmp_path / "none.study.yaml")


def finish(study, accuracy):
    """Write records of every combination, with ``accuracy(case, values)`` of 20 images correct."""
    for one in study.combinations:
        records = Records(study.records / one.name, one.name, {"evaluators": []})
        right = accuracy(one.case, dict(one.values))
        records.append([clean_record(i, [int(i < right)]) for i in range(20)])
        records.merge()
        records.close()


def test_the_table_and_the_figures_hold_every_combination(tmp_path):
    study = Study.read(write(tmp_path, cases=CASES, vary=VARY))
    finish(study, lambda case, values: 10 + 5 * (case == "strong") + values["steps"])
    runs = read_runs([study.records / one.name for one in study.combinations])
    found = outcomes(study, runs)
    assert [one.scores["clean"][0] for one in found] == [0.55, 0.55, 0.6, 0.6, 0.8, 0.8, 0.85, 0.85]
    table = study_table(study, found)
    assert table.columns == ["Case", "steps", "kind", "Images", "clean", "Evaluations per image"]
    assert table.rows[4][:4] == ["strong", "1", "a", 20] and not table.notes
    page = build([study.records / one.name for one in study.combinations], tmp_path / "report", study, figures=True)
    assert "Accuracy by setting." in page.read_text() and (page.parent / "ask.svg").is_file()
    assert [drawn.name for drawn in study_figures(study, found)] == ["ask"]


def test_an_unfinished_study_notes_its_progress(tmp_path):
    study = Study.read(write(tmp_path, vary=VARY))
    finish(Study(study.name, study.title, study.records, study.combinations[:3]), lambda case, values: 10)
    found = outcomes(study, read_runs([study.records]))
    assert study_table(study, found).notes == ["3 of 4 runs so far."]


def test_the_command_shares_out_runs_and_reports(tmp_path, monkeypatch, capsys):
    path, ran = write(tmp_path, vary=VARY), []

    def run(stages, logs, jobs, console):
        ran.append(([stage.config.name for stage in stages], jobs))
        known = Study.read(path)
        chosen = [one for one in known.combinations if f"{one.name}.test.yaml" in ran[-1][0]]
        finish(Study(known.name, known.title, known.records, chosen), lambda case, values: 10 + values["steps"])

    monkeypatch.setattr(command, "run_stages", run)
    command.run([str(path), "--part", "1/2", "--jobs", "3"])
    assert ran == [(["steps=1_kind=a.test.yaml", "steps=2_kind=a.test.yaml"], 3)]
    assert not (tmp_path / "out" / "report").exists()
    command.run([str(path), "--part", "2/2"])
    assert ran[1][0] == ["steps=1_kind=b.test.yaml", "steps=2_kind=b.test.yaml"]
    command.run([str(path), "--report"])
    assert len(ran) == 2 and "Accuracy by setting." in (tmp_path / "out" / "report" / "report.html").read_text()
    assert "steps" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/2/3"])
def test_a_share_is_k_of_n(part):
    with pytest.raises(ValueError, match="K/N"):
        parse_part(part)
