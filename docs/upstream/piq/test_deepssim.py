from typing import Tuple, Type

import pytest
import torch
from torch import nn

from piq import DeepSSIMLoss, MSDSLoss


@pytest.fixture(params=[DeepSSIMLoss, MSDSLoss])
def loss_class(request) -> Type[DeepSSIMLoss]:
    return request.param


@pytest.fixture
def extractor() -> nn.Module:
    """A small network of random values: no weights are downloaded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())


# ================== Test classes: `DeepSSIMLoss`, `MSDSLoss` ==================
def test_loss_zero_for_equal_input(input_tensors: Tuple[torch.Tensor, torch.Tensor], device: str, loss_class,
                                   extractor) -> None:
    prediction, _ = input_tensors
    loss = loss_class(feature_extractor=extractor.to(device))(prediction.to(device), prediction.to(device).clone())
    assert loss == 0, f'Expected loss equals zero for identical inputs, got {loss}'


def test_loss_symmetry(input_tensors: Tuple[torch.Tensor, torch.Tensor], device: str, loss_class, extractor) -> None:
    prediction, target = (tensor.to(device) for tensor in input_tensors)
    loss = loss_class(feature_extractor=extractor.to(device))
    assert torch.allclose(loss(prediction, target), loss(target, prediction)), 'Expected a symmetric loss'


def test_loss_computes_grad(input_tensors: Tuple[torch.Tensor, torch.Tensor], device: str, loss_class, extractor) -> None:
    prediction, target = input_tensors
    prediction.requires_grad_()
    loss_class(feature_extractor=extractor.to(device))(prediction.to(device), target.to(device)).backward()
    assert torch.isfinite(prediction.grad).all(), \
        f'Expected finite gradient values after back propagation, got {prediction.grad}'


def test_data_range(input_tensors: Tuple[torch.Tensor, torch.Tensor], device: str, loss_class, extractor) -> None:
    prediction, target = (tensor.to(device) for tensor in input_tensors)
    extractor = extractor.to(device)
    loss = loss_class(feature_extractor=extractor)(prediction, target)
    loss_255 = loss_class(feature_extractor=extractor, data_range=255)(prediction * 255, target * 255)
    assert torch.allclose(loss, loss_255, atol=1e-4), f'Expected equal values, got {loss} and {loss_255}'


def test_sizes_may_differ(device: str, loss_class, extractor) -> None:
    x, y = torch.rand(2, 3, 96, 120, device=device), torch.rand(2, 3, 80, 64, device=device)
    loss = loss_class(reduction='none', feature_extractor=extractor.to(device))(x, y)
    assert loss.shape == (2,), f'Expected one value for each pair, got {loss.shape}'


def test_more_damage_costs_more(device: str, loss_class, extractor) -> None:
    torch.manual_seed(0)
    x, noise = torch.rand(1, 3, 96, 96, device=device) * 0.5 + 0.25, torch.rand(1, 3, 96, 96, device=device) - 0.5
    loss = loss_class(feature_extractor=extractor.to(device))
    values = [loss(x + strength * noise, x) for strength in (0.05, 0.2, 0.5)]
    assert values == sorted(values), f'Expected a loss that grows with the noise, got {values}'


def test_batches_of_different_length(loss_class, extractor) -> None:
    with pytest.raises(AssertionError):
        loss_class(feature_extractor=extractor)(torch.rand(2, 3, 96, 96), torch.rand(3, 3, 96, 96))
