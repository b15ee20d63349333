"""Whether a network takes images of a size and gives a number per class: tried before anything is made or trained."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...config import Config
from ...errors import UserError, one_line
from ...eval_mode import evaluating
from ...train.precision import autocast


@torch.no_grad()
def require_fit(
    config: Config, model: nn.Module, some_images: Callable[[], Tensor], classes: int, size: str, training: bool
) -> None:
    """Run the network once, in the mode of training or of evaluation, and leave it as it was.

    It costs one forward pass of a few images. Training draws its random numbers anew in each step, so none are lost.

    Args:
        some_images: gives (N, 3, H, W), normalised, such as two black ones, where memory allows.
        size: theirs, as the config has it, for errors: "data.image_size = 224".

    Raises:
        UserError: the network fails on them, or gives anything but (N, classes).
    """
    options = f" with model.kwargs = {config.model.kwargs}" if config.model.kwargs else ""
    name = f"{config.model.name}{options}"
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}  # batch norms' statistics, that would move
    try:
        images = some_images()
        with evaluating(model), autocast(images.device, config.train.amp):  # which sets the mode back afterwards
            model.train(training)
            scores = torch.func.functional_call(model, buffers, (images,))
    except Exception as error:  # networks check their input by all kinds of exceptions
        reason = one_line(error)
        fixed = training and getattr(model, "pretrained_cfg", {}).get("fixed_input_size")
        way_out = " (give it the size that it takes, or that of the images as model.kwargs.img_size)" if fixed else ""
        raise UserError(f"{name} fails on images of {size}: {reason}{way_out}") from None
    expected = (len(images), classes)
    if isinstance(scores, Tensor) and scores.shape == expected:
        return
    given = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
    what = f"gives {given} for {len(images)} images{' in training' if training else ''}"
    raise UserError(f"{name} {what}, expected a tensor {expected}, a number for each class")
