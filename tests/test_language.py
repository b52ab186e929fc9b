"""Plain English of the field: docstrings name the thing, and each term has one word."""

import ast
import io
import re
import tokenize
from pathlib import Path

from tests.sources import CODE, CONFIGS, ROOT, TESTS, nodes_of, text_of, violations

PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".git", "runs", ".venv"} & set(path.parts))

RIDDLE = re.compile(
    r"(What|Whether|Who|Whoever|Whose|Which|How|Whatever|Why|Where|When|If|(Ask|Tell|Find|Say|Know|Want)(s|ing)?)\b"
)
"""First words of a docstring that describe the thing instead of naming it, and verbs of asking."""

INSTEAD = {
    r"pictures?": "image",
    r"whole numbers?": "integer",
    r"foreseen|foresee|foresees|foreseeing": "predicted, forecast",
    r"heeds?|heeded|heeding": "use, depend on, respect",
    r"(is|are|was|were|be|been) (asked|told)": "the call or the argument: evaluated, queried, called with",
    r"knows? (no|nothing|neither|only)": "the property: independent of, without",
    r"whoever|whosoever": "the caller, the user",
    r"(it|which|that) (tells|wants|asks)": "returns, requires, needs, requests",
    r"finds? out": "determine, detect",
    r"made to deceive": "adversarial, built to pass the check",
    r"keeps? (its|their) books": "record, select",
    r"beyond doubt": "the test and its error level",
    r"(not|is|are|be) (to be )?trusted|not trust": "checked again, pinned, invalid",
    r"proves? nothing": "inconclusive, not certified, no bound",
    r"whatever (it|they|these) (says?|are)": "no effect, independent of",
}
"""Words with a better term in the field."""


def prose(path: Path) -> list[tuple[int, str]]:
    """(line, text) of every comment and string literal of a Python file, of every comment of YAML, of a whole page."""
    text = text_of(path)
    if path.suffix == ".yaml":
        return [(i, line.partition("#")[2]) for i, line in enumerate(text.splitlines(), 1) if "#" in line]
    if path.suffix == ".md":
        return list(enumerate(re.sub(r"`[^`\n]*`|</?picture>", "`code`", text).splitlines(), 1))
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    pairs = ((token.start[0], token.string) for token in tokens if token.type in kinds)
    return [(line, re.sub(r"</?picture>", "", string)) for line, string in pairs]  # an element of HTML


def riddles(path: Path) -> list[str]:
    """First lines of docstrings that begin with one of ``RIDDLE``."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    found = [ast.get_docstring(node) or "" for node in nodes_of(path) if isinstance(node, documented)]
    return [text.splitlines()[0] for text in found if RIDDLE.match(text)]


def misfits(path: Path) -> list[str]:
    """``line: word (better term)`` for every word with a better term."""
    return [
        f"{line}: {match[0]!r} (write: {better})"
        for line, text in prose(path)
        for pattern, better in INSTEAD.items()
        for match in re.finditer(rf"\b({pattern})\b", text, re.IGNORECASE)
    ]


def test_docstrings_name_the_thing():
    assert not violations(riddles, [*CODE, *TESTS])


def test_terms_are_the_fields():
    listed = Path(__file__)  # lists the words
    assert not violations(misfits, [*CODE, *(path for path in TESTS if path != listed), *CONFIGS, *PAGES])


def test_the_checks_recognise_what_they_forbid(tmp_path):
    first, second = tmp_path / "x.py", tmp_path / "y.py"
    first.write_text('def f():\n    """What f does."""\n    pictures = f"{1} whole number"  # is asked twice\n')
    second.write_text('"""Where f begins."""\nclass A:\n    """Asks the network."""\n')
    assert riddles(first) == ["What f does."]
    assert riddles(second) == ["Where f begins.", "Asks the network."]
    assert [found.partition(" (")[0] for found in misfits(first)] == ["3: 'whole number'", "3: 'is asked'"]
