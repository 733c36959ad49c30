"""Masks, and how MSDS-Auto judged pairs: by ``msds score`` and by ``msds_plugin.score``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import msds_plugin
from msds_plugin.adapters.benchmark import compare
from msds_plugin.adapters.images.read import read_image
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring import Pair, Run, score_pairs
from msds_plugin.adapters.scoring.masks import find_masks
from msds_plugin.adapters.scoring.store import pair_keys
from msds_plugin.adapters.scoring.tables import read_table

SIZE = (160, 192)
TOP, LEFT, HEIGHT, WIDTH = 48, 64, 64, 80
#: One metric whose images are cropped to the mask, and two that take it as saliency.
METRICS = ["piq:psnr", "deepssim-fast", "msds-fast"]


@pytest.fixture
def images(tmp_path, picture):
    """``r.png``, ``d.png``, and ``m.png``, a mask that is white in a rectangle without one of its corners."""
    white = np.zeros(SIZE, np.uint8)
    white[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = 255
    white[TOP : TOP + 16, LEFT : LEFT + 16] = 0
    for name, pixels in (("r", picture(0, 0, SIZE)), ("d", picture(0, 12, SIZE)), ("m", white)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def changed(path: Path, rows: slice, columns: slice) -> Path:
    """A copy in which a part is black."""
    pixels = np.array(Image.open(path))
    pixels[rows, columns] = 0
    target = path.with_name(f"changed-{rows.start}.png")
    Image.fromarray(pixels).save(target)
    return target


def scores(folder: Path, distorted: Path, mask: bool = True, metrics: list[str] = METRICS) -> list[float]:
    reference = folder / "r.png"
    run = Run(masks={reference: folder / "m.png"} if mask else {})
    scorers = [create_scorer(name, "cpu", "torch") for name in metrics]
    results = list(score_pairs([Pair(reference, distorted)], scorers, run))
    assert [result.error for result in results] == [None] * len(metrics)
    return [result.score for result in results]


def test_what_lies_outside_does_not_count_and_what_lies_inside_does(images):
    found = scores(images, images / "d.png")
    assert scores(images, changed(images / "d.png", slice(0, 30), slice(0, 192))) == found
    inside = scores(images, changed(images / "d.png", slice(80, 96), slice(90, 110)))
    assert all(one != other for one, other in zip(found, inside, strict=True))
    assert all(one != other for one, other in zip(found, scores(images, images / "d.png", mask=False), strict=True))
    cropped = [read_image(images / name)[..., TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] for name in ("d.png", "r.png")]
    assert found[0] == pytest.approx(create_scorer("piq:psnr").metric(*cropped).item(), abs=1e-6)


def test_near_the_edge_only_the_first_layer_and_the_pyramid_look_across(images):
    found = scores(images, images / "d.png")[1:]
    far = changed(images / "d.png", slice(TOP + HEIGHT + 8, 160), slice(0, 192))
    assert scores(images, far)[1:] == found


def test_a_white_mask_is_no_mask(images):
    Image.new("L", SIZE[::-1], 255).save(images / "m.png")
    assert scores(images, images / "d.png") == scores(images, images / "d.png", mask=False)


def test_with_saliency_both_count(images):
    name = "deepssim-fast,saliency=gbvs,saliency_threshold=0.1"
    (found,) = scores(images, images / "d.png", metrics=[name])
    metric = create_scorer(name, "cpu", "torch").metric
    mask = read_image(images / "m.png")[:, :1]
    with torch.inference_mode():
        x, y = (
            metric.represent(image, metric.attend(image) * mask)
            for image in map(read_image, (images / "d.png", images / "r.png"))
        )
        assert found == pytest.approx(metric.compare(x, y).item(), abs=1e-6)


def test_the_command_says_what_a_mask_does_and_keeps_scores_by_its_content(msds, images):
    for folder in ("ref", "dist", "masks"):
        (images / folder).mkdir()
    for name in ("a", "b"):
        for folder, source in (("ref", "r"), ("dist", "d"), ("masks", "m")):
            Image.open(images / f"{source}.png").save(images / folder / f"{name}.png")
    (images / "dist/b.png").write_bytes(b"damaged")
    command = ("score", "-m", "piq:psnr,deepssim-fast", "--runtime", "torch", "ref", "dist", "--mask", "masks", "-o", "s.csv")
    msds(*command, code=1, stderr="Mask: as saliency for deepssim-fast and as a crop to its bounding box for piq:psnr")
    before = read_table(Path("s.csv"))
    wanted = scores(images, images / "d.png", metrics=["piq:psnr", "deepssim-fast"])
    assert before.iloc[0, 2:].tolist() == pytest.approx(wanted, abs=1e-6)
    msds(*command, code=1, stderr="used again: 2")
    Image.new("L", SIZE[::-1], 255).save("masks/a.png")
    assert "used again" not in msds(*command, code=1).stderr
    assert read_table(Path("s.csv"))["piq:psnr"][0] != before["piq:psnr"][0]
    Path("masks/b.png").rename("masks/c.png")
    msds(*command, code=2, stderr=("a mask for every reference", "c.png"))
    (images / "elsewhere/ref").mkdir(parents=True)
    Path("masks/a.png").rename("elsewhere/ref/a.png")
    Path("masks/c.png").rename("elsewhere/ref/b.png")
    wanted = "masks of the images in ref: no two names agree; the first are a.png and ref/a.png"
    msds(*(*command[:-3], "elsewhere"), code=2, stderr=wanted)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.zeros(SIZE, np.uint8), "nowhere white"),
        (np.full((10, 20), 255, np.uint8), "the mask m.png has 20 x 10 pixels, its reference 192 x 160"),
        (None, "cannot read m.png"),
    ],
)
def test_masks_that_cannot_be_used(msds, images, mask, says):
    if mask is None:
        Path("m.png").write_text("no image")
    else:
        Image.fromarray(mask).save("m.png")
    msds("score", "-m", "piq:psnr", "r.png", "d.png", "--mask", "m.png", code=1, stderr=says)
    msds("score", "-m", "deepssim-fast", "r.png", "d.png", "--mask", "m.png", "--map", "maps", code=2)
    msds("score", "-m", "piq:psnr", "r.png", "d.png", "--mask", "absent.png", code=2)


def test_references_by_absolute_and_by_relative_paths_have_masks_of_one_folder(images, monkeypatch):
    monkeypatch.chdir(images)
    Path("masks").mkdir()
    for name in ("r.png", "d.png"):
        Path("masks", name).write_bytes(Path("m.png").read_bytes())
    given = [images / "r.png", Path("d.png")]
    assert find_masks(Path("masks"), given) == {path: Path("masks", path.name) for path in given}


def test_transparency_of_a_mask_is_said(images):
    said = []
    mask = Image.open(images / "m.png")
    mask.putalpha(mask.copy())
    mask.save(images / "m.png")
    run = Run(masks={images / "r.png": images / "m.png"}, note=said.append)
    list(score_pairs([Pair(images / "r.png", images / "d.png")], [create_scorer("piq:psnr", "cpu")], run))
    assert any("m.png has transparent pixels" in note for note in said)


def test_a_mask_needs_images_of_one_size(images):
    Image.open(images / "d.png").crop((0, 0, 180, 160)).save(images / "d.png")
    reference = images / "r.png"
    run = Run(masks={reference: images / "m.png"})
    (result,) = score_pairs([Pair(reference, images / "d.png")], [create_scorer("deepssim-fast", "cpu", "torch")], run)
    assert "its size is not that of its reference, as a mask needs" in result.error


def test_a_key_follows_the_mask(images):
    pair = Pair(images / "r.png", images / "d.png")
    keys = [pair_keys([pair], masks)[0] for masks in ({}, {pair.reference: images / "m.png"}, {pair.reference: pair.reference})]
    assert len(set(keys)) == 3
    run = Run(masks={pair.reference: images / "m.png"})
    (result,) = score_pairs([pair], [create_scorer("piq:psnr", "cpu")], run, keyed=True)
    assert result.key == keys[1]


def test_methods_are_compared_with_masks(images):
    for folder, source in (("ref", "r"), ("ours", "d")):
        (images / folder).mkdir()
        Image.open(images / f"{source}.png").save(images / folder / "a.png")
    found = compare({"ours": images / "ours"}, images / "ref", ["piq:psnr"], mask=images / "m.png").scores["score"]
    assert found.tolist() == pytest.approx(scores(images, images / "d.png", metrics=["piq:psnr"]), abs=1e-6)


def test_masks_of_whatever_holds_them(images):
    x, y, mask = (np.array(Image.open(images / f"{name}.png")) for name in "drm")
    wanted = scores(images, images / "d.png")
    options = {"device": "cpu", "runtime": "torch"}
    for form in (mask, mask / 255, mask > 0, str(images / "m.png"), Image.fromarray(mask), [mask]):
        found = msds_plugin.score(x, y, METRICS, mask=form, **options)
        assert [float(found[name]) for name in METRICS] == pytest.approx(wanted, abs=1e-6), type(form)
    assert "Mask: as saliency" in found["msds-fast"].notes[0]
    with pytest.raises(ValueError, match="no map"):
        found["msds-fast"].map()
    for folder, names in (("r", "ab"), ("m", "ab"), ("d", "a")):
        (images / folder).mkdir()
        for name in names:
            (images / folder / f"{name}.png").write_bytes((images / f"{folder}.png").read_bytes())
    found = msds_plugin.score(images / "d", images / "r", METRICS, mask=images / "m", **options)
    assert [float(found[name]) for name in METRICS] == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(ValueError, match="2 masks and 1 references"):
        msds_plugin.score(x, y, METRICS, mask=[mask, mask], **options)
    with pytest.raises(ValueError, match="nowhere white"):
        msds_plugin.score(x, y, METRICS, mask=mask * 0, **options)


def test_how_msds_auto_judged_is_shown_beside_its_score(msds, images):
    Image.open("r.png").resize((192, 100)).save("thin.png")
    Path("d").mkdir()
    for name in ("d.png", "thin.png"):
        Path(name).rename(Path("d", name))
    command = ("score", "-m", "msds-auto", "--runtime", "torch", "r.png", "d", "--details")
    result = msds(*command, "-o", "s.json", "--summary", "m.csv")
    heading, *rows = (line.split("\t") for line in result.stdout.splitlines())
    assert heading == ["reference", "distorted", "msds-auto ↑", "msds-auto regime"]
    assert [row[3] for row in rows] == ["aligned", "retargeted"]
    assert read_table(Path("s.json"))["msds-auto regime"].tolist() == ["aligned", "retargeted"]
    assert read_table(Path("m.csv"))["metric"].tolist() == ["msds-auto"]
    scored = msds_plugin.score(["d/d.png", "d/thin.png"], "r.png", "msds-auto", runtime="torch", details=True)
    assert scored.regimes == ["aligned", "retargeted"]
    assert list(scored.to_frame()) == ["reference", "distorted", "msds-auto", "msds-auto regime"]
    assert "judged as aligned, retargeted" in repr(scored)
    msds("score", "-m", "piq:psnr", "r.png", "d", "--details", code=2, stderr="msds-auto")
