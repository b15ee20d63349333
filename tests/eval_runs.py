"""eval.py inside the test's process, or on several forked ones; a small trained checkpoint and folders of digits."""

import json
import multiprocessing
import os
import runpy
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from small_runs import ROOT, SMALL, run

from ddfnet.config import load_config
from ddfnet.data import open_source

FOLDER = ["data.source=imagefolder", "data.val_split=."]


def eval_py(*arguments) -> str | int | None:
    """What the command ends with: None when all went well, else its exit code or its last words."""
    before = sys.argv
    sys.argv = ["eval.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return None


def result_of(folder: Path, *arguments):
    """The JSON that eval.py writes."""
    assert (said := eval_py(*arguments, "--json", folder / "result.json")) is None, said
    return json.loads((folder / "result.json").read_text())


def assert_says(sentence, folder, *arguments):
    """eval.py ends with this in its one sentence, and leaves the folder as it was."""
    before = {path: path.stat().st_size for path in folder.rglob("*")}
    said = eval_py(*arguments, "run.device=cpu")
    assert isinstance(said, str) and said.startswith("error: ") and "\n" not in said, said
    assert sentence in said
    assert {path: path.stat().st_size for path in folder.rglob("*")} == before


def on_processes(world: int, *arguments) -> list:
    """What eval.py ends with on each of `world` ranks, started as by torchrun, but forked: importing torch is slow."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's part; any free port
    fork = multiprocessing.get_context("fork")
    ends = [fork.SimpleQueue() for _ in range(world)]
    ranks = [fork.Process(target=_rank, args=(i, world, store.port, arguments, ends[i])) for i in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * world
    return [end.get() for end in ends]


def _rank(rank: int, world: int, port: int, arguments, end) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    try:
        end.put(eval_py(*arguments))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def train_small(folder: Path) -> Path:
    """A checkpoint after one epoch on the digits: right at times."""
    (folder / "small.yaml").write_text(SMALL)
    overrides = [
        "train.epochs=1",
        "train.warmup_epochs=0",
        "train.batch_size=40",
        "train.lr=1.0",
        "data.random_erase=0",
    ]
    run(load_config(folder / "small.yaml", [*overrides, f"run.dir={folder / 'run'}", "model.kwargs.drop_path_rate=0"]))
    return folder / "run/checkpoints/last.pt"


def write_digits(root: Path, count: int, classes=range(10)) -> Path:
    """`count` digits, of each class in turn, as root/CLASS/NUMBER.png; NUMBER is unique and unlike the order."""
    source = open_source("digits", "", "", True, seed=0)
    rounds = zip(*(np.flatnonzero(source.labels == label) for label in classes), strict=False)
    chosen = [int(index) for one_of_each in rounds for index in one_of_each][:count]
    numbers = np.random.default_rng(0).permutation(count)
    for number, index in zip(numbers, chosen, strict=True):
        folder = root / source.classes[source.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        source.picture(index).save(folder / f"{number:04d}.png")
    return root


def with_content(checkpoint: Path, path: Path, **changed) -> Path:
    """A copy of the checkpoint with other entries."""
    content = torch.load(checkpoint, weights_only=True) | changed
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def plain_probabilities(checkpoint: Path, pictures: list[Image.Image], mirrored=False) -> torch.Tensor:
    """(pictures, classes) float64: one at a time, in double precision, by PIL and the definition."""
    import timm

    content = torch.load(checkpoint, weights_only=True)
    data, model = content["config"]["data"], content["config"]["model"]
    network = timm.create_model(model["name"], num_classes=len(content["data"]["classes"]), **model["kwargs"])
    network.load_state_dict(content["state_dict"])
    network.double().eval()
    side = int(data["image_size"] / data["crop_pct"])
    margin = round((side - data["image_size"]) / 2)
    rows = []
    for picture in pictures:
        large = picture.resize((side, side), Image.Resampling.BILINEAR)
        crop = large.crop((margin, margin, margin + data["image_size"], margin + data["image_size"]))
        if mirrored:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = (np.asarray(crop, dtype=np.float64) / 255 - data["mean"]) / data["std"]
        with torch.no_grad():
            rows.append(network(torch.from_numpy(x.transpose(2, 0, 1))[None]).softmax(1))
    return torch.cat(rows)
