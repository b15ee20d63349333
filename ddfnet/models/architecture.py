"""Networks named by where they come from, as timm takes them: hf-hub:OWNER/NAME (or hf_hub:), local-dir:FOLDER."""

import sys
from pathlib import Path

from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path

from ..checkpoint_file import read_last_checkpoint
from ..config import Config, Model
from ..errors import UserError, one_line
from ..paths import expanded


def with_architecture(config: Config, begun: Path | None = None) -> Config:
    """Replace such a name by the network's own, and add to model.kwargs what its config.json says of it.

    So a checkpoint, which holds the config, says all that the network is built from.

    Args:
        begun: the checkpoint of a run that has begun, which knows the network where its source is gone.

    Raises:
        UserError: another source, or a folder or repository that cannot be read.
    """
    name, kwargs = config.model.name, config.model.kwargs
    if ":" not in name:
        return config
    try:
        source, place = parse_model_name(name)
        read = load_model_config_from_path if source == "local-dir" else load_model_config_from_hf
        pretrained_cfg, architecture, arguments = read(expanded(place) if source == "local-dir" else place)
    except Exception as error:  # files and networks fail in all kinds of ways
        reason = one_line(error)
        if begun is None:
            raise UserError(f"model.name = {name!r} cannot be read: {reason}") from None
        print(f"note: model.name = {name!r} cannot be read ({reason}): the network is as in {begun}", file=sys.stderr)
        kept = read_last_checkpoint(begun)["config"]["model"]
        model = Model(name=kept["name"], kwargs=kept["kwargs"] | kwargs)
        return config.model_copy(update={"model": model})
    if "pretrained_cfg" in kwargs:
        raise UserError(f"model.kwargs.pretrained_cfg is what {name} says of itself: leave it out")
    own = {key: value for key, value in arguments.items() if key != "num_classes"}  # which comes from the data
    model = config.model.model_copy(
        update={"name": architecture, "kwargs": own | {"pretrained_cfg": pretrained_cfg} | kwargs}
    )
    return config.model_copy(update={"model": model})
