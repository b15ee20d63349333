"""Pictures per second of each way from a JPEG to a training crop, uint8: of one core, and of the loader's processes.

One core: the ways in turns, round by round, so that a disturbance meets all of them; pictures per second of processor
time, which other processes on the machine do not lengthen; the median over the rounds. The reference is what a script
around torchvision does: PIL, RandomResizedCrop, RandomHorizontalFlip.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from ddfnet.config import Data
from ddfnet.counted import counted
from ddfnet.data import Feeder, Packed, TrainOrder, pack
from ddfnet.data.sources import EncodedSource, ImageFolder, TarFolder
from ddfnet.errors import UserError
from ddfnet.tasks.classification.augment import train_transform
from ddfnet.tasks.classification.dataset import Batches, Pictures
from ddfnet.tasks.classification.decoders import open_decoder

from .timing import print_table

REFERENCE = "PIL + torchvision"
BATCH = 50


def open_root(root: Path) -> EncodedSource:
    if root.is_file():
        return TarFolder(root.parent, root.name)
    return ImageFolder(root / "train" if (root / "train").is_dir() else root)


def measure(
    figures: dict, root: Path, device: torch.device, size: int = 224, rounds: int = 7, workers: tuple[int, ...] = (1, 2)
) -> None:
    """Fills figures: `pictures`, `one_core` (a row a way), `loader` (a row a way and number of workers)."""
    source = open_root(root)
    count = len(source.labels)
    figures["pictures"] = describe(source)
    with tempfile.TemporaryDirectory() as folder:
        pack(source, Path(folder) / "train.pack", 256, workers=0)
        packed = Packed(folder, "train")
        ways = {name: pictures_of(name, source, packed, size) for name in ("pil", "turbo", "packed", "nvjpeg")}
        one_core(figures, source, {name: way for name, way in ways.items() if way}, size, rounds)
        by_loader(figures, count, {name: way for name, way in ways.items() if way}, device, workers)


def describe(source: EncodedSource) -> dict:
    sizes, pixels = [], []
    for index in range(len(source.labels)):
        blob = source.encoded(index)
        with Image.open(io.BytesIO(blob)) as image:
            pixels.append(image.size)
        sizes.append(len(blob))
    width, height = np.mean(pixels, axis=0)
    return {"count": len(sizes), "mean_bytes": float(np.mean(sizes)), "mean_size": [float(width), float(height)]}


def pictures_of(name: str, source, packed: Packed, size: int) -> Pictures | None:
    """As the config's keys would make them; None where the library is not installed."""
    choice = {"source": "packed"} if name == "packed" else {"decoder": name}
    data = Data(image_size=size, **choice)  # type: ignore[arg-type]
    try:
        decoder = open_decoder(data)
    except UserError as error:
        print(f"left out: {error}")
        return None
    return Pictures(packed if name == "packed" else source, train_transform(data), 0, decoder)


def reference(source: EncodedSource, size: int) -> Callable[[int], torch.Tensor]:
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )

    def one(index: int) -> torch.Tensor:
        with Image.open(io.BytesIO(source.encoded(index))) as image:
            return transform(image.convert("RGB"))

    return one


def one_core(figures: dict, source: EncodedSource, ways: dict[str, Pictures], size: int, rounds: int) -> None:
    plain = reference(source, size)
    calls: dict[str, Callable[[int, int], object]] = {REFERENCE: lambda epoch, index: plain(index)}
    for name, pictures in ways.items():
        calls[name] = lambda epoch, index, pictures=pictures: pictures[epoch, index]
    calls["nvjpeg"] = calls.pop("nvjpeg")  # last: what it leaves to the core is reading alone
    count = len(source.labels)
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for epoch in range(-1, rounds):
        for name, call in calls.items():
            started = time.process_time()
            for index in range(count):
                call(max(epoch, 0), index)
            if epoch >= 0:
                speeds[name].append(count / (time.process_time() - started))
    base = statistics.median(speeds[REFERENCE])
    figures["one_core"] = [
        {
            "way": f"{name}: reading and drawing the crop alone" if name == "nvjpeg" else name,
            "images_per_second": statistics.median(found),
            "slowest_round": min(found),
            "fastest_round": max(found),
            "ratio": statistics.median(found) / base,
        }
        for name, found in speeds.items()
    ]
    rows = [
        (row["way"], f"{row['images_per_second']:,.0f}", f"{row['ratio']:.2f}", f"{row['slowest_round']:,.0f}")
        for row in figures["one_core"]
    ]
    title = f"{counted(count, 'picture')} to crops of {size} pixels, one core, {counted(rounds, 'round')}"
    print_table(title, ("", "img/s", "of reference", "slowest"), rows)


def by_loader(
    figures: dict, count: int, ways: dict[str, Pictures], device: torch.device, workers: tuple[int, ...]
) -> None:
    """Of wall time, from the first batch on, to tensors on the device."""
    figures["loader"] = []
    for name, pictures in ways.items():
        for number in workers:
            batch = min(BATCH, count)
            steps = max(8 * number, 4 * count // batch) + 1
            loader = Batches(pictures, TrainOrder(count, batch, 0, 0, steps), number, device.type == "cuda")
            batches = iter(Feeder(loader, device))
            next(batches)
            started = time.perf_counter()
            for _ in batches:
                pass
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            speed = (steps - 1) * batch / (time.perf_counter() - started)
            where = f"{name}, decoded on {device.type}" if name == "nvjpeg" else name
            figures["loader"].append({"way": where, "workers": number, "images_per_second": speed})
    rows = [(row["way"], row["workers"], f"{row['images_per_second']:,.0f}") for row in figures["loader"]]
    print_table(f"the loader, {device.type}, batches of {min(BATCH, count)}", ("", "workers", "img/s"), rows)
