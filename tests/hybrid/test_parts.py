"""Weights of the parts of a metric: layers on levels, and levels and layers of the terms of a hybrid."""

import json
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch.nn.functional import mse_loss

from msds_plugin import MSDS, MSDSLite, build_backbone
from msds_plugin.fusion_file import FusionFile, FusionFileError, FusionTarget
from msds_plugin.hybrid import MDSI, HaarPSI, Hybrid, Term
from msds_plugin.msds import split_fusion

LAYERS = ("relu2", "relu5")
CELLS = (0.1, 0.2, 0.0, 0.0, 0.4, 0.3)  # of two layers on each of three levels
TARGET = FusionTarget("deepssim", "alexnet", LAYERS)
PARTS = tuple(f"level {level} {layer}" for level in range(3) for layer in LAYERS)
FILE = FusionFile("msds", TARGET, CELLS, None, "known", 36, 6, 3, {}, "2026-11-21", "0.2.0", PARTS)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_backbone("alexnet", LAYERS, weights=None)


def test_weights_of_levels_and_of_layers_within_them():
    levels, layers = split_fusion(CELLS, 3, LAYERS)
    assert levels.tolist() == pytest.approx([0.3, 0, 0.7])
    torch.testing.assert_close(layers, torch.tensor([[1 / 3, 2 / 3], [0.5, 0.5], [4 / 7, 3 / 7]], dtype=torch.float64))
    assert split_fusion((1, 1, 2), 3, LAYERS)[1] is None
    assert split_fusion(None, 3, LAYERS)[0].tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match="5 weights for 3 levels"):
        split_fusion((1, 1, 1, 1, 1), 3, LAYERS)


@pytest.mark.parametrize("kind", [MSDS, MSDSLite])
def test_each_layer_on_each_level_by_its_weight(kind, network, pair):
    metric = kind(fusion=CELLS, backbone=network)
    x, y = pair
    cells = metric.layer_scores(x, y)
    assert cells.shape == (2, 3, 2)
    expected = (cells * torch.tensor(CELLS).view(3, 2)).sum((1, 2))
    torch.testing.assert_close(metric(x, y), expected)
    assert torch.equal(metric.compare(metric.represent(x), metric.represent(y)), metric(x, y))
    assert metric(y, y).tolist() == [kind is MSDS] * 2
    torch.testing.assert_close(cells.mean(2), metric.weighted(None).level_scores(x, y))


def test_a_map_sums_to_the_dissimilarity_by_these_weights(network, pair):
    metric = MSDS(fusion=CELLS, backbone=network)
    torch.testing.assert_close(metric.map(*pair).sum((1, 2, 3)), 1 - metric(*pair), rtol=0, atol=1e-5)


def test_equal_weights_of_layers_change_nothing(network, pair):
    torch.testing.assert_close(MSDS(fusion=(1,) * 6, backbone=network)(*pair), MSDS(backbone=network)(*pair))


def test_a_file_of_layers(network, pair, tmp_path):
    FILE.save(tmp_path / "f.json")
    assert FusionFile.load(tmp_path / "f.json") == FILE
    content = json.loads((tmp_path / "f.json").read_text())
    assert (content["levels"], content["parts"][0]) == (3, "level 0 relu2")
    torch.testing.assert_close(
        MSDS(fusion=tmp_path / "f.json", backbone=network)(*pair), MSDS(fusion=CELLS, backbone=network)(*pair)
    )
    assert MSDS.from_file(tmp_path / "f.json", weights=None).layer_weights.shape == (3, 2)
    with pytest.raises(FusionFileError, match=r"relu5\]\), but this metric is deepssim on alexnet\[relu5\]"):
        MSDS(fusion=tmp_path / "f.json", backbone="alexnet", weights=None)
    with pytest.raises(FusionFileError, match="weights for 3 levels, not 2"):
        MSDS(2, tmp_path / "f.json", backbone=network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": PARTS[:5]}, "names 5 parts but holds 6 weights"),
        ({"parts": tuple(reversed(PARTS))}, "not for level 0 relu2, level 0 relu5"),
        ({"parts": ("level 0",) * 6}, "says 1 levels|1 levels, not 3|weights for 1 levels"),
    ],
)
def test_files_whose_parts_do_not_fit(network, tmp_path, change, message):
    replace(FILE, **change).save(tmp_path / "f.json")
    with pytest.raises(FusionFileError, match=message):
        MSDS(3, tmp_path / "f.json", backbone=network)


@pytest.fixture(scope="module")
def terms(network):
    return [Term(MSDS(2, backbone=network), weight=2.0), Term(HaarPSI()), Term(MDSI(), lambda score: score**4)]


class TestHybrid:
    def test_names_and_weights(self, terms):
        metric = Hybrid(terms)
        assert metric.parts() == [["MSDS level 0", "MSDS level 1"], ["HaarPSI"], ["MDSI"]]
        assert metric.parts(True)[0][1] == "MSDS level 0 relu5"
        assert metric.part_weights(True) == [[0.125] * 4, [0.25], [0.25]]
        assert str(metric.target) == "hybrid(deepssim, HaarPSI, MDSI) on alexnet[relu2, relu5]"

    @pytest.mark.parametrize("per_layer", [False, True])
    def test_what_the_parts_find_makes_what_the_terms_find(self, terms, pair, per_layer):
        metric = Hybrid(terms, fusion=(0.1, 0.3, 0.2, 0.1, 0.2, 0.1))
        found, weights = metric.part_dissimilarities(*pair, per_layer), metric.part_weights(per_layer)
        columns = [(part * torch.tensor(own)).sum(1) / sum(own) for part, own in zip(found, weights, strict=True)]
        torch.testing.assert_close(torch.stack(columns, 1), metric.dissimilarities(*pair))
        assert [len(own) for own in weights] == [part.shape[1] for part in found]

    @pytest.mark.parametrize("fusion", [(2, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 2, 2)])
    def test_the_weights_it_has_in_three_forms(self, terms, pair, fusion):
        torch.testing.assert_close(Hybrid(terms, fusion=fusion)(*pair), Hybrid(terms)(*pair))

    def test_other_weights(self, terms, pair):
        x, y = pair
        metric = Hybrid(terms, fusion=(0, 1, 0))
        torch.testing.assert_close(metric(x, y), HaarPSI()(x, y))
        cells = terms[0].metric.layer_scores(x, y)
        metric = Hybrid(terms, fusion=(0, 1, 0, 3, 0, 0))
        torch.testing.assert_close(metric(x, y), (cells[:, 0, 1] + 3 * cells[:, 1, 1]) / 4)
        assert metric(y, y).tolist() == [1, 1]
        assert torch.equal(metric.compare(metric.represent(x), metric.represent(y)), metric(x, y))

    def test_the_terms_given_stay_as_they_are(self, terms, pair):
        before = Hybrid(terms)(*pair)
        made = Hybrid(terms, fusion=(0.1, 0.3, 0.2, 0.1, 0.2, 0.1))
        assert torch.equal(Hybrid(terms)(*pair), before)
        assert made.terms[0].metric.backbone is terms[0].metric.backbone

    def test_a_term_whose_dissimilarity_is_no_mean_is_one_part(self, network):
        squared = Term(MSDS(2, backbone=network), lambda score: (1 - score).square())
        assert Hybrid([squared, Term(HaarPSI())]).parts(True) == [["MSDS"], ["HaarPSI"]]

    def test_terms_of_one_name(self):
        assert Hybrid([Term(HaarPSI()), Term(HaarPSI(8))]).parts() == [["HaarPSI 1"], ["HaarPSI 2"]]
        theirs = partial(mse_loss, reduction="none"), Mock(spec=["metric_name"], metric_name="lpips")
        assert Hybrid([Term(metric, None) for metric in theirs]).target.base == "hybrid(mse_loss, lpips)"

    def test_other_numbers_of_weights(self, terms):
        with pytest.raises(ValueError, match="5 weights: this hybrid takes 3 or 4 or 6, for MSDS level 0 relu2"):
            Hybrid(terms, fusion=(1,) * 5)
        with pytest.raises(ValueError, match="1 weights: this hybrid takes 3 or 4 or 6"):
            Hybrid(terms, fusion=0.5)
        with pytest.raises(ValueError, match="non-negative"):
            Hybrid(terms, fusion=(1, -1, 1))

    def test_gradients(self, terms):
        x, y = torch.rand(2, 1, 3, 64, 64, dtype=torch.float64)
        metric = Hybrid(terms, fusion=(0.1, 0.3, 0.2, 0.1, 0.2, 0.1)).double()
        assert torch.autograd.gradcheck(lambda image: metric(image, y), x.requires_grad_(), fast_mode=True)
        terms[0].metric.float()
