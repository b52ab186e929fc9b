"""Checkpoints of a training: written as a whole, and read without running what is in them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from common.commands.trainer_settings import check_strategy
from common.tasks.checkpoint_files import CheckpointFiles, with_checkpoint_files


class Call:
    """A pickle that runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_code_in_a_checkpoint_does_not_run_whichever_way_it_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "x": Call(f"touch {tmp_path / 'ran'}")}, path)
    for weights_only in (None, False, True):
        with pytest.raises(ValueError, match="which is code and no tensor"):
            CheckpointFiles().load_checkpoint(path, weights_only=weights_only)
    assert not (tmp_path / "ran").exists()


def test_tensors_of_a_checkpoint_are_on_the_device_asked_for(tmp_path: Path) -> None:
    CheckpointFiles().save_checkpoint({"state_dict": {"a": torch.arange(3.0)}, "epoch": 2}, tmp_path / "a.ckpt")
    found = CheckpointFiles().load_checkpoint(tmp_path / "a.ckpt")
    assert found["epoch"] == 2 and found["state_dict"]["a"].tolist() == [0, 1, 2]
    assert CheckpointFiles().load_checkpoint(tmp_path / "a.ckpt", "meta")["state_dict"]["a"].is_meta


def test_every_plugin_that_writes_as_lightning_does_is_replaced() -> None:
    class Own(TorchCheckpointIO):
        """A class of the user's."""

    for given in ([], [TorchCheckpointIO()]):
        assert [type(plugin) for plugin in with_checkpoint_files(given)] == [CheckpointFiles]
    for inner in (None, TorchCheckpointIO()):
        (plugin,) = with_checkpoint_files([AsyncCheckpointIO(inner)])
        assert type(plugin.checkpoint_io) is CheckpointFiles
    own, outer = Own(), AsyncCheckpointIO(Own())
    assert with_checkpoint_files([own]) == [own]
    assert with_checkpoint_files([outer]) == [outer] and type(outer.checkpoint_io) is Own


def test_strategies_that_write_parts_in_place_are_refused() -> None:
    refused = ["deepspeed", "deepspeed_stage_3", FSDPStrategy(state_dict_type="sharded"), ModelParallelStrategy()]
    for strategy in refused:
        with pytest.raises(ValueError, match="strategy must write a checkpoint as one file"):
            check_strategy(strategy)
    whole = ModelParallelStrategy(save_distributed_checkpoint=False)
    for strategy in ("auto", "ddp", "fsdp", DDPStrategy(), FSDPStrategy(), whole, None):
        check_strategy(strategy)


def test_weights_that_a_process_hands_back_are_loaded_alone(tmp_path):
    """Processes of the trainer return them in a file of this name; any other file needs a state_dict."""
    files, weights = CheckpointFiles(), {"layer": torch.ones(2)}
    for name in (".temp.ckpt", "other.ckpt"):
        files.save_checkpoint(weights, tmp_path / name)
    assert torch.equal(files.load_checkpoint(tmp_path / ".temp.ckpt")["layer"], torch.ones(2))
    with pytest.raises(ValueError, match="must be a checkpoint of a training, with a state_dict"):
        files.load_checkpoint(tmp_path / "other.ckpt")
