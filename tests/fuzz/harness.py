"""Coverage-guided fuzzing, whatever the target.

The fuzzer runs in a process of its own, so that even a crash of a compiled twin leaves its input behind. Every input
that fails is kept in the target's corpus as crash-<first 8 hex digits of its SHA-256>, which the ordinary tests replay
from then on.

Exit status: 0 if nothing was found, 1 if something was, 2 if the fuzzer itself could not run.
"""

import argparse
import hashlib
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

INPUT_SECONDS = 5  # an input that takes longer is a finding: the longest one takes milliseconds
MAX_INPUT = 2_048  # longer inputs find nothing that shorter ones do not; the bounds of size have tests of their own
WORKER = "--worker"


@dataclass(frozen=True)
class Target:
    """`check` of the module `checks` raises for what must not be; `include` is what coverage is measured of."""

    module: str  # that runs it, "tests.fuzz.fuzz_sip"
    checks: str
    include: tuple[str, ...]
    suffix: str
    seeds: tuple[Path, ...] = ()  # beside the corpus

    @property
    def name(self) -> str:
        return self.module.rpartition("_")[2]

    @property
    def corpus(self) -> Path:
        return ROOT / "tests" / "corpus" / self.name

    @property
    def found(self) -> Path:
        """Inputs that reached something new; kept between runs."""
        return ROOT / "build" / "fuzz" / self.name

    @property
    def dictionary(self) -> Path:
        return ROOT / "tests" / "fuzz" / f"{self.name}.dict"


def run(target: Target, arguments: Sequence[str]) -> int:
    """The command line of a target."""
    if arguments[:1] == [WORKER]:
        work(target, arguments[1:])
    parser = argparse.ArgumentParser(prog=f"python -m {target.module}", description=f"Fuzz {target.name}.")
    parser.add_argument("--seconds", type=int, default=600, help="how long to run (default: %(default)s)")
    seconds = parser.parse_args(arguments).seconds
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: uv sync --group fuzz", file=sys.stderr)
        return 2
    target.found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as artifacts:
        status = run_worker(target, seconds, Path(artifacts))
        kept = [keep(path.read_bytes(), target.corpus, target.suffix) for path in sorted(Path(artifacts).iterdir())]
    for path in kept:
        print(f"kept {path.relative_to(ROOT)}")
    return 1 if kept else 2 if status else 0


def run_worker(target: Target, seconds: int, artifacts: Path) -> int:
    """Run the fuzzer in a process of its own; say how it goes and how many inputs it tried."""
    seeds = [str(folder) for folder in (target.found, target.corpus, *target.seeds) if folder.is_dir()]
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS}",
        f"-max_len={MAX_INPUT}",
        f"-artifact_prefix={artifacts}/",
        f"-dict={target.dictionary}",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", target.module, WORKER, *options, *seeds]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace") as worker:
        assert worker.stderr is not None
        for line in interesting(worker.stderr):
            print(line, end="", flush=True)
    return worker.returncode


def interesting(lines: Iterable[str]) -> Iterator[str]:
    """Without what libFuzzer writes for each new input and each word that it would add to the dictionary."""
    for line in lines:
        if not re.match(r'#\d+\s+(NEW|REDUCE|RELOAD|pulse)\b|"|INFO: Instrumenting', line):
            yield line


def keep(raw: bytes, corpus: Path, suffix: str) -> Path:
    path = corpus / f"crash-{hashlib.sha256(raw).hexdigest()[:8]}.{suffix}"
    path.write_bytes(raw)
    return path


def work(target: Target, arguments: Sequence[str]) -> None:
    """The process of the fuzzer. Does not return."""
    import atheris

    with atheris.instrument_imports(include=list(target.include)):
        checks = importlib.import_module(target.checks)
    atheris.Setup([sys.argv[0], *arguments], checks.check)
    atheris.Fuzz()
