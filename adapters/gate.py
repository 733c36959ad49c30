"""A gate for tests: new renders pass where they look like their goldens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from msds_plugin import registry
from msds_plugin.adapters.images.colours import FRAMES
from msds_plugin.adapters.images.listing import list_images
from msds_plugin.adapters.images.pairs import Matching, Pair, Pairing, match
from msds_plugin.adapters.images.read import Opened, Reading, open_pair, open_side, preview
from msds_plugin.adapters.local_difference import LocalDifference
from msds_plugin.adapters.scorers import Scorer, choose_device, create_scorer
from msds_plugin.adapters.scoring import Run
from msds_plugin.adapters.scoring.files import content, replace_file
from msds_plugin.adapters.scoring.loop import score_pairs
from msds_plugin.adapters.scoring.maps import map_of, overlay
from msds_plugin.adapters.scoring.store import identity

#: The name of :func:`~msds_plugin.adapters.local_difference.local_difference`, which is the default.
LOCAL = "local"
#: What passes where nothing is stated: see docs/research/gate.md.
DEFAULT = {LOCAL: 1.0, "msds-auto": 0.02}
#: Differences of one metric on two machines.
ROUNDING = 1e-5
#: With which the bound on the false alarm rate holds.
CONFIDENCE = 0.95
_RUN = Run()
_LOCAL = Scorer(LOCAL, LocalDifference(), choose_device("cpu"), {}, lower_is_better=True, ours=True)
#: Pixels of the longer side of each panel of a picture, at most.
_SIDE = 1024


@dataclass(frozen=True)
class Verdict:
    """What is found of one golden.

    Attributes:
        name: the new image's path; the golden's where there is none.
        pair: the two files; None where one is missing.
        difference: how far the new image's score falls short of that of the golden beside itself; NaN where it has none.
        reason: why it fails; empty where it passes.
        seconds: that its score took.
    """

    name: str
    pair: Pair | None
    difference: float
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """A threshold learned from repeated renders.

    Attributes:
        metric: as asked for.
        source: all that its scores depend on but the images and the machine, as JSON.
        max_difference: the largest difference that was seen.
        renders: how many there were.
    """

    metric: str
    source: str
    max_difference: float
    renders: int

    @property
    def chance(self) -> float:
        """Probability that one more render like these fails: at most 1 in N + 1, as each of N + 1 is as likely the largest."""
        return 1 / (self.renders + 1)

    @property
    def bound(self) -> float:
        """What the false alarm rate does not exceed with a confidence of 95 %: Clopper-Pearson, none of N having failed."""
        return 1 - (1 - CONFIDENCE) ** (1 / self.renders)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = asdict(self) | {"false_alarms": {"chance": self.chance, "at_most": self.bound, "confidence": CONFIDENCE}}
        replace_file(path, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read it; a ValueError says that it is another file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = cls(content["metric"], content["source"], float(content["max_difference"]), int(content["renders"]))
            if not (isinstance(found.metric, str) and 0 <= found.max_difference < math.inf and found.renders > 0):
                raise ValueError(f"a threshold of {found.max_difference} for the metric {found.metric}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} was not written by msds calibrate ({type(error).__name__}: {error})") from error
        return found


def _scorer_of(metric: str, run: Run) -> Scorer:
    return _LOCAL if metric == LOCAL else create_scorer(metric, run.device, run.runtime)


def _source(scorer: Scorer, run: Run) -> str:
    known = identity(scorer, run)
    return json.dumps({name: known[name] for name in ("source", "amp", "reading")}, sort_keys=True)


def make(
    metric: str | None = None, max_difference: float | None = None, calibrated: Path | None = None, run: Run = _RUN
) -> tuple[Scorer, float]:
    """The metric and the difference that passes, from what a user states of both.

    Raises:
        ValueError: two thresholds, none for a metric that has no default, or one that was calibrated with another metric.
    """
    found = None if calibrated is None else Calibration.load(calibrated)
    if found is not None:
        if max_difference is not None or metric not in (None, found.metric):
            raise ValueError(f"{calibrated} states the threshold and its metric, {found.metric}: leave yours out")
        metric, max_difference = found.metric, found.max_difference
    metric = metric or LOCAL
    scorer = _scorer_of(metric, run)
    if found is not None and _source(scorer, run) != found.source:
        raise ValueError(f"{calibrated} is of another {metric} or other options of reading: msds calibrate again")
    allowed = DEFAULT.get(metric) if max_difference is None else max_difference
    if allowed is None or not 0 <= allowed < math.inf:
        raise ValueError(f"which difference of {metric} passes? state a number from 0 on as the maximum, or calibrate")
    return scorer, allowed


def pairs_of(golden: Path, new: Path) -> Matching:
    """Two files, a golden and a folder, or two folders with their sub-folders, matched by name.

    Raises:
        ValueError: no two names agree.
    """
    found = match(golden, new, Pairing(recursive=True, exact=True))  # frame_1 is no golden of frame_10
    if not found.pairs:
        raise ValueError(f"no image in {new} has the name of one in {golden}: give both the same names")
    return found


def judge(matching: Matching, scorer: Scorer, max_difference: float, run: Run = _RUN) -> list[Verdict]:
    """Compare new images with their goldens; an image whose counterpart is missing fails, and so does one of another size."""
    verdicts = [Verdict(str(path), None, math.nan, "it has no counterpart") for path in matching.unmatched]
    verdicts += [Verdict(str(path), None, math.nan, "this folder cannot be read") for path, _ in matching.left_out]
    for found in _differences(matching.pairs, scorer, run):
        more = found.difference > max_difference + ROUNDING
        reason = f"it differs by {found.difference:.6g}, more than {max_difference:.6g}" if more else found.reason
        verdicts.append(replace(found, reason=reason))
    return verdicts


def calibrate(golden: Path, renders: Sequence[Path], metric: str = LOCAL, run: Run = _RUN) -> Calibration:
    """Learn a threshold from renders that are right: files, or folders of them; of a folder of goldens, one folder each.

    Raises:
        ValueError: fewer than two renders, or one that lacks an image or cannot be compared.
    """
    if golden.is_dir():
        matchings = [pairs_of(golden, folder) for folder in _once(renders, golden)]
        for matching in matchings:
            if missing := [*matching.unmatched, *(folder for folder, _ in matching.left_out)]:
                raise ValueError(f"every render needs every golden: {missing[0]} has no counterpart, or cannot be read")
        runs = [matching.pairs for matching in matchings]
    else:
        files = [path for each in renders for path in (list_images(each) if each.is_dir() else [each])]
        runs = [(Pair(golden, path),) for path in _once(files, golden)]
    if len(runs) < 2:
        raise ValueError(f"a threshold needs two renders or more beside the golden, got {len(runs)}")
    scorer = _scorer_of(metric, run)
    found = _differences([pair for pairs in runs for pair in pairs], scorer, run)
    if failed := [each for each in found if each.reason]:
        raise ValueError(f"{failed[0].name}: {failed[0].reason}")
    return Calibration(metric, _source(scorer, run), max(each.difference for each in found), len(runs))


def _once(renders: Sequence[Path], golden: Path) -> list[Path]:
    """Each render once, however it is written, and the golden, which is none, not at all."""
    once = {path.resolve(): path for path in renders}
    once.pop(golden.resolve(), None)
    return list(once.values())


def _differences(pairs: Sequence[Pair], scorer: Scorer, run: Run) -> list[Verdict]:
    """For each pair the difference, or why there is none."""
    name = scorer.name.partition("(")[0]
    best = registry.get(name).best if name in registry.names() else 0.0 if name == LOCAL else math.inf
    itself = [] if math.isfinite(best) else [Pair(path, path) for path in {pair.reference for pair in pairs}]
    with closing(score_pairs([*itself, *pairs], [scorer], run, opener=_comparable)) as results:
        found = {result.pair: result for result in results}
    verdicts = []
    for pair in pairs:
        result = found[pair]
        of_golden = found[Pair(pair.reference, pair.reference)].score if itself else best
        difference = (result.score - of_golden) * (1 if scorer.lower_is_better else -1)
        reason = result.error or ("" if math.isfinite(difference) else f"{scorer.name} of identical images is not finite")
        difference = math.nan if reason else max(0.0, difference)
        verdicts.append(Verdict(str(pair.distorted), pair, difference, reason, result.seconds))
    return verdicts


def _comparable(pair: Pair, reading: Reading, golden: Opened | None) -> Opened:
    image = open_side(pair, reading, golden)
    if golden is not None and image.size != golden.size:
        (height, width), (golden_height, golden_width) = image.size, golden.size
        raise ValueError(f"it has {width} x {height} pixels, the golden {golden_width} x {golden_height}")
    if golden is not None and FRAMES in image.notes + golden.notes and content(pair.reference) != content(pair.distorted):
        raise ValueError("it, or the golden, holds several frames, and only the first would be compared: make files of them")
    return image


def draw(pair: Pair, scorer: Scorer, path: Path, run: Run = _RUN) -> str:
    """Write a PNG of the golden, the new image and, of images of one size, where they differ: by the metric's map, or the local
    difference's where it has none.

    Returns:
        Where it is, or why there is none, in one sentence.
    """
    try:
        panels = [preview(file, _SIDE, run.reading) for file in (pair.reference, pair.distorted)]
        able = scorer if scorer.ours and scorer.metric.has_map else _LOCAL
        with suppress(ValueError, RuntimeError):  # of other sizes, too small for a network, or too large for memory
            panels.append(overlay(*map_of(able, *open_pair(pair, run.reading))))
            panels[2].thumbnail((_SIDE, _SIDE))
        places = [sum(panel.width + 8 for panel in panels[:place]) for place in range(len(panels) + 1)]
        canvas = Image.new("RGB", (places[-1] - 8, max(panel.height for panel in panels)), "white")
        for panel, x in zip(panels, places, strict=False):
            canvas.paste(panel, (x, 0))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda part: canvas.save(part, "PNG"))
    except (OSError, ValueError) as error:
        return f"No picture of {pair.distorted}: {error}"
    return f"Picture: {path}"
