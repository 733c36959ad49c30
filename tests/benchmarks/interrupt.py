"""How long ``msds benchmark`` and ``msds score`` take to end after Ctrl-C, SIGTERM or SIGHUP, at moments all over a run.

    python tests/benchmarks/interrupt.py ../shared/data/sr4k

Each moment is a run of its own. Prints the seconds, the exit code and the last line of stderr; ends with 1 if one took longer
than two seconds, left a traceback or another exit code than 130, 143 and 129. To be measured on a quiet machine.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.0
MOMENTS = (0.05, 0.1, 0.3, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
METRICS = [part for name in ("msds-fast", "piq:fsim", "piq:vif_p") for part in ("-m", name)]


def interrupt(command: list[str], after: float, number: signal.Signals) -> bool:
    """Whether the run ended as it should; prints how."""
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
        print(f"{command[0]}\t{after:g} s\tended before")
        return True
    start = time.perf_counter()
    process.send_signal(number)
    _, said = process.communicate()
    seconds, code = time.perf_counter() - start, process.returncode
    right = seconds <= LIMIT and "Traceback" not in said and code == 128 + number
    last = [*said.strip().splitlines(), ""][-1] if right else said
    print(f"{command[0]}\t{after:g} s\t{number.name}\t{seconds:.2f} s\t{code}\t{last}\t{'' if right else 'WRONG'}", flush=True)
    return right


def main(data: Path) -> int:
    images = data / "images"
    wrong = 0
    for place, after in enumerate(MOMENTS):
        with tempfile.TemporaryDirectory() as folder:
            kept = ["--results", f"{folder}/kept.sqlite", "--resize", "bicubic"]
            benchmark = ["benchmark", *METRICS, "--csv", str(data / "labels.csv"), "--root", str(images), *kept]
            reference = str(sorted(images.glob("*_GT.*"))[0])
            score = ["score", *METRICS, "-r", reference, "-d", str(images), "-o", f"{folder}/x.csv"]
            wrong += not interrupt(benchmark, after, SIGNALS[place % 3])
            wrong += not interrupt(score, after, SIGNALS[(place + 1) % 3])
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
