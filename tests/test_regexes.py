"""What no regular expression here may contain, since Debian 12's Python reads it wrongly."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

AGENT = Path(__file__).resolve().parent.parent / "agent"
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")


def patterns(path: Path) -> Iterator[str]:
    """Every string and bytes constant of a module that is no docstring; a character class holds no group."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            yield re.sub(r"\[(?:\\.|[^\]\\])*\]", "C", text)


def test_no_group_is_repeated_possessively() -> None:
    """CPython before 3.11.5 forgets where it was when such a group fails half-way (gh-106052)."""
    assert POSSESSIVE_GROUP.search("(?:a|b)*+")
    found = [(p.name, text) for p in AGENT.rglob("*.py") for text in patterns(p) if POSSESSIVE_GROUP.search(text)]
    assert found == []
