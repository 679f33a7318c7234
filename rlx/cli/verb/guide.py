"""Shows the guide in the terminal: its pages, or one of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

if TYPE_CHECKING:
    from rlx.config.compose import Composed

WORDS = "page"
GUIDE = Path(__file__).resolve().parents[2] / "guide"
FIRST = "start"
_WIDEST = 100  # columns of a rendered page


def run(composed: Composed) -> int:
    """Print the list of pages, or the named page; returns the exit code."""
    cfg, known = composed.config, pages()
    if cfg.page is None:
        print(page_list(known))
        return 0
    name = str(cfg.page).removesuffix(".md")
    if name not in known:
        hint = did_you_mean(nearest(name, known)) or f"; the pages are {', '.join(known)}"
        raise ConfigError(f"rlx guide has no page {cfg.page}{hint}")
    print_page(known[name].read_text(encoding="utf-8"), is_terminal=sys.stdout.isatty())
    return 0


def pages(folder: Path = GUIDE) -> dict[str, Path]:
    """Name -> file of every page, `start` first."""
    files = sorted(folder.glob("*.md"), key=lambda file: (file.stem != FIRST, file.stem))
    return {file.stem: file for file in files}


def page_heading(text: str) -> str:
    """The heading that a page begins with."""
    return text.partition("\n")[0].removeprefix("#").strip()


def page_list(known: dict[str, Path]) -> str:
    """One line per page: its name and its heading."""
    width = max(map(len, known), default=0)
    lines = [f"  {name:<{width}}  {page_heading(file.read_text(encoding='utf-8'))}" for name, file in known.items()]
    return "\n".join(["pages (rlx guide PAGE shows one)", *lines])


def print_page(text: str, *, is_terminal: bool) -> None:
    """Print a page: rendered in a terminal, unchanged in a file or a pipe."""
    if not is_terminal:
        sys.stdout.write(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(text, hyperlinks=False), width=min(_WIDEST, console.width))
