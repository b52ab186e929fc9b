"""YAML of users: configurations, studies and options. A mistake is refused with its line and the remedy."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from common.files.errors import naming

REMEDIES = {  # by a part of the YAML reader's message
    "mapping values are not allowed": "The line before may lack its colon, or this one is indented too far",
    "cannot start any token": "Indent with spaces, not tabs, and quote a value that begins with a special character",
    "expected key": "Indent the settings of one mapping alike",
    "block end": "Indent the settings of one mapping alike",
    "could not find expected ':'": "A line lacks its colon",
    "end of stream": "A quotation mark or bracket is not closed",
    "node content": "A value or a closing bracket is missing",
    "flow": "A bracket or comma is missing",
    "',' or": "A bracket or comma is missing",
    "undefined alias": "Quote a value that begins with *",
    "constructor for the tag": "Quote a value that begins with !",
    "another document": "Write one document, without a line of dashes inside",
    "not allowed": "Name a text file",
}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path) -> str:
    """The text of a file. Raises ``ValueError`` unless it is in UTF-8, ``FileError`` if it cannot be read."""
    with naming("read", path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be a text file in UTF-8; its byte {error.start} is not. Name another file"
        ) from error


def parse_mapping(text: str, name: str, what: str = "a configuration maps names to settings") -> dict[str, Any]:
    """The mapping in a YAML text; ``name`` is that of its file and ``what`` a sentence, for the messages.

    Raises ``ValueError`` for other content and names that are no texts, and the errors of `parse`.
    """
    content = parse(text, name)
    if not isinstance(content, dict):
        kinds = {type(None): "nothing", list: "a list. Write NAME: VALUE, without dashes"}
        raise ValueError(f"{what}; {name} holds {kinds.get(type(content), 'one value. Write NAME: VALUE')}")
    if others := [key for key in content if not isinstance(key, str)]:
        raise ValueError(f"{what}; {name} has the name {others[0]!r}, which is no text. Quote it")
    return content


def parse(text: str, name: str, refusal: str = "is not YAML") -> Any:
    """The content of a YAML text. Raises ``ValueError`` for other text and for a key that stands twice in a mapping."""
    try:
        _check_keys(yaml.compose(text, Loader=LOADER), name, set())
        return get_loader("yaml")(text)
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        advice = next((f". {remedy}" for part, remedy in REMEDIES.items() if part in problem), "")
        raise ValueError(f"{name}{line} {refusal}: {problem}{advice}") from error


def _check_keys(node: yaml.Node | None, name: str, seen: set[int]) -> None:
    """Check that no mapping at or below a node has a key twice; an alias is visited once."""
    if node is None or isinstance(node, yaml.ScalarNode) or id(node) in seen:
        return
    seen.add(id(node))
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, item) for item in node.value]
    known = set[str]()
    for key, value in pairs:
        if isinstance(key, yaml.ScalarNode):
            if key.value in known:
                line = key.start_mark.line + 1
                raise ValueError(f"{name}, line {line}: {key.value} stands twice in one mapping. Join the two")
            known.add(key.value)
        _check_keys(value, name, seen)
