"""Images of a report for the README, in ``common/report/images``: the page's first screen, and the terminal's last.

    python tests/report_images.py runs/tour/undefended runs/tour/diffpure … [--browser chromium]

The directories are those of the tour's tests, in the order of the table. The browser runs headless; without one only
the terminal's image is written.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image
from rich.console import Console

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from common.report.build import build  # noqa: E402
from common.report.headline import read_headline  # noqa: E402

OUT = ROOT / "common" / "report" / "images"
COMMAND, PAGE = "robust-diffusion tour", "runs/tour/report/report.html"
WIDTH, HEIGHT, COLUMNS, COLOURS = 1280, 800, 80, 256


def page_image(records: list[str], browser: str, target: Path) -> None:
    """PNG of the page at 1280 x 800, with few colours."""
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            page = build(records, Path(folder) / "report").resolve()
        shot = Path(folder) / "page.png"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        flags += [f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"]
        subprocess.run([browser, *flags, f"file://{page}"], check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                target, optimize=True
            )


def console_image(records: list[str], target: Path) -> None:
    """SVG of the tour's last lines in a terminal of 80 columns; it loads no font."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(f"[bold green]$[/] {COMMAND}\n", highlight=False)
    console.print(read_headline(records))
    console.print(f"\nAll tables: {PAGE}", highlight=False)
    svg = console.export_svg(title=COMMAND, unique_id="console")
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the README's images of a report.")
    parser.add_argument("records", nargs="+", help="records directories, in the order of the table")
    parser.add_argument("--browser", default="chromium", help="a browser of the Chromium family")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    console_image(options.records, OUT / "console.svg")
    if browser := shutil.which(options.browser):
        page_image(options.records, browser, OUT / "page.png")
    else:
        print(f"{options.browser} is not installed: {OUT / 'page.png'} is not written")


if __name__ == "__main__":
    main()
