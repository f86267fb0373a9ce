"""What is inside a package of ours: a CycloneDX bill of materials, Debian's copyright file, and every licence's text.

Reads the wheels as they were installed (their METADATA), the lock file for the hashes they came with, and Debian's
packages of the interpreter. Anything without a licence that we know we may ship together with ours is an error: a new
dependency is looked at by a person before it is in a package.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final

OURS: Final = "sbc-edge-agent"
"""The name of our own wheel, which serves all packages."""

MAY_BE_SHIPPED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 AND BSD-2-Clause",
        "Apache-2.0 OR BSD-3-Clause",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "LGPL-3.0-only",  # psycopg: a library that whoever has the package can replace in its tree
        "MIT",
        "MIT-0",
        "MIT OR Apache-2.0",
        "MPL-2.0",
        "PSF-2.0",
    }
)
"""SPDX expressions that go with Apache-2.0. Not GPL-2.0-only: what imports it may not be handed on under ours."""

CHOSEN: Final = {
    "pyroute2": "Apache-2.0",  # GPL-2.0-or-later OR Apache-2.0
}
"""Where the authors let us choose, and one of the choices does not go with ours."""

WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}
"""What older metadata says in words or by a classifier, in SPDX's."""

WITHIN: Final[dict[str, Sequence[tuple[str, str]]]] = {
    "cryptography": (("openssl", "Apache-2.0"),),
    "cffi": (("libffi", "MIT"),),
    "duckdb": (("duckdb", "MIT"),),
    "psycopg-binary": (("libpq", "PostgreSQL"), ("openssl", "Apache-2.0"), ("krb5", "MIT")),
    "pyarrow": (("arrow-cpp", "Apache-2.0"), ("openssl", "Apache-2.0"), ("aws-sdk-cpp", "Apache-2.0")),
    "grpcio": (
        ("boringssl", "Apache-2.0 AND ISC"),
        ("abseil-cpp", "Apache-2.0"),
        ("c-ares", "MIT"),
        ("re2", "BSD-3-Clause"),
        ("upb", "BSD-3-Clause"),
        ("zlib", "Zlib"),
    ),
}
"""Libraries that are compiled into a wheel: a scanner that looks for OpenSSL must find it here."""

LICENCE_NAMES: Final = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS")


class UnknownLicenceError(Exception):
    """Something inside has a licence that nobody has looked at."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing inside. `texts` are files with its licence."""

    name: str
    version: str
    licence: str
    purl: str
    sha256: Sequence[str] = ()
    homepage: str = ""
    texts: Sequence[Path] = ()
    within: Sequence[tuple[str, str]] = field(default=())


def wheels(site: Path, lock: Path) -> Iterator[Part]:
    """Every installed distribution but ours. Raises UnknownLicenceError."""
    hashes = _locked_hashes(lock)
    for folder in sorted(site.glob("*.dist-info")):
        metadata = HeaderParser().parsestr((folder / "METADATA").read_text())
        name, version = metadata["Name"], metadata["Version"]
        if name == OURS:
            continue
        texts = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name.upper().startswith(LICENCE_NAMES)]
        yield Part(
            name=name,
            version=version,
            licence=_licence(name, metadata),
            purl=f"pkg:pypi/{_normal(name)}@{version}",
            sha256=hashes.get((_normal(name), version), ()),
            homepage=_homepage(metadata),
            texts=texts,
            within=WITHIN.get(name, ()),
        )


def interpreter(folder: Path) -> Iterator[Part]:
    """Debian's packages of Python."""
    for deb in sorted(folder.glob("*.deb")):
        name, version, arch = (_field(deb, one) for one in ("Package", "Version", "Architecture"))
        digest = subprocess.run(["sha256sum", str(deb)], check=True, capture_output=True, text=True).stdout.split()[0]
        purl = f"pkg:deb/debian/{name}@{version}?arch={arch}&distro=debian-12"
        yield Part(name, version, "PSF-2.0", purl, [digest], "https://www.python.org/")


def _field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", str(deb), name], check=True, capture_output=True, text=True).stdout.strip()


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _locked_hashes(lock: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """SHA-256 of every wheel that the lock file allows for a version: one of them was installed."""
    document = tomllib.loads(lock.read_text())
    return {
        (_normal(one["name"]), one["version"]): tuple(w["hash"].removeprefix("sha256:") for w in one.get("wheels", []))
        for one in document["package"]
        if "version" in one
    }


def _licence(name: str, metadata: "Message[str, str]") -> str:
    if name in CHOSEN:
        return CHOSEN[name]
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License")]
    said = metadata["License-Expression"] or metadata["License"] or ", ".join(classifiers)
    licence = WORDS.get(said, said)
    if licence not in MAY_BE_SHIPPED:
        raise UnknownLicenceError(
            f"{name} {metadata['Version']}: licence {said[:80]!r}: look whether it may be shipped with ours, then "
            f"add it to tools/package/inventory.py"
        )
    return licence


def _homepage(metadata: "Message[str, str]") -> str:
    if metadata["Home-page"]:
        return str(metadata["Home-page"])
    urls = [u.split(",", 1) for u in metadata.get_all("Project-URL", [])]
    wanted = ("homepage", "source", "source code", "repository", "documentation")
    found = {label.strip().lower(): url.strip() for label, url in urls}
    return next((found[label] for label in wanted if label in found), "")


def bill_of_materials(package: str, version: str, arch: str, parts: Sequence[Part]) -> dict[str, Any]:
    """CycloneDX 1.5. Holds no time and a serial number made of its content, so that a build can be repeated."""
    components = [_component(part) for part in parts]
    content = json.dumps(components, sort_keys=True)
    own = f"pkg:deb/sbc-edge/{package}@{version}?arch={arch}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + content)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": package,
                "version": version,
                "purl": own,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": own, "dependsOn": [c["bom-ref"] for c in components]}],
    }


def _component(part: Part) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
        "licenses": _licences(part.licence),
    }
    if len(part.sha256) == 1:
        component["hashes"] = [{"alg": "SHA-256", "content": part.sha256[0]}]
    if part.homepage:
        component["externalReferences"] = [{"type": "website", "url": part.homepage}]
    if part.within:
        component["components"] = [
            {"type": "library", "bom-ref": f"{part.purl}#{name}", "name": name, "licenses": _licences(licence)}
            for name, licence in part.within
        ]
    return component


def _licences(expression: str) -> list[dict[str, Any]]:
    """CycloneDX tells a single licence from an expression."""
    return [{"expression": expression}] if " " in expression else [{"license": {"id": expression}}]


def copyright_file(package: str, start: str, parts: Sequence[Part]) -> str:
    """Debian's copyright file: `start` says what holds for ours, a paragraph each for what else is inside."""
    paragraphs = [start.rstrip("\n")]
    for part in parts:
        folder = part.name.replace("-", "_")
        files = (
            f"usr/lib/{package}/site-packages/{folder}*"
            if part.purl.startswith("pkg:pypi")
            else f"usr/lib/{package}/python/*"
        )
        within = "".join(f"\n .\n Compiled into it: {name} ({licence})." for name, licence in part.within)
        paragraphs.append(
            f"Files: {files}\n"
            f"Copyright: the authors of {part.name}{f' <{part.homepage}>' if part.homepage else ''}\n"
            f"License: {part.name}-{part.licence.replace(' ', '-')}\n"
            f" {part.name} {part.version}: {part.licence}.\n"
            f" The text is in /usr/share/doc/{package}/licences/{_text_folder(part)}.{within}"
        )
    return "\n\n".join(paragraphs) + "\n"


def _text_folder(part: Part) -> str:
    return part.name if part.purl.startswith("pkg:pypi") else "python3.11"


def write_texts(folder: Path, parts: Sequence[Part], python_debs: Path) -> None:
    """Every licence's text, by part. Raises UnknownLicenceError for a wheel that brings none."""
    for part in parts:
        if not part.purl.startswith("pkg:pypi"):
            continue
        target = folder / part.name
        target.mkdir(parents=True)
        for text in part.texts:
            shutil.copyfile(text, target / text.name)
        if not part.texts:
            (target / "LICENCE").write_text(f"{part.name} {part.version} brings no text; it says: {part.licence}\n")
    target = folder / "python3.11"
    target.mkdir(parents=True)
    deb = next(python_debs.glob("python3.11-minimal_*.deb"))
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, capture_output=True).stdout
    debian = subprocess.run(
        ["tar", "-xO", "./usr/share/doc/python3.11-minimal/copyright"], input=archive, check=True, capture_output=True
    ).stdout
    (target / "copyright").write_bytes(debian)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write sbom.cdx.json, copyright and licences/ to --out. Returns 1 for a licence that nobody has looked at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--version", required=True)
    for name in ("--site", "--python", "--lock", "--copyright", "--out"):
        parser.add_argument(name, required=True, type=Path)
    args = parser.parse_args(arguments)
    try:
        parts = [*interpreter(args.python), *wheels(args.site, args.lock)]
    except UnknownLicenceError as error:
        print(f"inventory: {error}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True)
    bill = bill_of_materials(args.package, args.version, args.arch, parts)
    (args.out / "sbom.cdx.json").write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")
    (args.out / "copyright").write_text(copyright_file(args.package, args.copyright.read_text(), parts))
    write_texts(args.out / "licences", parts, args.python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
