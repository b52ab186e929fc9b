"""Explanations of jsonargparse's errors: the key, the reason and the nearest name, without lists of types."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from common.commands.class_names import short_path
from common.naming.nearest import did_you_mean, nearest
from common.naming.parameters import parameters
from common.naming.short_names import SHORT_NAMES, nearest_short_names, resolve_short_name

NOISE = re.compile(
    r"Subtypes: |Given value|Errors:|Does not validate|Expected a path but|Expected a <class 'NoneType'>$"
    r"|a class path \(str\)|a dict with"
)
HEADING = re.compile(r"(?<!import path string):$")
VAGUE = re.compile(
    "Expected a (<|typing)|Not (a valid subclass|of type)|Does not implement protocol"
)  # of one type of several
TYPES = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null"}
TYPES |= {"list": "a list", "Sequence": "a list", "tuple": "a list", "dict": "a mapping", "Path": "a path"}
PARTS = ("init_args", "class_path")  # of a class in a configuration
SPELLED = "a class is given by class_path and init_args, its settings below init_args"
EXAMPLES = {
    "LightningModule": " Name a task, such as DiffPureTask.",
    "LightningDataModule": " Name data, such as CIFAR10.",
}


@dataclass(frozen=True)
class Place:
    """Innermost error of a message: the ``key`` in the configuration, the class there, and the ``text``.

    ``value`` is the given one as text, "" if the message does not have it.
    """

    key: str
    owner: str
    text: str
    allowed: str
    value: str


def own_error(error: Exception) -> Exception:
    """The error of our constructor inside jsonargparse's list of all types that a value did not fit."""
    while str(error).startswith("Does not validate") and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def explain(message: str, options: Sequence[str]) -> str:
    """The reason in a line or two; ``options`` are those of the command, for the nearest one."""
    place = innermost(message)
    where = f"{place.key}: " if place.key else ""
    if unknown := re.match(r"unrecognized arguments: (\S+)", place.text):
        option = unknown[1].split("=")[0]
        if not option.startswith("-"):
            return f"unexpected argument {option!r}: settings are given as --NAME VALUE, files as -c FILE."
        if place.key:
            setting = option.removeprefix("--").partition(".")[0]
            return f"{where}there is no setting {setting!r}.{did_you_mean(setting, PARTS)}"
        return f"there is no option {option}.{_nearest_option(option, options)} --help lists the common ones."
    if lacking := re.match(r"argument (?:-\w/)?([^:/]+)\S*: expected one argument", place.text):
        return f"argument {lacking[1]}: expected one argument. Write {lacking[1]} VALUE."
    if unknown := re.search(r"does not accept option '([\w.-]+)'", place.text):
        return _no_section(unknown[1], options)
    if unknown := re.search(r"(?:Option|Key|key) ['\"]?([\w.-]+)['\"]? is not (?:accepted|expected)", place.text):
        return f"{where}{_no_setting(place, unknown[1], options)}"
    if required := re.match(r"the following arguments are required: (.*)", place.text):
        return f"{where}{_missing(place, required[1])}"
    if reason := _of_class(place):
        return f"{where}{reason}"
    if "has no attribute 'keys'" in place.text:
        return f"{where}the settings must be a mapping, lines NAME: VALUE without dashes; got a list or a value."
    if place.value.startswith("{") and (needed := re.search(r"expects a function or a callable class: (.*)", message)):
        return f"{where}{needed[1]}"
    if place.allowed:
        name = place.key or "the value"
        return f"{name} must be {place.allowed}; got {repr(place.value) if place.value else 'another type'}."
    return f"{where}{place.text}" + ("" if ". " in place.text else ". --help lists the options.")


def _of_class(place: Place) -> str:
    """The reason why a class cannot be built from the given value, "" for errors of other kinds."""
    if unknown := re.match(r"Expected a dot import path string: ?(.*)", place.text):
        return _no_class(unknown[1])
    if re.match(r"No module named|module '.*' has no attribute", place.text):
        return _not_importable(place)
    if wrong := re.match(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", place.text):
        return _other_kind(wrong[1] or place.value, wrong[2])
    if denied := re.match(r"Importing '([^']+)' is not allowed", place.text):
        return f"{denied[1]} may not be named here. Name a class of this project, or of your own: FILE.NAME."
    if re.match(r"argument of type '\w+' is not iterable", place.text):
        return "class_path must be the name of a class, such as {class_path: DiffPureTask}."
    if re.match(
        "Not a valid subclass|Does not implement protocol|Expected an instantiatable class|Unexpected import path",
        place.text,
    ):
        got = f"; got {place.value!r}" if place.value and len(place.value) < 80 else ""
        return f"{SPELLED}{got}."
    return ""


def of_another_model(message: str) -> str:
    """The reason why a checkpoint does not fit its model, from torch's list of all tensors."""
    found = {
        kind: re.findall(r'"([^"]+)"', listed)
        for kind, listed in re.findall(r"(Missing|Unexpected) key\(s\) in state_dict: (.*)", message)
    }
    found["Of another shape"] = re.findall(r"size mismatch for ([\w.]+):", message)
    model = re.search(r"state_dict for (\w+)", message)
    listed = "; ".join(
        f"{kind.lower()}: {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for kind, names in found.items()
        if names
    )
    return (
        f"--ckpt_path must be a checkpoint of the same {model[1] if model else 'model'}; it holds other tensors "
        f"({listed}). Name the configuration that trained it, or another checkpoint."
    )


def innermost(message: str) -> Place:
    """The most deeply indented reason in a message, with the keys and classes on the way to it."""
    lines = [
        (len(line) - len(line.lstrip(" -")), line.strip(" -")) for line in message.splitlines() if line.strip(" -")
    ]
    leaves = [i for i, (_, text) in enumerate(lines) if not HEADING.search(text) and not NOISE.match(text)]
    if not leaves:
        return Place("", "", lines[0][1] if lines else "wrong arguments", "", "")
    deepest = max(leaves, key=lambda i: (lines[i][0], not VAGUE.match(lines[i][1]), -i))
    key, owner, indent = "", "", lines[deepest][0] + 1
    for depth, text in reversed(lines[: deepest + 1]):
        if depth >= indent:
            continue
        indent = depth
        if found := re.match(r"Parser key \"(.+?)\":", text):
            key = f"{found[1]}.{key}".rstrip(".")
        elif found := re.match(r"Problem with given class_path '(.+?)':", text):
            owner, key = owner or found[1], f"init_args.{key}".rstrip(".")
    return Place(key.removesuffix(".init_args"), owner, *_types(lines, deepest))


def _types(lines: Sequence[tuple[int, str]], deepest: int) -> tuple[str, str, str]:
    """Text of the reason, allowed types in words, and the value, if the reason is a wrong type."""
    depth, text = lines[deepest]
    found = re.match(r"Parser key \".+?\": (.*)", text)
    text = found[1] if found else text
    single = re.match(r"Expected a (.+?)\. Got value: (.*)", text)
    if single:
        return text, _words(single[1]), single[2]
    before = next((line for d, line in reversed(lines[:deepest]) if d < depth and line.startswith("Subtypes: ")), text)
    after = next((line for d, line in lines[deepest:] if d < depth and line.startswith("Given value: ")), "")
    value = "" if "NestedArg(" in after else after.removeprefix("Given value: ")
    allowed = _words(before) if text.startswith(("Expected a <", "Expected a typing.Literal")) else ""
    return text, allowed, value


def _words(types: str) -> str:
    names = re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>", types)
    choices = re.findall(r"Literal\[(.*?)\]", types)
    listed = [f"one of {', '.join(choices)}"] if choices else []
    words = [*listed, *(TYPES.get(name, f"a {name}") for name in names)]
    return " or ".join(words) or types


def _nearest_option(option: str, options: Sequence[str]) -> str:
    """The advice for an unknown option; of a setting of a class, the nearest section."""
    section, dot, setting = option.partition(".")
    sections = {one.partition(".")[0] for one in options}
    if dot and section not in sections and (found := nearest(section, sections, 1)):
        return f" Did you mean {found[0]}.{setting}?"
    return did_you_mean(option, options)


def _no_section(name: str, options: Sequence[str]) -> str:
    known = [option.removeprefix("--") for option in options]
    sections = {one.split(".")[0] for one in known}
    section = name.split(".")[0]
    if section in sections:
        return f"there is no setting {name}.{did_you_mean(name, known)}"
    return f"there is no section {section!r}.{did_you_mean(section, sections)} --print_config shows all of them."


def _no_setting(place: Place, name: str, options: Sequence[str]) -> str:
    if not place.owner:
        return _no_section(name, options)
    owner, (section, *inner) = short_path(place.owner), name.split(".")
    if inner and section not in PARTS:
        return f"there is no setting {section!r}.{did_you_mean(section, PARTS)}"
    if owner.startswith("lightning."):
        return f"{name} is a setting of a class that no layer names. Name a test first: -c tour/06-diffpure -c FILE."
    advice = did_you_mean(name, parameters(resolve_name(place.owner)))
    return f"{owner} has no setting {name!r}.{advice} --help {owner} lists them."


def _missing(place: Place, names: str) -> str:
    if place.owner:
        return f"{short_path(place.owner)} needs {names}. --help {short_path(place.owner)} describes them."
    command, _, name = names.partition(".")
    wanted = " and ".join(part.rpartition(".")[2] for part in names.split(", ")) if name else names
    what = f"{command if name else 'the command'} needs {wanted}"
    return f"{what}: name a preset (-c diffpure/cifar10), or classes (--model, --data)."


def _no_class(name: str) -> str:
    if re.search(r"[^\w.]", name):
        return f"{SPELLED}; got {name!r}."
    try:
        return f"{resolve_short_name(name)} does not fit here."
    except ValueError as error:
        return str(error)


def _other_kind(path: str, kind: str) -> str:
    name = short_path(path)
    if inspect.isfunction(resolve_name(SHORT_NAMES.get(path, path))):
        returned = "nn.Module" if kind == "Module" else kind
        return (
            f"{name} is a function that does not say that it returns a {kind}. Write in its file: "
            f"def {name.rpartition('.')[2]}(...) -> {returned}:"
        )
    if kind in SHORT_NAMES:
        return f"{name} is no {kind}, which is needed here; --help {kind} describes it."
    return f"{name} is no {kind}, which is needed here.{EXAMPLES.get(kind, f' Name a class derived from {kind}.')}"


def _not_importable(place: Place) -> str:
    found = nearest_short_names(place.owner.rpartition(".")[2])
    advice = f" Did you mean {' or '.join(found)}?" if found else ""
    return f"{place.owner} cannot be imported ({place.text}).{advice} A class of your own is FILE.NAME, in this folder."
