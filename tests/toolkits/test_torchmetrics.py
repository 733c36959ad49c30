"""The metrics in torchmetrics, by torchmetrics' own habits, and in Lightning."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("torchmetrics")

import msds_plugin.adapters.torchmetrics as ours
from msds_plugin.adapters.torchmetrics import FullReference, MSDSFast
from torchmetrics import MetricCollection

from msds_plugin import registry

SMALL = {"backbone": "alexnet", "weights": None}


def batches(count=4, start=0):
    """Of different sizes: 1, 2, 3, 1, ... images."""
    for index in range(start, start + count):
        generator = torch.Generator().manual_seed(index)
        y = torch.rand(1 + index % 3, 3, 64, 64, generator=generator)
        yield (y + 0.1 * (1 + index) * torch.rand(y.shape, generator=generator)).clamp(0, 1), y


def options(name):
    return {} if not registry.get(name).takes_backbone else {**SMALL, **({"levels": 2} if name.startswith("msds") else {})}


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "spips"])  # which has no weights
def test_functional_class_and_accumulation_agree(name):
    stem = registry.get(name).title.replace("-", "")
    torch.manual_seed(0)
    module = registry.create(name, **options(name))
    each = torch.cat([module(x, y) for x, y in batches()])
    for reduction, wanted in (("mean", each.double().mean().float()), ("none", each)):
        torch.manual_seed(0)
        metric = getattr(ours, stem)(reduction, **options(name))
        assert metric.higher_is_better is not registry.get(name).lower_is_better
        assert metric.is_differentiable
        for x, y in batches():
            torch.manual_seed(0)
            function = getattr(ours, name.replace("-", "_"))(x, y, reduction, **options(name))
            # torchmetrics makes a scalar of a single score
            torch.testing.assert_close(metric(x, y).reshape(function.shape), function, rtol=0, atol=0)
        torch.testing.assert_close(metric.compute(), wanted, rtol=0, atol=1e-7)
        metric.reset()
        x, y = next(batches())
        metric.update(x, y)
        torch.testing.assert_close(metric.compute(), module(x, y).squeeze())


def test_functions_have_names_and_say_what_they_are():
    assert pickle.loads(pickle.dumps(ours.msds_lite_fast)) is ours.msds_lite_fast
    assert ours.msds_lite_fast.__doc__ == "MSDS-Lite-Fast of one batch, lower is better."


def test_forward_has_a_gradient_and_the_state_no_graph():
    for reduction in ("mean", "none"):
        metric = MSDSFast(reduction)
        for x, y in batches(2):
            x = x.clone().requires_grad_()
            (1 - metric(x, y)).sum().backward()
            assert x.grad.abs().sum() > 0
        assert not metric.compute().requires_grad


def test_a_collection_a_clone_a_pickle():
    metric = MetricCollection({"msds": MSDSFast(), "psnr": FullReference("psnr")}, prefix="val/")
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric))]
    for each in (metric, *copies):
        for x, y in batches(3):
            each.update(x, y)
    values = [each.compute() for each in (metric, *copies)]
    assert values[0].keys() == {"val/msds", "val/psnr"}
    assert values[0] == values[1] == values[2]
    metric.reset()


def test_random_weights_survive_a_pickle():
    metric = FullReference("msds", levels=1, **SMALL)
    x, y = next(batches())
    assert pickle.loads(pickle.dumps(metric))(x, y) == metric(x, y)


def test_no_weights_in_a_checkpoint_or_an_optimiser():
    model = nn.Module()
    model.metric = MSDSFast()
    assert not model.state_dict()
    assert not list(model.parameters())


def test_metrics_of_the_toolkits_by_name():
    metric = FullReference("psnr")
    assert metric.higher_is_better
    assert not metric.is_differentiable
    x, y = next(batches())
    expected = -10 * (x - y).square().mean().log10()
    torch.testing.assert_close(metric(x, y), expected, rtol=1e-4, atol=0)
    assert not FullReference("piq:gmsd").higher_is_better
    with pytest.raises(ValueError, match="did you mean"):
        FullReference("psnrr")
    with pytest.raises(ValueError, match="reduction"):
        FullReference("psnr", "sum")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_types(dtype):
    x, y = next(batches())
    x, y = x.to(dtype), y.to(dtype)
    metric = MSDSFast()
    assert metric(x, y) == MSDSFast()(x.float(), y.float())
    metric.set_dtype(torch.float16)
    metric.reset()
    for _ in range(3):
        metric.update(x, y)
    assert float(metric.compute()) == pytest.approx(float(MSDSFast()(x.float(), y.float())), rel=1e-6)


def test_autocast():
    x, y = next(batches())
    with torch.autocast("cpu", torch.bfloat16):
        assert MSDSFast()(x, y).item() == pytest.approx(MSDSFast()(x, y).item(), abs=1e-6)
        half = MSDSFast()(x, y).item()
    assert half == pytest.approx(MSDSFast()(x, y).item(), abs=0.02)


def test_plot():
    import matplotlib

    matplotlib.use("Agg")
    metric = MSDSFast()
    values = [metric(x, y) for x, y in batches(2)]
    figure, _ = metric.plot(values)
    assert figure is not None
    assert metric.plot()[0] is not None


PROCESS = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_torchmetrics import batches
from msds_plugin.adapters.torchmetrics import MSDSFast
rank, world = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=world)
mean, every = MSDSFast(), MSDSFast("none")
mine = list(batches(5))[rank::world]
for x, y in mine:
    mean.update(x, y)
    every.update(x, y)
print(repr(mean.compute().item()), sorted(every.compute().tolist()))
"""


@pytest.mark.slow
def test_two_processes_with_uneven_batches_give_the_number_of_one(tmp_path):
    from pathlib import Path

    code = PROCESS.format(tests=str(Path(__file__).parent))
    said = []
    for world in (1, 2):
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(rank), str(world), str(tmp_path / f"meet{world}")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        for run in runs:
            out, error = run.communicate(timeout=300)
            assert run.returncode == 0, error
            said.append(out)
    assert len(set(said)) == 1, said


@pytest.mark.slow
def test_lightning_loop_with_the_metric_logged_and_as_loss(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Denoiser(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(3, 3, 3, padding=1)
            self.loss = ours.MSDSLite(**SMALL, levels=1)
            self.quality = MSDSFast()

        def training_step(self, batch, _):
            x, y = batch
            loss = self.loss(x + 0.1 * self.net(x), y)
            self.log("loss", loss, on_step=True)
            return loss

        def validation_step(self, batch, _):
            x, y = batch
            self.quality.update((x + 0.1 * self.net(x)).clamp(0, 1), y)
            self.log("quality", self.quality)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    model = Denoiser()
    before = model.net.weight.detach().clone()
    data = list(batches(4))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    trainer.fit(model, loader, loader)
    assert not torch.equal(model.net.weight, before)
    logged = trainer.callback_metrics["quality"]
    check = MSDSFast()
    for x, y in data:
        with torch.no_grad():
            check.update((x + 0.1 * model.net(x)).clamp(0, 1), y)
    torch.testing.assert_close(logged.cpu(), check.compute(), rtol=0, atol=1e-6)
