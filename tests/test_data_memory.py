"""A worker's own memory while it goes through many file names."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from image_batches import feeder, reading_process
from PIL import Image

from ddfnet.data import EvalOrder
from ddfnet.data.sources import ImageFolder
from ddfnet.data.sources.names import Names
from ddfnet.tasks.classification.dataset import Pictures

COUNT, BATCH = 200_000, 500


class ManyNames(ImageFolder):
    """200,000 names as long as ImageNet's; only the reading is not a file's."""

    def __init__(self, holder):
        self.root, self.classes = Path("/data/imagenet/train"), [f"n{number:08}" for number in range(1000)]
        self._names = holder([f"n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(COUNT)])
        self.labels = np.arange(COUNT) % 1000
        file = io.BytesIO()
        Image.new("RGB", (1, 1)).save(file, "PNG")
        self._tiny = file.getvalue()

    def encoded(self, index):
        assert self.place(index).endswith(".JPEG")
        return self._tiny


def own_bytes(process):
    """Of private pages, which no other process shares."""
    lines = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines())
    return 1024 * sum(int(line[1]) for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:"))


def memory_of_a_worker(source, epochs):
    """Before the first epoch, and at the end of each.

    Before it come two epochs' worth of samples of the same few names: the worker's malloc takes up, once, some 15 MB
    that its parent had freed, whatever the names.
    """
    steps = COUNT // BATCH
    warm_up = 2 * steps
    same = [(0, index) for index in range(BATCH)]
    # a page that the main process writes becomes the worker's own: so neither a list of all keys, whose references it
    # counts, nor a permutation, 1.6 MB anew in each epoch; the names are gone through in their order
    order = itertools.chain(itertools.repeat(same, warm_up), *(EvalOrder(COUNT, BATCH) for _ in range(epochs)))
    one_pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
    batches = feeder(Pictures(source, lambda picture: one_pixel, None), order, workers=1)
    found = []
    for step, _ in enumerate(batches, start=1):
        if step >= warm_up and step % steps == 0:
            found.append(own_bytes(reading_process(batches)))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps_rollup")
def test_a_workers_memory_is_flat_over_three_epochs_of_200_000_names():
    start, *ends = memory_of_a_worker(ManyNames(Names), 3)
    print("arrays", start, *ends)
    assert all(abs(end - start) <= 0.02 * start for end in ends), (start, ends)
    start, end = memory_of_a_worker(ManyNames(list), 1)  # what the arrays are for
    print("list", start, end)
    assert end > 1.1 * start
