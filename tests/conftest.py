"""What the tests share: images, networks, the material beside the checkout, and toolkits that are put back."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from typer.testing import CliRunner, Result

from msds_plugin import Backbone, DeepSSIM, build_backbone, registry

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and so do the processes that tests start.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1].parent / "shared"

needs_cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def read_image(path: Path, mode: str = "RGB") -> Tensor:
    pixels = np.asarray(Image.open(path).convert(mode), dtype=np.float32) / 255
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).unsqueeze(0).contiguous()


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the fixture ``shared`` as ``shared``."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        pytest.skip("needs the material beside the checkout, ../shared")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", needs_cuda])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared``."""
    return SHARED


@pytest.fixture
def toolkits_as_before() -> Iterator[None]:
    """What a test registers, in our table and in those of the toolkits, is gone after it."""
    tables = [registry._metrics]
    if "pyiqa" in sys.modules:
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
        from pyiqa.utils.registry import ARCH_REGISTRY

        tables += [DEFAULT_CONFIGS, ARCH_REGISTRY._obj_map]
    if "piq" in sys.modules:
        from msds_plugin.adapters import piq as adapter

        tables += [vars(sys.modules["piq"]), vars(adapter), adapter._losses]
    if "msds_plugin.adapters.torchmetrics" in sys.modules:
        tables.append(vars(sys.modules["msds_plugin.adapters.torchmetrics"]))
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        # What pyiqa itself has loaded meanwhile is registered by the import, which happens only once.
        loaded = {key: value for key, value in table.items() if str(getattr(value, "__module__", "")).startswith("pyiqa.")}
        table.clear()
        table.update(loaded | content)


@pytest.fixture
def own_metric(toolkits_as_before: None) -> registry.Metric:
    """A metric of a user, not registered yet."""

    class Difference(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x - y).abs().mean((1, 2, 3))

    name = "test-difference"
    return registry.Metric(name, "Test-Difference", Difference, True, (0, float("inf")), "mean absolute difference")


@pytest.fixture
def cached_weights(monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache with the real weights of AlexNet, SqueezeNet and LPIPS, for pyiqa too; empty where they are absent."""
    folder = SHARED / "torch_home"
    monkeypatch.setenv("TORCH_HOME", str(folder))
    if "pyiqa" in sys.modules:
        monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(folder / "hub" / "pyiqa"))
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights are cached, and none can be had; the folder where they would be."""

    def download(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return tmp_path / "empty"


@pytest.fixture
def torch_home(shared: Path, cached_weights: Path) -> Path:
    """The same, for tests that cannot do without it."""
    return cached_weights


@pytest.fixture(scope="session")
def alexnet_file(shared: Path) -> Path:
    return shared / "torch_home/hub/checkpoints/alexnet-owt-7be5be79.pth"


@pytest.fixture(scope="session")
def alexnet_state() -> dict[str, Tensor]:
    """What torchvision saves of an AlexNet of random values, without the classifier's large tensors."""
    torch.manual_seed(7)
    return {name: value for name, value in models.alexnet(weights=None).state_dict().items() if value.numel() < 1e6}


@pytest.fixture(scope="session")
def random_alexnet_file(alexnet_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for AlexNet."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(alexnet_state, path)
    return path


@pytest.fixture(scope="session")
def read() -> Callable[[Path], Tensor]:
    """Reads an image as (1, 3, H, W)."""
    return read_image


@pytest.fixture(scope="session")
def golden() -> Callable[..., Tensor]:
    """Reads one of the golden images, (1, 3, H, W), or its saliency map, (1, 1, H, W)."""

    def read(name: str, saliency: bool = False) -> Tensor:
        return read_image(GOLDEN / name.replace(".png", ".saliency.png"), "L") if saliency else read_image(GOLDEN / name)

    return read


@pytest.fixture(scope="session")
def photographs() -> list[Tensor]:
    """Three photographs, (1, 3, 176, 176) each."""
    return [read_image(GOLDEN / name)[..., -176:, -176:] for name in ("hats.png", "parrots.png", "shutters.png")]


@pytest.fixture(scope="session")
def kodak(shared: Path) -> list[Tensor]:
    """Six photographs of Kodak, a corner of 256 x 256 pixels of each."""
    return [read_image(file)[..., -256:, -256:] for file in sorted((shared / "data/kodak").glob("*.png"))]


@pytest.fixture(params=["photographs", pytest.param("kodak", marks=[pytest.mark.shared, pytest.mark.slow])])
def several_photographs(request: pytest.FixtureRequest) -> list[Tensor]:
    """Photographs of one size: those of the checkout, and larger ones beside it."""
    found: list[Tensor] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def pair(golden: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Two distorted images and their reference, (2, 3, 129, 135): small, with odd sides, three levels for AlexNet."""
    crop = (..., slice(60, 189), slice(80, 215))
    y = golden("hats.png")[crop].repeat(2, 1, 1, 1)
    return torch.cat([golden(f"hats_{kind}.png")[crop] for kind in ("jpeg8", "blur2")]), y


class Recorded:
    """An image read in windows that remembers them."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.shape = image, tuple(image.shape)
        self.windows: list[tuple[int, int, int, int]] = []

    @property
    def largest(self) -> int:
        """Pixels of the largest window."""
        return max(height * width for *_, height, width in self.windows)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        self.windows.append((top, left, height, width))
        assert 0 <= top <= top + height <= self.shape[2]
        assert 0 <= left <= left + width <= self.shape[3]
        return self.image[..., top : top + height, left : left + width].clone()


@pytest.fixture
def recorded() -> type[Recorded]:
    return Recorded


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


@pytest.fixture(scope="session")
def lite0() -> Backbone:
    """EfficientNet-Lite0 with its real weights; copy it before changing it."""
    return build_backbone("efficientnet_lite0")


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new interpreter and a folder of its own; it must end with ``code``."""

    def run(program: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def msds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process and a folder of its own: ``msds("fit", ...)``.

    It must end with ``code`` and say each of ``stdout`` and ``stderr``; an empty text stands for nothing at all.
    """
    from msds_plugin.adapters.cli.app import app

    monkeypatch.chdir(tmp_path)

    def run(
        *arguments: object, code: int = 0, stdout: str | tuple[str, ...] = (), stderr: str | tuple[str, ...] = ()
    ) -> Result:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        for wanted, said in ((stdout, done.stdout), (stderr, done.stderr)):
            for text in [wanted] if isinstance(wanted, str) else wanted:
                assert (text in said) if text else not said
        return done

    return run
