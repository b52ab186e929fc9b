"""Files in the publishers' layouts, written once per run."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.common.checkpoints.formats.files import NAMES, score_sde_file


@pytest.fixture(scope="session")
def written(published, tmp_path_factory):
    """``written(format, name)`` -> (file in the publishers' layout, reference); each file is written once."""
    folder = tmp_path_factory.mktemp("published")

    @cache
    def write(format, name):
        reference = published(name)
        path = folder / f"{name}.pt"
        if format == "score_sde":
            score_sde_file(reference, path)
        elif format == "robustbench_wrn":
            torch.save({"state_dict": {f"module.{key}": value for key, value in reference.state.items()}}, path)
        else:
            torch.save(reference.state, path)
        return path, reference

    return write


@pytest.fixture
def file_of(written, tmp_path):
    """``file_of(format)`` -> (path of an own copy of the file in the publishers' layout, config, reference)."""

    def copy(format, name=None):
        original, reference = written(format, name or NAMES[format])
        return Path(shutil.copyfile(original, tmp_path / f"{format}.pt")), reference.config, reference

    return copy
