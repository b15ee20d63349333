"""Weights & Biases, imported only where a run asks for it (run.wandb)."""

import secrets
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import UserError, one_line
from ...files import write_whole


class WeightsAndBiases:
    """One run there for one folder here: its id is kept in the folder, so that a restart continues it.

    Its charts go by the run's own step. What a killed run logged after its last checkpoint is logged again there.
    WANDB_MODE=offline keeps all in the folder, for `wandb sync`.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, folder: Path, project: str):
        try:
            import wandb

            wandb.init  # noqa: B018  # a folder called wandb is importable too
        except (ImportError, AttributeError):
            raise UserError(
                "run.wandb = True, but Weights & Biases is not installed: pip install wandb, or leave run.wandb out"
            ) from None
        self._wandb, self._folder, self._project = wandb, folder, project
        self._run: Any = None
        self._finished = False

    def open(self, config: dict[str, Any]) -> None:
        """Begin the run, or continue the one that the folder's id names.

        Raises:
            UserError: no account, no network.
        """
        id_file = self._folder / "wandb_id"
        if not id_file.exists():
            write_whole(id_file, f"{secrets.token_hex(8)}\n")
        try:
            self._run = self._wandb.init(
                project=self._project,
                name=self._folder.name,
                id=id_file.read_text().strip(),
                resume="allow",
                dir=self._folder,
                config=config,
                allow_val_change=True,
                settings=self._wandb.Settings(console="off"),  # the progress bar stays here
            )
        except self._wandb.Error as error:
            reason = one_line(error).rstrip(".")
            raise UserError(
                f"run.wandb = True, but Weights & Biases cannot be reached: {reason}; WANDB_MODE=offline keeps its log"
                f" in {self._folder}"
            ) from None
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, Any]) -> None:
        self._run.log({"step": step} | values)

    def pictures(self, step: int, pictures: dict[str, Tensor], histograms: dict[str, Tensor]) -> None:
        images = {
            name: self._wandb.Image(picture.permute(1, 2, 0).clamp(0, 1).mul(255).byte().numpy())
            for name, picture in pictures.items()
        }
        # under names of their own: a key there is either a picture or a histogram
        bars = {f"histogram/{name}": self._wandb.Histogram(values.tolist()) for name, values in histograms.items()}
        self.log(step, images | bars)

    def summary(self, values: dict[str, Any]) -> None:
        if self._run is not None:  # of a run that was trained to its end before
            self._run.summary.update(values)
        self._finished = True

    def close(self) -> None:
        """Send what is left; a run without a summary counts as failed there, until it is continued."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._finished else 1)
            self._run = None
