"""Adversarial robustness with diffusion models: DiffPure, AGDM and noised diffusion classifiers.

Beside Lightning's subcommands below there are `report DIR …` (tables, figures and one HTML page from test records),
`convert IN OUT --format F` (a published checkpoint as a file of ours) and `tour` (train, attack, certify and report on
real digits). Files given with -c and arguments apply from left to right; the last one wins.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import rich.traceback
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.console import Console

import agdm.task  # noqa: F401  (what is imported here can be named in YAML without its module)
import common.data.digits
import common.data.images
import common.data.synthetic  # noqa: F401
import diffpure.task  # noqa: F401
import ndc.task  # noqa: F401
from common import conversion
from common.predict import SavePredictions
from common.progress import LiveProgressBar
from common.report import build
from common.tour import Stage, run_stages

TRAINER = {
    "inference_mode": False,  # attacks and guidance take gradients inside test and validation
    "default_root_dir": "runs",
    "log_every_n_steps": 10,
}


class CLI(LightningCLI):
    """LightningCLI with rich progress, and without its surprise that a checkpoint overrides the command line."""

    def _parse_ckpt_path(self) -> None:
        """Left out: hyper-parameters stored in ``--ckpt_path`` would replace arguments, even the model's class."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--out", type=str, default="runs/predictions", help="folder for pictures and a table")
            parser.set_defaults({"return_predictions": False})  # they are on the disk, and may not fit into memory
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = self._get(self.config_init, "trainer", default={})
        if trainer.get("enable_progress_bar") is not False:
            kwargs["callbacks"] = [*(trainer.get("callbacks") or []), LiveProgressBar(leave=True)]
        if (out := self._get(self.config_init, "out")) is not None:
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or trainer.get("callbacks") or []), SavePredictions(out)]
        return super().instantiate_trainer(**kwargs)


def report(words: Sequence[str]) -> None:
    """``report DIR … [--out PATH]``: tables, figures and one HTML page from the records of test runs."""
    parser = ArgumentParser(prog="robust-diffusion report", description=build.__doc__.split("\n")[0])
    parser.add_argument("records", nargs="+", help="records directories, one defence each, in the order of the tables")
    parser.add_argument("--out", default="runs/report", help="folder for everything, or a .html file")
    options = parser.parse_args(list(words))
    Console().print(f"The report is {build(options.records, options.out).resolve()}")


def convert(words: Sequence[str]) -> None:
    """``convert IN OUT --format F``: a published checkpoint as a file of ours, which later needs only its path."""
    formats, given = ", ".join(conversion.PUBLISHED), "a YAML or JSON file, JSON itself, or a card's name"
    parser = ArgumentParser(prog="robust-diffusion convert", description=conversion.__doc__)
    parser.add_argument("source", metavar="IN", help="the published file")
    parser.add_argument("target", metavar="OUT", help="the file to write, .safetensors")
    parser.add_argument("--format", required=True, help=f"whose layout IN has: {formats}")
    parser.add_argument("--config", type=str, help=f"the publishers' options: {given}")
    parser.add_argument("--kind", type=str, help="denoiser, classifier or network; else the format's usual one")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    options = parser.parse_args(list(words))
    try:
        config = conversion.read_options(options.config)
        path = conversion.convert(options.source, options.target, options.format, config, options.kind, options.force)
    except (OSError, ValueError) as error:
        raise SystemExit(f"robust-diffusion convert: {error}") from error
    Console().print(f"{path} is written; it loads without a format or a config", markup=False, soft_wrap=True)


def tour(words: Sequence[str]) -> None:
    """``tour``: the stages in configs/tour, then their report. What was finished before is not done again."""
    parser = ArgumentParser(
        prog="robust-diffusion tour",
        description="The whole story on real digits, in minutes on two cores: train, attack, certify, report. "
        "What was finished before is not done again; delete runs/tour to start over.",
    )
    parser.add_argument("--configs", default=str(Path(__file__).parent / "configs" / "tour"), help="the stages' folder")
    parser.add_argument("--out", default="runs/tour/report", help="where the report goes")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="stages that run side by side")
    options = parser.parse_args(list(words))
    stages = [Stage(path) for path in sorted(Path(options.configs).glob("*.yaml"))]
    if not stages or options.jobs < 1:
        raise ValueError(f"the tour needs --jobs >= 1 and the configs of a clone; found none in {options.configs}")
    console, start = Console(), time.monotonic()
    todo = [stage for stage in stages if stage.export is None or not stage.export.exists()]
    for stage in stages:
        console.print(f"[bold]{stage.name}[/]{'' if stage in todo else ' (done before)'}: {stage.purpose}")
    run_stages(todo, Path(__file__), Path(options.out).parent / "logs", options.jobs, console)
    page = build([stage.records for stage in stages if stage.records is not None], options.out)
    console.print(f"The tour took {(time.monotonic() - start) / 60:.1f} minutes. Open {page.resolve()}")


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; ``args`` as on the command line, without the program's name."""
    if args is None:
        rich.traceback.install(suppress=["jsonargparse", "lightning", "torch"], max_frames=6)
        warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)  # Lightning's, about itself
        warnings.filterwarnings("ignore", ".*does not have many workers", UserWarning)  # our data lie in memory
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] in (["report"], ["convert"], ["tour"]):
        command = {"report": report, "convert": convert, "tour": tour}[words[0]]
        command(words[1:])
        return
    CLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        args=args if args is None else words,
        trainer_defaults=TRAINER,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_kwargs={"description": __doc__},
    )


if __name__ == "__main__":
    main()
