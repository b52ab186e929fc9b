"""README and CONTRIBUTING: commands name existing files and classes, Python examples run."""

import pkgutil
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

from common.checkpoints.loading import load_classifier
from common.diffusion.networks import NCSNpp
from common.hub.cache import file_size
from common.hub.cards import CARDS
from common.noise import Noise
from common.records.store import Records
from common.robustness.classifiers import Purified

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_come_first():
    language, text = BLOCKS[0]
    install, test = text.strip().splitlines()
    assert language == "bash"
    assert install.endswith("robust-diffusion tour")
    assert test == "pytest"
    assert "\npytest\n" in (ROOT / ".ci" / "run").read_text()  # exactly what CI runs


def test_commands_name_files_that_exist():
    commands = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    named = [word for line in commands for word in shlex.split(line, comments=True) if word.endswith(".yaml")]
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_dotted_names_exist():
    names = set(re.findall(r"`((?:agdm|common|diffpure|ndc)\.[\w.]+\w)`", README))
    assert len(names) > 5
    for name in names:
        assert pkgutil.resolve_name(name) is not None


def python(word):
    """The one Python example with that word in it."""
    (code,) = [text for language, text in BLOCKS if language == "python" and word in text]
    return code


def test_the_python_example_runs(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tour").symlink_to(weights)
    namespace: dict[str, object] = {}
    code = python("PGD").replace("steps=20, eot=4", "steps=2, eot=2")
    exec(compile(code, "README.md", "exec"), namespace)
    image, adv = namespace["image"], namespace["adv"]
    assert 0 < float((adv - image).abs().max()) <= 8 / 255 + 1e-6


def test_the_example_of_an_attack_is_short_and_runs_from_yaml(weights, tmp_path):
    """Written to a file and named in YAML, it lowers the accuracy of an undefended classifier."""
    code = python("class FGSM")
    assert len(code.splitlines()) <= 40
    (tmp_path / "fgsm.py").write_text(code)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tour").symlink_to(weights)
    (named,) = re.findall(r"`attack: (\{class_path: fgsm.*?\})`", README)
    config = yaml.safe_load((ROOT / "configs" / "tour" / "05-undefended.test.yaml").read_text())
    arguments = config["model"]["init_args"]
    evaluator = {"class_path": "common.robustness.Attacked", "init_args": {"attack": yaml.safe_load(named)}}
    arguments |= {"evaluators": [evaluator], "records": "records", "verify": "off"}
    config["data"]["init_args"] |= {"test_images": 32}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, str(ROOT / "cli.py"), "test", "-c", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = Records.read(tmp_path / "records")
    assert len(rows) == 32
    assert all(row.distance <= 0.2 + 1e-6 for row in rows)
    assert sum(row.correct[0] for row in rows) < sum(row.clean_predictions[0] == row.label for row in rows)


def test_the_purifier_of_the_contributing_page_defends(weights):
    """Its code, run as it stands, is the purifier of a deterministic classifier."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    namespace: dict[str, object] = {"nn": nn, "F": F, "Tensor": torch.Tensor, "Noise": Noise}
    exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    defence = Purified(namespace["Median"](), load_classifier(weights / "classifier.safetensors"))
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not defence.randomised
    assert defence.purifier(image)[0, 0, 3, 4] == image[0, 0, 2:5, 3:6].median()
    assert defence(image).shape == (2, 10)


@pytest.fixture
def small_score_sde(tmp_path, monkeypatch):
    """Card of Score-SDE's network, replaced by a small network in the same layout on this disk."""
    options = {"image_size": 32, "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": []}
    torch.manual_seed(0)
    network = NCSNpp(**options)
    average = [parameter.detach() for parameter in network.parameters()]
    torch.save({"ema": {"decay": 0.9999, "shadow_params": average}, "step": 8}, tmp_path / "offered.pth")
    card = CARDS["score_sde_cifar10"]
    url = (tmp_path / "offered.pth").as_uri()
    monkeypatch.setitem(CARDS, "score_sde_cifar10", replace(card, url=url, config=options, size=None))
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path / "cache"))


def test_an_image_is_purified_in_three_lines(small_score_sde, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    levels = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(levels).save("cat.png")
    code = python("published_denoiser")
    assert len(code.partition("\n\n")[2].splitlines()) == 3
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    image, purified = namespace["image"], namespace["purified"]
    assert torch.equal(image[0], torch.from_numpy(levels).permute(2, 0, 1) / 255)
    assert purified.shape == (1, 3, 32, 32) and 0 < float((purified - image).abs().max()) < 10
    assert (tmp_path / "cache" / "checkpoint_8.pth").is_file()


def test_the_fetched_cards_are_those_of_the_preset():
    lines = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    (fetched,) = [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("robust-diffusion fetch")]
    (preset,) = [shlex.split(line)[3] for line in lines if line.startswith("robust-diffusion predict")]
    needed = re.findall(r"\.published_\w+, init_args: \{name: (\w+)\}", (ROOT / preset).read_text())
    assert sorted(fetched) == sorted(needed) and len(needed) == 2


def test_the_table_lists_every_card():
    rows = [
        re.split(r" *\| *", line)[1:-1] for line in README.splitlines() if line.startswith("| `") and " GB " in line
    ]
    found = {row[0].strip("`"): row[1:] for row in rows}
    assert {*found} == {*CARDS}
    for name, card in CARDS.items():
        size, stated = file_size(name)
        assert found[name] == [card.use, f"{'' if stated else 'about '}{size / 1e9:.2f} GB", card.licence]
    assert [name for name, card in CARDS.items() if card.sha256] == ["guided_diffusion_imagenet256"]  # "of one file"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_begin_with_a_title(path):
    assert path.read_text().startswith("# ")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
