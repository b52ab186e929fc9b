"""Forms that people write: callbacks alone, their own progress bar, 1e3; checkpoints and outputs that do not fit."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jsonargparse
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar, TQDMProgressBar
from torch import Tensor, nn

import cli
from common.checks.images import OutputError
from common.commands.class_paths import restrict_class_paths
from common.commands.explanation import of_another_model
from common.commands.integers import accept_scientific_integers
from common.commands.lightning_commands import CLI
from common.networks import SmallCNN
from common.robustness import Classifier, NetworkClassifier
from common.robustness.padding import Padded
from common.tasks.prediction import predict_batch


class OwnBar(TQDMProgressBar):
    """A progress bar of the user's."""


class Counting(Callback):
    """A callback of the user's."""


@pytest.mark.parametrize(
    "given", [None, Counting(), [Counting()], [], OwnBar(), [Counting(), RichProgressBar()], [TQDMProgressBar()]]
)
def test_callbacks_may_be_one_or_a_list_and_hold_a_progress_bar(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[str, Any] = {}
    monkeypatch.setattr(CLI, "__init__", lambda self: None)
    monkeypatch.setattr(
        CLI, "_get", lambda self, config, key, default=None: {"callbacks": given} if key == "trainer" else None
    )
    trainer = SimpleNamespace(loggers=[], world_size=1)
    monkeypatch.setattr(
        L.pytorch.cli.LightningCLI, "instantiate_trainer", lambda self, **more: built.update(more) or trainer
    )
    command = CLI()  # type: ignore[call-arg]
    command.config_init, command.subcommand = {}, "test"  # type: ignore[assignment]
    command.instantiate_trainer()
    wanted = given if isinstance(given, list) else [] if given is None else [given]
    assert built["callbacks"][: len(wanted)] == wanted
    assert sum(isinstance(one, ProgressBar) for one in built["callbacks"]) == 1


class Sizes:
    def __init__(
        self,
        n: int = 1,
        limit: int | None = None,
        share: int | float = 1,
        rate: float = 0.1,
        sizes: list[int] | None = None,
        either: int | str = 1,
    ) -> None:
        self.given = [n, limit, share, rate, sizes, either]


class Case(NamedTuple):
    argument: str
    text: Any
    value: Any


@pytest.mark.parametrize(
    "case",
    [
        Case("n", "1e3", 1000), Case("n", "2.5E+2", 250), Case("n", 1e3, 1000), Case("limit", "5e4", 50_000),
        Case("limit", None, None), Case("sizes", [1e2, "1e1", 3], [100, 10, 3]), Case("share", 1.0, 1.0),
        Case("share", "1e0", 1.0), Case("share", 1, 1), Case("rate", "1e3", 1000.0), Case("either", "name", "name"),
    ],
)  # fmt: skip
def test_integers_may_be_written_in_scientific_notation(case: Case) -> None:
    restrict_class_paths()
    accept_scientific_integers()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Sizes, "sizes")
    parsed = parser.parse_object({"sizes": {case.argument: case.text}})["sizes"][case.argument]
    assert parsed == case.value and type(parsed) is type(case.value)


@pytest.mark.parametrize("text", ["1e-3", "1.5e0", "1e99", "inf", "nan", 2.5, True, "1e"])
def test_fractions_are_no_integers(text: Any) -> None:
    accept_scientific_integers()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Sizes, "sizes")
    with pytest.raises(jsonargparse.ArgumentError, match="Expected a <class 'int'>"):
        parser.parse_object({"sizes": {"n": text}})


OTHER: dict[str, tuple[nn.Module, str]] = {
    "names": (nn.Sequential(nn.Linear(2, 2)), r"missing: weight and 1 more; unexpected: 0\.weight and 1 more"),
    "shape": (nn.Linear(2, 5), r"of another shape: weight and 1 more"),
    "more": (nn.Bilinear(2, 2, 2), r"of another shape: weight\)"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_another_model_is_explained_in_a_line(name: str) -> None:
    other, expected = OTHER[name]
    with pytest.raises(RuntimeError) as raised:
        nn.Linear(2, 2).load_state_dict(other.state_dict())
    message = of_another_model(str(raised.value))
    assert message.startswith("--ckpt_path must be a checkpoint of the same Linear; it holds other tensors")
    with pytest.raises(ValueError, match=expected):
        raise ValueError(message)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_command_with_the_checkpoint_of_another_model(command: str, tmp_path: Path) -> None:
    network = SmallCNN(10, 1, 8)
    torch.save({"state_dict": {"x": torch.zeros(2)}, "pytorch-lightning_version": "2.6.0"}, tmp_path / "a.ckpt")
    torch.save(network.state_dict(), tmp_path / "b.ckpt")
    task = {"validate": ["ClassifierTask"], "test": ["RobustTask", "--model.evaluators+=Clean", "--model.masking=0"]}
    arguments = [
        command, "--model", *task[command], "--data", "Digits", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path),
        "--model.classifier=NetworkClassifier", "--model.classifier.network=SmallCNN",
        "--model.classifier.network.num_classes=10", "--model.classifier.network.in_channels=1",
        "--model.classifier.network.width=8", *(["--model.records", str(tmp_path / "r")] if command == "test" else []),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"must be a checkpoint of the same \w+; it holds other tensors"):
        cli.main([*arguments, "--ckpt_path", str(tmp_path / "a.ckpt")])
    with pytest.raises(ValueError, match="must be a checkpoint of a training, with a state_dict"):
        cli.main([*arguments, "--ckpt_path", str(tmp_path / "b.ckpt")])


class Returning(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, image: Tensor) -> Any:
        logits = image.flatten(1)[:, :3]
        outputs = {"tuple": (logits, image), "dict": {"logits": logits}, "list": [logits], "none": None}
        return outputs[self.kind]


class Own(Classifier):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, noise: Any = None) -> Any:
        return self.network(image)


@pytest.mark.parametrize("kind", ["tuple", "dict", "list", "none"])
@pytest.mark.parametrize("classifier", [NetworkClassifier, lambda network: Padded(Own(network))])
def test_outputs_that_are_no_logits_are_named(kind: str, classifier: Any) -> None:
    made, image = classifier(Returning(kind)), torch.rand(2, 1, 4, 4)
    with pytest.raises(OutputError, match=r"returns logits \(B, K\), .*; got .*Return its logits alone"):
        made(image)
    if isinstance(made, NetworkClassifier):
        with pytest.raises(OutputError):  # no reason to resize the images
            predict_batch(made, (image, torch.zeros(2, dtype=torch.int64), torch.arange(2)))
