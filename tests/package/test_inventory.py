"""The bill of materials and the licences of what is inside a package."""

import json
import subprocess
from pathlib import Path

import pytest

from tools.package.inventory import (
    Part,
    UnknownLicenceError,
    bill_of_materials,
    copyright_file,
    main,
    wheels,
    write_texts,
)

LOCK = """\
[[package]]
name = "some-lib"
version = "1.2"
wheels = [{ url = "https://example.net/x", hash = "sha256:aa" }]
"""


def wheel(site: Path, name: str, *rows: str, text: str = "terms") -> None:
    folder = site / f"{name}-1.2.dist-info"
    (folder / "licenses").mkdir(parents=True)
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.2", *rows, ""]))
    if text:
        (folder / "licenses" / "LICENSE").write_text(text)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "uv.lock").write_text(LOCK)
    return tmp_path / "site"


def test_part_has_version_licence_hash_and_purl(site: Path) -> None:
    wheel(site, "some_lib", "License-Expression: MIT")
    wheel(site, "sbc-edge-agent")
    (part,) = wheels(site, site.parent / "uv.lock")
    assert (part.purl, part.licence, part.sha256) == ("pkg:pypi/some-lib@1.2", "MIT", ("aa",))


@pytest.mark.parametrize("row", ["License-Expression: GPL-2.0-only", "License: see LICENSE", "Author: nobody"])
def test_licence_that_nobody_looked_at_stops_the_build(site: Path, row: str) -> None:
    wheel(site, "some_lib", row)
    with pytest.raises(UnknownLicenceError, match=r"some_lib 1\.2"):
        list(wheels(site, site.parent / "uv.lock"))


def test_of_several_licences_ours_is_chosen(site: Path) -> None:
    wheel(site, "pyroute2", "License-Expression: GPL-2.0-or-later OR Apache-2.0")
    (part,) = wheels(site, site.parent / "uv.lock")
    assert part.licence == "Apache-2.0"


def test_bill_names_what_is_compiled_in_and_is_the_same_each_time() -> None:
    parts = [Part("cryptography", "50", "Apache-2.0 OR BSD-3-Clause", "pkg:pypi/c@50", within=[("openssl", "MIT")])]
    bill = bill_of_materials("sbc-edge-agent", "0.1", "amd64", parts)
    assert bill == bill_of_materials("sbc-edge-agent", "0.1", "amd64", parts)
    (component,) = bill["components"]
    assert component["licenses"] == [{"expression": "Apache-2.0 OR BSD-3-Clause"}]
    assert [one["name"] for one in component["components"]] == ["openssl"]
    assert bill["dependencies"][0]["dependsOn"] == [component["bom-ref"]]


def test_copyright_has_a_paragraph_for_each_part() -> None:
    text = copyright_file("sbc-edge-agent", "Format: x\n", [Part("rich", "15", "MIT", "pkg:pypi/rich@15")])
    assert "Files: usr/lib/sbc-edge-agent/site-packages/rich*" in text
    assert "License: rich-MIT" in text


def python_debs(folder: Path) -> Path:
    """Something that is built like Debian's package of the interpreter."""
    tree = folder / "tree"
    documents = tree / "usr/share/doc/python3.11-minimal"
    documents.mkdir(parents=True)
    (documents / "copyright").write_text("Python's terms")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: python3.11-minimal\nVersion: 3.11.2-6\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
    )
    (folder / "debs").mkdir()
    deb = folder / "debs" / "python3.11-minimal_3.11.2-6_amd64.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(deb)], check=True, capture_output=True)
    return folder / "debs"


def test_texts_of_all_licences_are_written(site: Path) -> None:
    wheel(site, "some_lib", "License-Expression: MIT")
    wheel(site, "bare", "License-Expression: MIT", text="")
    parts = list(wheels(site, site.parent / "uv.lock"))
    write_texts(site.parent / "texts", parts, python_debs(site.parent))
    assert (site.parent / "texts" / "some_lib" / "LICENSE").read_text() == "terms"
    assert "MIT" in (site.parent / "texts" / "bare" / "LICENCE").read_text()
    assert (site.parent / "texts" / "python3.11" / "copyright").read_text() == "Python's terms"


def test_whole_inventory_is_made_or_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(site, "some_lib", "License-Expression: MIT")
    (site.parent / "copyright").write_text("Format: x\n")
    arguments = [
        "--package",
        "sbc-edge-agent",
        "--arch",
        "amd64",
        "--version",
        "0.1",
        "--site",
        str(site),
        "--lock",
        str(site.parent / "uv.lock"),
    ]
    arguments += ["--python", str(python_debs(site.parent)), "--copyright", str(site.parent / "copyright"), "--out"]
    assert main([*arguments, str(site.parent / "out")]) == 0
    bill = json.loads((site.parent / "out" / "sbom.cdx.json").read_text())
    assert [one["name"] for one in bill["components"]] == ["python3.11-minimal", "some_lib"]
    wheel(site, "other", "License: unheard of")
    assert main([*arguments, str(site.parent / "again")]) == 1
    assert "look whether it may be shipped" in capsys.readouterr().err
