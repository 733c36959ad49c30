"""Whatever holds an image, as a tensor, with a note of what had to be done for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..images.profiles import cmyk_to_srgb
from ..images.read import ImageFileError, decode, to_tensor
from ..images.read import Picture as Decoded

#: One image: a path, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a tensor (3 or 1, H, W).
Picture: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor

_LARGEST = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_ORIENTATION = 0x0112  # of EXIF
_ALPHA = "laid over white, as it has an alpha channel"
_TURNED = "turned as its EXIF orientation {} says"
_DEEP = "16 bits, divided by 65535"


@dataclass(frozen=True)
class Taken:
    """One image as RGB.

    Attributes:
        image: (1, 3, H, W), float32 in [0, 1].
        notes: what was done to it beyond reading 8-bit RGB or grey.
        decoded: the same with its colour profile, which has not been applied; None where there is no profile.
    """

    image: Tensor
    notes: tuple[str, ...] = ()
    decoded: Decoded | None = None

    @property
    def profile(self) -> bytes | None:
        """Its colour profile; what has none is sRGB."""
        return None if self.decoded is None else self.decoded.profile

    def in_srgb(self) -> Tensor:
        """The image in sRGB.

        Raises:
            ValueError: its profile cannot be used.
        """
        return self.image if self.decoded is None else to_tensor(self.decoded.in_srgb()).contiguous()


def split(given: object) -> list[Any]:
    """The images in ``given``: one, a list or tuple of them, or a batch (arrays (N, H, W, 3), tensors (N, 3, H, W)).

    Raises:
        ValueError: an empty list or batch.
    """
    many = isinstance(given, (list, tuple)) or (isinstance(given, (np.ndarray, Tensor)) and given.ndim == 4)
    images = list(given) if many else [given]  # type: ignore[call-overload]
    if not images:
        raise ValueError("no image in an empty list")
    return images


def take(given: Any) -> Taken:
    """One image as RGB, and what was done to it.

    Raises:
        TypeError: something else than a path, PIL image, array or tensor, or values of a type without a known range.
        ValueError: another shape, or a file that cannot be read.
    """
    if isinstance(given, (str, os.PathLike)):
        return _from_file(given)
    if isinstance(given, Image.Image):
        return _from_pil(given)
    if isinstance(given, np.ndarray):
        return Taken(*_from_array(given))
    if isinstance(given, Tensor):
        return Taken(_from_tensor(given))
    raise TypeError(f"an image is a path, a PIL image, a numpy array or a torch tensor, not {type(given).__name__}")


def _from_file(path: str | os.PathLike[str]) -> Taken:
    decoded = decode(path)
    transparent = [note for note in decoded.notes if "transparent" in note]
    notes = [note for note in decoded.notes if note not in transparent]
    orientation = _orientation(path)
    notes += [_TURNED.format(orientation)] if orientation != 1 else []
    notes += [_DEEP] if decoded.colours.dtype == np.uint16 else []
    notes += [_ALPHA] if transparent else []
    return Taken(to_tensor(decoded).contiguous(), tuple(notes), decoded if decoded.profile else None)


def _orientation(path: str | os.PathLike[str]) -> int:
    try:
        with Image.open(path) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError):
        return 1  # of a format that Pillow does not know


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _from_pil(image: Image.Image) -> Taken:
    notes: list[str] = []
    orientation = image.getexif().get(_ORIENTATION, 1)
    profile: bytes | None = image.info.get("icc_profile") or None
    try:
        if orientation != 1:
            image = ImageOps.exif_transpose(image)
            notes.append(_TURNED.format(orientation))
        if image.mode.startswith("I;16"):
            tensor, more = _from_array(np.asarray(image).astype(np.uint16))
            return Taken(tensor, (*notes, *more))
        if image.mode in ("F", "I"):
            raise TypeError(f"a PIL image of mode {image.mode} has no known range: give an array with values in [0, 1]")
        if image.mode == "CMYK" and profile is not None:
            image, profile = cmyk_to_srgb(image, profile), None
        grey = "L" if image.mode in ("1", "L") else "RGB"
        pixels = np.asarray(image.convert("RGBA" if _has_alpha(image) else grey))
    except OSError as error:  # Pillow decodes late
        raise ImageFileError(f"cannot read {getattr(image, 'filename', 'the image')}: {error}") from error
    tensor, more = _from_array(pixels)
    if profile is None:
        return Taken(tensor, (*notes, *more))
    opaque = pixels.reshape(*pixels.shape[:2], -1)
    colours = opaque if opaque.shape[2] != 4 else tensor[0].permute(1, 2, 0).numpy()
    return Taken(tensor, (*notes, *more), Decoded(colours, profile))


def _from_array(array: npt.NDArray[Any]) -> tuple[Tensor, tuple[str, ...]]:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(
            f"an array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}; "
            "for channels first give a tensor, torch.from_numpy(array)"
        )
    notes = (_DEEP,) if array.dtype == np.uint16 else ()
    if array.dtype in _LARGEST:
        # The division of the reader, so that a file and its pixels give one score to the bit.
        values = torch.from_numpy(array.astype(np.float32)) / torch.tensor(_LARGEST[array.dtype])
    elif np.issubdtype(array.dtype, np.floating):
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    else:
        raise TypeError(f"values of type {array.dtype} have no known range: give uint8, uint16, or floats in [0, 1]")
    image = values.permute(2, 0, 1).unsqueeze(0)
    if image.shape[1] != 4:
        return image.expand(-1, 3, -1, -1).contiguous(), notes
    colours, alpha = image[:, :3], image[:, 3:]
    if (alpha == 1).all():
        return colours.contiguous(), notes
    return (colours * alpha + (1 - alpha)).contiguous(), (*notes, _ALPHA)


def _from_tensor(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    image = tensor[None] if tensor.dim() == 2 else tensor
    if image.dim() == 3:
        image = image[None]
    if image.dim() != 4 or len(image) != 1 or image.shape[1] not in (1, 3):
        raise ValueError(
            f"a tensor is (3, H, W), (1, H, W), (H, W) or a batch (N, 3, H, W), got {tuple(tensor.shape)}; "
            "for channels last give an array, tensor.numpy()"
        )
    if image.dtype == torch.uint8:
        image = image.float() / torch.tensor(255.0, device=image.device)
    elif not image.is_floating_point():
        raise TypeError(f"values of type {image.dtype} have no known range: give uint8, or floats in [0, 1]")
    return image.float().expand(-1, 3, -1, -1)
