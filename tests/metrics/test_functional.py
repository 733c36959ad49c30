import numpy as np
import pytest
import torch
from torch.nn import functional as F

from msds_plugin.functional import block_dissimilarity, fuse, global_dissimilarity, gram_matrix, halve, pyramid
from msds_plugin.msds import as_weights


def ssim(a, b, c=1e-6):
    """The textbook formula over all entries, biased variance and covariance."""
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    return (2 * covariance + c) / (a.var(unbiased=False) + b.var(unbiased=False) + c)


def symmetric(n, channels, dtype=torch.float64):
    return gram_matrix(torch.rand(n, channels, 5, 7, dtype=dtype))


def test_gram_matrix_is_the_sum_over_positions():
    features = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    expected = torch.einsum("nchw,ndhw->ncd", features, features)
    torch.testing.assert_close(gram_matrix(features), expected)
    torch.testing.assert_close(gram_matrix(features.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram_matrix_of_half_precision_is_summed_in_float32(dtype):
    features = torch.rand(1, 8, 40, 40).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gram = gram_matrix(features)
    assert gram.dtype == torch.float32
    assert torch.equal(gram, gram_matrix(features.float()))


@pytest.mark.parametrize("block", [2, 4])
def test_block_dissimilarity_is_the_mean_over_a_loop(block):
    a, b = symmetric(2, 12), symmetric(2, 12)
    expected = []
    for p, q in zip(a, b, strict=True):
        cells = [(slice(i, i + block), slice(j, j + block)) for i in range(0, 12, block) for j in range(0, 12, block)]
        expected.append(torch.stack([1 - ssim(p[cell], q[cell]) for cell in cells]).mean())
    torch.testing.assert_close(block_dissimilarity(a, b, block), torch.stack(expected))


def test_global_dissimilarity_is_the_formula_over_all_entries():
    a, b = symmetric(3, 6), symmetric(3, 6)
    expected = torch.stack([1 - ssim(p, q) for p, q in zip(a, b, strict=True)])
    torch.testing.assert_close(global_dissimilarity(a, b), expected)


@pytest.mark.parametrize("dissimilarity", [block_dissimilarity, global_dissimilarity])
class TestBothDissimilarities:
    def test_range(self, dissimilarity):
        a = symmetric(1, 8)
        assert dissimilarity(a, a).item() == 0
        assert dissimilarity(a, -a).item() == pytest.approx(2, abs=1e-4)

    def test_one_matrix_against_many(self, dissimilarity):
        a, b = symmetric(1, 8), symmetric(3, 8)
        torch.testing.assert_close(dissimilarity(a, b), dissimilarity(a.expand(3, 8, 8), b))
        torch.testing.assert_close(dissimilarity(b, a), dissimilarity(a, b))

    def test_float32_resolves_a_small_difference_of_large_entries(self, dissimilarity):
        a = 1e4 + symmetric(1, 64)
        b = a + 1e-3 * torch.randn_like(a)
        a, b = a.float(), b.float()
        assert dissimilarity(a, b).item() == pytest.approx(dissimilarity(a.double(), b.double()).item(), rel=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_compared_in_float32(self, dissimilarity, dtype):
        a, b = ((6e4 * torch.rand(2, 8, 8)).to(dtype) for _ in range(2))
        score = dissimilarity(a, b)
        assert score.dtype == torch.float32
        assert torch.equal(score, dissimilarity(a.float(), b.float()))

    def test_gradient(self, dissimilarity):
        a, b = symmetric(2, 8).requires_grad_(), symmetric(2, 8).requires_grad_()
        assert torch.autograd.gradcheck(dissimilarity, (a, b))


@pytest.mark.parametrize("channels", [1, 6, 10])
def test_channels_that_blocks_do_not_divide(channels):
    with pytest.raises(ValueError, match=f"{channels} channels .* 4 x 4 blocks.* multiple of 4"):
        block_dissimilarity(torch.rand(1, channels, channels), torch.rand(1, channels, channels))


def test_pyramid_averages_squares_and_drops_an_odd_last_row_and_column():
    image = torch.rand(2, 3, 13, 6)
    levels = pyramid(image, 3)
    assert levels[0] is image
    assert [level.shape[-2:] for level in levels] == [(13, 6), (6, 3), (3, 1)]
    expected = (image[..., :12:2, ::2] + image[..., 1:12:2, ::2] + image[..., :12:2, 1::2] + image[..., 1:12:2, 1::2]) / 4
    torch.testing.assert_close(levels[1], expected)


@pytest.mark.parametrize("size", [(2, 2), (13, 6), (64, 65), (101, 203)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_halving_is_average_pooling(size, memory_format):
    image = torch.rand(2, 3, *size).to(memory_format=memory_format)
    torch.testing.assert_close(halve(image), F.avg_pool2d(image, 2), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize(("levels", "message"), [(0, "at least 1, got 0"), (4, "4 x 9 pixels cannot be halved 3 times")])
def test_pyramid_of_impossible_levels(levels, message):
    with pytest.raises(ValueError, match=message):
        pyramid(torch.rand(1, 3, 4, 9), levels)


def test_fuse_passes_on_the_weights_as_gradient():
    scores, fusion = torch.rand(2, 3, requires_grad=True), torch.tensor([0.2, 0.3, 0.5])
    fuse(scores, fusion).sum().backward()
    torch.testing.assert_close(scores.grad, fusion.expand(2, 3))


@pytest.mark.parametrize("levels", [2, 3, 7])
def test_fuse_never_rounds_above_the_best_level(levels):
    scores = torch.ones(2000, levels)
    scores[:1000, 0] = 2 * torch.rand(1000) - 1
    for fusion in torch.rand(50, levels, dtype=torch.float64):
        fused = fuse(scores, as_weights(fusion))
        assert (fused <= 1).all()
        assert (fused[1000:] == 1).all()


def test_fuse_of_infinite_scores_is_infinite():
    infinite = float("inf")
    scores = torch.tensor([[infinite, infinite], [30.0, infinite], [30.0, 40.0], [-infinite, 3.0]])
    assert fuse(scores, torch.tensor([0.5, 0.5])).tolist() == [infinite, infinite, 35, -infinite]


def test_fuse_leaves_levels_of_weight_zero_out():
    scores = torch.tensor([[30.0, torch.inf], [torch.inf, torch.inf]])
    assert fuse(scores, torch.tensor([1.0, 0.0])).tolist() == [30, torch.inf]


@pytest.mark.parametrize(
    "given", [(1, 2, 7), [0.1, 0.2, 0.7], np.array([1, 2, 7]), torch.tensor([10.0, 20, 70], requires_grad=True)]
)
def test_fusion_weights_are_scaled_to_sum_to_one(given):
    torch.testing.assert_close(as_weights(given), torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64))
    with torch.device("meta"):  # stays on the CPU whatever the default device
        assert as_weights((1, 3)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ((0.5, -0.5, 1), "non-negative"),
        ((0, 0, 0), "positive sum"),
        (("a", "b", "c"), "must be numbers"),
        ({"level 0": 1}, "must be numbers"),
        ((0.5, float("nan"), 0.5), "finite"),
        ((0.5, float("inf"), 0.5), "finite"),
    ],
)
def test_impossible_fusion_weights(fusion, message):
    with pytest.raises(ValueError, match=message):
        as_weights(fusion)
