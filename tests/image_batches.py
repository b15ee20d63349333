"""What a feeder hands out, for tests."""

import torch

from ddfnet.data import Feeder
from ddfnet.tasks.classification.dataset import Batches

CPU = torch.device("cpu")


def feeder(pictures, order, workers=0, device=CPU):
    return Feeder(Batches(pictures, order, workers, pin_memory=device.type == "cuda"), device)


def reading_process(batches):
    """The process id of the first worker that reads them."""
    return batches._batches._loader._loader._iterator._workers[0].pid


def images_and_labels(batches):
    return [(batch.images, batch.targets) for batch in batches]
