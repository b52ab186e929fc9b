"""Short names at any depth, on the command line and in files, beside public names and module paths."""

import pytest
import yaml

import cli
from common.commands.class_names import with_short_names

PURIFIER, CLASSIFIER = "--model.init_args.purifier", "--model.init_args.classifier"
DENOISER = f"{PURIFIER}.init_args.denoiser"
ARGUMENTS = {  # option -> short name, public name, module path
    "--model": ("DiffPureTask", "diffpure.DiffPureTask", "diffpure.task.DiffPureTask"),
    PURIFIER: ("DiffPure", "diffpure.DiffPure", "diffpure.purifier.DiffPure"),
    DENOISER: ("load_denoiser", "common.checkpoints.load_denoiser", "common.checkpoints.loading.load_denoiser"),
    "--data": ("Digits", "common.data.Digits", "common.data.digits.Digits"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", [0, 1, 2], ids=["short", "public", "module"])
def test_classes_and_functions_are_named_on_the_command_line(spelling, capsys):
    named = {option: names[spelling] for option, names in ARGUMENTS.items()}
    arguments = [
        "test", "--model", named["--model"], PURIFIER, named[PURIFIER], f"{PURIFIER}.init_args.t_star", "0.1",
        DENOISER, named[DENOISER], f"{DENOISER}.init_args.path", "runs/PGD",
        CLASSIFIER, "NetworkClassifier", f"{CLASSIFIER}.init_args.network", "SmallCNN",
        f"{CLASSIFIER}.init_args.network.init_args.num_classes", "10",
        "--model.init_args.evaluators", "[{class_path: Attacked, init_args: {attack: {class_path: PGD}}}]",
        "--model.init_args.records", "PGD", "--data", named["--data"], "--print_config",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    settings = printed["model"]["init_args"]
    assert printed["model"]["class_path"] == "DiffPureTask" and printed["data"]["class_path"] == "Digits"
    assert settings["purifier"]["class_path"] == "DiffPure"
    assert settings["purifier"]["init_args"]["denoiser"]["class_path"] == "load_denoiser"
    assert settings["purifier"]["init_args"]["denoiser"]["init_args"]["path"] == "runs/PGD"
    (evaluator,) = settings["evaluators"]
    assert evaluator["class_path"] == "Attacked" and evaluator["init_args"]["attack"]["class_path"] == "PGD"
    assert settings["records"] == "PGD"  # text stays text


def test_records_do_not_depend_on_the_spelling(tiny_test, rows, tmp_path):
    """A test by long names is continued by short ones: same configuration, nothing to do, the same rows."""
    path = tiny_test()
    cli.main(["test", "-c", str(path)])
    before = rows(tmp_path / "records")
    text = path.read_text()
    path.write_text(with_short_names(text))
    assert path.read_text() != text and "class_path: common." not in path.read_text()
    cli.main(["test", "-c", str(path)])
    assert rows(tmp_path / "records") == before
