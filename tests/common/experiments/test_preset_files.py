"""Presets by name, in a clone: local files first, nearest names, and the commands that make weights."""

import pytest

from common.experiments.preset_files import (
    STUDY,
    find_config,
    find_preset,
    makers,
    preset_files,
    preset_name,
    with_remedy,
)
from common.experiments.preset_pages import PresetPage, entries
from common.naming.configs_folder import presets_root

ROOT = presets_root()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("diffpure/cifar10", "diffpure/cifar10.yaml"),
        ("diffpure/cifar10.yaml", "diffpure/cifar10.yaml"),
        ("configs/diffpure/cifar10.yaml", "diffpure/cifar10.yaml"),
        ("tour/06-diffpure", "tour/06-diffpure.test.yaml"),
        ("tour/03-denoiser", "tour/03-denoiser.fit.yaml"),
    ],
)
def test_a_preset_is_found_by_its_name_from_any_folder(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == ROOT / file


def test_a_study_is_no_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("studies/agdm-cifar10-small", STUDY).name == "agdm-cifar10-small.study.yaml"
    assert find_config("studies/agdm-cifar10-small").name == "agdm-cifar10-small.test.yaml"


def test_every_preset_has_a_name_of_its_own_that_finds_it():
    files = preset_files()
    named = [path for path in ROOT.rglob("*.yaml") if path.parent.name != "bases"]
    assert sorted(files.values()) == sorted(named)
    assert all(find_preset(name) == path and preset_name(path) == name for name, path in files.items())


def test_a_local_file_wins_and_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "diffpure" / "cifar10.yaml"
    local.parent.mkdir()
    local.write_text("{}")
    assert find_config("diffpure/cifar10.yaml").samefile(local)
    assert capsys.readouterr().err == (
        "-c diffpure/cifar10.yaml: the local file is used, not the preset diffpure/cifar10\n"
    )
    assert find_config("diffpure/cifar10") == ROOT / "diffpure" / "cifar10.yaml"
    monkeypatch.chdir(ROOT.parent)
    assert find_config("configs/diffpure/cifar10.yaml").samefile(ROOT / "diffpure" / "cifar10.yaml")
    assert capsys.readouterr().err == ""


def test_presets_end_at_their_folder():
    assert (ROOT / ".." / "pyproject.toml").is_file()
    assert find_preset("../.github/dependabot") is None


def test_missing_names_are_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no preset difpure/cifar10\. Did you mean diffpure/cifar10"):
        find_config("difpure/cifar10")
    (tmp_path / "mine.yaml").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no preset mein\.yaml\. Did you mean mine\.yaml\?"):
        find_config("mein.yaml")


def test_missing_weights_are_answered_with_the_command_that_makes_them():
    made = makers()
    assert made["runs/tour/denoiser.safetensors"] == "robust-diffusion tour"
    assert made["runs/train/cifar10-denoiser.safetensors"] == "robust-diffusion fit -c train/cifar10-denoiser"
    missing = FileNotFoundError("there is no checkpoint runs/train/cifar10-denoiser.safetensors (from /). Check it.")
    assert str(with_remedy(missing)) == (
        "there is no runs/train/cifar10-denoiser.safetensors. Make it with: "
        "robust-diffusion fit -c train/cifar10-denoiser"
    )
    other = FileNotFoundError("there is no checkpoint own.safetensors (from /). Check it.")
    assert with_remedy(other) is other


def test_a_header_is_read_by_its_entries():
    lines = ["Published: 89 % clean,", "  read there.", "free text", "Cost: 3 h.", "Weights:", "  fetch a b", "  fit c"]
    assert entries(["free text", *lines]) == {
        "Published": "89 % clean, read there.",
        "Cost": "3 h.",
        "Weights": "fetch a b fit c",
    }


def test_a_page_names_weights_and_the_command():
    page = PresetPage.read(ROOT / "agdm" / "cifar10.yaml")
    assert page.title.startswith("AGDM on CIFAR-10")
    assert {*page.cards} == {"score_sde_cifar10", "robustbench_cifar10_standard"}
    assert page.files == ["runs/train/cifar10-guidance.safetensors"]
    assert page.command == "robust-diffusion test -c agdm/cifar10"
    assert PresetPage.read(ROOT / "suites" / "quick.yaml").command == ""
    study = PresetPage.read(ROOT / "studies" / "ndc-nodes.study.yaml")
    assert study.command == "robust-diffusion study studies/ndc-nodes"
    assert PresetPage.read(ROOT / "tour" / "03-denoiser.fit.yaml").command == "robust-diffusion fit -c tour/03-denoiser"
