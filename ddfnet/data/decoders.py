"""Training pictures by other ways than PIL and timm's transform: libjpeg-turbo, packed pixels, or left to the device.

Each is called with (source, index, epoch) after the generators were seeded for the sample, draws the same crop as PIL's
way would, and answers None for a picture that is not for it, which then goes PIL's way.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .crops import Crop, Crops, resize
from .picture import too_large
from .sources import Source

SHARPEST = 1.5  # OpenCV's bilinear filter takes two pixels a side, however many there are: up to here, all of them


class Undecoded(NamedTuple):
    """A JPEG and what to make of it, for the device."""

    blob: bytes
    crop: Crop


class Decoder(Protocol):
    def __call__(self, source: Source, index: int, epoch: int) -> Tensor | Undecoded | None: ...


def open_decoder(data) -> Decoder | None:
    """What the config's `data` section asks for; None for PIL.

    Raises:
        UserError: the library that it needs is not installed, or cannot do what else the section asks for.
    """
    if data.source == "packed":
        return PackedCrops(Crops(data))
    if data.decoder == "pil" or data.source in ("digits", "synthetic"):
        return None
    crops = Crops(data)
    if data.decoder == "turbo":
        return TurboJpeg(crops)
    if not crops.only_crops:
        raise UserError(
            "data.decoder = 'nvjpeg' leaves nothing to PIL, which data.auto_augment, color_jitter and the like need:"
            " turn them off, or use data.decoder=turbo"
        )
    return LeftToDevice(crops)


class JpegHeader(NamedTuple):
    width: int
    height: int
    components: int
    height_at: int  # where in the file the height stands, two bytes
    baseline: bool  # sequential Huffman coding: rows come in order


def jpeg_header(blob: bytes) -> JpegHeader | None:
    """Of a JPEG that is whole to its end marker and of a kind that all decoders know, else None."""
    if blob[:2] != b"\xff\xd8" or b"\xff\xd9" not in blob[-64:]:
        return None  # PIL accepts what ends early but has all its rows, and says so where it does not
    at, size = 2, len(blob)
    while at + 9 < size and blob[at] == 0xFF:
        marker = blob[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = _number(blob, at + 5), _number(blob, at + 7)
            known = blob[at + 4] == 8 and blob[at + 9] in (1, 3) and width and height and not too_large(width, height)
            return JpegHeader(width, height, blob[at + 9], at + 5, marker != 0xC2) if known else None
        if marker == 0xFF:  # padding
            at += 1
        elif (0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker in (0xD9, 0xDA):
            return None
        else:
            at += 2 + _number(blob, at + 2)
    return None


def _number(blob: bytes, at: int) -> int:
    return int.from_bytes(blob[at : at + 2], "big")


class TurboJpeg:
    """libjpeg-turbo by way of simplejpeg, resized by torch's vectorised filters.

    Of a baseline JPEG only the rows down to the crop's last are decoded, by saying in the header that it is no higher:
    bit for bit the pixels that PIL finds. A crop of four times the size that is needed is decoded at half of it by
    libjpeg's scaled transform, eight times at a quarter, and so on: that moves its edges by up to a quarter of a pixel.
    """

    def __init__(self, crops: Crops):
        try:
            import simplejpeg
        except ImportError:
            raise UserError("data.decoder = 'turbo' needs simplejpeg: pip install 'ddfnet[turbo]'") from None
        self._crops, self._decode = crops, simplejpeg.decode_jpeg

    def __call__(self, source: Source, index: int, epoch: int) -> Tensor | None:
        if not hasattr(source, "encoded"):
            return None
        blob = source.encoded(index)
        header = jpeg_header(blob)
        if header is None:
            return None
        crop = self._crops.draw(header.width, header.height, epoch)
        shrink = 1
        while shrink < 8 and min(crop.width, crop.height) >= 4 * shrink * crop.size:
            shrink *= 2
        rows = header.height
        if header.baseline:
            rows = min(rows, crop.top + crop.height + 2)  # chroma, of half the rows, is smoothed with the next one
        if rows < header.height:
            at = header.height_at
            blob = b"".join((blob[:at], rows.to_bytes(2, "big"), blob[at + 2 :]))
        try:  # not strict: warnings are no errors for PIL either, and what follows the last row is one
            least = (-(-rows // shrink), -(-header.width // shrink)) if shrink > 1 else (0, 0)
            pixels = self._decode(blob, "RGB", False, False, *least, strict=False)
        except ValueError:
            return None
        part = crop
        if shrink > 1:
            part = crop._replace(
                **{side: round(getattr(crop, side) / shrink) for side in ("left", "top", "width", "height")}
            )
        return self._crops.finish(resize(_box(pixels, part), crop).permute(1, 2, 0), crop)


class PackedCrops:
    """Crops of packed pixels, by OpenCV where its filter is as good as Pillow's: when it need not shrink by much."""

    def __init__(self, crops: Crops):
        try:
            import cv2
        except ImportError:
            raise UserError("data.source = 'packed' needs OpenCV: pip install 'ddfnet[turbo]'") from None
        cv2.setNumThreads(1)  # the loader's processes are the threads
        self._crops, self._resize, self._flip = crops, cv2.resize, cv2.flip

    def __call__(self, source: Source, index: int, epoch: int) -> Tensor:
        pixels = source.pixels(index)  # type: ignore[attr-defined]
        crop = self._crops.draw(pixels.shape[1], pixels.shape[0], epoch)
        if crop.bicubic or max(crop.width, crop.height) > SHARPEST * crop.size:
            return self._crops.finish(resize(_box(pixels, crop), crop).permute(1, 2, 0), crop)
        box = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        result = self._resize(box, (crop.size, crop.size))  # bilinear
        if crop.flip:  # a third of the time that torch's takes
            result = self._flip(result, 1)
        return self._crops.finish(result, crop._replace(flip=False))


class LeftToDevice:
    """Reads the file and draws the crop from its header; decoded in the main process, see feed.py."""

    def __init__(self, crops: Crops):
        self._crops = crops

    def __call__(self, source: Source, index: int, epoch: int) -> Undecoded | None:
        if not hasattr(source, "encoded"):
            return None
        blob = source.encoded(index)
        header = jpeg_header(blob)
        return Undecoded(blob, self._crops.draw(header.width, header.height, epoch)) if header else None


def _box(pixels: np.ndarray, crop: Crop) -> Tensor:
    """(3, H, W) with the colours of a pixel adjacent."""
    box = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return torch.from_numpy(box.copy()).permute(2, 0, 1)
