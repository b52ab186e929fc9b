"""The folder of the presets, in a clone and in an installed wheel."""

from pathlib import Path

import pytest

from common.naming import configs_folder

ROOT = Path(__file__).parents[3]


def test_a_clone_has_its_presets_at_the_top():
    assert configs_folder.presets_root() == ROOT / "configs"
    assert (configs_folder.presets_root() / "diffpure" / "cifar10.yaml").is_file()


def test_an_installed_package_has_its_own_beside_a_folder_of_another_project(tmp_path, monkeypatch):
    monkeypatch.setattr(configs_folder, "__file__", str(tmp_path / "common" / "naming" / "configs_folder.py"))
    with pytest.raises(ValueError, match="the presets are missing from"):
        configs_folder.presets_root()
    (tmp_path / "configs").mkdir()  # site-packages/configs
    (tmp_path / "robust_diffusion" / "configs").mkdir(parents=True)
    assert configs_folder.presets_root() == tmp_path / "robust_diffusion" / "configs"
