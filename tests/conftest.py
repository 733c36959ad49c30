"""What the tests of the mathematics share: images, real weights, and the material beside the checkout."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from msds_plugin import DeepSSIM, registry

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and so do the processes that tests start: threads that wait for a busy core cost more than
    # they bring.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1].parent / "shared"

needs_cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def read_image(path: Path, mode: str = "RGB") -> Tensor:
    pixels = np.asarray(Image.open(path).convert(mode), dtype=np.float32) / 255
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).unsqueeze(0).contiguous()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", needs_cuda])
def device(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared material is not beside the checkout")
    return SHARED


@pytest.fixture
def toolkits_as_before() -> Iterator[None]:
    """What a test registers, in our table and in those of the toolkits, is gone after it."""
    tables: list[dict[str, Any]] = [registry._metrics]
    if "pyiqa" in sys.modules:
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
        from pyiqa.utils.registry import ARCH_REGISTRY

        tables += [DEFAULT_CONFIGS, ARCH_REGISTRY._obj_map]
    if "piq" in sys.modules:
        from msds_plugin.adapters.piq import metric as adapter

        tables += [vars(sys.modules["piq"]), adapter._losses, adapter._functions]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.fixture
def own_metric(toolkits_as_before: None) -> registry.Metric:
    """A metric of a user, not registered yet."""

    class Difference(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x - y).abs().mean((1, 2, 3))

    name = "test-difference"
    return registry.Metric(name, "Test-Difference", Difference, True, (0, float("inf")), "mean absolute difference")


@pytest.fixture(scope="session")
def kept_for_backward() -> Callable[[Callable[[], object]], int]:
    """Counts the elements of all tensors that autograd keeps during a call."""

    def count(call: Callable[[], object]) -> int:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
            call()
        return sum(kept)

    return count


@pytest.fixture
def torch_home(shared, monkeypatch) -> Path:
    """torch.hub's cache with the real weights of AlexNet and SqueezeNet."""
    monkeypatch.setenv("TORCH_HOME", str(shared / "torch_home"))
    return shared / "torch_home"


@pytest.fixture(scope="session")
def alexnet_file(shared) -> Path:
    return shared / "torch_home/hub/checkpoints/alexnet-owt-7be5be79.pth"


@pytest.fixture(scope="session")
def golden() -> Callable[..., Tensor]:
    """Reads one of the golden images, (1, 3, H, W), or its saliency map, (1, 1, H, W)."""

    def read(name: str, saliency: bool = False) -> Tensor:
        return read_image(GOLDEN / name.replace(".png", ".saliency.png"), "L") if saliency else read_image(GOLDEN / name)

    return read


@pytest.fixture(scope="session")
def photographs() -> list[Tensor]:
    """Kodak photographs, a corner of 256 x 256 pixels of each; without the shared material, the golden images."""
    kodak = sorted((SHARED / "data/kodak").glob("*.png"))
    files = kodak or [GOLDEN / name for name in ("hats.png", "parrots.png", "shutters.png")]
    return [read_image(file)[..., -256:, -256:] for file in files]


@pytest.fixture
def pair(golden) -> tuple[Tensor, Tensor]:
    """Two distorted images and their reference, (2, 3, 129, 135): small, with odd sides, three levels for AlexNet."""
    crop = (..., slice(60, 189), slice(80, 215))
    y = golden("hats.png")[crop].repeat(2, 1, 1, 1)
    return torch.cat([golden(f"hats_{kind}.png")[crop] for kind in ("jpeg8", "blur2")]), y


@pytest.fixture(scope="session")
def random_alexnet() -> DeepSSIM:
    """DeepSSIM on an AlexNet of random values; not to be changed."""
    torch.manual_seed(0)
    return DeepSSIM("alexnet", weights=None)


@pytest.fixture(scope="session")
def random_vgg16() -> DeepSSIM:
    """DeepSSIM on the VGG16 of the golden values; not to be changed."""
    torch.manual_seed(0)
    return DeepSSIM("vgg16", weights=None)
