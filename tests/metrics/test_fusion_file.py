"""Learned fusion weights on disk."""

import json
from dataclasses import replace

import pytest
import torch

from msds_plugin import MSDS, DeepSSIM, DeepSSIMLite, MultiScale
from msds_plugin.fusion_file import FusionFile, FusionFileError, FusionTarget
from msds_plugin.msds import target_of

ALEXNET = FusionTarget("deepssim", "alexnet", ("relu5",))
FILE = FusionFile(
    metric="msds",
    target=ALEXNET,
    weights=(0.2, 0.3, 0.5),
    fingerprint="0123abcd",
    dataset="live",
    images=70,
    references=14,
    folds=5,
    held_out={"srcc_equal": 0.9, "srcc_learned": 0.91, "p": 0.3},
    date="2026-11-21",
    version="0.1.0",
)


@pytest.fixture
def path(tmp_path):
    FILE.save(tmp_path / "fusion.json")
    return tmp_path / "fusion.json"


def test_what_is_saved_is_loaded(path):
    assert FusionFile.load(path) == FILE
    content = json.loads(path.read_text())
    assert content["weights"] == [0.2, 0.3, 0.5]
    assert (content["metric"], content["backbone"], content["levels"]) == ("msds", "alexnet", 3)


def test_msds_takes_the_weights(path, pair, random_alexnet):
    by_path = MSDS(fusion=path, backbone="alexnet", weights=None)
    assert by_path.fusion.tolist() == pytest.approx([0.2, 0.3, 0.5])
    made = MSDS.from_file(path, weights=None)
    assert (made.levels, made.backbone.name, made.layers) == (3, "alexnet", ("relu5",))
    wrapped = MultiScale(random_alexnet, fusion=str(path))
    levels = wrapped.level_scores(*pair)
    torch.testing.assert_close(wrapped(*pair), levels @ torch.tensor([0.2, 0.3, 0.5]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda path: MSDS(2, path, backbone="alexnet", weights=None), "weights for 3 levels, not 2: pass levels=3"),
        (lambda path: MSDS(3, path, backbone="squeezenet1_1", weights=None), r"deepssim on alexnet\[relu5\].*squeezenet1_1"),
        (lambda path: MSDS(3, path, backbone="alexnet", layers="relu2", weights=None), r"this metric is .*relu2"),
        (lambda path: MultiScale(DeepSSIMLite("alexnet", None), 3, path), "this metric is deepssim-lite"),
        (lambda path: MultiScale(lambda x, y: (x - y).mean((1, 2, 3)), 3, path), "this metric is .*lambda"),
    ],
)
def test_weights_of_another_metric_are_refused(path, build, message):
    with pytest.raises(FusionFileError, match=message):
        build(path)


def test_from_file_refuses_what_is_not_msds(tmp_path):
    replace(FILE, metric="ms-lpips", target=FusionTarget("lpips")).save(tmp_path / "lpips.json")
    with pytest.raises(FusionFileError, match=r"ms-lpips \(lpips\), not for MSDS"):
        MSDS.from_file(tmp_path / "lpips.json")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of fusion weights at"):
        MSDS(fusion=tmp_path / "none.json", backbone="alexnet", weights=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.2, 0.3, 0.6]}, "sum to one"),
        ({"weights": [-0.2, 0.7, 0.5]}, "non-negative"),
        ({"weights": [0.2, 0.3, True]}, "'weights' must be a list of numbers"),
        ({"weights": "0.2"}, "'weights' must be a list of numbers"),
        ({"weights": []}, "says 3 levels but holds 0"),
        ({"weights": [], "levels": 0}, "sum to one"),
        ({"levels": 2}, "says 2 levels but holds 3"),
        ({"layers": [1]}, "'layers' must be a list of strings"),
        ({"format": "msds_plugin.Fusion/2"}, "not a file of fusion weights of this version"),
        ({"shell": "rm"}, "unknown 'shell'"),
        ({"base": None}, "'base' must be a string"),
    ],
)
def test_wrong_content(path, change, message):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FusionFileError, match=message):
        FusionFile.load(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 1}', "\x80", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000],
    ids=["empty", "cut", "list", "null", "format", "binary", "nan", "twice", "deep"],
)
def test_not_such_a_file(path, text):
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FusionFileError, match="is not a file of fusion weights"):
        FusionFile.load(path)


def test_a_missing_entry_is_named(path):
    content = json.loads(path.read_text())
    del content["backbone"]
    path.write_text(json.dumps(content))
    with pytest.raises(FusionFileError, match="it lacks 'backbone'"):
        FusionFile.load(path)


def test_target_of_a_metric(random_alexnet):
    assert target_of(random_alexnet) == ALEXNET
    assert target_of(DeepSSIM(torch.nn.Conv2d(3, 4, 3))).base == "deepssim"
    assert target_of(torch.nn.functional.mse_loss) == FusionTarget("mse_loss")
