"""``msds_plugin.score``: one function for whatever holds images."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageCms

import msds_plugin
from msds_plugin import MultiScale, registry
from msds_plugin.adapters.images.pairs import Pair
from msds_plugin.adapters.images.read import ImageFileError, read_image
from msds_plugin.adapters.scorers import create_scorer
from msds_plugin.adapters.scoring import score_pairs
from msds_plugin.adapters.scoring.arrays import Scores

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
X, Y = GOLDEN / "hats_blur2.png", GOLDEN / "hats.png"


def score(x, y, metric="msds-fast", **options):
    return msds_plugin.score(x, y, metric, device="cpu", runtime="torch", **options)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_everything_that_holds_an_image_gives_the_number_of_the_files():
    wanted = create_scorer("msds-fast", "cpu", "torch").metric(read_image(X), read_image(Y)).item()
    x, y = pixels(X), pixels(Y)
    tensor = torch.from_numpy(x.copy()).permute(2, 0, 1)
    deep = x.astype(np.uint16) * 257
    arrays = [x, np.ma.masked_array(x), deep, deep.astype(">u2"), x / 255, x[None]]
    forms = [str(X), X, Image.open(X), [X], *arrays, tensor, tensor[None] / 255]
    for form in forms:
        assert score(form, y)[0] == pytest.approx(wanted, abs=1e-7), type(form)
    assert float(msds_plugin.score(X, Y, "msds-fast", runtime="torch")) == pytest.approx(wanted, abs=1e-7)
    assert float(score(Image.open(X).convert("RGB").convert("LAB"), y)) == pytest.approx(wanted, abs=0.01)


def test_black_and_white_is_zero_and_255():
    x = pixels(X)[..., 0] > 128
    assert float(score(x, Y)) == float(score(torch.from_numpy(x), Y)) == float(score(x.astype(np.uint8) * 255, Y))


def test_threads_share_an_image_that_pillow_has_not_decoded_yet():
    wanted = float(score(pixels(X), Y, "piq:psnr"))
    for _ in range(5):
        assert list(score([Image.open(X)] * 6, Image.open(Y), "piq:psnr")) == [wanted] * 6


def test_lists_one_reference_for_all_and_sizes_mixed():
    x, y = pixels(X), pixels(Y)
    small = x[:120, :140]
    scores = score([x, small, y], y, "msds-fast")
    each = [float(score(image, y)) for image in (x, small, y)]
    assert list(scores) == pytest.approx(each, abs=1e-6)
    assert scores[2] == 1
    assert scores[:2] == pytest.approx(each[:2], abs=1e-6)
    assert scores.mean() == pytest.approx(np.mean(each), abs=1e-6)
    assert np.asarray(scores).shape == (3,)
    several = [str(X), str(Y)]
    column = pd.Series(several, index=[5, 3])  # as it is after sorting
    for form in (np.array(several), column, column.values, pd.Series([x, y])):
        assert list(score(form, y)) == pytest.approx([each[0], 1], abs=1e-6), type(form)


def test_grey_is_rgb():
    grey = pixels(X)[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, 2)
    scores = [float(score(form, Y)) for form in (grey, grey[..., None], Image.fromarray(grey), as_rgb)]
    assert len(set(scores)) == 1


def test_orientation_is_applied_and_said(tmp_path):
    turned = Image.open(X).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = float(score(X, Y))
    for form in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        scores = score(form, Y)
        assert float(scores) == upright
        assert "EXIF orientation 6" in repr(scores)
    turned.save(tmp_path / "damaged.png", exif=b"no EXIF")
    assert float(score(Image.open(tmp_path / "damaged.png"), turned)) == 1


def test_transparency_is_laid_over_white_and_said(tmp_path):
    rgba = np.dstack([pixels(X), np.full(pixels(X).shape[:2], 255, np.uint8)])
    opaque = score(rgba, Y)
    assert float(opaque) == float(score(X, Y))
    assert not opaque.notes  # an opaque image is what it is
    rgba[:50, :50, 3] = 0
    white = pixels(X).copy()
    white[:50, :50] = 255
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    for form in (rgba, Image.fromarray(rgba), tmp_path / "clear.png"):
        scores = score(form, Y)
        assert float(scores) == pytest.approx(float(score(white, Y)), abs=1e-7)
        (note,) = scores.notes
        assert "laid over" in note


def test_sixteen_bits_are_kept_and_said(tmp_path):
    grey = pixels(Y)[..., 0].astype(np.uint16) * 257
    less = grey - np.minimum(grey, 100)  # below one 8-bit step
    Image.fromarray(less).save(tmp_path / "less.png")
    for form in (less, tmp_path / "less.png", Image.open(tmp_path / "less.png")):
        scores = score(form, grey)
        assert float(scores) < 1
        assert any("16 bits" in note for note in scores.notes)


def test_colour_profiles_that_differ_are_brought_to_srgb_and_that_is_said(tmp_path):
    wide = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Red and blue swapped, which no reader can overlook.
    red, blue = (next(at for at in range(128, 400) if wide[at : at + 4] == tag) for tag in (b"rXYZ", b"bXYZ"))
    wide[red : red + 4], wide[blue : blue + 4] = b"bXYZ", b"rXYZ"
    swapped = Image.fromarray(pixels(X)[..., ::-1].copy())
    swapped.save(tmp_path / "x.png", icc_profile=bytes(wide))
    plain = float(score(X, Y))
    for form in (tmp_path / "x.png", Image.open(tmp_path / "x.png")):
        scores = score(form, Y)
        assert float(scores) == pytest.approx(plain, abs=1e-3)  # rounded to 8 bits on the way
        assert "both are converted to sRGB" in scores.notes[-1]
    results = score_pairs([Pair(tmp_path / "x.png", Path(Y))], [create_scorer("msds-fast", "cpu", "torch")])
    assert float(score(Y, tmp_path / "x.png")) == pytest.approx(next(results).score, abs=1e-6)
    same = score(tmp_path / "x.png", Image.open(tmp_path / "x.png"))
    assert float(same) == 1
    assert not same.notes


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (np.zeros((64, 64, 3), np.int32), TypeError, "int32"),
        (np.zeros((3, 64, 64), np.uint8), ValueError, "channels first"),
        (np.full((64, 64, 3), 200.0), ValueError, "divide 8-bit values by 255"),
        (torch.zeros(64, 64, 3), ValueError, "channels last"),
        (torch.zeros(3, 64, 64, dtype=torch.int64), TypeError, "int64"),
        ([], ValueError, "empty"),
        (None, TypeError, "x: .*NoneType"),
        (GOLDEN.glob("hats*.png"), TypeError, "generator"),  # in no order
        ([Y, np.zeros((64, 64), np.int64)], TypeError, r"x\[1\]: .*int64"),
        ("no.png", ImageFileError, "no.png"),
        (np.ma.masked_array(np.zeros((64, 64, 3), np.uint8), mask=True), TypeError, "masked array"),
    ],
)
def test_what_cannot_be_scored_says_why(given, error, says):
    with pytest.raises(error, match=says):
        score(given, np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"x": [X] * 3, "y": [Y] * 2}, ValueError, "3 distorted images and 2 references"),
        ({"x": [X, pixels(X)[:90]], "metric": "piq:psnr"}, ValueError, r"x\[1\]: its size is .* x 90"),
        ({"metric": ""}, ValueError, "no metric named ''"),
        ({"metric": msds_plugin.MSDS}, TypeError, "a metric is a name"),
        ({"metric": "piq:psnr", "runtime": "abacus"}, ValueError, "unknown runtime 'abacus'"),
    ],
)
def test_what_cannot_start_says_why(options, error, says):
    with pytest.raises(error, match=says):
        msds_plugin.score(**{"x": X, "y": Y, **options})


def test_reprs():
    scores = score([X, Y], Y)
    assert repr(scores).startswith("msds-fast, higher is better: 0.")
    html = scores._repr_html_()
    assert html.count("<img") == 4
    assert "1.0000" in html
    assert "<script>" not in Scores([0.5], "m", False, notes=["<script>"])._repr_html_()
    many = Scores(np.linspace(0, 1, 20), "m", True)
    assert "20 in all" in repr(many)
    assert "and 20 more" in many._repr_html_()
    with pytest.raises(TypeError, match="20 scores"):
        float(many)


def test_several_metrics_and_tables():
    scores = score([X, Y], Y, ["msds-fast", "piq:psnr"])
    assert list(scores) == ["msds-fast", "piq:psnr"]
    assert scores["msds-fast"].values == pytest.approx(score([X, Y], Y).values, abs=1e-6)
    table = scores.to_frame()
    assert list(table) == ["reference", "distorted", "msds-fast", "piq:psnr"]
    assert table["distorted"].tolist() == [str(X), str(Y)]
    assert score([X, pixels(X)], Y).names == [str(X), "x[1]"]
    assert scores._repr_html_().count("<th>") == 5
    assert score(X, Y).to_frame()["distorted"].tolist() == [str(X)]


def test_one_score_acts_as_a_number_and_several_compare_one_by_one():
    one, two = Scores([0.25], "m", False), Scores([0.25, 0.5], "m", False)
    assert one < 0.3
    assert one == 0.25
    assert one >= two.values[0]
    assert f"{one:.1f} {two:.2f}" == "0.2 0.25, 0.50"
    assert (two > 0.3).tolist() == [False, True]
    assert (np.mean(two), round(Scores([0.126], "m", False), 2)) == (0.375, 0.13)
    one += 1
    assert one == 1.25


def test_folders_and_patterns(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            Image.open(X if (folder, name) == ("x", "a") else Y).save(tmp_path / folder / f"{name}.png")
    wanted = list(score([X, Y], Y, "piq:psnr"))
    for x, y in (("x", "y"), ("x/*.png", "y/*.png"), ("x", "y/a.png"), ("x/?.png", "y")):
        found = score(str(tmp_path / x), str(tmp_path / y), "piq:psnr")
        assert list(found) == pytest.approx(wanted)
        assert [Path(name).name for name in found.names] == ["a.png", "b.png"]
    (tmp_path / "y/b.png").rename(tmp_path / "y/c.png")
    (tmp_path / "x/deep").mkdir()
    shutil.copy(X, tmp_path / "x/deep")
    notes = score(tmp_path / "x", tmp_path / "y", "piq:psnr").notes
    assert [Path(note.split()[0]).name for note in notes] == ["c.png", "b.png", "deep"]
    assert all("left out" in note for note in notes)
    with pytest.raises(ValueError, match="their names differ"):
        score(str(tmp_path / "x/*.png"), str(tmp_path / "y/*.png"), "piq:psnr")
    with pytest.raises(ValueError, match="their names differ"):
        score([tmp_path / "x/a.png", tmp_path / "x/b.png"], tmp_path / "y", "piq:psnr")
    with pytest.raises(ValueError, match="no file matches"):
        score(str(tmp_path / "*.jpg"), Y)


def test_a_map_is_a_figure_with_its_scale():
    figure = score(X, Y).map()
    assert len(figure.axes) == 2
    assert "99% quantile" in figure.axes[1].get_ylabel()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure))._repr_png_()
    with pytest.raises(ValueError, match="no map"):
        score(X, Y, "piq:psnr").map()
    with pytest.raises(ValueError, match="different sizes"):
        score(pixels(X)[:100], Y).map()


def test_nothing_stale_is_kept(tmp_path, random_alexnet_file, own_metric):
    file, options = tmp_path / "weights.pth", {"backbone": "alexnet", "weights": str(tmp_path / "weights.pth")}
    state = torch.load(random_alexnet_file, weights_only=True)
    found = []
    for factor in (1, 1.3, 1):
        torch.save({name: value * factor for name, value in state.items()}, file)
        found.append(float(score(X, Y, "deepssim", **options)))
    assert found[0] == found[2] != found[1]
    fusion = torch.tensor([0.8, 0.1, 0.1])
    before = float(score(X, Y, fusion=fusion))
    fusion.copy_(torch.tensor([0.1, 0.1, 0.8]))
    assert float(score(X, Y, fusion=fusion)) != before
    names = own_metric.name, f"ms-{own_metric.name}"
    registry.register(own_metric)
    before = [float(score(X, Y, name)) for name in names]
    twice = replace(own_metric, factory=lambda: MultiScale(lambda x, y: 2 * (x - y).abs().mean((1, 2, 3)), 1))
    registry.register(twice, override=True)
    assert [float(score(X, Y, name)) for name in names] == pytest.approx([2 * each for each in before])
