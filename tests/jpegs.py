"""JPEGs of all kinds, and how far a decoder's pictures are from PIL's."""

import numpy as np
import torch
from PIL import Image

from ddfnet.tasks.classification.augment import train_transform
from ddfnet.tasks.classification.dataset import Pictures
from ddfnet.tasks.classification.decoders import open_decoder


def smooth(rng, height, width):
    """A picture of soft shapes, as photographs are."""
    small = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def write_jpegs(root):
    """JPEGs of all kinds in two classes, and a PNG."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number, options in enumerate(
            [
                {"subsampling": "4:2:0"},
                {"subsampling": "4:4:4"},
                {"subsampling": "4:2:2", "restart_marker_rows": 1},
                {"progressive": True},
                {"optimize": True, "comment": b"x" * 3000},
            ]
        ):
            picture = smooth(rng, 100 + 37 * number, 151)
            picture.save(root / name / f"{number}.jpg", quality=85, **options)
        smooth(rng, 90, 120).convert("L").save(root / name / "6.jpg")
        smooth(rng, 90, 120).convert("CMYK").save(root / name / "7.jpg")
        smooth(rng, 90, 120).save(root / name / "8.png")
    return root


def differences(source, data, other, epochs=4):
    """Mean absolute difference from PIL's way of each picture in each epoch."""
    reference = Pictures(source, train_transform(data), 3)
    fast = Pictures(other or source, train_transform(data), 3, open_decoder(data))
    found = []
    for epoch in range(epochs):
        for index in range(len(source.labels)):
            a, b = reference[epoch, index].image, fast[epoch, index].image
            assert a.shape == b.shape and b.dtype == torch.uint8
            found.append((a.float() - b.float()).abs().mean().item())
    return np.array(found)
