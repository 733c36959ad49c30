"""``msds assert`` and ``msds calibrate``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msds_plugin.adapters.cli.shared.options import run_options
from msds_plugin.adapters.cli.shared.terminal import INCOMPLETE, clean_stdout, one_line, say, setup

if TYPE_CHECKING:
    from msds_plugin.adapters.gate import Verdict
    from msds_plugin.adapters.scoring import Run


@run_options("mod_crop", "resize")
def assert_alike(
    golden: Annotated[Path, typer.Argument(metavar="GOLDEN", help="Image that is right, or a folder of such.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Image to test, or a folder of them with the same names.")],
    max_difference: Annotated[
        float | None,
        typer.Option(min=0, help="What passes. [default: 1 of local, 0.02 of msds-auto]"),
    ] = None,
    calibrated: Annotated[Path | None, typer.Option(help="Threshold and metric that msds calibrate wrote.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", "-m", help="local, or a metric by name. [default: local]")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where an image that fails is drawn beside its golden and a map; a folder if NEW is one."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML.")] = None,
    *,
    run: Run,
) -> None:
    """Test whether new images look like their golden images.

    By default the largest local difference counts, after the images are moved over each other by up to two pixels: 1 is what
    resampling, antialiasing and compression give at most. Of another metric it is how much the score falls short of that of
    identical images. An image of another size fails, and so does one whose counterpart is missing. One line on stdout says what
    was found.

    Exit codes: 0 all alike, 1 one is not, 2 could not start or could not write.
    """
    from msds_plugin.adapters import gate
    from msds_plugin.adapters.scoring.files import check_file

    with setup(), clean_stdout():
        if junit is not None:
            check_file(junit)
        matching = gate.pairs_of(golden, new)
        others = {path.resolve() for path in (golden, new, junit, calibrated) if path is not None}
        places = {} if picture is None else {pair: _place(picture, pair.distorted, new) for pair in matching.pairs}
        for place in map(Path.resolve, places.values()):
            if others & {place, *place.parents}:
                raise ValueError(f"{place} is another of the files, or is inside a folder that is tested: choose a place apart")
        for note in matching.notes:
            say(note)
        scorer, allowed = gate.make(metric, max_difference, calibrated, run)
        verdicts = gate.judge(matching, scorer, allowed, run)
        failed = [verdict for verdict in verdicts if verdict.reason]
        for verdict in failed:
            if verdict.pair in places:
                say(gate.draw(verdict.pair, scorer, places[verdict.pair], run))
    count = f"{len(verdicts)} image{'s' * (len(verdicts) != 1)}"
    try:
        with setup():
            if junit is not None:
                _write_junit(verdicts, junit)
    finally:  # a file that cannot be written must not cost the verdict
        for verdict in failed[1:]:
            say(f"{verdict.name}: {verdict.reason}")
        if failed:
            print(one_line(f"FAILED {len(failed)} of {count}: {failed[0].name}: {failed[0].reason} ({scorer.name})"))
        else:
            largest = max(verdict.difference for verdict in verdicts)
            print(f"passed {count}: they differ by {largest:.4g} at most, {allowed:.4g} is allowed ({scorer.name})")
    if failed:
        raise typer.Exit(INCOMPLETE)


def _place(picture: Path, image: Path, new: Path) -> Path:
    """The file of the picture of an image in ``new``, a PNG."""
    place = picture / image.relative_to(new) if new.is_dir() else picture
    return place if place.suffix.lower() == ".png" else place.with_name(f"{place.name}.png")


def _write_junit(verdicts: Sequence[Verdict], path: Path) -> None:
    """Write verdicts as JUnit XML, a test case for each."""
    from msds_plugin.adapters.scoring.files import replace_file

    failures = sum(bool(verdict.reason) for verdict in verdicts)
    suite = ET.Element("testsuite", name="msds assert", tests=str(len(verdicts)), failures=str(failures), errors="0")
    for verdict in verdicts:
        # Control characters, which names may hold, have no place in XML.
        case = ET.SubElement(suite, "testcase", classname="msds", name=one_line(verdict.name), time=f"{verdict.seconds:.3f}")
        if verdict.reason:
            ET.SubElement(case, "failure", message=one_line(verdict.reason))
    replace_file(path, lambda part: ET.ElementTree(suite).write(part, "utf-8", xml_declaration=True))


@run_options("mod_crop", "resize")
def calibrate(
    golden: Annotated[Path, typer.Argument(metavar="GOLDEN", help="Image that is right, or a folder of such.")],
    renders: Annotated[
        list[Path], typer.Argument(metavar="RENDERS...", help="The same rendered again: images, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file for msds assert --calibrated.")],
    metric: Annotated[str, typer.Option("--metric", "-m", help="local, or a metric by name.")] = "local",
    *,
    run: Run,
) -> None:
    """Learn from repeated renders how much images differ that are right.

    The threshold is the largest difference from GOLDEN that was seen; with folders, of any image. It says how often a render
    like these will fail, and nothing about how small a fault is caught.

    Exit codes: 0 written, 2 could not start or could not write.
    """
    from msds_plugin.adapters import gate
    from msds_plugin.adapters.scoring.files import check_file

    with setup(), clean_stdout():
        check_file(output)
        found = gate.calibrate(golden, renders, metric, run)
        found.save(output)
    print(
        f"{found.max_difference:.4g} ({metric}), the largest of {found.renders} renders: one more like them fails with a "
        f"probability of {found.chance:.1%} at most; with 95 % confidence the rate is below {found.bound:.1%}"
    )
