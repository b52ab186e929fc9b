"""A full disk at each kind of write: nothing that was there before is lost, and the error names the file."""

import errno
import io

import lightning as L
import pytest
import torch
from rich.console import Console
from torch import nn

from common.checkpoints.saving import save
from common.commands.lightning_commands import Parser
from common.commands.presets import write as write_preset
from common.experiments.study import Study
from common.files.errors import FileError
from common.files.replacing import UNFINISHED, write, write_all
from common.hub.cards import Card
from common.hub.checksums import pin_path, verify_checksum
from common.networks import SmallCNN
from common.records.store import Records
from common.report.build import build
from common.tasks.checkpoint_files import CheckpointFiles
from common.tasks.prediction_folder import save_png
from tests.common.records.made import clean_record


def export(folder, version):
    torch.manual_seed(version)
    save(SmallCNN(in_channels=1, num_classes=10, width=8), folder / "phi.safetensors")


def checkpoint(folder, version):
    CheckpointFiles().save_checkpoint({"state_dict": {"x": torch.full((1000,), version)}}, folder / "last.ckpt")


def trainer_checkpoint(folder, version):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, plugins=[CheckpointFiles()], enable_progress_bar=False, max_steps=0,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.strategy.connect(L.LightningModule())
    trainer.strategy.save_checkpoint({"state_dict": {"x": torch.full((1000,), version)}}, folder / "deep" / "x.ckpt")


def image(folder, version):
    save_png(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(version)), folder / "deep" / "a.png")


def text(folder, version):
    write(folder / "table.csv", f"{version}," * 1000, "write the table")


def several(folder, version):
    """The second does not fit: neither is replaced."""
    write_all({folder / "a.csv": str(version), folder / "b.csv": f"{version}," * 5000}, "write the tables")


def preset(folder, version):
    write_preset(folder / f"{version}.yaml", "x: 1\n" * 1000)


def study(folder, version):
    if version == 1:
        (folder.parent / "base.yaml").write_text("model: {init_args: {records: x}}\ndata: {}\n")
        for number in (1, 2):
            text = f"# My study\nbase: base.yaml\nrecords: {folder}\nset: {{data.n: {[number] * 50}}}\n"
            (folder.parent / f"{number}.study.yaml").write_text(text)
    Study.read(folder.parent / f"{version}.study.yaml").write()


def configuration(folder, version):
    parser = Parser()
    parser.add_argument("--x", type=str)
    parser.save(parser.parse_args([f"--x={str(version) * 1000}"]), folder / "config.yaml")


def report(folder, version):
    """The first call makes the records of both."""
    for number in (1, 2) if version == 1 else ():
        records = Records(folder.parent / f"records-{number}", "f", {"classifier": {"class": "x"}})
        records.append([clean_record(index) for index in range(number)])
    build([folder.parent / f"records-{version}"], folder / "report", quiet=True)


WRITES = [export, checkpoint, trainer_checkpoint, image, text, several, preset, study, configuration, report]


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "ballast"}


@pytest.mark.parametrize("attempt", WRITES)
def test_a_write_that_fails_leaves_the_file_of_before_and_names_it(disk, attempt):
    folder, full = disk
    attempt(folder, 1)
    before = contents(folder)
    assert before and all(before.values())
    with (
        full(),
        pytest.raises((FileError, ValueError), match=r"cannot [a-z ]+ .*(No space left|File too lar)") as error,
    ):
        attempt(folder, 2)
    assert str(folder) in str(error.value)
    assert contents(folder) == before
    attempt(folder, 2)  # with space again
    assert contents(folder) != before


def test_rows_are_appended_whole_or_not_at_all(disk):
    folder, full = disk
    records = Records(folder, "f")
    records.append([clean_record(0)])
    before = contents(folder)
    more = [clean_record(index) for index in range(1, 400)]
    with full(), pytest.raises(FileError, match=r"append records to .*part-.*(No space left|File too large)"):
        records.append(more)
    assert contents(folder) == before and len(Records.read(folder)) == 1
    records.append(more)
    assert len(Records.read(folder)) == 400


def test_a_merge_that_fails_keeps_the_rows(disk):
    folder, full = disk
    records = Records(folder, "f")
    records.append([clean_record(index) for index in range(30)])
    records.merge()
    before = contents(folder)
    with full(), pytest.raises(FileError, match="merge the records"):
        records.merge()
    assert contents(folder) == before and len(Records.read(folder)) == 30


def test_a_pin_that_cannot_be_written_leaves_the_one_of_before(disk):
    folder, full = disk
    card = Card("a test", "https://example.org/x.pt", "https://example.org", "x.pt", "MIT", "edm")
    file, said = folder / "x.pt", io.StringIO()
    file.write_bytes(b"1")
    verify_checksum(file, card, Console(file=said))
    before = pin_path(file).read_bytes()
    file.touch()
    with full():
        verify_checksum(file, card, Console(file=said))
    assert pin_path(file).read_bytes() == before
    assert "cannot save the checksum" in said.getvalue()


def test_the_error_of_a_full_disk_keeps_its_number(disk):
    folder, full = disk
    with full(), pytest.raises(OSError, match="cannot save the checkpoint") as error:
        checkpoint(folder, 1)
    assert error.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert not [*folder.glob(f"{UNFINISHED}*")]


def test_an_error_of_torch_that_is_no_disk_error_stays(tmp_path):
    class Unpicklable(nn.Module):
        def __reduce__(self):
            raise RuntimeError("cannot be pickled")

    with pytest.raises(RuntimeError, match="cannot be pickled"):
        CheckpointFiles().save_checkpoint({"x": Unpicklable()}, tmp_path / "last.ckpt")
    assert not [*tmp_path.iterdir()]
