"""A test as it would be run, handed to the planner: its parts are built, its checks and evaluators measured."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.commands.errors import UsageError
from common.commands.lightning_commands import CLI, run_lightning
from common.commands.steps import check_command
from common.commands.trainer_settings import check_trainer
from common.experiments.planning.planner import Check, Plan, Planner
from common.experiments.planning.suites import SuitePlan, plan_suite
from common.experiments.planning.workload import Workload
from common.experiments.rehearsal import rehearse
from common.experiments.suites import read_suite
from common.tasks.diagnostics import enough, gradient_checks, masking_variants
from common.tasks.independence import IMAGES, check_certifiers, warn_of_dependence
from common.tasks.portions import Portions
from common.tasks.recording import as_batch
from common.tasks.robust import RobustTask
from common.tasks.shares import least_share, share_sizes


class PlannedCLI(CLI):
    """The command line of ``test``, which builds everything and runs nothing; no output is tried."""

    def before_instantiate_classes(self) -> None:
        settings = self.config[self.subcommand]
        check_command(str(self.subcommand), settings.model)
        check_trainer(settings.get("trainer"))
        rehearse(settings)

    def _run_subcommand(self, subcommand: str) -> None:
        return


@dataclass(frozen=True)
class PlannedTest:
    """The plan of a test, with its numbers of ``images`` and images per batch, the device, and suites on it."""

    plan: Plan
    images: int
    batch_size: int
    device: str
    suites: Sequence[SuitePlan]
    seconds: float  # of all measurements
    least: int  # images that a device takes at a time, at least

    def on(self, devices: int) -> float:
        """Seconds of the test on so many devices, start included."""
        return self.plan.on(devices, share_sizes(self.images, devices, self.batch_size, self.least))


def planned(arguments: Sequence[str], suites: Sequence[str], seconds: float, startup: float) -> PlannedTest:
    """Build the test of a configuration and predict its cost, with that of ``suites`` for its defence.

    ``startup`` are the seconds before this call. Raises ``ValueError`` for a task that is no `RobustTask`.
    """
    begin = time.perf_counter()
    named = [(name, read_suite(name)) for name in suites]
    cli = run_lightning("test", arguments, PlannedCLI)
    task, data = cli.model, cli.datamodule
    if not isinstance(task, RobustTask) or data is None:
        raise UsageError("plan predicts the cost of a test: name its task and its data, such as -c diffpure/cifar10.")
    data.prepare_data()
    data.setup("test")
    loader: Any = data.test_dataloader()
    device = cli.trainer.strategy.root_device
    task.to(device).eval()
    task.engine.start(task.classifier, device)

    def take(positions: Sequence[int]) -> tuple[Any, Any, Any]:
        return as_batch([loader.dataset[position] for position in positions], device)

    variants = masking_variants(task.evaluators, loader.dataset, task.masking)
    evaluators = [*task.evaluators, *(variants if enough(loader.dataset, task.masking) else [])]
    load = Workload(
        task.classifier,
        evaluators,
        len(loader.dataset),
        loader.batch_size,
        take,
        lambda evaluator: Portions(evaluator, task.classifier).size,
        "auto" if task.engine.engine is None else task.engine.engine.memory,
    )
    if not load.images:
        raise UsageError("plan needs a test image; the data have none.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        planner = Planner(load, seconds)
        plan = planner.plan(_checks(task, take, load.images), startup + start - begin)
        others = [one for pair in named if (one := plan_suite(*pair, planner)) is not None]
    task.engine.stop()
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    least = least_share(evaluators, task.classifier.rows, load.batch_size)
    return PlannedTest(plan, load.images, load.batch_size, kind, others, time.perf_counter() - start, least)


def _checks(
    task: RobustTask, take: Callable[[Sequence[int]], tuple[Any, Any, Any]], images: int
) -> Mapping[str, Check]:
    """The checks of a test before its first image, by name."""
    first = take(range(min(IMAGES, images)))
    checks: dict[str, Check] = {}
    if any(not evaluator.uses_gradients for evaluator in task.evaluators):
        checks["preconditions"] = lambda: check_certifiers(task.classifier, task.evaluators, take([0]), task.engine)
    if task.verify != "off":
        checks["independence"] = lambda: warn_of_dependence(task.classifier, task.evaluators, first)
        for check in gradient_checks(task.evaluators):
            checks["gradient check"] = lambda check=check: check(task.classifier, first)  # type: ignore[misc]
    return checks
