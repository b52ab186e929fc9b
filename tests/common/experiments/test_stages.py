"""Failures of stages: the reason from the log, in few lines."""

import subprocess
import sys

import pytest
import yaml
from rich.console import Console

import cli
import common.experiments.stages as stages
from common.commands.errors import LINES, concise
from common.experiments.stages import Stage, StageError, logged_reason, run_stages
from common.records.store import Records
from common.tasks.running_metrics import final_accuracies
from tests.common.records.made import certified_record
from tests.common.report.pages import write


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("Seed set to 0\nerror: eps must be 8/255\ngot 8\n", "eps must be 8/255 got 8"),
        ("Traceback\n  File x\nKeyError: 'a'\n\n", "KeyError: 'a'"),
        ("", "its log is empty"),
    ],
)
def test_the_reason_of_a_log(log, found):
    assert logged_reason(log) == found


def test_a_failed_stage_is_reported_in_few_lines(tmp_path):
    config = {"model": {"class_path": "DifPureTask", "init_args": {"records": "r"}}, "data": {"class_path": "Digits"}}
    path = tmp_path / "1-wrong.test.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(StageError, match=r"test wrong failed: .*Did you mean DiffPureTask\?") as raised:
        run_stages([Stage(path)], tmp_path / "logs", 1, Console(quiet=True))
    assert cli.is_expected(raised.value)
    assert str(tmp_path / "logs" / "1-wrong.test.log") in str(raised.value)
    assert len(concise(str(raised.value)).splitlines()) <= LINES


@pytest.mark.parametrize("rows_of_before", [False, True])
def test_a_test_without_its_last_row_is_not_finished(tmp_path, rows_of_before):
    """Its process ended with status 0, as after a signal in a library; an earlier, shorter test does not count."""
    if rows_of_before:
        write(tmp_path / "r", [certified_record(0)])
        Records(tmp_path / "r", "fingerprint").merge()
    (tmp_path / "1-a.test.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"records": str(tmp_path / "r")}}}))
    stage = Stage(tmp_path / "1-a.test.yaml")

    def begin(logs, threads):
        stage._merged = stage._merged_file()
        stage.process = subprocess.Popen([sys.executable, "-c", ""])
        stage.log(logs).write_text("ended early\n")

    stage.start = begin
    with pytest.raises(StageError, match="test a failed: ended early"):
        run_stages([stage], tmp_path / "logs", 1, Console(quiet=True))


def test_certificates_are_summed_up_at_a_radius_above_zero(tmp_path):
    """Radius 0 would count images whose class alone is certain."""
    rows = [certified_record(index, radius=radius) for index, radius in enumerate((0.0, 0.1, 0.25, 0.7))]
    write(tmp_path / "r", rows)
    path = tmp_path / "1-certified.test.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"records": str(tmp_path / "r")}}}))
    assert Stage(path).summary() == "certified at 0.25 50.0% of 4"
    assert float(final_accuracies(tmp_path / "r")["certified"]) == 0.5


def test_a_test_on_validation_images_is_no_result(tmp_path):
    """The page leaves such stages out: their indices are those of other images in the results."""
    for name, given in {"result": {}, "choice": {"test_on": "validation"}, "named": {"test_on": "test"}}.items():
        config = {"model": {"init_args": {"records": name}}, "data": {"class_path": "Digits", "init_args": given}}
        (tmp_path / f"1-{name}.test.yaml").write_text(yaml.safe_dump(config))
    stages = [Stage(path) for path in sorted(tmp_path.glob("*.yaml"))]
    assert {str(stage.records): stage.on_test_images for stage in stages} == {
        "result": True,
        "choice": False,
        "named": True,
    }


def test_trainings_that_more_stages_wait_for_start_first(tmp_path, monkeypatch):
    """ "b" is read by two tests, "a" by one, all ready at once; of the tests the longest, a certification, is first."""
    reads = {"1-a.fit": [], "2-b.fit": [], "3-c.test": ["b"], "4-d.test": ["a", "b"]}
    evaluators = {"3-c.test": "common.robustness.Clean", "4-d.test": "Certified"}
    stages = []
    for name, files in reads.items():
        letter = name[2]
        arguments = {"export": str(tmp_path / f"{letter}.safetensors")} if name.endswith("fit") else {"records": letter}
        parts = {"parts": [str(tmp_path / f"{file}.safetensors") for file in files], "evaluators": evaluators.get(name)}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"model": {"init_args": {**arguments, **parts}}}))
        stages.append(Stage(tmp_path / f"{name}.yaml"))
    started = []

    def start(self, logs, threads):
        started.append(self.name)
        if self.export is not None:
            self.export.touch()

    monkeypatch.setattr(Stage, "start", start)
    monkeypatch.setattr("common.experiments.stages.time.sleep", lambda seconds: None)
    run_stages(stages, tmp_path / "logs", 1, Console(quiet=True))
    assert started == ["fit b", "fit a", "test d", "test c"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("01-a.yaml", "model: {init_args: {}}", "a stage is named"),
        ("01-a.test.yaml", "data: {}", "needs model"),
        ("01-a.fit.yaml", "model: [1]", "needs model"),
        ("01-a.fit.yaml", "model: {init_args: [1]}", "needs model"),
        ("01-a.fit.yaml", "model: [", "is not YAML"),
    ],
)
def test_a_file_that_is_no_stage_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        Stage(tmp_path / name)


def test_a_link_in_place_of_a_log_is_not_written_through(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "01-a.test.yaml").write_text("# a stage\nmodel: {class_path: RobustTask, init_args: {}}\n")
    stage = Stage(tmp_path / "01-a.test.yaml")
    stage.log(tmp_path).symlink_to(tmp_path / "victim")
    monkeypatch.setattr(stages, "start", lambda command, log, environment: log.write(b"output"))
    stage.start(tmp_path, 1)
    assert (tmp_path / "victim").read_text() == "precious" and not stage.log(tmp_path).is_symlink()
