"""What a score means: the table of ladders, and what is read from it."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from msds_plugin import registry
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring.arrays import Scores, score
from msds_plugin.adapters.scoring.ladders import KINDS, TABLE, equivalents, explain, jpeg_equivalent

CONTENT = json.loads(TABLE.read_text())
MEASURED = [(metric, kind) for metric, kinds in CONTENT["metrics"].items() for kind in kinds]


@pytest.fixture(scope="module")
def auto():
    return create_scorer("msds-auto")


def score_of(metric, kind, rung):
    best = registry.get(metric).best
    difference = CONTENT["metrics"][metric][kind][1][rung]
    return best - difference if best == 1 else best + difference


def test_the_table_is_small_and_knows_our_metrics():
    assert {"msds-auto", "msds-hybrid"} <= set(CONTENT["metrics"]) <= set(registry.names()) - {"spips"}
    assert TABLE.stat().st_size < 20_000


@pytest.mark.parametrize(("metric", "kind"), MEASURED)
def test_quartiles_are_in_order_and_more_damage_scores_worse(metric, kind):
    quartiles = np.array(CONTENT["metrics"][metric][kind])
    assert quartiles.shape == (3, len(CONTENT["rungs"][kind]))
    assert (quartiles > 0).all()
    assert (np.diff(quartiles, axis=0) >= 0).all()
    assert quartiles[1, -1] > quartiles[1, 0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_median_of_a_rung_is_that_rung(auto, kind):
    for rung, level in list(enumerate(CONTENT["rungs"][kind]))[1:-1]:
        found = {each.distortion: each for each in equivalents(auto, score_of("msds-auto", kind, rung))}[kind]
        assert found.level == pytest.approx(level, rel=1e-6)
        assert found.low <= found.level <= found.high


def test_a_better_score_is_a_better_jpeg(auto):
    scores = np.linspace(score_of("msds-auto", "jpeg", -1), score_of("msds-auto", "jpeg", 0), 200)
    found = [jpeg_equivalent(auto, score) for score in scores[1:-1]]
    assert found == sorted(found)
    assert 5 < found[0] < found[-1] < 95


def test_in_words(auto):
    lines = explain(auto, score_of("msds-auto", "jpeg", 6)).splitlines()
    assert lines[0].startswith("msds-auto 0.")
    assert lines[1].startswith(f"  as JPEG of quality {CONTENT['rungs']['jpeg'][6]} (half of the photographs from ")
    assert lines[2].startswith("  as a Gaussian blur of ")
    assert lines[3].startswith("  as noise of 0.0")
    assert lines[4] == "  beyond a shift of 31 px"


def test_nothing_is_said_of_what_was_not_measured(auto):
    assert explain(auto, -0.5).splitlines()[1:] == [
        "  beyond JPEG of quality 5",
        "  beyond a Gaussian blur of 8 px",
        "  beyond noise of 0.3",
        "  beyond a shift of 31 px",
    ]
    assert explain(auto, 1 - 1e-7).splitlines()[1] == "  milder than JPEG of quality 95"
    assert explain(auto, 1).splitlines() == ["msds-auto 1.0000:", "  as identical images"]
    assert [jpeg_equivalent(auto, score) for score in (1, -0.5)] == [math.inf, -math.inf]
    assert math.isnan(jpeg_equivalent(auto, math.nan))
    assert explain(auto, math.nan) == "msds-auto gave no score"


@pytest.mark.parametrize("name", ["msds-fast,levels=2", "msds,backbone=alexnet,weights=None", "piq:gmsd"])
def test_metrics_that_were_not_measured(name):
    scorer = create_scorer(name)
    assert explain(scorer, 0.9).startswith(f"what a score of {scorer.name} means was not measured: it was for msds-auto, ")
    with pytest.raises(ValueError, match="was not measured"):
        jpeg_equivalent(scorer, 0.9)


def test_a_jpeg_is_as_a_jpeg(auto, photographs):
    for photograph in photographs:
        file = io.BytesIO()
        pixels = (photograph[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=30)
        coded = photograph.new_tensor(np.asarray(Image.open(file), np.float32) / 255).permute(2, 0, 1)[None]
        assert 15 < jpeg_equivalent(auto, auto.metric(coded, photograph).item()) < 55


@pytest.fixture
def pairs(photographs, tmp_path):
    """A folder of two references and one of their JPEGs."""
    for place, photograph in enumerate(photographs[:2]):
        image = Image.fromarray((photograph[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        for folder, name in (("references", f"{place}.png"), ("distorted", f"{place}.jpg")):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / name, quality=40)
    return tmp_path / "references", tmp_path / "distorted"


def test_scores_explain_themselves(pairs, auto):
    references, distorted = pairs
    scores = score(distorted, references, "msds-auto")
    assert scores.explain() == explain(auto, scores.mean())
    assert scores.explain(1) == explain(auto, scores[1])
    with pytest.raises(ValueError, match="not made by"):
        Scores([0.5], "msds-auto", False).explain()


def test_the_command(pairs, auto, tmp_path, msds):
    output = tmp_path / "scores.csv"
    command = ["score", *pairs, "-m", "msds-auto", "-m", "piq:gmsd", "--explain"]
    done = msds(*command, "-o", output, stderr=("mean of msds-auto 0.", "  as JPEG of quality "))
    assert "what a score of piq:gmsd means was not measured" in done.stderr
    assert "mean of what" not in done.stderr
    table = pd.read_csv(output)
    assert list(table) == ["reference", "distorted", "msds-auto", "piq:gmsd", "msds-auto jpeg_equivalent"]
    assert table["msds-auto jpeg_equivalent"].tolist() == pytest.approx([jpeg_equivalent(auto, s) for s in table["msds-auto"]])
    one = msds("score", pairs[0] / "0.png", pairs[1] / "0.jpg", "-m", "msds-auto", "--explain")
    assert one.stderr.startswith(f"msds-auto {table['msds-auto'][0]:.4f}:\n  as JPEG of quality ")
