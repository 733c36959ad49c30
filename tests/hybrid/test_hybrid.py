"""A hybrid of any metrics, with cheap ones in the place of networks."""

import math
import warnings
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from msds_plugin import MultiScale, Representation
from msds_plugin.hybrid import MDSI, HaarPSI, Hybrid, Term, msds_hybrid
from msds_plugin.windows import as_windows


def difference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).abs().mean((1, 2, 3))


def psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


@pytest.fixture
def terms(random_alexnet) -> list[Term]:
    return [
        Term(MultiScale(random_alexnet, 2)),
        Term(HaarPSI()),
        Term(MDSI(), dissimilarity=None, scale=0.35),
        Term(psnr, dissimilarity=lambda decibel: 10 ** (-decibel / 20), weight=0.5),
    ]


def test_formula(pair):
    x, y = pair
    terms = [Term(HaarPSI(), weight=2.0), Term(difference, dissimilarity=None, scale=0.5)]
    d = 1 - HaarPSI()(x, y), difference(x, y)
    exponents = 2 / 4, (1 / 0.5) / 4
    mean = (d[0] + 0.01) ** exponents[0] * (d[1] + 0.01) ** exponents[1]
    torch.testing.assert_close(Hybrid(terms, eps=0.01)(x, y), 1 - (mean - 0.01))


def test_identical_images_score_exactly_one(terms, pair):
    _, y = pair
    assert Hybrid(terms)(y, y).tolist() == [1, 1]
    with torch.autocast("cpu", torch.bfloat16):
        assert Hybrid(terms)(y, y).tolist() == [1, 1]


def test_better_by_every_term_is_better(terms, pair):
    _, y = pair
    noise = torch.rand(y.shape) - 0.5
    scores = [Hybrid(terms)((y + s * noise).clamp(0, 1), y)[0].item() for s in (0, 0.01, 0.05, 0.1, 0.3, 0.6, 1)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1
    assert len(set(scores)) == len(scores)


def test_a_negative_similarity_is_still_worse(pair):
    x, y = pair
    similarity = iter([torch.tensor([0.0, 0.0]), torch.tensor([-0.5, -1.0])])
    metric = Hybrid([Term(lambda *_: next(similarity))])
    first, second = metric(x, y), metric(x, y)
    assert (second < first).all()


def test_a_similarity_with_a_reduction_is_no_loss():
    assert not Term(Mock(spec=["reduction"], reduction="mean")).module.lower_is_better


def test_a_term_of_weight_zero_does_not_count(pair):
    unused = [Term(lambda x, y, v=v: torch.full((2,), v), None, weight=0.0) for v in (math.inf, math.nan)]
    torch.testing.assert_close(Hybrid([Term(HaarPSI()), *unused])(*pair), HaarPSI()(*pair))


def test_a_representation_survives_a_file(terms, pair, tmp_path):
    metric = Hybrid(terms)
    kept = metric.represent(pair[1])
    metric.save(kept, tmp_path / "kept.safetensors")
    loaded = metric.load(tmp_path / "kept.safetensors")
    assert torch.equal(Hybrid(terms, eps=0.1).load(tmp_path / "kept.safetensors").images.image, pair[1])
    assert torch.equal(metric.compare(metric.represent(pair[0]), loaded), metric(*pair))
    joined = Representation.cat([kept[0], kept[1]])
    assert torch.equal(metric.compare(joined, kept), torch.ones(2))


def test_images_that_are_read_in_windows(terms, pair):
    metric = Hybrid(terms[1:3])
    kept = [metric.represent(as_windows(image)) for image in pair]
    torch.testing.assert_close(metric.compare(*kept), metric(*pair))
    with pytest.raises(ValueError, match="msds-fast for any two sizes"):
        metric(as_windows(pair[0]), as_windows(pair[1][..., :-9]))


def test_no_image_is_kept_where_no_term_needs_it(random_alexnet, pair):
    metric = Hybrid([Term(random_alexnet), Term(MultiScale(random_alexnet, 2))])
    kept = metric.represent(pair[0])
    assert not metric.is_aligned
    assert kept.images is None
    assert len(kept.parts) == 2
    larger = nn.functional.pad(pair[1], (0, 60, 0, 0), mode="replicate")
    assert torch.equal(metric.compare(kept, metric.represent(larger)), metric(pair[0], larger))


def test_representations_of_other_hybrids_are_refused(terms, pair):
    kept = Hybrid(terms).represent(pair[0])
    with pytest.raises(ValueError, match="was made by"):
        Hybrid(terms[1:]).compare(kept, kept)


def test_a_few_pixels_are_cropped_and_said_once(terms, pair):
    x, y = pair
    metric = Hybrid(terms)
    height, width = y.shape[-2:]
    with pytest.warns(UserWarning, match=f"common {height - 8} x {width - 3} pixels") as caught:
        score = metric(x[..., : height - 8, :], y[..., : width - 3])
    assert len(caught) == 1
    assert torch.equal(score, metric(x[..., : height - 8, : width - 3], y[..., : height - 8, : width - 3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b = metric.represent(x[..., : height - 8, :]), metric.represent(y[..., : width - 3])
        assert torch.equal(metric.compare(a, b), score)
        assert torch.equal(metric.compare(a, b[:1]), score)


def test_other_sizes_are_refused_by_name_of_what_to_take(terms, pair):
    x, y = pair
    for call in (lambda m: m(x[..., :-9], y), lambda m: m.compare(m.represent(x[..., :-9]), m.represent(y))):
        with pytest.raises(ValueError, match=r"129 x 126 pixels and y 129 x 135.*msds-align.*msds-retarget.*msds-fast"):
            call(Hybrid(terms))


def test_gradients():
    y = torch.rand(1, 3, 18, 17, dtype=torch.float64)
    x = torch.rand(1, 3, 18, 17, dtype=torch.float64, requires_grad=True)
    metric = Hybrid([Term(HaarPSI()), Term(MDSI(), dissimilarity=None, scale=0.35), Term(difference, dissimilarity=None)])
    assert torch.autograd.gradcheck(lambda a: metric(a, y), x, fast_mode=True)


def test_gradients_reach_the_image_and_are_finite(terms, pair):
    x, y = pair
    image = x.clone().requires_grad_()
    Hybrid(terms[:3])(image, y).sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().amax((1, 2, 3)).gt(0).all()
    same = y.clone().requires_grad_()
    Hybrid(terms[:3])(same, y).sum().backward()
    assert same.grad.isfinite().all()


def test_modules_among_the_terms_move_with_it(terms):
    metric = Hybrid(terms).double()
    assert metric.exponents.dtype == torch.float64
    assert len(list(metric.parameters())) == len(list(terms[0].metric.parameters()))
    assert all(parameter.dtype == torch.float64 for parameter in metric.parameters())
    terms[0].metric.float()


def test_the_source_tells_constants_and_weights_apart(terms):
    made = [Hybrid(terms), Hybrid(terms, eps=0.01), Hybrid(terms, fusion=(1, 2, 3, 4)), Hybrid(terms[:3])]
    made.append(Hybrid([Term(terms[0].metric, torch.neg), *terms[1:]]))
    assert len({metric.source() for metric in made}) == len(made)
    assert Hybrid(terms).source() == made[0].source()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hybrid([]), "at least one term"),
        (lambda: Hybrid([Term(difference)], eps=0.0), "eps"),
        (lambda: Hybrid([Term(difference, weight=0.0)]), "positive sum"),
        (lambda: Term(difference, scale=0.0), "scale above 0"),
        (lambda: Term(difference, weight=-1.0), "weight of 0 or more"),
        (lambda: Term(MDSI()), "MDSI is no similarity"),
        # As metrics of pyiqa and of torchmetrics say it.
        (lambda: Term(Mock(spec=["lower_better"], lower_better=True)), "Mock is no similarity"),
        (lambda: Term(MultiScale(Mock(spec=["higher_is_better"], higher_is_better=False))), "is no similarity"),
        (lambda: Term(nn.L1Loss(reduction="none")), "L1Loss is no similarity"),
        (lambda: Term(difference, scale=math.nan), "scale above 0"),
        (lambda: msds_hybrid(None, levels=0), "levels must be at least 1"),
        (lambda: msds_hybrid(None, layers=[]), "at least one"),
    ],
)
def test_constants_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_term_returns_must_be_one_score_each(pair):
    with pytest.raises(ValueError, match="one score each"):
        Hybrid([Term(lambda x, y: x - y)])(*pair)
    column = Hybrid([Term(lambda x, y: difference(x, y)[:, None], dissimilarity=None)])
    torch.testing.assert_close(column(*pair), 1 - difference(*pair))


def test_bad_images(terms, pair):
    x, y = pair
    metric = Hybrid(terms)
    for call, error, message in (
        (lambda: metric(x * 255, y), ValueError, r"in \[0, 1\]"),
        (lambda: metric(x, y * 255), ValueError, r"in \[0, 1\]"),
        (lambda: metric(x[:1], y), ValueError, "one reference per distorted image"),
        (lambda: metric(x.double(), y), TypeError, "convert one"),
        (lambda: metric((x * 255).byte(), y), TypeError, "floating"),
        (lambda: metric(x[..., :8], y[..., :8]), ValueError, "too small"),
    ):
        with pytest.raises(error, match=message):
            call()
