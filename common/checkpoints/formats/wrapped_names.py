"""Names of tensors in files of wrapped networks: prefixes, unused copies, and a normalisation of the input inside."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

WRAPPERS = ("module.", "model.", "_orig_mod.", "net.", "network.")
"""Prefixes of all names of a wrapped network, in any order and number."""

NORMALISATION = (("mu", "sigma"), ("mean", "std"), ("normalize.mean", "normalize.std"), ("norm.mean", "norm.std"))
"""Names of the buffers in which networks that normalise their input keep its mean and standard deviation."""

MEAN, STD = NORMALISATION[0]
UNUSED = "sub_block1."  # of RobustBench's wide ResNets: a copy of the first stage that `forward` does not call
COUNTER = "n_averaged"  # of torch's AveragedModel


def plain_names(state: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The state without prefixes of wrappers that parallelise, compile, average or precondition a network.

    ``own``: the names of the network. Of the states with fewer and fewer prefixes, and with a prefix that all names of
    the network have, the one with most of its names is taken. A normalisation of the input is named `MEAN` and `STD`.
    """
    named, normalisation = _split_normalisation(state, own)
    named = {name: value for name, value in named.items() if name in own or name.rpartition(".")[2] != COUNTER}
    removable, addable = _prefixes(named), _prefixes(own)[1:]
    candidates = [{name.removeprefix(prefix): named[name] for name in named} for prefix in reversed(removable)]
    bare = candidates[0]
    candidates += [{prefix + name: value for name, value in bare.items()} for prefix in addable]
    best = max(candidates, key=lambda one: sum(name in own for name in one))
    return {name: value for name, value in best.items() if name in own or UNUSED not in name} | normalisation


def _prefixes(names: Collection[str]) -> list[str]:
    """Prefixes of wrappers that all names share, from none to the longest."""
    found = [""]
    while longer := [
        found[-1] + one for one in WRAPPERS if names and all(n.startswith(found[-1] + one) for n in names)
    ]:
        found.append(longer[0])
    return found


def take_normalisation(state: dict[str, Tensor], own: Collection[str]) -> tuple[list[float], list[float]] | None:
    """Remove mean and standard deviation of the input from a state and return them, a number per channel.

    None if there is none, or if the network has tensors of these names itself.
    """
    if MEAN in own or MEAN not in state or STD not in state:
        return None
    mean, std = state.pop(MEAN), state.pop(STD)
    return mean.flatten().tolist(), std.flatten().tolist()


def normalises(name: str) -> bool:
    """True for a name of a mean or standard deviation of the input."""
    return any(name == one or name.endswith(f".{one}") for pair in NORMALISATION for one in pair)


def _split_normalisation(state: Mapping[Any, Any], own: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state without a normalisation of the input that the network itself does not have, and this."""
    named = {str(name): value for name, value in state.items()}
    for mean, std in NORMALISATION:
        for name in named:
            prefix = name.removesuffix(mean)
            pair = (name, prefix + std)
            at_border = name.endswith(mean) and (not prefix or prefix.endswith("."))
            if at_border and name not in own and all(_is_per_channel(named.get(one)) for one in pair):
                rest = {key: value for key, value in named.items() if key not in pair}
                return rest, {MEAN: named[name], STD: named[pair[1]]}
    return named, {}


def _is_per_channel(value: Any) -> bool:
    return isinstance(value, Tensor) and 1 <= value.numel() <= 4 and value.is_floating_point()
