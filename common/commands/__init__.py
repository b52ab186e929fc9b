"""Commands of the command line, in groups: ``COMMANDS[name]``. Listing them imports neither torch nor Lightning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """``group`` and ``summary`` are for the overview; ``module`` has ``run(arguments)``, None for Lightning's own."""

    group: str
    summary: str
    module: str | None = None

    def run(self, arguments: Sequence[str]) -> None:
        """Run the command on the arguments after its name."""
        run: Callable[[Sequence[str]], None] = import_module(str(self.module)).run
        run(arguments)


COMMANDS: dict[str, Command] = {
    "fit": Command("train & evaluate", "train a classifier, denoiser or guidance network"),
    "validate": Command("train & evaluate", "accuracy or loss of a checkpoint on the validation images"),
    "test": Command("train & evaluate", "attack and certify a defence; one record per image, continued when stopped"),
    "plan": Command("train & evaluate", "predict evaluations, memory and hours of a test", "common.commands.plan"),
    "predict": Command("train & evaluate", "purify and classify a folder of images"),
    "report": Command("look", "tables, figures and one HTML page from the records of tests", "common.commands.report"),
    "presets": Command("look", "list the experiments that come along, or show one", "common.commands.presets"),
    "bench": Command("look", "time attacks and certification beside their bare networks", "common.commands.bench"),
    "tour": Command("reproduce", "train, attack, certify and report on handwritten digits", "common.commands.tour"),
    "study": Command("reproduce", "one test for every combination of some settings", "common.commands.study"),
    "fetch": Command("weights", "download published weights; without a name, list them", "common.commands.fetch"),
    "convert": Command("weights", "write a published checkpoint as a safetensors file", "common.commands.convert"),
}

LIGHTNING = tuple(name for name, command in COMMANDS.items() if command.module is None)
"""Commands that Lightning's parser reads."""
