"""README and the other pages: commands name existing files and classes, Python examples run."""

import pkgutil
import re
import shlex
from collections.abc import Iterable
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
from common.experiments.preset_files import find_config
from common.experiments.preset_pages import PresetPage
from common.hub.bundled import BUNDLED
from common.hub.cache import file_size
from common.hub.cards import CARDS
from common.noise import Noise
from common.robustness.classifiers import Purified

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for name in (".", "agdm", "common", "configs", "diffpure", "ndc", "tests")
    for path in (ROOT / name).glob("*.md" if name == "." else "**/*.md")
)
WRITTEN = ("jpeg.",)  # files that a reader writes, from common/api/README.md
HUB = "common/hub/README.md"
WORDS = 900  # of the README


def blocks(page: Path | str) -> list[tuple[str, str]]:
    """Language and text of every code block of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def lines_of_commands(pages: Iterable[Path | str] = PAGES) -> list[str]:
    texts = [text for page in pages for language, text in blocks(page) if language == "bash"]
    return [line for text in texts for line in text.splitlines()]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_two_commands_come_first():
    language, text = blocks("README.md")[0]
    install, test = text.strip().splitlines()
    assert language == "bash"
    assert install.endswith("robust-diffusion tour")
    assert test == "pytest"
    assert "\npytest\n" in (ROOT / ".ci" / "run").read_text()  # exactly what CI runs


def test_commands_name_files_that_exist():
    words = [word for line in lines_of_commands() for word in shlex.split(line, comments=True)]
    named = [name for name in words if name.endswith(".yaml") and not name.startswith(("runs/", *WRITTEN))]
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_dotted_names_exist():
    pattern = r"`((?:agdm|common|diffpure|ndc)\.[\w.]+\w)`"
    names = {name for page in PAGES for name in re.findall(pattern, page.read_text())}
    names = {name for name in names if not name.endswith((".py", ".NAME", ".Nearness"))}
    assert len(names) > 10
    for name in names:
        assert pkgutil.resolve_name(name) is not None


def python(page: str, word: str = "") -> str:
    """The one Python example of a page with that word in it."""
    (code,) = [text for language, text in blocks(page) if language == "python" and word in text]
    return code


def test_the_python_example_runs(weights, tmp_path, monkeypatch, capsys):
    """On fewer images and draws it evaluates DiffPure, prints two headlines and writes a page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tour").symlink_to(weights)
    code = python("README.md")
    assert len([line for line in code.splitlines() if line]) <= 12
    for whole, part in (("test_images=64", "test_images=4"), ("sigma=0.25", "sigma=0.25, n=50, n0=10")):
        assert whole in code
        code = code.replace(whole, part)
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    result = namespace["result"]
    assert result.robust.images == 4 and result.robust.value <= result.clean.value
    assert (tmp_path / "runs" / "mine.html").is_file()
    assert capsys.readouterr().out.count("DiffPure + ") >= 2


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
    code = python(HUB)
    assert len(code.partition("\n\n")[2].splitlines()) == 3
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    image, purified = namespace["image"], namespace["purified"]
    assert torch.equal(image[0], torch.from_numpy(levels).permute(2, 0, 1) / 255)
    assert purified.shape == (1, 3, 32, 32) and 0 < float((purified - image).abs().max()) < 10
    assert (tmp_path / "cache" / "checkpoint_8.pth").is_file()


def test_the_fetched_cards_are_those_of_the_preset():
    lines = lines_of_commands([HUB])
    (fetched,) = [
        words[2:]
        for line in lines
        if (words := shlex.split(line, comments=True))[:2] == ["robust-diffusion", "fetch"] and words[2:]
    ]
    (preset,) = [shlex.split(line)[3] for line in lines if line.startswith("robust-diffusion predict")]
    needed = PresetPage.read(find_config(preset)).cards
    assert sorted(fetched) == sorted(needed) and len(needed) == 2


def test_the_table_lists_every_card():
    table = [line for line in (ROOT / HUB).read_text().splitlines() if line.startswith("| `")]
    rows = [re.split(r" *\| *", line)[1:-1] for line in table]
    found = {row[0].strip("`"): row[1:] for row in rows}
    assert {*found} == {*CARDS, *BUNDLED}
    for name, card in CARDS.items():
        size, stated = file_size(name)
        assert found[name] == [card.use, f"{'' if stated else 'about '}{size / 1e9:.2f} GB", card.licence]
    for name, bundled in BUNDLED.items():
        assert found[name] == [bundled.use, f"{bundled.size / 1e6:.1f} MB, bundled", "Apache-2.0, as the project"]
    assert [name for name, card in CARDS.items() if card.sha256] == ["guided_diffusion_imagenet256"]  # "of one file"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_begin_with_a_title(path):
    assert path.read_text().startswith("# ")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
