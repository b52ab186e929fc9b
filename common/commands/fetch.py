"""``fetch [NAME …]``: download published weights into the cache; without a name, list them."""

from collections.abc import Sequence

from rich.markup import escape

from common.commands.parsing import Arguments
from common.hub.bundled import BUNDLED
from common.hub.cache import cached_path, file_size, partial_path
from common.hub.cards import CARDS, get_card
from common.hub.fetching import fetch
from common.naming.terminal import Terminal


def run(arguments: Sequence[str]) -> None:
    """Download the named weights, or list all cards."""
    parser = Arguments(
        "fetch",
        "Download published weights into the cache (ROBUST_DIFFUSION_CACHE sets its folder) and verify "
        "them. Finished files are skipped, interrupted downloads resumed. Without a name: list the cards.",
    )
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="names of cards; none lists them")
    parser.add_argument("--force", action="store_true", help="download again, and pin the checksum of the new file")
    options = parser.read(arguments)
    console = Terminal()
    for name in options.names:
        _ = name in BUNDLED or get_card(name)  # unknown names are refused before the first download
    for name in options.names:
        path = fetch(name, force=options.force)
        console.print(f"{name} is {path}", markup=False, soft_wrap=True, highlight=False)
    for name in () if options.names else CARDS:
        console.print(f"[bold]{name}[/]: {describe_card(name)}", soft_wrap=True, highlight=False)
    for name, bundled in () if options.names else BUNDLED.items():
        about = f"{bundled.use}\n  {bundled.size / 1e6:.1f} MB; licence Apache-2.0, as the package"
        about += f"\n  [green]bundled[/]: {escape(str(bundled.path))}"
        console.print(f"[bold]{name}[/]: {about}", soft_wrap=True, highlight=False)


def describe_card(name: str) -> str:
    """A card's use, size, checksum, licence, and the state of its file: fetched, partly fetched or missing."""
    card, path, (size, exact) = get_card(name), cached_path(name), file_size(name)
    checksum = "sha256 published" if card.sha256 else "checksum unpublished; pinned on first download"
    part, state = partial_path(path), f"not fetched: {escape(str(path))}"
    if path.exists():
        matches = not exact or path.stat().st_size == size
        state = f"[green]fetched[/]: {escape(str(path))}" if matches else f"[red]wrong size[/]: {escape(str(path))}"
    elif part.exists():
        state = f"{part.stat().st_size / size:.0%} fetched: {escape(str(part))}"
    about = "" if exact else "about "
    return f"{card.use}\n  {about}{size / 1e9:.2f} GB; {checksum}; licence {card.licence}\n  {state}"
