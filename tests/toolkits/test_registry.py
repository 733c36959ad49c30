import pytest
import torch
from torch import nn

from msds_plugin import registry
from msds_plugin.registry import Metric

PUBLISHED = {"deepssim", "deepssim-lite", "deepssim-fast", "msds", "msds-lite", "msds-fast", "msds-hybrid"}


class Difference(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().mean((1, 2, 3))


def metric(name: str) -> Metric:
    return Metric(name, "Difference", Difference, True, (0, 1), "mean absolute difference")


@pytest.fixture
def empty_slot(monkeypatch):
    """A registry whose changes are undone, and that tells nobody."""
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
    monkeypatch.setattr(registry, "_listeners", [])


def test_published_names():
    assert set(registry.names()) >= PUBLISHED


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_entries_are_complete(name):
    entry = registry.get(name)
    assert entry.summary
    assert "arXiv" in entry.citation
    assert entry.best == (0 if entry.lower_is_better else 1)


def test_fast_metrics_are_what_their_name_says():
    fast = registry.create("msds-fast", levels=2, weights=None)
    assert fast.backbone.name == "efficientnet_lite0"
    assert fast.levels == 2
    with pytest.raises(ValueError, match="use msds"):
        registry.create("msds-fast", backbone="alexnet")


def test_register_and_create(empty_slot):
    registry.register(metric("difference"))
    assert registry.create("difference")(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).item() == 1


def test_a_taken_name_is_an_error_unless_overridden(empty_slot):
    registry.register(metric("difference"))
    with pytest.raises(ValueError, match="'difference' is registered already"):
        registry.register(metric("difference"))
    replacement = metric("difference")
    assert registry.register(replacement, override=True) is registry.get("difference")


def test_listeners_hear_of_old_and_new_once(empty_slot):
    heard = []
    registry.subscribe(heard.append)
    registry.subscribe(heard.append)
    assert [entry.name for entry in heard] == registry.names()
    registry.register(metric("difference"))
    assert heard[-1].name == "difference"
    assert len(heard) == len(registry.names())


def test_unknown_name_suggests():
    with pytest.raises(KeyError, match="did you mean msds"):
        registry.create("mdsd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Has Space"}, "lower-case"),
        ({"title": "1st"}, "starts with a letter"),
        ({"score_range": (1, 0)}, "score_range"),
        ({"factory": Difference()}, "factory"),
    ],
)
def test_bad_entries(change, message):
    fields = {"name": "m", "title": "M", "factory": Difference, "lower_is_better": True, "score_range": (0, 1), "summary": "s"}
    with pytest.raises((TypeError, ValueError), match=message):
        Metric(**(fields | change))
