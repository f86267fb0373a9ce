"""Views that go on: a screen that renews itself on a terminal, one table after the other elsewhere, lines of JSON.

Knows no view. A stream of looks ends when the controller ends it.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from controller.ctl.output import print_line

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

POLL_SECONDS: Final = 1.0
"""Between two questions, where there is no stream to follow."""

WIDTH: Final = 200


def watch(
    looks: Iterator[T],
    view: "Callable[[T], RenderableType]",
    plain: Callable[[T], Any] | None,
    line: "Callable[[T], RenderableType] | None" = None,
) -> None:
    """Show each look. `plain` makes JSON of it; None: for people. `line` is shorter, for what is no terminal."""
    if plain is not None:
        for look in looks:
            print_line(plain(look))
        return
    from rich.console import Console  # noqa: PLC0415  (50 ms that `--json` need not pay)
    from rich.live import Live  # noqa: PLC0415

    if not sys.stdout.isatty():
        console = Console(width=WIDTH, highlight=False)
        for look in looks:
            console.print((line or view)(look))
            sys.stdout.flush()
        return
    console = Console(highlight=False)
    last = None
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for look in looks:
            last = look
            live.update(view(look), refresh=True)
    if last is not None:
        console.print(view(last))


def polled(ask: Callable[[], T]) -> Iterator[T]:
    """The answer, and again when it has changed."""
    last = None
    while True:
        answer = ask()
        if answer != last:
            yield answer
            last = answer
        time.sleep(POLL_SECONDS)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> "RenderableType":
    """A table; the last `numbers` columns are right-justified."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for n, column in enumerate(columns):
        made.add_column(column, overflow="fold", justify="right" if n >= len(columns) - numbers else "left")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def lines(*texts: str) -> "RenderableType":
    """Each on a line of its own; "" is an empty line."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    return Group(*(Text(text) for text in texts))


def together(*parts: "RenderableType") -> "RenderableType":
    """One below the other."""
    from rich.console import Group  # noqa: PLC0415

    return Group(*parts)
