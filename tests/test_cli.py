"""The command line: commands run in-process, and the messages of bad input."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import cli
from common.checkpoints.loading import load_classifier
from common.commands.class_names import with_short_names
from common.commands.errors import UsageError
from common.commands.lightning_commands import CLI, TRAINER
from common.data.digits import Digits
from common.hub.bundled import BUNDLED
from common.hub.cards import CARDS

ROOT = Path(__file__).parent.parent


def test_fit_exports_a_classifier_that_works(weights):
    classifier = load_classifier(weights / "classifier.safetensors")
    data = Digits()
    data.setup()
    with torch.no_grad():
        accuracy = (classifier(data.held_out.images).argmax(1) == data.held_out.labels).float().mean()
    assert accuracy > 0.9


def test_a_test_writes_rows_and_metrics_prints_the_headline_and_can_be_reported(
    tiny_test, rows, tmp_path, capsys, monkeypatch
):
    metrics = {}
    keep = lambda self: metrics.update(self.trainer.callback_metrics)  # noqa: E731
    monkeypatch.setattr(CLI, "after_test", keep, raising=False)
    cli.main(["test", "-c", str(tiny_test())])
    found = rows(tmp_path / "records")
    assert [(row["evaluator"], row["index"]) for row in found] == [
        *(("attacked", i) for i in range(13)),
        *(("clean", i) for i in range(13)),
    ]
    attacked = found[:13]
    assert all(row["distance"] <= 0.2 + 1e-6 and len(row["predictions"]) == 3 for row in attacked)
    assert {"clean", "adversarial", "diffused", "purified"} == set(attacked[0]["images"])
    printed = capsys.readouterr().out
    assert "Defence" in printed and "Robust" in printed and "L∞ ≤ 0.2" in printed
    assert "Test metric" not in printed  # Lightning's table of metrics
    assert f"All tables: robust-diffusion report {tmp_path / 'records'}" in printed
    assert metrics.keys() == {"clean", "attacked"}
    right = [row["predictions"].count(row["label"]) / 3 for row in attacked]
    assert float(metrics["attacked"]) == pytest.approx(sum(right) / 13)
    cli.main(["report", str(tmp_path / "records"), f"--out={tmp_path / 'report'}"])
    assert "DiffPure" in (tmp_path / "report" / "report.html").read_text()


def test_the_command_line_wins_over_a_checkpoint(tiny_test, tmp_path, monkeypatch):
    """Hyper-parameters stored in a Lightning checkpoint do not replace arguments."""
    path = tmp_path / "stored.ckpt"
    stored = {"_class_path": "common.tasks.RobustTask", "records": str(tmp_path / "stored")}
    torch.save({"hyper_parameters": stored, "state_dict": {}, "pytorch-lightning_version": "2.6.4"}, path)
    built = []
    monkeypatch.setattr(CLI, "_run_subcommand", lambda self, _: built.append(self.model))
    cli.main(["test", "-c", str(tiny_test()), f"--ckpt_path={path}", "--model.init_args.records=asked"])
    assert type(built[0]).__name__ == "DiffPureTask"
    assert built[0].path == "asked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threat": {"eps": 8}}, "Write 8/255"),
        ({"threat": {"norm": 3}}, "norm"),
        ({"purifier": {"t_star": 1.5}}, "t_star"),
        ({"purifier": {"t_star": 0.0}}, "t_star"),
        ({"purifier": {"solver": "rk45"}}, "euler_maruyama"),
        ({"attack": {"eot": 0}}, "eot"),
        ({"data": {"batch_size": 0}}, "batch_size"),
        ({"trainer": {"inference_mode": True}}, "inference_mode=False"),
        ({"trainer": {"precision": "bf16-true"}}, "32-true"),
        ({"trainer": {"precision": "bf16-mixed"}}, "engine.precision"),
    ],
)
def test_bad_values_are_refused_with_a_reason(tiny_test, tmp_path, changes, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (the message is checked below)
        cli.main(["test", "-c", str(tiny_test(**changes))])
    assert message in str(raised.value)
    assert not list((tmp_path / "records").glob("*.jsonl"))


def test_printed_and_saved_configurations_use_short_names(tiny_test, tmp_path, capsys):
    path = tiny_test()
    text = path.read_text()
    for public, module in {
        "diffpure.DiffPureTask": "diffpure.task.DiffPureTask",
        "diffpure.DiffPure": "diffpure.purifier.DiffPure",
        "common.robustness.ThreatModel": "common.robustness.threats.norm_ball.ThreatModel",
        "common.checkpoints.load_denoiser": "common.checkpoints.loading.load_denoiser",
        "common.data.Digits": "common.data.digits.Digits",
    }.items():
        assert f"class_path: {public}\n" in text
        path.write_text(path.read_text().replace(f"class_path: {public}\n", f"class_path: {module}\n"))
    with pytest.raises(SystemExit):
        cli.main(["test", "-c", str(path), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        cli.main(["test", "-c", str(tiny_test()), "--print_config"])
    assert printed == yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["purifier"]["class_path"] == "DiffPure"
    path.write_text(text.replace("common.robustness.ThreatModel", "common.robustness.threats.norm_ball.ThreatModel"))
    cli.main(["test", "-c", str(path), "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
              f"--trainer.logger.save_dir={tmp_path}"])  # fmt: skip
    (saved,) = tmp_path.rglob("config.yaml")
    assert "common.robustness" not in saved.read_text() and "class_path: ThreatModel" in saved.read_text()


def test_class_paths_of_other_projects_methods_and_unknown_modules_stay():
    paths = ["torch.optim.Adam", "common.noise.Noise.of", "common.nowhere.Nothing", "common.robustness.threats"]
    text = yaml.safe_dump({"parts": [{"class_path": path} for path in paths], "class_path": "agdm.purifier.AGDM"})
    assert with_short_names(text) == text.replace("agdm.purifier.AGDM", "AGDM")
    assert with_short_names('{"class_path": "agdm.AGDM"}') == '{"class_path": "AGDM"}'


def test_an_unknown_key_is_named(tiny_test):
    path = tiny_test()
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["purifier"]["init_args"]["tstar"] = 0.1
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError, match=r"DiffPure has no setting 'tstar'\. Did you mean t_star\?"):
        cli.main(["test", "-c", str(path)])


@pytest.mark.parametrize(("damage", "message"), [("missing", "no checkpoint"), ("truncated", "safetensors")])
def test_a_bad_checkpoint_is_named(tiny_test, weights, tmp_path, damage, message):
    path = tiny_test()
    broken = tmp_path / "broken.safetensors"
    if damage == "truncated":
        broken.write_bytes((weights / "denoiser.safetensors").read_bytes()[:-100])
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["purifier"]["init_args"]["denoiser"]["init_args"]["path"] = str(broken)
    path.write_text(yaml.safe_dump(config))
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        cli.main(["test", "-c", str(path)])
    assert message in str(raised.value) and "broken.safetensors" in str(raised.value)


def test_records_of_another_configuration_are_refused_and_kept(tiny_test, rows, tmp_path):
    cli.main(["test", "-c", str(tiny_test())])
    before = rows(tmp_path / "records")
    with pytest.raises(ValueError, match=r"steps|attack"):
        cli.main(["test", "-c", str(tiny_test(attack={"steps": 4}))])
    assert rows(tmp_path / "records") == before


def test_a_short_test_goes_on_with_more_images(tiny_test, rows, tmp_path, monkeypatch):
    """Too few images for the masking variants at first: their later records are of the same configuration."""
    monkeypatch.setattr("common.tasks.diagnostics.SHARE", 4)
    monkeypatch.setattr("common.tasks.diagnostics.MIN_IMAGES", 2)
    diagnostics = tmp_path / "records" / "diagnostics"
    cli.main(["test", "-c", str(tiny_test(data={"test_images": 4}))])
    assert {row["evaluator"] for row in rows(diagnostics)} == {"verify"}
    cli.main(["test", "-c", str(tiny_test(data={"test_images": 8}))])
    assert {row["evaluator"] for row in rows(diagnostics)} > {"verify"}
    assert {row["index"] for row in rows(tmp_path / "records")} == set(range(8))


def test_records_that_cannot_be_written_are_refused_before_any_work(tiny_test, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.write_text("something of the user's")
    with pytest.raises(ValueError, match="occupied"):
        cli.main(["test", "-c", str(tiny_test(records=occupied))])
    assert occupied.read_text() == "something of the user's"


def test_on_the_command_line_an_error_is_its_reason(tiny_test, monkeypatch, capsys):
    """No traceback, exit status 2; the constructor's reason, not jsonargparse's list of types."""
    monkeypatch.setattr("sys.argv", ["robust-diffusion", "test", "-c", str(tiny_test(threat={"eps": 8}))])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 2
    output = capsys.readouterr().err
    assert "error: eps must be in pixel units" in output
    assert "Traceback" not in output and "Union" not in output


@pytest.mark.parametrize(
    ("command", "answer"), [("tour", "interrupted: the same command goes on"), ("presets", "interrupted")]
)
def test_an_interrupt_ends_in_one_line(command, answer, monkeypatch, capsys):
    """No traceback after Ctrl-C, with the exit status that a shell expects."""

    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"common.commands.{command}.run", interrupted)
    monkeypatch.setattr("sys.argv", ["robust-diffusion", command])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert (raised.value.code, capsys.readouterr().err) == (130, f"{answer}\n")


# ---- fetch ----


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Two cards of files on this disk, and an empty cache."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 100_000)
        url = (tmp_path / name).as_uri()
        monkeypatch.setitem(CARDS, name, replace(CARDS["score_sde_cifar10"], url=url, filename=name, size=300_000))
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_fetch_lists_what_there_is(offered, capsys):
    """Name, use, size, checksum, licence and path of the file; nothing is downloaded."""
    cli.main(["fetch"])
    output = capsys.readouterr().out
    for name, card in CARDS.items():
        assert f"{name}: {card.use}\n" in output and f"licence {card.licence}\n" in output
        assert f"not fetched: {offered / card.filename}\n" in output
    blocks = dict(zip([*CARDS, *BUNDLED], re.split(r"\n(?=\w)", output), strict=True))
    assert "1.71 GB; checksum unpublished; pinned on first download;" in blocks["score_sde_cifar10"]
    assert "2.21 GB; sha256 published;" in blocks["guided_diffusion_imagenet256"]
    assert "about 0.22 GB" in blocks["edm_cifar10_conditional"]  # 55.7 million parameters of 4 bytes
    assert "4.0 MB; licence Apache-2.0, as the package\n  bundled: " in blocks["cifar10_jpeg_classifier"]
    assert not offered.exists()


def test_bundled_weights_are_there_without_a_download(offered, capsys):
    cli.main(["fetch", "cifar10_jpeg_classifier"])
    path = BUNDLED["cifar10_jpeg_classifier"].path
    assert capsys.readouterr().out == f"cifar10_jpeg_classifier is {path}\n" and path.is_file()
    assert not offered.exists()


def test_fetch_puts_files_into_the_cache(offered, capsys):
    cli.main(["fetch", "one", "two"])
    captured = capsys.readouterr()
    assert f"one is {offered / 'one'}\ntwo is {offered / 'two'}\n" in captured.out
    assert "unverified" in captured.err and CARDS["one"].licence in captured.err
    assert (offered / "two").read_bytes() == b"two" * 100_000
    (offered / "two").rename(offered / "two.part")
    (offered / "two.part").write_bytes(b"two" * 50_000)
    cli.main(["fetch"])
    output = capsys.readouterr().out
    assert f"fetched: {offered / 'one'}\n" in output and f"50% fetched: {offered / 'two.part'}\n" in output
    (offered / "one").write_bytes(b"one")
    cli.main(["fetch"])
    assert f"wrong size: {offered / 'one'}\n" in capsys.readouterr().out


def test_fetch_refuses_what_changed_until_it_is_forced(offered, capsys):
    cli.main(["fetch", "one"])
    (offered / "one").write_bytes(b"two" * 100_000)
    with pytest.raises(ValueError, match=r"changed since it was first fetched.*robust-diffusion fetch NAME --force"):
        cli.main(["fetch", "one"])
    cli.main(["fetch", "one", "--force"])
    assert (offered / "one").read_bytes() == b"one" * 100_000


def test_fetch_checks_all_names_first(offered):
    with pytest.raises(ValueError, match=r"no card is named 'three'. The cards are score_sde_cifar10,"):
        cli.main(["fetch", "one", "three"])
    assert not offered.exists()


def test_console_scripts_are_declared():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'robust-diffusion = "cli:main"' in text and 'lightning = "cli:main"' in text
    assert json.dumps(TRAINER["inference_mode"]) == "false"
