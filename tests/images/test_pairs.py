"""Folders and names: everything that could be meant is paired or named, and nothing is guessed."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from msds_plugin.adapters.images.listing import VIDEO_SUFFIXES, is_meant_as_image, list_folder, list_images
from msds_plugin.adapters.images.pairs import Matching, Pair, Pairing, match


def touch(folder: Path, names: str) -> Path:
    for name in names.split(" "):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def matched(tmp_path: Path, references: str, distorted: str, **how) -> Matching:
    return match(touch(tmp_path / "r", references), touch(tmp_path / "d", distorted), Pairing(**how))


def names(matching: Matching) -> str:
    return " ".join(f"{pair.reference.name}:{pair.distorted.name}" for pair in matching.pairs)


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ("x.avif x.jp2 x.jfif x.jpe x.tga x.dib x.pnm x.apng x.heic x.jxl x.exr x.TIF x.mpo x.djvu", True),
        ("notes.txt labels.csv film.mp4 archive.zip weights.pth README", False),
        (" ".join(f"x{suffix}" for suffix in sorted(VIDEO_SUFFIXES)), False),
    ],
)
def test_what_is_meant_as_an_image(names, meant) -> None:
    assert {name for name in names.split() if is_meant_as_image(name) is not meant} == set()


def test_hidden_files_are_no_images_and_broken_links_are(tmp_path) -> None:
    touch(tmp_path, "a.png ._a.png .b.png __MACOSX/a.png notes.txt Makefile")
    (tmp_path / "link.png").symlink_to("/nowhere/x.png")
    (tmp_path / "folder.png").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "no_suffix", "PNG")
    (tmp_path / "measurements").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "folder.png", "link.png", "no_suffix"]


def test_sub_folders_are_named_or_looked_into(tmp_path) -> None:
    touch(tmp_path, "a.png more/b.png more/deep/c.png empty/notes.txt")
    (tmp_path / "more/again").symlink_to(tmp_path, target_is_directory=True)
    assert list_folder(tmp_path).left_out == ((tmp_path / "more", 2),)
    assert [path.name for path in list_folder(tmp_path, recursive=True).images] == ["a.png", "b.png", "c.png"]


def test_trees_are_matched_by_their_paths(tmp_path) -> None:
    matching = matched(tmp_path, "x/1.png y/1.png", "x/1.jpg y/1.jpg z/1.jpg")  # the tops hold only folders
    assert [(pair.reference.parent.name, pair.distorted.parent.name) for pair in matching.pairs] == [("x", "x"), ("y", "y")]
    assert (matching.unmatched, matching.unscored) == ((tmp_path / "d/z/1.jpg",), 1)


def test_left_out_images_count_as_unscored(tmp_path) -> None:
    assert matched(tmp_path, "a.png", "a.png more/b.png").unscored == 1
    assert match(tmp_path / "r/a.png", tmp_path / "d").unscored == 1
    own = match(tmp_path / "r/a.png", tmp_path / "d", Pairing(recursive=True, pattern="{name}*"))
    assert (names(own), own.unscored) == ("a.png:a.png", 1)
    assert match(tmp_path / "r", tmp_path / "d", Pairing(recursive=True)).unscored == 1


KODIM = "kodim01.png:kodim01_q10.jpg kodim01.png:kodim01_q30.webp kodim02.png:kodim02_q10.jpg"


@pytest.mark.parametrize(
    ("references", "distorted", "expected"),
    [
        # one reference, several results; several suffixes of files
        ("kodim01.png kodim02.png", "kodim01_q10.jpg kodim01_q30.webp kodim02_q10.jpg", KODIM),
        ("a1.png a2.png", "a1.jpg a2.webp", None),
        ("kodim01.png kodim02.png", "kodim01q10.jpg kodim02-x.jpg", None),
        # a prefix or suffix on either side, or on both
        ("cat.png dog.png Eel.png", "cat_x4_swinir.png dog_x4_swinir.png eel_x4_swinir.png", None),
        ("cat.png dog.png", "sr_cat.jpg sr_dog.jpg", None),
        ("cat.png dog.png", "catout.png dogout.png", None),
        ("cat_gt.png dog_gt.png", "cat.png dog.png", None),
        ("a_HR.png b_HR.png", "a_SR.png b_SR.png", None),
        ("x_HR.png", "x_SR.png", None),
        (
            "x_HR.png y_HR.png",
            "x_SR_a.png x_SR_b.png y_SR_a.png",
            "x_HR.png:x_SR_a.png x_HR.png:x_SR_b.png y_HR.png:y_SR_a.png",
        ),
        ("1HR.png 2HR.png", "1SR.png 2SR.png", None),
        ("0001.png 0002.png", "out_0001.png out_0002.png", None),
        # names that begin like others
        ("img10.png img1.png img2.png", "img10_x4.png img1_x4.png img2_x4.png", None),
        ("05.png 10.png 15.png", "05_10.png 10_10.png 15_10.png", None),
        ("cat_2.png cat.png", "cat_2_q1.png cat_q1.png", None),
    ],
)
def test_names_that_agree_but_for_their_ends(tmp_path, references, distorted, expected) -> None:
    matching = matched(tmp_path, references, distorted)
    in_place = zip(references.split(), distorted.split(), strict=False)
    assert names(matching) == (expected or " ".join(map(":".join, in_place)))
    assert not matching.unmatched
    assert not matching.by_order


@pytest.mark.parametrize(
    ("references", "distorted", "reason"),
    [
        ("cat.png dog.png", "1.png 2.png", "no two names agree.*--by-order"),  # by no order unless asked for
        ("img_001_HR.png", "img_002_SR.png img_003_SR.png", "no two names agree"),
        ("10.png 20.png", "15.png 25.png", "no two names agree"),
        ("img1.png img2.png", "img10.png img20.png", "no two names agree"),
        ("frame.png", "frame1.png frame2.png", "no two names agree"),
        # what is shared by chance
        ("a.png lake.png scene.png", "36524a603a.png 4c97a3d0e3.png 82d3e1f75b.png", "no two names agree"),
        ("a.png b.png", "a_b.png", "a_b.png may belong to any of a.png, b.png"),
        ("a.png a_x.png b.png c.png", "a_x_y.png b_x_y.png c_x_y.png", "a_x_y.png may belong to any of a.png, a_x.png"),
        ("cat.png dog.png q10.png", "sr_cat_q10.png sr_dog_q10.png", "sr_cat_q10.png may belong to any of cat.png, q10.png"),
        ("a.png a.jpg", "a.bmp", "a.bmp may belong to any of a.jpg, a.png"),
        ("a.png b.png", "c.png", "2 reference images cannot be matched by order with 1"),
        ("a.png b.png", "c_of_d.png", "no name of a distorted image"),
        ("cat.png dog.png", "cat_dog_of_1.png", "cat_dog_of_1.png may belong to any of cat.png, dog.png"),
    ],
)
def test_what_is_not_guessed(tmp_path, references, distorted, reason) -> None:
    how = {"by_order": "by order" in reason, "pattern": "*{name}*_of_*" if "_of_" in distorted else None}
    with pytest.raises(ValueError, match=reason):
        matched(tmp_path, references, distorted, **how)


ACCENT = "caf\u00e9"
ENDS = "cat_x4.png dog_x4.jpg elk_x4.png"
CATS = "cat_2.png:a_cat_2_x4_sr.png cat.png:a_cat_x4_sr.png"


@pytest.mark.parametrize(
    ("references", "distorted", "how", "expected", "unscored"),
    [
        # without regard to case and to the way Unicode writes accents, where that is unambiguous
        (f"IMG_1.PNG {ACCENT}.png", unicodedata.normalize("NFD", f"{ACCENT}.jpg img_1.png"), {}, None, 0),
        ("A.png a.jpg B.png", "a.png b.jpg", {}, "a.jpg:a.png B.png:b.jpg", 0),
        ("one.png", "eins.png", {}, "one.png:eins.png", 0),
        ("cat.png dog.png Eel.png", "1.png 2.png 10.png", {"by_order": True}, "cat.png:1.png Eel.png:10.png dog.png:2.png", 0),
        ("cat.png dog.png", ENDS, {"pattern": "{name}_x4.png"}, "cat.png:cat_x4.png", 2),
        ("cat.png dog.png", ENDS, {"pattern": "{name}_x4"}, "cat.png:cat_x4.png dog.png:dog_x4.jpg", 1),
        ("a\nb.png c.png", "a\nb_\nx4.png c_x4.png", {"pattern": "{name}_*"}, None, 0),
        ("cat.png dog.png", ENDS, {"pattern": "{name}_*"}, "cat.png:cat_x4.png dog.png:dog_x4.jpg", 1),
        ("cat.png dog.png", "sr-dog.png sr-elk.png dog.png", {"pattern": "sr-{name}"}, "dog.png:sr-dog.png", 2),
        ("cat.png cat_2.png", "a_cat_2_x4_sr.png a_cat_x4_sr.png", {"pattern": "*_{name}_*"}, CATS, 0),
        (f"{ACCENT}.png e.png", unicodedata.normalize("NFD", f"{ACCENT}_1.png e_1.png"), {"pattern": "{name}_*"}, None, 0),
    ],
)
def test_other_ways(tmp_path, references, distorted, how, expected, unscored) -> None:
    matching = matched(tmp_path, references, distorted, **how)
    assert (len(matching.pairs), matching.unscored) == (2 if expected is None else len(expected.split()), unscored)
    assert expected in (None, names(matching))
    assert matching.by_order is (how == {"by_order": True} or references == "one.png")


def test_a_table(tmp_path) -> None:
    touch(tmp_path, "a.png b.png c.png")
    table = tmp_path / "pairs.csv"
    table.write_text("Reference, distorted, group\na.png,b.png,x\na.png,c.png,y\nb.png,b.png,y\n")
    matching = match(None, how=Pairing(table=table))
    assert matching.pairs[1] == Pair(tmp_path / "a.png", tmp_path / "c.png", "y")
    assert matching.notes == ("1 images are compared with themselves",)
    assert match(tmp_path / "..", tmp_path, Pairing(table=table)).pairs[0].reference == tmp_path / "../a.png"
    for separator in ";\t":
        table.write_text(f"distorted{separator}reference\n\nb, c.png{separator}a.png\n{separator}\n", encoding="utf-8-sig")
        assert match(None, how=Pairing(table=table)).pairs == (Pair(tmp_path / "a.png", tmp_path / "b, c.png"),)
    touch(tmp_path / "d", "\xe4.png")
    table.write_text("reference,distorted\nA.png,d\\\xe4.png\nnone.png,b.png\n", encoding="latin-1")  # of Excel on Windows
    matching = match(None, how=Pairing(table=table))
    assert matching.pairs[0] == Pair(tmp_path / "a.png", tmp_path / "d/\xe4.png")
    assert [note.split(": ")[1][:20] for note in matching.notes] == ["1 reference names di", "1 distorted names di"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a.png,b.png\n", "needs the columns"),
        ("reference,distorted,distorted\na.png,b.png,c.png\n", "two columns of the name distorted"),
        ("reference,distorted\n\na.png,\n", "line 3 has no distorted image"),
        ("reference,distorted\na, b.png,c.png\n", "line 2 has 3 fields"),
        ("", "no rows"),
        ("reference,distorted\n", "holds no pair"),
        ('reference,distorted\n"a.png,b.png\n', "cannot be read"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, reason) -> None:
    (tmp_path / "pairs.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=reason):
        match(None, how=Pairing(table=tmp_path / "pairs.csv"))


@pytest.mark.parametrize(("layout", "gt", "renders"), [("3dgs", "gt", "renders"), ("nerfstudio", "gt-rgb", "rgb")])
def test_layouts_of_rendered_views(tmp_path, layout, gt, renders) -> None:
    for scene in ("garden", "room"):
        for run in ("ours_7000", "ours_30000"):
            touch(tmp_path / scene / "test" / run, f"{gt}/00000.png {gt}/00001.png {renders}/00000.png {renders}/00001.png")
    touch(tmp_path / "room/test/ours_30000" / renders, "00002.png")
    touch(tmp_path / "empty/test/ours_1", f"{gt}/0.png {renders}/notes.txt")
    matching = match(tmp_path, how=Pairing(layout=layout))
    groups = [pair.group for pair in matching.pairs]
    assert list(dict.fromkeys(groups)) == ["garden/ours_7000", "garden/ours_30000", "room/ours_7000", "room/ours_30000"]
    assert {groups.count(group) for group in groups} == {2}
    assert all(pair.reference.parent.name == gt and pair.distorted.parent.name == renders for pair in matching.pairs)
    assert matching.unmatched == (tmp_path / "room/test/ours_30000" / renders / "00002.png",)
    assert "is left out: no image" in matching.notes[0]
    assert match(tmp_path / "room", how=Pairing(layout=layout)).pairs[0].group == "ours_7000"
    assert match(tmp_path / "room/test/ours_7000", how=Pairing(layout=layout)).pairs[0].group == "ours_7000"
    with pytest.raises(ValueError, match=f"no folders {gt} and {renders}"):
        match(tmp_path / "room/test/ours_7000" / gt, how=Pairing(layout=layout))


def test_files_side_by_side(tmp_path) -> None:
    touch(tmp_path, "eval_img_0000.png eval_img_0001.png eval_depth_0000.png")
    pairs = match(tmp_path, how=Pairing(layout="nerfstudio")).pairs
    assert pairs == tuple(
        Pair(tmp_path / f"eval_img_000{i}.png", tmp_path / f"eval_img_000{i}.png", tmp_path.name, "left") for i in (0, 1)
    )
    assert [pair.half for pair in match(tmp_path, how=Pairing(side_by_side="right")).pairs] == ["right"] * 3


def test_what_is_compared_with_itself_is_said(tmp_path) -> None:
    touch(tmp_path, "a.png")
    for path in (tmp_path, tmp_path / "a.png"):
        assert match(path, path).notes == (f"{path} is compared with itself",)


@pytest.mark.parametrize(
    ("sides", "how", "reason"),
    [
        ((".",), {"by_order": True, "pattern": "{name}"}, "in one way, not by by_order and pattern"),
        ((".",), {"pattern": "x4"}, "must hold {name} once"),
        ((".",), {"layout": "other"}, "choose 3dgs or nerfstudio"),
        ((".",), {"side_by_side": "top"}, "left or the right half"),
        ((".", "absent"), {}, "no file or folder at"),
        ((".", "a.png"), {}, "give the file of its reference"),
        ((".",), {}, "give a reference and a distorted"),
    ],
)
def test_what_is_refused(tmp_path, sides, how, reason) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        match(*(tmp_path / side for side in sides), how=Pairing(**how))
