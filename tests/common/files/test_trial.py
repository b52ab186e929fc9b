"""Outputs are tried before the work begins, in every command; a write that fails in the end has a fallback."""

import re

import pytest
import torch
import yaml

import cli
from common.checkpoints import loading
from common.checkpoints.loading import load_network
from common.checkpoints.saving import save
from common.files.errors import FileError
from common.files.fallback import write_or_fallback
from common.files.replacing import UNFINISHED, write
from common.files.trial import try_file, try_folder
from common.hub import fetching
from common.hub.cards import CARDS
from common.networks import SmallCNN
from common.records.store import Records
from common.tasks.checkpoint_files import CheckpointFiles
from tests.common.files.conftest import size_limit
from tests.common.records.made import clean_record
from tests.sources import ROOT


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    kept = write(tmp_path / "a.txt", "old")
    left = write(tmp_path / f"{UNFINISHED}{'gone'}-1-0", "x")
    try_file(kept, "write", size=1000)
    try_file(tmp_path / "deep" / "deeper" / "a.txt", "write")
    try_folder(tmp_path / "deep", "write to")
    assert {*tmp_path.iterdir()} == {kept, left} and kept.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "it is a folder; name a file"),
        ("a.txt/b/c.txt", "a.txt is no folder"),
        ("x" * 9, r"it needs .* MB of space"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_with_the_reason(tmp_path, name, reason):
    write(tmp_path / "a.txt", "old")
    with pytest.raises(FileError, match=rf"cannot save it {tmp_path / name}: .*{reason}.*name another path"):
        try_file(tmp_path / name, "save it", size=10**18)


def test_a_full_disk_is_found(disk):
    folder, full = disk
    with full():
        for attempt in (try_file, try_folder):
            with pytest.raises(FileError, match=r"(No space left|File too large).*Make room"):
                attempt(folder / "deep" / "x", "write to")


def test_a_file_size_limit_is_found(tmp_path):
    with size_limit(10**6):
        try_file(tmp_path / "x", "save", size=10**6)
        with pytest.raises(FileError, match=r"it needs 2\.0 MB of space, and there are 1\.0 MB"):
            try_file(tmp_path / "x", "save", size=2 * 10**6)


@pytest.fixture
def untouchable(monkeypatch):
    """Nothing is loaded, read or downloaded."""

    def refuse(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(loading, "safe_open", refuse)
    monkeypatch.setattr("common.report.build.read_runs", refuse)
    monkeypatch.setattr("common.experiments.stages.run_stages", refuse)
    monkeypatch.setattr("common.commands.tour.run_stages", refuse)
    monkeypatch.setattr("common.commands.study.run_stages", refuse)
    monkeypatch.setattr("common.commands.conversion.LOADERS", dict.fromkeys(("denoiser", "classifier"), refuse))
    monkeypatch.setattr(fetching, "download_file", refuse)


def commands(tiny_test, tmp_path, bad):
    """A command line of each command that writes, with its output in the folder ``bad``."""
    test = str(tiny_test())
    (tmp_path / "my.study.yaml").write_text(f"# Mine\nbase: {test}\nrecords: {bad}/study\n")
    (tmp_path / "out.study.yaml").write_text(f"# Mine\nbase: {test}\nrecords: {tmp_path}/study\n")
    (tmp_path / "weights.pt").write_bytes(b"not read")
    fit = ["fit", "-c", str(ROOT / "configs/tour/01-classifier.fit.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": f"{bad}/ckpt"}}
    (tmp_path / "saving.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": [saving], "enable_checkpointing": True}})
    )
    return {
        "fit": [*fit, f"--model.init_args.export={bad}/x.safetensors"],
        "fit's checkpoints": [*fit, "--model.init_args.export=null", "-c", f"{tmp_path}/saving.yaml"],
        "fit's logs": [*fit[:-1], f"--trainer.default_root_dir={bad}"],
        "test": ["test", "-c", test, f"--model.init_args.records={bad}/records"],
        "predict": ["predict", "-c", test, f"--out={bad}/out"],
        "report": ["report", str(tmp_path), f"--out={bad}/report"],
        "report's page": ["report", str(tmp_path), f"--out={bad}/page.html"],
        "convert": ["convert", f"{tmp_path}/weights.pt", f"{bad}/x.safetensors", "--format=guided_diffusion"],
        "study": ["study", f"{tmp_path}/my.study.yaml"],
        "study's report": ["study", f"{tmp_path}/out.study.yaml", f"--out={bad}/report"],
        "tour": ["tour", f"--out={bad}/report"],
        "fetch": ["fetch", next(iter(CARDS))],
    }  # fmt: skip


NAMES = ["fit", "fit's checkpoints", "fit's logs", "test", "predict", "report", "report's page", "convert", "study",
         "study's report", "tour", "fetch"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_command_tries_its_output_before_the_work(tiny_test, tmp_path, monkeypatch, untouchable, name):
    bad = write(tmp_path / "file", "a file in place of a folder")
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(bad))
    with pytest.raises((OSError, ValueError), match=rf"cannot [a-z ]+ {re.escape(str(bad))}.*(no folder|directory)"):
        cli.main(commands(tiny_test, tmp_path, bad)[name])


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_every_command_finds_a_full_disk_before_the_work(tiny_test, tmp_path, monkeypatch, untouchable, disk, name):
    folder, full = disk
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(folder))
    words = commands(tiny_test, tmp_path, folder)[name]
    with full(), pytest.raises((OSError, ValueError), match=rf"cannot [a-z ]+ {folder}.*No space left"):
        cli.main(words)


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_the_weights_go_to_a_fallback_if_the_last_write_fails(disk, tmp_path, monkeypatch):
    """Beside the export, or in the working folder where that disk is full."""
    folder, full = disk
    monkeypatch.chdir(tmp_path)
    network = SmallCNN(in_channels=1, num_classes=10, width=8)
    path = save(SmallCNN(in_channels=1, num_classes=10, width=16), folder / "phi.safetensors")
    before = path.read_bytes()
    with full(), pytest.raises(FileError, match=r"No space left.*It was saved as .* instead: move it to") as error:
        write_or_fallback(path, lambda place: save(network, place))
    (name,) = re.findall(r"saved as (.*) instead", str(error.value))
    assert name == str(next(tmp_path.glob("phi-fallback-*.safetensors"))) and path.read_bytes() == before
    torch.testing.assert_close(load_network(name).state_dict(), network.state_dict())


def test_a_name_that_cannot_be_replaced_has_a_fallback_beside_it(tmp_path):
    path = tmp_path / "last.ckpt"
    path.mkdir()  # nothing can be renamed over a folder
    with pytest.raises(
        FileError, match=rf"cannot save the checkpoint {path}: .*It was saved as {tmp_path}/last-fallback"
    ):
        CheckpointFiles().save_checkpoint({"x": torch.ones(3)}, path)
    (file,) = tmp_path.glob("last-fallback-*.ckpt")
    assert torch.load(file, weights_only=True)["x"].tolist() == [1, 1, 1]


def test_the_first_error_is_raised_if_there_is_no_other_place(tmp_path, monkeypatch):
    tried = []

    def fail(path):
        tried.append(path.parent)
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    with pytest.raises(OSError, match="No space left") as error:
        write_or_fallback(tmp_path / "deep" / "x", fail)
    assert "saved as" not in str(error.value)
    assert tried == [tmp_path / "deep", tmp_path / "deep", tmp_path, tmp_path / "temporary"]


def test_a_report_that_could_be_written_is(tmp_path, capsys):
    records = Records(tmp_path / "records", "f", {"classifier": {"class": "x"}})
    records.append([clean_record(0)])
    cli.main(["report", str(tmp_path / "records"), f"--out={tmp_path / 'new' / 'page.html'}"])
    assert (tmp_path / "new" / "page.html").is_file() and "page.html" in capsys.readouterr().out
