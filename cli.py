"""Adversarial robustness with diffusion models: DiffPure, AGDM and noised diffusion classifiers.

Commands beside Lightning's subcommands below: `report DIR …` (tables, figures and one HTML page from test records),
`fetch [NAME …]` (download published weights; without a name, list them), `convert IN OUT --format F` (write a published
checkpoint as safetensors), `tour` (train, attack, certify and report on handwritten digits) and `study FILE` (one test
for every combination of some settings). Files given with -c and arguments apply from left to right; the last one wins.
"""

import logging
import os
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import lightning as L
import rich.traceback
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape

import agdm.task  # noqa: F401  (classes imported here can be named in YAML without their module)
import common.data  # noqa: F401
import diffpure.task  # noqa: F401
import ndc.task  # noqa: F401
from common.commands import COMMANDS
from common.experiments.rehearsal import rehearse
from common.naming.public_names import is_ours, public_name
from common.tasks.progress_bar import LiveProgressBar
from common.tasks.save_predictions import SavePredictions

TRAINER = {
    "inference_mode": False,  # attacks and guidance take gradients inside test and validation
    "default_root_dir": "runs",
    "log_every_n_steps": 10,
}


class Parser(LightningArgumentParser):
    """Lightning's parser, whose printed and saved configurations name this project's classes by their public names."""

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super().dump(with_public_names(cfg), *args, **kwargs)
        return text


def with_public_names(part: Any) -> Any:
    """A copy of a configuration with the public name at every ``class_path`` of this project.

    Any other path stays: a module path of a class that no room exports, and the name of a method.
    """
    if isinstance(part, list):
        return [with_public_names(item) for item in part]
    if not isinstance(part, dict | Namespace):
        return part
    entries = part if isinstance(part, dict) else vars(part)
    copied = {
        key: _public_path(value) if key == "class_path" and isinstance(value, str) else with_public_names(value)
        for key, value in entries.items()
    }
    if isinstance(part, dict):
        return copied
    namespace = Namespace()  # type: ignore[no-untyped-call]
    vars(namespace).update(copied)
    return namespace


def _public_path(path: str) -> str:
    try:
        target: Any = resolve_name(path) if is_ours(path) else None
    except (ImportError, AttributeError, ValueError):
        return path
    return public_name(target) if "." not in getattr(target, "__qualname__", ".") else path


class CLI(LightningCLI):
    """LightningCLI with a rich progress bar, whose arguments win over those stored in a checkpoint."""

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint file before anything is built.

        Lightning's own method replaces arguments, even the model's class, by the checkpoint's hyper-parameters.
        """
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and path not in ("best", "last", "hpc", "registry") and not zipfile.is_zipfile(path):
            raise ValueError(
                f"--ckpt_path must be a complete Lightning checkpoint (.ckpt); {path} is missing, truncated or of "
                "another format. Exported .safetensors files are init_args, loaded by common.checkpoints.load_…"
            )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--out", type=str, default="runs/predictions", help="folder of images and table")
            parser.set_defaults({"return_predictions": False})  # they are saved, and may not fit into memory
        return parser

    def before_instantiate_classes(self) -> None:
        if self.subcommand == "test":
            rehearse(self.config["test"])

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = self._get(self.config_init, "trainer", default={})
        if trainer.get("enable_progress_bar") is not False:
            kwargs["callbacks"] = [*(trainer.get("callbacks") or []), LiveProgressBar(leave=True)]
        if (out := self._get(self.config_init, "out")) is not None:
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or trainer.get("callbacks") or []), SavePredictions(out)]
        return super().instantiate_trainer(**kwargs)


def run(args: Sequence[str] | None) -> None:
    """Run one command; without ``args`` those of the command line."""
    name, *rest = list(sys.argv[1:] if args is None else args) or [""]
    if name in COMMANDS:
        COMMANDS[name](rest)
        return
    CLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=Parser,
        args=None if args is None else list(args),
        trainer_defaults=TRAINER,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_kwargs={"description": __doc__},
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; ``args`` as on the command line, without the program's name.

    Called from Python, errors are raised. On the command line an error is printed in one line, with exit status 2;
    ``ROBUST_DIFFUSION_DEBUG=1`` prints its traceback.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    if args is None:
        sys.path.append("")  # the user's classes in the working directory
        rich.traceback.install(suppress=["jsonargparse", "lightning", "torch"], max_frames=6)
        warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)  # of Lightning's own making
        warnings.filterwarnings("ignore", ".*does not have many workers", UserWarning)  # the data are in memory
    try:
        run(args)
    except (OSError, ValueError, MisconfigurationException) as error:
        reason: BaseException = error
        # jsonargparse lists every type that a value did not fit; the reason is the message of our constructor
        while str(reason).startswith("Does not validate") and isinstance(reason.__cause__, OSError | ValueError):
            reason = reason.__cause__
        if args is not None or os.environ.get("ROBUST_DIFFUSION_DEBUG"):
            if reason is error:
                raise
            raise reason from None
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(reason))}", highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
