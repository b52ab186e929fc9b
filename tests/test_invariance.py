"""Records do not depend on batch size, processes or interruptions: the same noise, predictions and counts."""

import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.multiprocessing import ProcessExitedException

import cli
from common.checkpoints.loading import load_denoiser
from common.checkpoints.saving import save
from tests.tiny_test import write_tiny_test

ROOT = Path(__file__).parent.parent


def run_on_two(*arguments: str) -> None:
    """Run a command on two processes forked from this one, which need not import everything again."""
    cli.main([*arguments, "--trainer.devices=2", "--trainer.strategy=ddp_fork"])


def kill_after(rows: int, records: Path, run: Callable[[], object]) -> None:
    """SIGKILL to the child processes of a run, once so many rows are on disk."""

    def kill() -> None:
        deadline = time.monotonic() + 240
        while not ended.is_set() and time.monotonic() < deadline and _lines(records) < rows:
            time.sleep(0.01)
        for child in multiprocessing.active_children():
            child.kill()

    ended, watcher = threading.Event(), threading.Thread(target=kill)
    watcher.start()
    try:
        run()
    finally:
        ended.set()
        watcher.join()
        assert not (records / "records.jsonl").exists(), "the run must be killed before its end"


def exact_part(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without their floats, whose last digits depend on kernels; the rest must agree exactly."""
    return [{k: v for k, v in row.items() if not isinstance(v, float) and k != "images"} for row in rows]


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """Records of one uninterrupted run on one process."""
    folder = tmp_path_factory.mktemp("finished")
    cli.main(["test", "-c", str(write_tiny_test(weights, folder))])
    return folder / "records"


@pytest.fixture
def reference(finished, rows):
    return rows(finished)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_records_are_the_same_for_every_batch_size(reference, tiny_test, rows, tmp_path, batch_size):
    """Bit for bit, floats included: batches are filled up to 16 rows, which fixes the kernels (see ``Padded``)."""
    cli.main(["test", "-c", str(tiny_test(records=tmp_path / "other", data={"batch_size": batch_size}))])
    assert rows(tmp_path / "other") == reference
    assert len({json.dumps(row["predictions"]) for row in reference}) > 5  # the rows do differ


def test_records_are_the_same_on_two_processes(reference, tiny_test, rows, tmp_path):
    """13 images, which neither 2 processes nor batches of 7 divide: one rank has fewer batches."""
    run_on_two("test", "-c", str(tiny_test(records=tmp_path / "two", data={"batch_size": 3})))
    assert exact_part(rows(tmp_path / "two")) == exact_part(reference)
    parts = list((tmp_path / "two").glob("part-*.jsonl"))
    assert {part.name[:10] for part in parts} == {"part-00000", "part-00001"}


def test_more_processes_than_images(tiny_test, rows, tmp_path):
    run_on_two("test", "-c", str(tiny_test(data={"test_images": 1})))
    assert len(rows(tmp_path / "records")) == 2


def test_a_killed_run_continues_on_another_number_of_processes(reference, tiny_test, rows, tmp_path):
    """SIGKILL on two processes after the first rows, the last line torn; continued by one, with another batch size."""
    records = tmp_path / "killed"
    first = tiny_test(records=records, data={"batch_size": 1})
    with pytest.raises(ProcessExitedException):
        kill_after(4, records, lambda: run_on_two("test", "-c", str(first)))
    part = max(records.glob("part-*.jsonl"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[:-20])
    cli.main(["test", "-c", str(tiny_test(records=records, data={"batch_size": 5}))])
    assert exact_part(rows(records)) == exact_part(reference)


@pytest.fixture
def tiny_certification(tiny_test, weights, tmp_path):
    """Write the YAML of a certification of nine of the digits, for several batch sizes."""
    denoiser, file = load_denoiser(weights / "denoiser.safetensors"), tmp_path / "denoiser.safetensors"
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.parameters():  # without, it predicts the same for all classes
            parameter += 0.1 * torch.randn_like(parameter)
    save(denoiser, file)

    def write(records: Path, images: int, samples: int, rows: int) -> Path:
        path = tiny_test(records=records, data={"batch_size": images, "test_images": 9})
        config = yaml.safe_load(path.read_text())
        denoiser = {"class_path": "common.checkpoints.load_denoiser", "init_args": {"path": str(file)}}
        classifier = {"denoiser": denoiser, "num_classes": 10, "sigma": 0.25, "nodes": 4}
        classifier["engine"] = {"class_path": "common.engine.Engine", "init_args": {"batch_size": rows}}
        classifier["elimination"] = {"class_path": "ndc.Elimination"}
        smoothing = {"sigma": 0.25, "n0": 10, "n": 80, "alpha": 0.1, "targets": [0.1, 0.25], "first": 20}
        certifier = {"class_path": "common.robustness.Sequential", "init_args": smoothing}
        evaluator = {"smoothing": certifier | {"init_args": smoothing | {"batch_size": samples}}}
        config["model"] = {
            "class_path": "ndc.NDCTask",
            "init_args": {
                "classifier": {"class_path": "ndc.NoisedDiffusionClassifier", "init_args": classifier},
                "evaluators": [{"class_path": "common.robustness.Certified", "init_args": evaluator}],
                "records": str(records),
            },
        }
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_certificates_survive_a_kill_and_two_processes(tiny_certification, rows, tmp_path):
    """SIGKILL after some rows; continued by two processes, with other batch sizes everywhere."""
    cli.main(["test", "-c", str(tiny_certification(tmp_path / "uninterrupted", 9, 1024, 512))])
    records = tmp_path / "killed"
    first = ["test", "-c", str(tiny_certification(records, 1, 16, 64))]
    process = multiprocessing.get_context("fork").Process(target=cli.main, args=(first,))
    process.start()
    kill_after(3, records, process.join)
    run_on_two("test", "-c", str(tiny_certification(records, 4, 100, 33)))
    assert exact_part(rows(records)) == exact_part(rows(tmp_path / "uninterrupted"))
    assert {part.name[:10] for part in records.glob("part-*.jsonl")} == {"part-00000", "part-00001"}
    certificates = rows(records)
    assert len({row.get("count", 0) for row in certificates}) > 2  # a count of 0 is not written
    assert len(certificates) == 9


def test_a_finished_run_has_nothing_left_to_do(finished, reference, tiny_test, rows, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "finished")
    monkeypatch.setattr("common.robustness.Attacked._search", lambda *_: pytest.fail("attacked again"))
    cli.main(["test", "-c", str(tiny_test(records=tmp_path / "finished"))])
    assert rows(tmp_path / "finished") == reference


def test_guidance_fits_on_two_processes(tmp_path):
    config = ROOT / "configs" / "tour" / "04-guidance.fit.yaml"
    export = tmp_path / "guidance.safetensors"
    run_on_two("fit", "-c", str(config), "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1", "--trainer.accelerator=cpu", f"--model.init_args.export={export}",
        f"--trainer.default_root_dir={tmp_path}", "--model.init_args.val_steps=1")  # fmt: skip
    from common.checkpoints.loading import load_network

    assert type(load_network(export)).__name__ == "GuidanceNetwork"


def _lines(records: Path) -> int:
    """Number of rows in the part files."""
    return sum(max(0, len(part.read_bytes().splitlines()) - 1) for part in records.glob("part-*.jsonl"))
