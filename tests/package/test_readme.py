"""Commands that the README marks for a test."""

import pytest

from tests.conftest import ROOT
from tools.package.readme import block


def test_block_is_found_by_its_name() -> None:
    assert block("x\n<!-- test: a -->\n```\none\ntwo\n```\n", "a") == "one\ntwo\n"


def test_block_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="marked b"):
        block("<!-- test: a -->\n```\none\n```\n", "b")


def test_readme_marks_its_installation() -> None:
    assert "sbc-agent setup" in block((ROOT / "README.md").read_text(), "install")
