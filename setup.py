"""Builds what is not written by hand: the protobuf code from proto/, and the compiled twins in agent/native.

Both are made before setuptools looks for packages, so wheels and editable installs hold them alike. A machine
without a C compiler still gets a working agent: the Python twins are the reference, the extensions are optional.
"""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
PROTO = ROOT / "proto"


def generate_contracts() -> None:
    """Run protoc over proto/ into ./sbcedge (never committed); nothing to do when that is newer."""
    sources = sorted(PROTO.rglob("*.proto"))
    outputs = [ROOT / s.relative_to(PROTO).with_name(s.stem + "_pb2.py") for s in sources]
    newest = max((s.stat().st_mtime for s in sources), default=0.0)
    if all(o.exists() and o.stat().st_mtime >= newest for o in outputs):
        return
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTO}",
            f"--python_out={ROOT}",
            f"--pyi_out={ROOT}",
            f"--grpc_python_out={ROOT}",
        ]
        + [str(s) for s in sources],
        check=True,
    )
    # Packages by file, not by namespace, so that setuptools, mypy and pytest all see the same thing.
    for output in outputs:
        folder = output.parent
        while folder != ROOT:
            (folder / "__init__.py").touch()
            folder = folder.parent


def extension(name: str, *sources: str) -> Extension:
    return Extension(
        f"agent.native.{name}",
        [f"agent/native/{s}" for s in sources],
        depends=[str(h.relative_to(ROOT)) for h in (ROOT / "agent/native").glob("*.h")],
        extra_compile_args=[
            "-O3",
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wno-missing-field-initializers",
            "-ffp-contract=off",  # the twins must compute the same doubles on every machine
            "-ffile-prefix-map=" + str(ROOT) + "=.",
        ],
        optional=True,
    )


generate_contracts()
GATE = ("gate_redirect", "gate_hook", "call", "attempts", "transactions", "table")
EXTENSIONS = [
    e
    for e in (
        extension("_hashing", "hashing.c"),
        extension("_sip", "sip.c"),
        extension("_numbers", "numbers.c"),
        extension("_rates", "rates.c"),
        extension("_answer", "answer.c"),
        extension("_udp", "udp.c"),
        extension("_hook", "hook.c"),
        extension(
            "_gate", "gate.c", "gate_redirect.c", "gate_hook.c", "call.c", "attempts.c", "transactions.c", "table.c"
        ),
        extension("_identity", "identity.c"),
        extension("_packet", "packet.c"),
        extension("_crc32c", "crc32c.c"),
        extension("_columns", "columns.c"),
    )
    if all((ROOT / s).exists() for s in e.sources)
]
setup(ext_modules=EXTENSIONS)
