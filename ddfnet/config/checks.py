"""Options of a recipe that do not go together, a sentence each that begins with the key to change."""

from collections.abc import Iterator


def of_training(train) -> Iterator[str]:
    """What contradicts itself in the section `train` of any config."""
    if train.warmup_epochs >= train.epochs:
        yield f"train.warmup_epochs = {train.warmup_epochs} leaves nothing of train.epochs = {train.epochs}"
    if train.nesterov and not train.momentum:
        yield "train.nesterov = True needs train.momentum above 0"
    yield from _optimizer(train)


def of_classification(data, train) -> Iterator[str]:
    """What contradicts itself in the sections `data` and `train` of a classification's config."""
    yield from _progressive_resolution(data, train)
    yield from _image_sizes(data)
    yield from _mixing(data, train)
    yield from _loss(train)


def _progressive_resolution(data, train) -> Iterator[str]:
    start, first, last = data.start_image_size, data.grow_from_epoch, data.grow_until_epoch
    if start is None:
        if first or last:
            key = "grow_until_epoch" if last else "grow_from_epoch"
            yield f"data.{key} = {last or first} needs data.start_image_size: give the size to begin with"
        return
    if start > data.image_size:
        yield f"data.start_image_size = {start} is more than data.image_size = {data.image_size}: sizes only grow"
    if first >= last:
        yield f"data.grow_until_epoch = {last} does not come after data.grow_from_epoch = {first}"
    epochs = train.epochs + train.cooldown_epochs
    if last >= epochs:
        yield f"data.grow_until_epoch = {last} leaves no epoch at data.image_size of the run's {epochs}"


def _image_sizes(data) -> Iterator[str]:
    smallest = data.start_image_size or data.image_size
    if data.gaussian_blur and smallest < 12:  # timm's kernel of 23 pixels mirrors 11 of the image at each edge
        yield f"data.gaussian_blur = {data.gaussian_blur} needs images of 12 pixels at least, not of {smallest}"
    if data.crop_pct < 0.01:
        size = data.eval_image_size or data.image_size
        yield (
            f"data.crop_pct = {data.crop_pct} would resize each image to {size / data.crop_pct:,.0f} pixels, of which"
            f" {size} are cropped: expected a part such as 0.875"
        )


def _mixing(data, train) -> Iterator[str]:
    if not data.mixup and not data.cutmix:
        return
    if train.batch_size == 1:
        name = "mixup" if data.mixup else "cutmix"
        yield f"data.{name} = {getattr(data, name)} needs two pictures, but train.batch_size = 1"
    epochs = train.epochs + train.cooldown_epochs
    if data.mix_off_epochs >= epochs:
        yield f"data.mix_off_epochs = {data.mix_off_epochs} leaves no epoch to mix in of the run's {epochs}"


def _loss(train) -> Iterator[str]:
    threshold = train.bce_target_threshold
    if threshold is None:
        return
    if train.loss != "bce":
        yield f"train.bce_target_threshold = {threshold} is of train.loss = bce, which is {train.loss}"
    if train.label_smoothing:
        yield (
            f"train.label_smoothing = {train.label_smoothing} is undone by train.bce_target_threshold = {threshold},"
            " which makes every target 0 or 1: leave one of them out"
        )


def _optimizer(train) -> Iterator[str]:
    if train.optimizer == "sgd":
        if train.optimizer_kwargs:
            yield (
                "train.optimizer_kwargs are for timm's optimizers, train.optimizer = sgd is torch's: it takes"
                " train.momentum, train.nesterov and train.weight_decay"
            )
        return
    if train.nesterov:
        yield f"train.nesterov = True is an option of train.optimizer = sgd, not of {train.optimizer}"
    for name in ("lr", "weight_decay", "momentum", "layer_decay"):
        if name in train.optimizer_kwargs:
            yield f"train.optimizer_kwargs.{name} has a key of its own: train.{name}"
