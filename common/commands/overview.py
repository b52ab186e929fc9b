"""Overview of all commands, and short pages on Lightning's own."""

from itertools import groupby

from common.commands import COMMANDS

TITLE = "Adversarial robustness with diffusion models: DiffPure, AGDM and noised diffusion classifiers."
START = """\
Start:   robust-diffusion tour                           all of it on handwritten digits, in minutes
         robust-diffusion presets                        the papers' experiments
         robust-diffusion test -c diffpure/cifar10       one of them
         robust-diffusion COMMAND --help                 the arguments of a command"""

OPTIONS = """\
  -c, --config NAME or FILE           preset or YAML file; given several times, the later one wins
  --model CLASS, --data CLASS         without a file: classes by their names
  --model.init_args.NAME VALUE        any setting of the file, after it
  --trainer.accelerator cpu|gpu|auto  device; --trainer.devices N, --trainer.max_epochs N, ...
  --ckpt_path FILE                    Lightning checkpoint to continue from
  --print_config                      print the complete configuration and exit
  --help-all                          all options of the trainer
  --help CLASS                        all settings of a class, such as --help {task}"""

PAGES = {  # purpose, example, a task
    "fit": (
        "Train a classifier, denoiser or guidance network; model.init_args.export names the file of its weights.",
        "robust-diffusion fit -c train/cifar10-denoiser --model.init_args.export mine.safetensors",
        "DenoiserTask",
    ),
    "validate": (
        "Accuracy or loss of a Lightning checkpoint on the validation images.",
        "robust-diffusion validate -c train/cifar10-classifier --ckpt_path last.ckpt",
        "ClassifierTask",
    ),
    "test": (
        "Attack and certify a defence. One record per image goes to model.init_args.records; a test that was stopped "
        "continues.",
        "robust-diffusion test -c diffpure/cifar10 -c suites/quick --data.init_args.batch_size 8",
        "DiffPureTask",
    ),
    "predict": (
        "Purify and classify a folder of images; --out FOLDER takes the purified images and a table.",
        "robust-diffusion predict -c diffpure/cifar10 --data.init_args.path FOLDER --out cleaned",
        "DiffPureTask",
    ),
}


def overview() -> str:
    """All commands in their groups, one line each."""
    lines = [TITLE, "", "Usage: robust-diffusion COMMAND [ARGUMENTS]"]
    for group, entries in groupby(COMMANDS.items(), lambda entry: entry[1].group):
        lines += ["", group, *(f"  {name:<10}{command.summary}" for name, command in entries)]
    return "\n".join([*lines, "", START])


def help_page(command: str) -> str:
    """Purpose, common options and an example of one of Lightning's commands."""
    purpose, example, task = PAGES[command]
    usage = f"Usage: robust-diffusion {command} -c PRESET [-c FILE ...] [OPTIONS]"
    return f"{usage}\n\n{purpose}\n\n{OPTIONS.format(task=task)}\n\nExample: {example}"
