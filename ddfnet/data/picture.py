"""Encoded bytes to a picture in RGB, by PIL: the decoder that all others are measured against and fall back on."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError, one_line

LONGEST = 64  # times the shorter side; no photograph comes near


class UndecodablePicture(UserError):
    """The bytes are there, but are no picture: the one mistake that `data.on_corrupt: replace` may pass over."""


def decode(blob: bytes, name: str) -> Image.Image:
    """The picture in RGB, as torchvision's ImageFolder gives it: the first frame, alpha dropped, not turned by EXIF.

    16-bit greyscale is scaled to 8 bits, where PIL alone would clip it to white.

    Raises:
        UndecodablePicture: empty, truncated, no picture, too large (a decompression bomb), or of a kind without a
            defined white, naming `name`.
    """
    if not blob:
        raise UndecodablePicture(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(blob)) as image:
            return _rgb(image)
    except UnidentifiedImageError:
        raise UndecodablePicture(f"{name}: is not a picture, although it is named like one") from None
    except Image.DecompressionBombError as error:
        raise UndecodablePicture(f"{name}: is too large to be decoded: {error}") from None
    except Exception as error:  # PIL's readers raise all kinds, down to struct.error and IndexError
        reason = one_line(error)
        raise UndecodablePicture(f"{name}: the picture cannot be decoded: {reason}") from None


def too_large(width: int, height: int) -> bool:
    """Whether PIL would refuse it as a decompression bomb."""
    return Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS


def without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is more than LONGEST times as long as wide; others as they are.

    1 x 20,000 pixels would be resized to 256 x 5,120,000, 4 GB, of which the evaluation sees the middle 224.
    """
    width, height = image.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()  # convert() would copy it
        return image
    if image.mode.startswith("I"):  # 16 bits, for which older versions of PIL use their 32-bit mode
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixels are 32-bit integers, expected 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating point, expected 8 or 16 bits")
    return image.convert("RGB")
