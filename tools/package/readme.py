"""Prints the commands that a document marks for a test: the block of code after `<!-- test: NAME -->`."""

import re
import sys
from pathlib import Path


def block(text: str, name: str) -> str:
    """The commands of the block, as they stand there. Raises ValueError if there is none."""
    found = re.search(rf"<!-- test: {re.escape(name)} -->\n```[a-z]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"no block of code is marked {name}")
    return found[1]


if __name__ == "__main__":
    sys.stdout.write(block(Path(sys.argv[1]).read_text(), sys.argv[2]))
