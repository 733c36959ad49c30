"""HaarPSI and MDSI beside piq's, and what piq does not promise."""

import piq
import pytest
import torch

from msds_plugin import local, mdsi
from msds_plugin.hybrid import MDSI, HaarPSI

TERMS = [(HaarPSI, piq.haarpsi), (MDSI, piq.mdsi)]
SIZES = [(64, 80), (65, 80), (64, 81), (17, 33), (400, 384), pytest.param((641, 640), marks=pytest.mark.slow)]


def noisy(height: int, width: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(2, 3, height, width, dtype=dtype, generator=generator)
    strength = torch.tensor([0.02, 0.9]).view(2, 1, 1, 1).to(dtype)
    return y + strength * (torch.rand(y.shape, dtype=dtype, generator=generator) - y), y


@pytest.mark.parametrize(("ours", "theirs"), TERMS)
@pytest.mark.parametrize("size", SIZES)
def test_as_piq(ours, theirs, size):
    x, y = noisy(*size)
    torch.testing.assert_close(ours()(x, y), theirs(x, y, reduction="none"), rtol=0, atol=1e-9)
    single = ours()(x.float(), y.float())
    torch.testing.assert_close(single.double(), theirs(x, y, reduction="none"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), TERMS)
def test_as_piq_on_photographs(ours, theirs, golden):
    y = golden("hats.png")
    for kind in ("jpeg8", "blur2"):
        x = golden(f"hats_{kind}.png")
        exact = theirs(x.double(), y.double(), reduction="none")  # in float32 piq's haarpsi itself is off by more than 1e-6
        torch.testing.assert_close(ours()(x, y).double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("term", "best"), [(HaarPSI, 1.0), (MDSI, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_identical_images_score_best_to_the_last_bit(term, best, dtype, golden):
    for y in (golden("hats.png"), torch.zeros(1, 3, 32, 32), torch.full((1, 3, 40, 17), 0.3)):
        assert term()(y.to(dtype), y.to(dtype)).item() == best


@pytest.mark.parametrize("term", [HaarPSI, MDSI])
def test_gradients(term):
    x, y = (image[:1] for image in noisy(20, 19))
    assert torch.autograd.gradcheck(term(), (x.requires_grad_(), y.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("term", [HaarPSI, MDSI])
def test_no_gradient_is_infinite(term):
    flat = torch.full((1, 3, 32, 32), 0.5)
    for x, y in ((flat, flat), (torch.rand(1, 3, 32, 32),) * 2, (flat, torch.rand(1, 3, 32, 32))):
        image = x.clone().requires_grad_()
        term()(image, y).backward()
        assert image.grad.isfinite().all()


@pytest.mark.parametrize("term", [HaarPSI, MDSI])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_that_of_the_input(term, dtype):
    x, y = (image.to(dtype) for image in noisy(64, 64))
    score = term()(x, y)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, term()(x.float(), y.float()), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(term()(x.float(), y.float()), score, rtol=0, atol=0)


def test_haarpsi_is_symmetric():
    x, y = noisy(48, 50)
    assert torch.equal(HaarPSI()(x, y), HaarPSI()(y, x))


@pytest.mark.parametrize("tile", [5, 16, 1000])
def test_haarpsi_in_tiles(tile, recorded):
    x, y = noisy(41, 50)
    torch.testing.assert_close(HaarPSI(tile)(x, y), HaarPSI()(x, y), rtol=0, atol=1e-12)
    read = recorded(x), recorded(y)
    torch.testing.assert_close(HaarPSI(tile)(*read), HaarPSI()(x, y), rtol=0, atol=1e-12)
    assert read[0].largest <= (2 * (tile + 7)) ** 2


def test_windows_without_a_tile_size(monkeypatch, recorded):
    x, y = noisy(1030, 600)
    monkeypatch.setattr(local, "TILE", 100)
    monkeypatch.setattr(mdsi, "STRIP", 1 << 14)
    for term in (HaarPSI(), MDSI()):
        read = recorded(x), recorded(y)
        torch.testing.assert_close(term(*read), term(x, y), rtol=0, atol=1e-12)
        assert read[0].largest < x[0, 0].numel() / 8


@pytest.mark.parametrize("term", [HaarPSI, MDSI])
def test_errors(term, recorded):
    y = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="one size, got 32 x 31 and 32 x 32"):
        term()(y[..., :31], y)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        term()(y * 255, y)
    with pytest.raises(TypeError, match="floating"):
        term()((y * 255).byte(), y)
    with pytest.raises(ValueError, match="too small"):
        term()(y[..., :2], y[..., :2])
    for bad, error in ((y * 255, ValueError), (y * torch.nan, ValueError), ((y * 255).byte(), TypeError)):
        with pytest.raises(error, match=r"in \[0, 1\]"):
            term()(recorded(bad), recorded(y))


def test_what_is_not_a_tile():
    with pytest.raises(ValueError, match="tile must be a number of 2 x 2 averages"):
        HaarPSI(0)
