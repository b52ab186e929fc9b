"""No file is written in place: a writer goes through `common.files.replacing`, or is listed here with its reason."""

import ast
from pathlib import Path

import pytest

from tests.sources import FILES, identify, tree_of, violations

IN_PLACE = {
    "common/files/replacing.py": "writes the unfinished file",
    "common/files/trial.py": "a trial, removed at once",
    "common/tasks/checkpoint_files.py": "writes the unfinished file",
    "common/tasks/metrics_file.py": "writes the unfinished file",
    "common/checkpoints/saving.py": "writes the unfinished file",
    "common/files/appending.py": "appends all or nothing",
    "common/processes/streams.py": "opens the null device",
    "common/records/store.py": "writes the unfinished file",
    "common/tasks/prediction_folder.py": "encodes images in memory",
    "common/hub/downloads.py": "appends to a part file, which is renamed when its checksum is right",
    "common/experiments/stages.py": "logs of a stage grow while it runs",
    "common/report/figures/drawing.py": "encodes in memory",
    "common/report/figures/image_grids.py": "encodes in memory",
    "common/robustness/evaluation/stored_images.py": "encodes in memory",
    "common/robustness/certification/board.py": "encodes in memory",
}
WRITERS = {"write_text", "write_bytes", "save_file", "savefig", "save_image", "mkstemp", "NamedTemporaryFile",
           "copyfile", "copy2", "move", "tofile", "imwrite", "to_csv", "savez", "to_json"}  # fmt: skip
SAVERS = {"torch", "np", "numpy", "Image", "image", "encoded", "pickle"}


def writes(tree: ast.AST) -> list[str]:
    """Calls that write a file: ``open`` with a mode of writing, and functions known to write."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        given = [node for value in [*node.args, *(k.value for k in node.keywords)] for node in ast.walk(value)]
        texts = [node.value for node in given if isinstance(node, ast.Constant)]
        of_module = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
        if name in WRITERS:
            found.append(name)
        elif name == "open" and any(isinstance(t, str) and t[:1] in "wax" and len(t) <= 3 for t in texts if t):
            found.append("open")
        elif name in ("save", "dump") and (
            (of_module and function.value.id in SAVERS) or any(text in ("PNG", "JPEG") for text in texts)
        ):
            found.append(name)
    return found


def unlisted(path: Path) -> list[str]:
    return [] if identify(path) in IN_PLACE else writes(tree_of(path))


def test_files_are_replaced_as_a_whole():
    assert not violations(unlisted, FILES)


def test_every_listed_file_writes():
    for name in IN_PLACE:
        (path,) = (path for path in FILES if identify(path) == name)
        assert writes(tree_of(path)) or "savefig" in path.read_text(), name


@pytest.mark.parametrize(
    "text",
    [
        "open(path, 'w')",
        "path.open(mode='wb')",
        "path.open('a', encoding='utf-8')",
        "path.write_text('x')",
        "torch.save(state, path)",
        "from safetensors.torch import save_file\nsave_file(state, path)",
        "x.save(path, 'PNG')",
        "np.save(path, x)",
        "figure.savefig(path)",
        "shutil.move(a, b)",
    ],
)
def test_a_write_is_seen(text):
    assert writes(ast.parse(text))


def test_a_read_is_no_write():
    assert not writes(ast.parse("path.open('rb')\nopen(path)\npath.read_text()\nsave(module, path)\nTask.open(a, b)"))
