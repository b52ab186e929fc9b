"""Metrics in a CSV file: a full disk, a kill or another start loses none that were written."""

import csv
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from common.files.errors import FileError
from common.tasks.metrics_file import MetricsFile
from tests.common.files.conftest import size_limit


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_metrics_are_appended_and_new_ones_replace_the_file_as_a_whole(tmp_path: Path) -> None:
    logger, file = MetricsFile(tmp_path, "a", 0), tmp_path / "a" / "version_0" / "metrics.csv"
    written = []
    for step, metrics in enumerate([{"loss": 1.5}, {"loss": 0.5}, {"loss": 0.25, "val/x,y": 2.0}, {"loss": 0.125}]):
        logger.log_metrics(metrics, step)
        before = file.stat().st_ino if file.exists() else 0
        logger.save()
        assert (file.stat().st_ino == before) == (step in (1, 3))
        written.append({name: str(value) for name, value in {**metrics, "step": step}.items()})
        assert rows(file) == written


@pytest.mark.parametrize("second", [{"loss": 2.0}, {"other": 2.0}], ids=["appended", "replaced"])
def test_a_full_disk_leaves_the_file_and_the_next_attempt_writes_what_is_missing(tmp_path: Path, second: dict) -> None:
    logger, file = MetricsFile(tmp_path, "a", 0), tmp_path / "a" / "version_0" / "metrics.csv"
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    before = file.read_bytes()
    for step in range(1, 30):
        logger.log_metrics(second, step)
    with size_limit(len(before) + 40), pytest.raises(FileError, match=f"cannot save the metrics {file}: File too"):
        logger.save()
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == ["metrics.csv"]
    logger.save()
    assert [row["step"] for row in rows(file)] == [str(step) for step in range(30)]


def test_another_start_in_the_same_folder_keeps_the_earlier_metrics(tmp_path: Path) -> None:
    for start in range(3):
        logger = MetricsFile(tmp_path, "a", "v")
        logger.log_metrics({"loss": float(start)}, 0)
        logger.finalize("success")
    found = {path.name: rows(path)[0]["loss"] for path in (tmp_path / "a" / "v").iterdir()}
    assert found == {"metrics.csv": "2.0", "metrics-1.csv": "0.0", "metrics-2.csv": "1.0"}


def test_it_takes_the_place_of_lightnings_own_alone(tmp_path: Path) -> None:
    own = CSVLogger(tmp_path, "a", "v", prefix="p", flush_logs_every_n_steps=7)
    made = MetricsFile.in_place_of(own)
    assert type(made) is MetricsFile and made.log_dir == own.log_dir
    assert (made._prefix, made._flush_logs_every_n_steps) == ("p", 7)
    for other in (made, TensorBoardLogger(tmp_path), None):
        assert MetricsFile.in_place_of(other) is other
