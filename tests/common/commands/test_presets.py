"""``presets``: list, search, show and copy."""

import pytest
import yaml

import cli
from common.commands.errors import UsageError
from common.experiments.preset_files import preset_files
from common.experiments.preset_layers import read_config
from common.hub.cache import cached_path
from common.naming.configs_folder import presets_root


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def paragraphs(output: str) -> dict[str, str]:
    """The text of every preset in a list, on one line, by its name."""
    blocks = [block.split("\n", 1) for block in output.strip().split("\n\n")]
    return {name: " ".join(text.split()) for name, text in blocks}


def test_all_presets_are_listed_with_purpose_weights_and_number(capsys):
    cli.main(["presets"])
    found = paragraphs(capsys.readouterr().out)
    assert [*found] == [*preset_files()]
    entry = found["diffpure/cifar10"]
    assert entry.startswith("DiffPure on CIFAR-10, L-infinity 8/255")
    assert "weights: robust-diffusion fetch score_sde_cifar10 robustbench_cifar10_standard (1.9 GB)" in entry
    assert "published: 89.02 % clean, 70.64 % under AutoAttack" in entry
    assert entry.endswith("run: robust-diffusion test -c diffpure/cifar10")
    assert "weights: robust-diffusion tour" in found["tour/06-diffpure"]


def test_weights_at_hand_are_counted(capsys):
    cached_path("score_sde_cifar10").parent.mkdir()
    cached_path("score_sde_cifar10").touch()
    cli.main(["presets", "agdm/cifar"])
    entry = paragraphs(capsys.readouterr().out)["agdm/cifar10"]
    assert "weights: 1 present; robust-diffusion fetch robustbench_cifar10_standard (0.1 GB); " in entry
    assert "robust-diffusion fit -c train/cifar10-guidance" in entry


def test_names_and_titles_are_searched(capsys):
    cli.main(["presets", "imagenet"])
    assert {*paragraphs(capsys.readouterr().out)} == {
        "agdm/imagenet",
        "diffpure/imagenet",
        "ndc/imagenet256",
        "ndc/imagenet64",
    }
    with pytest.raises(UsageError, match=r"no preset matches 'agmd/cifar10'\. Did you mean agdm/cifar10"):
        cli.main(["presets", "agmd/cifar10"])


@pytest.mark.parametrize("name", ["diffpure/cifar10", "tour/06-diffpure", "agdm/cifar100"])
def test_a_preset_is_shown_complete(name, capsys):
    """The text is a configuration without bases that equals the preset."""
    cli.main(["presets", name])
    text = capsys.readouterr().out
    path = preset_files()[name]
    assert text.startswith(path.read_text().splitlines()[0])
    assert "# Layers, the last one wins: bases/" in text
    assert yaml.safe_load(text) == read_config(path)
    assert "model:\n  class_path: " in text  # the class first, although a base has no class


def test_a_preset_is_copied_once(tmp_path, capsys):
    cli.main(["presets", "diffpure/cifar10", "--copy", "mine/my.yaml"])
    assert read_config(tmp_path / "mine" / "my.yaml") == read_config(presets_root() / "diffpure" / "cifar10.yaml")
    with pytest.raises(FileExistsError, match="name another file"):
        cli.main(["presets", "diffpure/cifar10", "--copy", "mine/my.yaml"])
    with pytest.raises(UsageError, match=r"--copy needs the name of one preset\. Did you mean diffpure/cifar10"):
        cli.main(["presets", "difpure/cifar10", "--copy", "other.yaml"])
