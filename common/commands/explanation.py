"""Explanations of jsonargparse's errors: the key, the reason and the nearest name, without lists of types."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from common.commands.class_names import short_path
from common.commands.class_pages import parameters
from common.naming.nearest import did_you_mean
from common.naming.short_names import SHORT_NAMES, nearest_short_names, resolve_short_name

NOISE = re.compile(
    r"Subtypes: |Given value|Errors:|Does not validate|Expected a path but|Expected a <class 'NoneType'>$"
)
TYPES = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null"}
TYPES |= {"list": "a list", "Sequence": "a list", "tuple": "a list", "dict": "a mapping", "Path": "a path"}


@dataclass(frozen=True)
class Place:
    """Innermost error of a message: the ``key`` in the configuration, the class there, and the ``text``."""

    key: str
    owner: str
    text: str
    allowed: str
    value: str


def own_error(error: Exception) -> Exception:
    """The error of our constructor inside jsonargparse's list of all types that a value did not fit."""
    while str(error).startswith("Does not validate") and isinstance(error.__cause__, OSError | ValueError):
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
        return f"there is no option {option}.{did_you_mean(option, options)} --help lists the common ones."
    if unknown := re.search(r"does not accept option '([\w.-]+)'", place.text):
        return _no_section(unknown[1], options)
    if unknown := re.search(r"(?:Option|Key|key) ['\"]?([\w.-]+)['\"]? is not (?:accepted|expected)", place.text):
        return f"{where}{_no_setting(place, unknown[1], options)}"
    if required := re.match(r"the following arguments are required: (.*)", place.text):
        return f"{where}{_missing(place, required[1])}"
    if unknown := re.match(r"Expected a dot import path string: (.*)", place.text):
        return f"{where}{_no_class(unknown[1])}"
    if re.match(r"No module named|module '.*' has no attribute", place.text):
        return f"{where}{_not_importable(place)}"
    if wrong := re.match(r"Import path (\S+) does not correspond to a subclass of (\w+)", place.text):
        return f"{where}{_other_kind(wrong[1], wrong[2])}"
    if "has no attribute 'keys'" in place.text:
        return f"{where}the settings must be a mapping, lines NAME: VALUE without dashes; got a list or a value."
    if place.text == "a class path (str)":  # with keys beside class_path, or without it
        return f"{where}a class is given by class_path and init_args, its settings below init_args."
    if place.value.startswith('"{') and (needed := re.search(r"expects a function or a callable class: (.*)", message)):
        return f"{where}{needed[1]}"
    if place.allowed:
        name = place.key or "the value"
        return f"{name} must be {place.allowed}; got {place.value or 'another type'}."
    return f"{where}{place.text}"


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
    leaves = [i for i, (_, text) in enumerate(lines) if not text.endswith(":") and not NOISE.match(text)]
    if not leaves:
        return Place("", "", lines[0][1] if lines else "wrong arguments", "", "")
    deepest = max(leaves, key=lambda i: (lines[i][0], -i))
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
        return text, _words(single[1]), repr(single[2])
    if not text.startswith(("Expected a <", "Expected a typing.Literal")):
        return text, "", ""
    before = next((line for d, line in reversed(lines[:deepest]) if d < depth and line.startswith("Subtypes: ")), text)
    after = next((line for d, line in lines[deepest:] if d < depth and line.startswith("Given value: ")), "")
    return text, _words(before), repr(after.removeprefix("Given value: "))


def _words(types: str) -> str:
    names = re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>", types)
    choices = re.findall(r"Literal\[(.*?)\]", types)
    listed = [f"one of {', '.join(choices)}"] if choices else []
    words = [*listed, *(TYPES.get(name, f"a {name}") for name in names)]
    return " or ".join(words) or types


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
    owner = short_path(place.owner)
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
    return f"{name} is no {kind}, which is needed here; --help {kind} describes it."


def _not_importable(place: Place) -> str:
    found = nearest_short_names(place.owner.rpartition(".")[2])
    advice = f" Did you mean {' or '.join(found)}?" if found else ""
    return f"{place.owner} cannot be imported ({place.text}).{advice} A class of your own is FILE.NAME, in this folder."
