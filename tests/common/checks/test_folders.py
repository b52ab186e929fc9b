"""Outputs that are folders: a name that promises a file is refused before the work begins."""

from pathlib import Path

import pytest
import yaml
from torch import nn

import cli
from common.checks.settings import check_folder
from common.report.build import check_out
from common.robustness import Clean, NetworkClassifier
from common.tasks import RobustTask
from common.tasks.prediction_folder import PredictionFolder

FILES = ["x.pdf", "rows.csv", "a/b.PNG", "x.htm", "x.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_report_is_a_folder_or_a_page(name, tmp_path):
    with pytest.raises(ValueError, match=r"a folder, or a page that ends in .html; got .*\. Write .*\.html$"):
        check_out(tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_folders_and_pages_are_accepted(tmp_path):
    assert check_out(tmp_path / "x.html") == tmp_path / "x.html"
    (tmp_path / "old.csv").mkdir()
    for folder in ("v1.2", "t0.1", ".hidden", "plain", "old.csv", "digits.final"):
        assert check_out(tmp_path / folder) == tmp_path / folder / "report.html"
        assert check_folder("records", tmp_path / folder) == tmp_path / folder
    assert check_folder("records", "~/runs") == Path.home() / "runs"


@pytest.mark.parametrize("name", FILES)
def test_records_and_predictions_go_to_folders(name, tmp_path):
    with pytest.raises(ValueError, match=r"--out must be a folder; got .*\. Write "):
        PredictionFolder(tmp_path / name)
    with pytest.raises(ValueError, match=r"records must be a folder; got .*\. Write "):
        RobustTask(NetworkClassifier(nn.Flatten()), [Clean()], records=str(tmp_path / name))
    study = tmp_path / "some.study.yaml"
    study.write_text(yaml.safe_dump({"base": "tour/06-diffpure", "records": name, "vary": {"a": [1]}}))
    with pytest.raises(ValueError, match=r"records must be a folder; got"):
        cli.main(["study", str(study)])
