"""The metrics that most of these tests are about."""

import copy
from collections.abc import Callable

import pytest

from msds_plugin import MSDS, Backbone, DeepSSIM, DeepSSIMLite, Metric, MSDSLite

FUSION = (0.1, 0.2, 0.7)
KINDS: dict[str, Callable[[Backbone], Metric]] = {
    "deepssim": DeepSSIM,
    "lite": DeepSSIMLite,
    "msds": lambda backbone: MSDS(3, FUSION, backbone=backbone),
    "msds-lite": lambda backbone: MSDSLite(3, FUSION, backbone=backbone),
}


@pytest.fixture(params=KINDS)
def metric(request: pytest.FixtureRequest, lite0: Backbone) -> Metric:
    """DeepSSIM and MSDS with their -lite forms, on two layers with real weights; may be moved and converted."""
    return KINDS[request.param](copy.deepcopy(lite0.tapped(["stage1", "stage2"])))


@pytest.fixture
def best(metric: Metric) -> float:
    """The score of identical images."""
    return 0.0 if metric.lower_is_better else 1.0
