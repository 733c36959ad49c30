"""Folders and names: everything that could be meant is paired or named."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from msds_plugin.adapters.images.formats import is_meant_as_image
from msds_plugin.adapters.images.listing import list_folder, list_images
from msds_plugin.adapters.images.pairs import match
from PIL import Image


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(matching) -> list[tuple[str, str]]:
    return [(pair.reference.name, pair.distorted.name) for pair in matching.pairs]


@pytest.mark.parametrize("suffix", ["avif", "jp2", "jfif", "jpe", "tga", "dib", "pnm", "apng", "heic", "jxl", "exr", "TIF"])
def test_formats_that_are_read_or_could_be_meant(suffix) -> None:
    assert is_meant_as_image(f"x.{suffix}")


@pytest.mark.parametrize("name", ["notes.txt", "labels.csv", "film.mp4", "archive.zip", "weights.pth", "README"])
def test_what_is_no_image(name) -> None:
    assert not is_meant_as_image(name)


def test_hidden_files_are_no_images_and_broken_links_are(tmp_path) -> None:
    touch(tmp_path, "a.png", "._a.png", ".b.png", "__MACOSX/a.png", "notes.txt")
    (tmp_path / "link.png").symlink_to("/nowhere/x.png")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "folder.png", "link.png"]


def test_an_image_without_a_suffix_is_found_by_its_content(tmp_path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a", "PNG")
    touch(tmp_path, "b.png", "Makefile")
    assert [path.name for path in list_images(tmp_path)] == ["a", "b.png"]


def test_sub_folders_are_named_or_looked_into(tmp_path) -> None:
    touch(tmp_path, "a.png", "more/b.png", "more/deep/c.png", "empty/notes.txt")
    (tmp_path / "more/again").symlink_to(tmp_path, target_is_directory=True)
    listing = list_folder(tmp_path)
    assert listing.left_out == ((tmp_path / "more", 2),)
    assert [path.name for path in list_folder(tmp_path, recursive=True).images] == ["a.png", "b.png", "c.png"]


def test_trees_are_matched_by_their_paths(tmp_path) -> None:
    references = touch(tmp_path / "r", "x/1.png", "y/1.png")
    distorted = touch(tmp_path / "d", "x/1.jpg", "y/1.jpg", "z/1.jpg")
    matching = match(references, distorted)  # the top holds only folders
    assert [(pair.reference.parent.name, pair.distorted.parent.name) for pair in matching.pairs] == [("x", "x"), ("y", "y")]
    assert matching.unmatched == (distorted / "z/1.jpg",)
    assert matching.unscored == 1


def test_left_out_images_count_as_unscored(tmp_path) -> None:
    references, distorted = touch(tmp_path / "r", "a.png"), touch(tmp_path / "d", "a.png", "more/b.png")
    assert match(references, distorted).unscored == 1
    assert match(references / "a.png", distorted).unscored == 1
    assert match(references, distorted, recursive=True).unscored == 1


def test_case_and_accents(tmp_path) -> None:
    accent = "caf\u00e9"
    references = touch(tmp_path / "r", "IMG_1.PNG", f"{accent}.png", "b.png")
    distorted = touch(tmp_path / "d", "img_1.png", unicodedata.normalize("NFD", accent) + ".jpg", "b.png")
    assert len(match(references, distorted).pairs) == 3
    assert match(references, distorted).unscored == 0


def test_case_that_is_ambiguous_is_not_guessed(tmp_path) -> None:
    references = touch(tmp_path / "r", "A.png", "b.png")
    distorted = touch(tmp_path / "d", "a.png", "b.png")
    (distorted / "x").mkdir()
    (references / "a.PNG").touch()
    if len(os.listdir(references)) < 3:
        pytest.skip("this file system does not tell capitals apart")
    matching = match(references, distorted)
    assert ("b.png", "b.png") in names(matching)


@pytest.mark.parametrize("out", ["{}_x4_swinir.png", "{}_out.png", "sr_{}.jpg"])
def test_one_prefix_or_suffix_common_to_all(tmp_path, out) -> None:
    references = touch(tmp_path / "r", "cat.png", "dog.png", "Eel.png")
    distorted = touch(tmp_path / "d", *(out.format(name) for name in ("cat", "dog", "eel")))
    matching = match(references, distorted)
    assert names(matching) == [(f"{r}.png", out.format(d)) for r, d in (("cat", "cat"), ("dog", "dog"), ("Eel", "eel"))]
    assert not matching.by_order
    assert "without the distorted images' " in matching.how
    assert len(match(distorted, references).pairs) == 3


def test_two_affixes_are_not_one(tmp_path) -> None:
    references = touch(tmp_path / "r", "cat.png", "dog.png")
    distorted = touch(tmp_path / "d", "cat_x2.png", "dog_x4.png")
    assert match(references, distorted).by_order


def test_order_does_not_look_at_capitals(tmp_path) -> None:
    references = touch(tmp_path / "r", "cat.png", "dog.png", "Eel.png")
    distorted = touch(tmp_path / "d", "1.png", "2.png", "10.png")
    matching = match(references, distorted)
    assert names(matching) == [("cat.png", "1.png"), ("dog.png", "2.png"), ("Eel.png", "10.png")]
    assert matching.by_order
