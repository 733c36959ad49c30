"""Commands that are told to stop, killed, started twice, or left without streams: as processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msds_plugin.adapters.scoring.store import Results
from msds_plugin.adapters.scoring.tables import read_table

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"), pytest.mark.slow]

#: ``msds`` whose scoring comes to a halt after some results, so that what happens does not depend on how fast it is.
STUCK = """
import signal, sys, time
# Which the shell, or nohup, may have had ignored for who runs the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from msds_plugin.adapters.scoring import store

original, halt = store.score_pairs, int(sys.argv.pop(1))

def stuck(*arguments):
    for place, result in enumerate(original(*arguments)):
        if place == halt:
            print("halted", file=sys.stderr, flush=True)
            time.sleep(600)
        yield result

store.score_pairs = stuck
from msds_plugin.adapters.cli import main
main()
"""
#: The same, but in one operation that takes minutes and knows nothing of signals, as a convolution of a large image does.
DEEP = """
import hashlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from msds_plugin.adapters.scoring import loop

original, done, halt = loop._Work._compare, [], int(sys.argv.pop(1))

def deep(*arguments):
    if len(done) == halt:
        print("halted", file=sys.stderr, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    done.append(1)
    return original(*arguments)

loop._Work._compare = deep
from msds_plugin.adapters.cli import main
main()
"""
SCORE = ("score", "-m", "piq:psnr", "-r", "ref.png", "-d", "dist", "-o", "scores.csv", "--workers", "2")
COUNT = 12


@pytest.fixture(autouse=True)
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("ref.png")
    Path("dist").mkdir()
    rows = []
    for index in range(COUNT):
        noisy = pixels // 2 + rng.integers(0, 9 * (index + 1), pixels.shape, dtype=np.uint8)
        Image.fromarray(noisy).save(f"dist/{index:02}.png")
        rows.append(f"ref.png,dist/{index:02}.png,{index}\n")
    Path("labels.csv").write_text("reference,distorted,score\n" + "".join(rows))


@contextmanager
def halted(*arguments: str, after: int = 5, program: str = STUCK) -> Iterator[subprocess.Popen[str]]:
    """The command, in a process group of its own, once it has come to its halt."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(after), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line == "halted\n":
                break
        yield process
    finally:
        process.kill()
        process.wait()


def msds(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from msds_plugin.adapters.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def shell(line: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -c 'from msds_plugin.adapters.cli import main; main()'"
    return subprocess.run(
        ["bash", "-c", line.replace("msds", program, 1)], capture_output=True, text=True, timeout=200, check=False
    )


def group(process: subprocess.Popen[str]) -> set[str]:
    """The processes of its group that are alive."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-g", str(process.pid)], capture_output=True, text=True, check=False)
    return {line for line in found.stdout.splitlines() if "Z" not in line}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_with_what_is_there(number: signal.Signals, code: int) -> None:
    with halted(*SCORE) as process:
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert f"Interrupted: 5 of {COUNT} pairs were scored; the same command goes on from here" in stderr
    table = read_table(Path("scores.csv"))
    assert table["piq:psnr"].notna().tolist() == [True] * 5
    assert len(stdout.splitlines()) == 6
    assert not group(process)


BENCHMARK = ("benchmark", "-m", "piq:psnr", "--csv", "labels.csv", "--resamples", "0", "--results", "kept.sqlite")


@pytest.mark.parametrize(("command", "after"), [((*SCORE[:-1], "1"), 1), (SCORE, 1), (BENCHMARK, 0)])  # 0: as it warms up
def test_a_signal_is_heard_during_an_operation_that_takes_minutes(command: tuple[str, ...], after: int) -> None:
    with halted(*command, after=after, program=DEEP) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Interrupted: " in stderr


def test_kill_leaves_no_process_and_no_half_file_and_costs_nothing_that_was_written() -> None:
    Path("scores.csv").write_text("reference,distorted,old\nr,d,1\n")
    with halted(*SCORE) as process:
        second = msds(*SCORE)
        assert second.returncode == 2
        assert second.stderr.splitlines()[-1] == (
            "Error: another run is writing scores.csv: wait for it, or choose another name"
        )
        process.kill()
        process.wait()
    assert not group(process)
    assert Path("scores.csv").read_text() == "reference,distorted,old\nr,d,1\n"
    done = msds(*SCORE)
    assert done.returncode == 0, done.stderr
    assert len(read_table(Path("scores.csv"))) == COUNT
    assert sorted(path.name for path in Path().iterdir()) == ["dist", "labels.csv", "ref.png", "scores.csv"]


def test_a_signal_ends_a_benchmark_with_what_is_there() -> None:
    with halted(*BENCHMARK, "--workers", "2") as process:
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "Interrupted: start again to go on from here"
    assert not group(process)
    with Results("kept.sqlite") as kept:
        assert len(kept.scored(1)) == 5


@pytest.mark.parametrize(("package", "imported"), [("msds_plugin.adapters.cli", "typer"), ("msds_command", "msds_plugin")])
def test_a_signal_during_imports_gives_one_line(package: str, imported: str) -> None:
    program = f"""
import builtins, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from {package} import main
original = builtins.__import__
def importing(name, *rest):
    if name.startswith({imported!r}):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:  # as some modules have it around what they import
            pass
    return original(name, *rest)
builtins.__import__ = importing
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("msds list >&-", 2, ["Error: cannot write to stdout: it is closed"]),
        ("msds list > /dev/full", 2, ["Error: cannot write to stdout: No space left on device"]),
        ("msds --help > /dev/full", 2, ["Error: cannot write to stdout: No space left on device"]),
        ("msds list | head -1; exit ${PIPESTATUS[0]}", (0, 141), []),
        ("msds list | :; exit ${PIPESTATUS[0]}", (0, 141), []),
        ("msds list 2>&-", 0, []),
        ("msds list 2> /dev/full", 0, []),
        ("msds score -m absent -r ref.png -d ref.png 2> /dev/full", 2, []),
        ("msds score -m absent -r ref.png -d ref.png 2>&- >&- <&-", 2, []),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_streams_that_are_closed_or_full(line: str, code: int | tuple[int, ...], said: list[str]) -> None:
    done = shell(line)
    assert done.returncode in ((code,) if isinstance(code, int) else code), done.stderr
    assert done.stderr.splitlines() == said


def test_the_file_is_written_whatever_becomes_of_stdout() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    for line, code in ((">&-", 0), ("> /dev/full", 2), ("2>&- | :", 0)):
        done = shell(f"msds {' '.join(SCORE)} {line}")
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert len(read_table(Path("scores.csv"))) == COUNT
        Path("scores.csv").unlink()
