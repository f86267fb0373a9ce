"""Coverage-guided fuzzing of everything that reads SIP: `python -m tests.fuzz.fuzz_sip --seconds 600`.

Starts from our corpus and, where it is there, the messages of other projects. The fuzzer runs in a process of its
own, so that even a crash of the compiled twin leaves its input behind. Every input that fails is kept as
tests/corpus/sip/crash-<first 8 hex digits of its SHA-256>.sip, which the ordinary tests replay from then on.

Exit status: 0 if nothing was found, 1 if something was, 2 if the fuzzer itself could not run.
"""

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.conftest import ROOT, SHARED_DATA

CORPUS = ROOT / "tests" / "corpus" / "sip"
FOUND = ROOT / "build" / "fuzz" / "sip"  # inputs that reached something new; kept between runs
DICTIONARY = ROOT / "tests" / "fuzz" / "sip.dict"
INPUT_SECONDS = 5  # an input that takes longer is a finding: the longest message takes milliseconds
MAX_INPUT = 2_048  # longer inputs find nothing that shorter ones do not; the size bound has tests of its own
WORKER = "--worker"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=600, help="how long to run (default: %(default)s)")
    seconds = parser.parse_args(arguments).seconds
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: uv sync --group fuzz", file=sys.stderr)
        return 2
    FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as artifacts:
        status = run_worker(seconds, Path(artifacts))
        kept = [keep(path.read_bytes()) for path in sorted(Path(artifacts).iterdir())]
    for path in kept:
        print(f"kept {path.relative_to(ROOT)}")
    return 1 if kept else 2 if status else 0


def run_worker(seconds: int, artifacts: Path) -> int:
    """Run the fuzzer in a process of its own; say how it goes and how many inputs it tried."""
    seeds = [str(folder) for folder in (FOUND, CORPUS, SHARED_DATA / "sip") if folder.is_dir()]
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS}",
        f"-max_len={MAX_INPUT}",
        f"-artifact_prefix={artifacts}/",
        f"-dict={DICTIONARY}",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz.fuzz_sip", WORKER, *options, *seeds]
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


def keep(raw: bytes) -> Path:
    path = CORPUS / f"crash-{hashlib.sha256(raw).hexdigest()[:8]}.sip"
    path.write_bytes(raw)
    return path


def work(arguments: Sequence[str]) -> None:
    """The process of the fuzzer. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["agent.sip", "tests.fuzz.checks"]):
        from tests.fuzz.checks import check

    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        work(sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
