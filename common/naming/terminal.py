"""Terminal output in which text from outside is text."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from common.naming.outside_text import accept_any_text, plain


class Terminal(Console):
    """Rich's console: terminal codes in text are shown as escapes, and characters that its encoding lacks too.

    Markup is for the program's own words: put text from outside through ``rich.markup.escape``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        accept_any_text(self.file)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of what is printed; codes of the console itself are styles and controls, not text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)
