"""Room pages: short, complete, and a stranger finds twelve things through them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("agdm", "diffpure", "ndc", "configs", "common", "common/records", "common/robustness", "tests")
PAGES = sorted(
    path for name in ("agdm", "diffpure", "ndc", "configs", "common", "tests") for path in (ROOT / name).rglob("*.md")
)
LINES = 60
WRITTEN = ("jpeg.", "fgsm.")  # files that a reader writes
CHECKED = (".py", ".yaml", ".md", ".sbatch", ".sh", "/")
PATH = re.compile(r"`([\w.*{},/-]+(?:\.\w+|/))`")

QUESTIONS = {  # phrase of the line -> (the file it names, a name defined there)
    "reverse step": ("common/diffusion/solvers.py", "class EulerMaruyama"),
    "AGDM term": ("agdm/guidance.py", "class AdversarialGuidance"),
    "EPNDC bound": ("ndc/likelihood.py", "class Bound"),
    "Clopper-Pearson radius": ("common/robustness/certification/binomial.py", "def clopper_pearson_lower"),
    "exact gradient": ("common/diffusion/differentiation.py", "class Checkpoint"),
    "TRADES loss": ("common/robustness/adversarial_training.py", "class TradesTraining"),
    "sift-and-refine": ("ndc/elimination.py", "class Elimination"),
    "projection on the L1 ball": ("common/robustness/threats/projection.py", "def project_l1"),
    "record schema": ("common/records/schema.py", "class Attacked"),
    "checksum check": ("common/hub/checksums.py", "def verify_checksum"),
    "SLURM handler": ("configs/cluster/slurm-test.sbatch", "#SBATCH"),
    "report's headline": ("common/report/headline.py", "def headline"),
}


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def resolve(page: Path, name: str) -> list[Path]:
    """Files that a page means by a name: relative to the page's folder, else to the repository."""
    return sorted(page.parent.glob(name)) or sorted(ROOT.glob(name))


def named(page: Path, line: str) -> list[Path]:
    """All files named in one line; a name may be relative to the folder or file named before it."""
    files: list[Path] = []
    for name in PATH.findall(line):
        for spelled in expanded(name):
            folders = [files[-1], files[-1].parent] if files else []
            beside = [folder / spelled for folder in folders if (folder / spelled).exists()]
            files += resolve(page, spelled) or beside[:1]
    return files


def expanded(name: str) -> list[str]:
    """``a{b,c}`` -> ab, ac."""
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
    return [f"{match[1]}{part}{match[3]}" for part in match[2].split(",")] if match else [name]


def entries(page: Path) -> list[str]:
    """Lines of a page; indented lines belong to the one before."""
    return re.sub(r"\n +(?=\S)", " ", page.read_text()).splitlines()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_short_page(room):
    page = ROOT / room / "README.md"
    assert page.is_file()
    assert len(page.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_named_files_exist(page):
    for line in entries(page):
        files = named(page, line)
        for name in (spelled for raw in PATH.findall(line) for spelled in expanded(raw)):
            if name.endswith(CHECKED) and "NAME" not in name and not name.startswith(("*", "runs/", *WRITTEN)):
                assert any(file.match(name.rstrip("/")) for file in files), f"{name} does not exist"


@pytest.mark.parametrize("room", ["agdm", "diffpure", "ndc", "common", "common/records", "common/robustness"])
def test_every_file_is_on_the_map(room):
    page = ROOT / room / "README.md"
    files = {file for line in entries(page) for file in named(page, line)}
    below = {other.parent for other in PAGES if other.parent != page.parent}  # rooms with a page of their own
    for file in sorted((ROOT / room).rglob("*.py")):
        inside = any(
            folder in below for folder in file.parents if folder != page.parent and page.parent in folder.parents
        )
        listed = file in files or any(folder in files for folder in file.parents)
        assert file.name == "__init__.py" or inside or listed, f"{identify(file)} is not on the map of {room}"


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_line_answers_where_it_is(question):
    target, definition = QUESTIONS[question]
    lines = [(page, line) for page in PAGES for line in page.read_text().splitlines() if question in line]
    assert any(ROOT / target in named(page, line) for page, line in lines), f"no line leads from {question} to {target}"
    assert definition in (ROOT / target).read_text()
