"""How long ``msds benchmark`` and ``msds score`` take to end after Ctrl-C, SIGTERM or SIGHUP, at moments all over a run.

    python tests/benchmarks/interrupt.py --images ../shared/data/sr4k/images --labels ../shared/data/sr4k/labels.csv

Each moment is a run of its own. Prints the seconds, the exit code and the last line of stderr; ends with 1 if one took longer than
two seconds, left a traceback or another exit code than 130, 143 and 129. To be measured on a quiet machine.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.0
METRICS = ("msds-fast", "piq:fsim", "piq:vif_p")


def _commands(images: Path, labels: Path, folder: str) -> dict[str, list[str]]:
    metrics = [part for name in METRICS for part in ("-m", name)]
    kept = ["--results", f"{folder}/kept.sqlite", "--resize", "bicubic"]
    return {
        "benchmark": ["benchmark", *metrics, "--csv", str(labels), "--root", str(images), *kept],
        "score": ["score", *metrics, "-r", str(sorted(images.glob("*_GT.*"))[0]), "-d", str(images), "-o", f"{folder}/x.csv"],
    }


def _interrupt(command: list[str], after: float, number: signal.Signals) -> tuple[float, int, str] | None:
    """Seconds to the end, exit code and stderr; None if the run was over before."""
    process = subprocess.Popen(
        ["msds", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where tests run in the background, shells have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after)
    if process.poll() is not None:
        return None
    start = time.perf_counter()
    process.send_signal(number)
    _, said = process.communicate()
    return time.perf_counter() - start, process.returncode, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder, in which *_GT.* are references")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--moments", type=float, nargs="+", default=[0.05, 0.1, 0.3, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20])
    options = parser.parse_args()
    bad = 0
    for name, places in (("benchmark", 0), ("score", 1)):
        for place, after in enumerate(options.moments):
            number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[(place + places) % 3]
            with tempfile.TemporaryDirectory() as folder:
                found = _interrupt(_commands(options.images, options.labels, folder)[name], after, number)
            if found is None:
                print(f"{name}\t{after:g} s\tended before")
                continue
            seconds, code, said = found
            wrong = seconds > LIMIT or "Traceback" in said or code != 128 + number
            bad += wrong
            last = said.strip().splitlines()[-1] if said.strip() else ""
            print(f"{name}\t{after:g} s\t{number.name}\t{seconds:.2f} s\t{code}\t{last}\t{'WRONG' if wrong else ''}", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
