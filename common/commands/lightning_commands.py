"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line with presets, short names and errors."""

import logging
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import rich.traceback
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_warn

from common.checkpoints.formats import read_training_checkpoint
from common.checks.settings import check_seed
from common.commands.class_names import accept_short_names, with_short_names
from common.commands.class_paths import restrict_class_paths
from common.commands.errors import UsageError
from common.commands.explanation import explain, of_another_model, own_error
from common.commands.integers import accept_scientific_integers
from common.commands.outputs import try_outputs
from common.commands.parts import parse_part
from common.commands.steps import check_command
from common.commands.trainer_settings import check_strategy, check_trainer, refused
from common.experiments.preset_files import with_remedy
from common.experiments.preset_layers import read_config
from common.experiments.rehearsal import rehearse
from common.experiments.yaml_files import LOADER
from common.files.replacing import write
from common.naming.outside_text import plain
from common.processes.rendezvous import check_launch, watch_rendezvous
from common.processes.slurm import job
from common.tasks.checkpoint_files import with_checkpoint_files
from common.tasks.interruption import Interruptible, interrupted_checkpoint
from common.tasks.logged_images import ImageGrids
from common.tasks.metrics_file import MetricsFile
from common.tasks.progress_bar import LiveProgressBar
from common.tasks.save_predictions import SavePredictions

TRAINER = {
    "inference_mode": False,  # attacks and guidance take gradients inside test and validation
    "default_root_dir": "runs",
    "log_every_n_steps": 10,
}


class Parser(LightningArgumentParser):
    """Lightning's parser: files may name what they build on, configurations are printed with short names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a file with the files that it builds on (`common.experiments.preset_layers`)."""
        text = yaml.safe_dump(read_config(str(path)), allow_unicode=True)
        parsed: Namespace = self.parse_string(text, str(path), *args, **kwargs)
        return parsed

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        """The configuration as text, with short names of classes."""
        return with_short_names(super().dump(cfg, *args, **kwargs))

    def save(self, cfg: Any, path: Any, *_: Any, skip_none: bool = True, **__: Any) -> None:
        """Write the configuration to ``path``, replaced as a whole. It was checked when it was parsed."""
        write(str(path), self.dump(cfg, *_unchecked(skip_none)), "save the configuration")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `UsageError` with the reason alone, and the nearest known name."""
        if not self.exit_on_error:  # of a part of the configuration; the whole parser reports it
            super().error(message, ex)
        raise UsageError(explain(message, options_of(self))) from ex


class CLI(LightningCLI):
    """LightningCLI of one command, with a rich progress bar; arguments win over those stored in a checkpoint."""

    def __init__(self, command: str, *args: Any, **kwargs: Any) -> None:
        self.command = command
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command: each parser takes half a second to build."""
        return {self.command: super().subcommands()[self.command]}

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint file before anything is built.

        Lightning's own method replaces arguments, even the model's class, by the checkpoint's hyper-parameters.
        """
        path = self.config[self.config.subcommand].get("ckpt_path")
        if self.config.subcommand == "validate" and not path:
            rank_zero_warn(
                "validate without --ckpt_path: the networks are as the configuration builds them, untrained unless it "
                "loads their weights. Give the checkpoint of the fit, such as --ckpt_path runs/…/last.ckpt"
            )
        named = path not in ("best", "last", "hpc", "registry")
        if path and named and not (Path(path).is_file() and zipfile.is_zipfile(path)):  # a pipe would wait for ever
            raise ValueError(
                f"--ckpt_path must be a complete Lightning checkpoint (.ckpt); {path} is missing, truncated or of "
                "another format. Exported .safetensors files are init_args, loaded by load_classifier, load_denoiser, …"
            )
        if path and Path(path).is_file():
            read_training_checkpoint(Path(path))

    def _dump_config(self) -> None:
        """Keep the hyper-parameters of model and data; Lightning's own method checks the whole configuration again."""
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(self.config, *_unchecked(False), skip_link_targets=False)
            self.config_dump = yaml.load(text, Loader=LOADER)[self.config.subcommand]

    def _set_seed(self) -> None:
        seed = self.config[self.config.subcommand].get("seed_everything")
        if not isinstance(seed, bool | None):
            check_seed("--seed_everything", seed, 2**32)
        super()._set_seed()

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--out", type=str, default="runs/predictions", help="folder of images and table")
            parser.set_defaults({"return_predictions": False})  # they are saved, and may not fit into memory
        if subcommand == "test":
            parser.add_argument(
                "--part", type=str, default="1/1", help="K/N: only the K-th of N shares of the images, for a job array"
            )
        return parser

    def before_test(self) -> None:
        """Hand ``--part`` to the task."""
        part = parse_part(str(self.config_init["test"].get("part", "1/1")))
        if hasattr(self.model, "part"):
            self.model.part = part
        elif part != (1, 1):
            raise ValueError(f"--part is for a RobustTask; {type(self.model).__name__} evaluates all images")

    def before_fit(self) -> None:
        """Let ``--ckpt_path last`` be the checkpoint of a training that a signal ended, if it is the newest."""
        settings, own = self.config_init["fit"], interrupted_checkpoint(self.trainer, self.model)
        if settings.get("ckpt_path") == "last" and own is not None and own.exists():
            saved = [part.dirpath for part in self.trainer.checkpoint_callbacks if isinstance(part, ModelCheckpoint)]
            others = [file for folder in saved if folder for file in Path(folder).glob("last*.ckpt")]
            if own.stat().st_mtime >= max((file.stat().st_mtime for file in others), default=0):
                settings["ckpt_path"] = str(own)

    def before_instantiate_classes(self) -> None:
        check_command(str(self.subcommand), self.config[self.subcommand].model)
        check_trainer(self.config[self.subcommand].get("trainer"))
        if self.subcommand == "test":
            parse_part(str(self.config["test"].get("part")))
            rehearse(self.config["test"])
        try_outputs(str(self.subcommand), self.config[self.subcommand])

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = self._get(self.config_init, "trainer", default={})
        given = trainer.get("callbacks") or []
        theirs = [*given] if isinstance(given, list) else [given]
        ours: list[L.Callback] = [Interruptible()]
        if trainer.get("enable_progress_bar") is not False and not any(isinstance(one, ProgressBar) for one in theirs):
            ours.append(LiveProgressBar(leave=True))
        if (out := self._get(self.config_init, "out")) is not None:
            ours.insert(0, SavePredictions(out))  # saves a batch before a signal may end the command
        if self.subcommand == "fit" and trainer.get("logger") not in (False, []):
            ours += [LearningRateMonitor("step"), ImageGrids()]
        if self.subcommand == "fit":
            check_strategy(trainer.get("strategy"))
        plugins = trainer.get("plugins") or []
        plugins = with_checkpoint_files([*plugins] if isinstance(plugins, list) else [plugins])
        if (number := job()) is not None:  # Lightning loads hpc_ckpt_N.ckpt of any earlier job from its root directory
            kwargs["default_root_dir"] = str(Path(trainer.get("default_root_dir") or ".") / f"job-{number}")
        built = super().instantiate_trainer(callbacks=[*theirs, *ours], plugins=plugins, **kwargs)
        built.loggers = [MetricsFile.in_place_of(logger) for logger in built.loggers]
        if built.world_size > 1 and not isinstance(built.strategy.launcher, _MultiProcessingLauncher):
            watch_rendezvous(built.world_size)
        return built


def _unchecked(skip_none: bool) -> tuple[str, bool, bool, bool]:
    """Positional arguments of ``dump`` for a checked configuration; jsonargparse's releases differ in their names.

    They are the format, and whether to skip nulls, defaults and the check.
    """
    return "yaml", skip_none, False, True


def options_of(parser: LightningArgumentParser) -> list[str]:
    """The long options of a parser, or of the first command of the whole one."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            return options_of(next(iter(action.choices.values())))
    named = [option for action in parser._actions for option in action.option_strings]
    return [option for option in named if option.startswith("--") and not option.endswith((".help", "+"))]


def run_lightning(command: str, arguments: Sequence[str], kind: type[CLI] = CLI) -> CLI:
    """Run one of Lightning's commands; presets are replaced by their files (`with_files`)."""
    check_launch()
    accept_short_names()
    restrict_class_paths()
    accept_scientific_integers()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # presets are replaced by their files
    warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)  # of Lightning's own making
    warnings.filterwarnings("ignore", ".*does not have many workers", UserWarning)  # the data are in memory
    formatted = warnings.formatwarning  # Lightning's
    warnings.formatwarning = lambda *args, **more: plain(formatted(*args, **more))  # names of files are text
    rich.traceback.install(suppress=["jsonargparse", "lightning", "torch"], max_frames=6)
    try:
        return kind(
            command,
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            args=[command, *arguments],
            trainer_defaults=TRAINER,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
        )
    except (OSError, ValueError, MisconfigurationException) as error:
        inner = with_remedy(own_error(error))
        if isinstance(inner, MisconfigurationException):
            raise refused(inner) from error
        if inner is error:
            raise
        raise inner from None
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ValueError(of_another_model(str(error))) from None
