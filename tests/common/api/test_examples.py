"""Examples of the page of common/api: run from its text, in a folder with the tour's networks."""

import re
import sys
from pathlib import Path

import pytest
import yaml

import cli
from common.experiments.preset_layers import read_config
from common.records.store import Records

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "common" / "api" / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def block(language: str, word: str) -> str:
    """The first block in a language with that word in it."""
    return next(text for written, text in BLOCKS if written == language and word in text)


@pytest.fixture
def folder(weights, tmp_path, monkeypatch):
    """Working directory with runs/tour and the page's modules ``jpeg`` and ``fgsm``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tour").symlink_to(weights)
    (tmp_path / "jpeg.py").write_text(block("python", "class JPEG"))
    (tmp_path / "fgsm.py").write_text(block("python", "class FGSM"))
    yield tmp_path
    for name in ("jpeg", "fgsm"):
        sys.modules.pop(name, None)


def run(folder: Path, config: dict) -> list:
    """Rows of a test by YAML."""
    (folder / "test.yaml").write_text(yaml.safe_dump(config))
    cli.main(["test", "-c", "test.yaml"])
    return Records.read(config["model"]["init_args"]["records"])


def results(rows: list) -> dict:
    """Predictions by evaluator and image."""
    return {
        (row.evaluator.lower(), row.index): row.predictions
        for row in rows
        if row.evaluator.lower() in ("clean", "pgd", "square") and row.role.value == "result"
    }


@pytest.mark.filterwarnings("ignore:gradient check failed")  # JPEG rounds; the page says so
def test_the_jpeg_defence_is_attacked_and_certified_alike_from_python_and_yaml(folder, capsys):
    assert len(block("python", "class JPEG").splitlines()) <= 30
    code = block("python", "from jpeg import JPEG").replace("print(rd.evaluate(", "print(result := rd.evaluate(")
    code = code.replace("test_images=64", "test_images=24").replace("queries=500", "queries=60")
    namespace: dict = {}
    code = code.replace("print(rd.certify(", "print(certified := rd.certify(")
    exec(compile(code.replace("sigma=0.25", "sigma=0.25, n=50, n0=10"), "README.md", "exec"), namespace)
    result = namespace["result"]
    assert result.robust.value < result.clean.value - 0.3  # L-inf 0.2 on digits, BPDA
    assert capsys.readouterr().out.count("JPEG + SmallCNN") >= 2  # both tables

    config = yaml.safe_load(block("yaml", "jpeg.JPEG").replace("queries: 500", "queries: 60"))
    config["data"]["init_args"]["test_images"] = 24
    config["model"]["init_args"]["evaluators"][-1]["init_args"]["smoothing"]["init_args"] |= {"n": 50, "n0": 10}
    rows = run(folder, config)
    found = results(rows)
    certified = {row.index: row.radius for row in rows if row.evaluator == "certified"}
    assert certified == {row.index: row.radius for row in namespace["certified"].records}
    assert len(found) == 72
    assert found == results(result.records)


def test_the_network_of_torchvision_is_attacked(folder, capsys):
    exec(compile(block("python", "resnet18"), "README.md", "exec"), {})
    assert "16" in capsys.readouterr().out.split()  # rows: clean and APGD, eight images each
    assert (folder / "runs" / "resnet18" / "records.jsonl").is_file()


def test_the_own_attack_is_short_and_runs_from_yaml(folder):
    """It stays within the budget and lowers the accuracy of an undefended classifier."""
    assert len(block("python", "class FGSM").splitlines()) <= 30
    (named,) = re.findall(r"`attack: (\{class_path: fgsm.*?\})`", PAGE, re.DOTALL)
    config = read_config(ROOT / "configs" / "tour" / "05-undefended.test.yaml")
    evaluator = {"class_path": "Attacked", "init_args": {"attack": yaml.safe_load(named)}}
    config["model"]["init_args"] |= {"evaluators": [evaluator], "records": "records", "verify": "off"}
    config["data"]["init_args"] |= {"test_images": 32}
    rows = run(folder, config)
    assert len(rows) == 32
    assert all(row.distance <= 0.2 + 1e-6 for row in rows)
    assert sum(row.correct[0] for row in rows) < sum(row.clean_predictions[0] == row.label for row in rows)
