"""Configs: inheritance, overrides, and one sentence for every mistake."""

from pathlib import Path

import pytest
import yaml

from ddfnet.config import Data, Train, dump_config, load_config, parse_config
from ddfnet.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_base_merges_mappings_and_replaces_lists(write):
    write("base.yaml", "train: {epochs: 3, lr: 0.2}\ndata: {scale: [0.5, 1.0]}\nmodel: {kwargs: {a: {b: 1, c: 2}}}\n")
    write("middle.yaml", "base: base.yaml\ntrain: {lr: 0.3}\nmodel: {kwargs: {a: {b: 5}}}\n")
    config = load_config(write("top.yaml", "base: middle.yaml\ndata: {scale: [0.1, 0.9]}\n"))
    assert (config.train.epochs, config.train.lr, config.data.scale) == (3, 0.3, [0.1, 0.9])
    assert config.model.kwargs == {"a": {"b": 5, "c": 2}}
    assert config.run.dir == "runs/top"


@pytest.mark.parametrize("text,value", [("1e-4", 1e-4), ("1E+2", 100.0), ("2.5e-3", 2.5e-3), ("1", 1.0), (".5", 0.5)])
def test_numbers_are_numbers(write, text, value):
    assert load_config(write("a.yaml", f"train: {{lr: {text}}}")).train.lr == value
    assert load_config(write("b.yaml", ""), [f"train.lr={text}"]).train.lr == value


def test_overrides_are_yaml_and_reach_deep(write):
    overrides = [
        "model.kwargs.block_args.ddf.squeeze_ratio=0.3",
        "data.scale=[0.2, 1.0]",
        "train.amp=bf16",
        "run.dir=x",
    ]
    config = load_config(write("a.yaml", ""), overrides)
    assert config.model.kwargs == {"block_args": {"ddf": {"squeeze_ratio": 0.3}}}
    assert (config.data.scale, config.train.amp, config.run.dir) == ([0.2, 1.0], "bf16", "x")


def test_dump_reads_back_equal(write):
    config = load_config(write("a.yaml", "train: {min_lr: 1e-5}"), ["model.kwargs.drop_path_rate=0.1"])
    assert load_config(write("b.yaml", dump_config(config))) == config
    assert parse_config(yaml.safe_load(dump_config(config))) == config


MISTAKES = [
    ("train: {epoch: 10}", "a.yaml: train.epoch = 10: no such key, did you mean train.epochs?"),
    ("train: {workers: 10}", "a.yaml: train.workers = 10: no such key, did you mean data.workers?"),
    ("trian: {lr: 1}", "a.yaml: trian = {'lr': 1}: no such key, did you mean train?"),
    ("lr: 1", "a.yaml: lr = 1: no such key, did you mean train.lr?"),
    ("train: {qqqqq: 1}", "a.yaml: train.qqqqq = 1: no such key, expected one of train.epochs"),
    ("train: {lr: fast}", "a.yaml: train.lr = fast: expected a decimal number such as 90, 0.1 or 1e-4"),
    ("train: {lr: -1}", "a.yaml: train.lr = -1: input should be greater than 0"),
    ("train: {epochs: 1.5}", "a.yaml: train.epochs = 1.5: input should be a valid integer"),
    ("train: {seed: true}", "a.yaml: train.seed = True: input should be a valid integer"),
    ("train: {amp: fp8}", "a.yaml: train.amp = 'fp8': input should be 'none', 'bf16' or 'fp16'"),
    ("train: [1]", "a.yaml: train = [1]: expected a mapping of keys"),
    ("train: {warmup_epochs: 200}", "a.yaml: train.warmup_epochs = 200.0 leaves nothing of train.epochs = 120"),
    ("train: {nesterov: true, momentum: 0.0}", "train.nesterov = True needs train.momentum above 0"),
    ("data: {scale: [1.0, 0.5]}", "a.yaml: data.scale = [1.0, 0.5] is no range"),
    ("model: {kwargs: {num_classes: 3}}", "model.kwargs.num_classes comes from the data's classes"),
    ("train: {lr: 1, lr: 2}", "a.yaml: is not YAML in line 1: key 'lr' stands there twice"),
    ("train: [1", "a.yaml: is not YAML in line 1"),
    ("- 1", "a.yaml: holds a list, expected a mapping"),
    ("base: a.yaml", "a.yaml: is its own base"),
    ("base: none.yaml", "none.yaml: no such config file, the base of a.yaml"),
    ("base: [b.yaml]", "a.yaml: base = ['b.yaml'], expected the name of one file"),
    ("{}", "command line: train.lrr = 2: no such key, did you mean train.lr?", ["train.lrr=2"]),
    ("{}", "command line: 'train.lr' is no override, expected key.sub=value", ["train.lr"]),
    ("train: {lrr: 1, foo: 2}", "(and 1 more)"),
    ("train: {lr: .inf}", "a.yaml: train.lr = inf: input should be a finite number"),
    ("data: {std: [1.0, 0.0, 1.0]}", "a.yaml: data.std.1 = 0.0: input should be greater than 0"),
    (
        "data: {mean: [123.675, 116.28, 103.53]}",
        "a.yaml: data.mean = [123.675, 116.28, 103.53] is of pixels from 0 to 255, expected of 0 to 1: "
        "[0.485, 0.456, 0.406]?",
    ),
    ("data: {std: [58.395, 57.12, 57.375]}", "a.yaml: data.std = [58.395, 57.12, 57.375] is of pixels from 0 to 255"),
    ("{}", "command line: data.std = [0.2, 0.2, 57.0] is of pixels", ["data.std=[0.2, 0.2, 57]"]),
    ("data: {mean: [0.5, -0.5, 0.5]}", "a.yaml: data.mean.1 = -0.5: input should be greater than or equal to 0"),
    ("model: {kwargs: {features_only: true}}", "model.kwargs.features_only leaves no classifier"),
    ("{[a]: 1}", "a.yaml: is not YAML in line 1: found unhashable key"),
    ("{}", "command line: train.warmup_epochs = 200.0 leaves nothing", ["train.warmup_epochs=200"]),
    ("data: {scale: [1.0, 0.5]}", "a.yaml: data.scale = [1.0, 0.5] is no range", ["data.root=x"]),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[m[0] if len(m) == 2 else m[2][0] for m in MISTAKES])
def test_mistakes_name_file_key_value_and_the_right_name(write, mistake):
    text, sentence, overrides = (*mistake, []) if len(mistake) == 2 else mistake
    with pytest.raises(UserError) as error:
        load_config(write("a.yaml", text), overrides)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
def test_means_and_deviations_of_all_models_of_timm_are_taken(write, values):
    deviations = [value or 1.0 for value in values]
    data = load_config(write("a.yaml", ""), [f"data.mean={values}", f"data.std={deviations}"]).data
    assert (data.mean, data.std) == (values, deviations)


def test_a_mistake_in_a_base_is_located_there(write):
    write("base.yaml", "train: {epoch: 3}")
    with pytest.raises(UserError, match=r"base\.yaml: train\.epoch = 3"):
        load_config(write("a.yaml", "base: base.yaml\ntrain: {lr: 0.2}"))


def test_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such config file"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_open_with_what_they_are(path):
    load_config(path)
    head = path.read_text().split("\nmodel:")[0].split("\nbase:")[0]
    assert head.startswith("# ") and "top-1" in head and f"configs/{path.name}" in head


@pytest.mark.parametrize("name,model", [("ddf_r18", 18), ("ddf_r50", 50), ("ddf_r101", 101)])
def test_the_papers_protocol_is_what_the_configs_say(name, model):
    config = load_config(CONFIGS / f"{name}.yaml")
    train = config.train
    assert config.model.name == f"ddf_resnet{model}" and config.data.image_size == 224
    assert (train.epochs, train.batch_size, train.lr, train.min_lr) == (120, 256, 0.1, 1e-5)
    assert (train.momentum, train.nesterov, train.weight_decay, train.decay_norm_and_bias) == (0.9, False, 1e-4, True)
    assert (train.warmup_epochs, train.label_smoothing, config.data.auto_augment) == (0, 0, None)


def test_what_the_paper_does_not_name_is_off_by_default():
    data, train = Data(), Train()
    assert not any((data.color_jitter, data.auto_augment, data.grayscale, data.gaussian_blur, data.random_erase))
    assert not any((data.mixup, data.cutmix, data.start_image_size, data.eval_image_size))
    assert not any((train.nesterov, train.label_smoothing, train.ema_decay, train.clip_grad, train.layer_decay))
    assert not any((train.activation_checkpointing, train.sync_bn, train.channels_last, train.compile))
    assert (train.optimizer, train.loss, train.amp, train.accumulation) == ("sgd", "cross_entropy", "none", 1)


def test_yaml_merge_keys_merge(write):
    assert load_config(write("a.yaml", "train: &t {lr: 0.3}\nmodel: {kwargs: {<<: *t}}")).model.kwargs == {"lr": 0.3}


def test_run_dir_is_the_files_name_unless_given(write):
    path = write("a.yaml", "run: {dir: null}")
    assert load_config(path).run.dir == "runs/a" == load_config(path, ["run.dir="]).run.dir
    assert load_config(path, ["run.dir=x"]).run.dir == "x"
