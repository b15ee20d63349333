"""What is typed at a shell or stands in a file arrives as it is, or is refused."""

import os
import re
import shlex

import pytest

from ddfnet.config import load_config, parse_config
from ddfnet.errors import UserError

HOME = os.path.expanduser("~")


def value_of(config, key):
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


# ---- the schema's type decides

TAKEN = [
    ("data.root=my set #2", "my set #2"),
    ("data.root=2012", "2012"),
    ("data.root=null", "null"),
    ("data.root='x'", "'x'"),
    ("run.dir=2026-11-25", "2026-11-25"),
    ("run.dir=007", "007"),
    ("run.dir=a: b", "a: b"),
    ("run.dir= a ", " a "),
    ("run.dir=~/x", f"{HOME}/x"),
    ("run.dir=./~/x", "./~/x"),
    ("data.root=~", HOME),
    ("data.val_split=2012", "2012"),
    ("data.train_split=*.tar", "*.tar"),
    ("data.train_split=train-{000000..000146}.tar", "train-{000000..000146}.tar"),
    ("data.auto_augment=null", None),
    ("model.name=1e4", "1e4"),
    ("train.seed=10", 10),
    ("train.lr=1e-4", 1e-4),
    ("train.clip_grad=null", None),
    ("train.compile=True", True),
    ("train.compile=no", False),
    ("train.seed= 5", 5),
    ("train.epochs=200\r", 200),
    ("train.lr=0.1 ", 0.1),
    ("train.compile= true\n", True),
    ("data.scale=[0.1, 1] ", [0.1, 1.0]),
    ("model.kwargs.x=[no#, 1]", ["no#", 1]),
    ("model.kwargs.x='010'", "010"),
    ('model.kwargs.x="my #2"', "my #2"),
    ("model.kwargs.x=rand-m7#2", "rand-m7#2"),
    ("model.kwargs.x=[a, 1.5, true, null]", ["a", 1.5, True, None]),
]


@pytest.mark.parametrize("override,value", TAKEN, ids=[override for override, _ in TAKEN])
def test_the_type_of_a_key_decides_what_a_typed_value_is(override, value):
    got = value_of(parse_config({}, [override]), override.partition("=")[0])
    assert got == value and type(got) is type(value)


REFUSED = [
    ("train.seed=010", "train.seed = 010: expected a decimal number: 10"),
    ("train.batch_size=0256", "train.batch_size = 0256: expected a decimal number: 256"),
    ("train.seed=0x10", "train.seed = 0x10: expected a decimal number: 16"),
    ("train.epochs=1_000", "train.epochs = 1_000: expected a decimal number: 1000"),
    ("run.checkpoint_minutes=1:30", "run.checkpoint_minutes = 1:30: expected a decimal number such as 90"),
    ("data.scale=[010, 20]", "data.scale.0 = 010: expected a decimal number: 10"),
    ("train.amp=no", "train.amp = 'no': input should be 'none', 'bf16' or 'fp16'"),
    ("train.clip_grad=None", "train.clip_grad=None: expected null for none"),
    ("train.compile=010", "train.compile = 010: expected true or false"),
    ("train.compile=true #x", "train.compile = true #x: expected true or false"),
    ("train.lr=0.1 # half", "train.lr = 0.1 # half: expected a decimal number such as 90, 0.1 or 1e-4"),
    ("train.seed=1\n2", r'train.seed = "1\n2": expected a decimal number such as'),
    ("data.scale=[0.1, 1] #x", "data.scale=[0.1, 1] #x: YAML would take what follows # for a comment: leave it out"),
    ("train.seed=" + "1" * 5000, "1: expected a decimal number such as"),
    ("train.seed=0x" + "f" * 5000, "f: expected a decimal number such as"),
    ("train.clip_grad=1e400", "train.clip_grad = 1e400: expected a decimal number such as"),
    ("model.kwargs.x=" + "1" * 5000, "1: it is too large for a number: as text it is written"),
    ("model.kwargs.x=0x" + "f" * 5000, "f: it is too large for a number: as text it is written"),
    ("model.kwargs.x=" + "1:" * 300 + "1.5", "1.5: it is too large for a number: as text it is written"),
    ("model.kwargs.x=-1e400", "-1e400: it is too large for a number: as text it is written"),
    ("data.root=", "data.root= says nothing: expected text"),
    ("model.kwargs.x=010", "YAML would make 8 of it: expected 10, or as text "),
    ("model.kwargs.x=1:30", "YAML would make 90 of it: expected a decimal number, or as text "),
    ("model.kwargs.x=no", "YAML would make False of it: expected false, or as text "),
    ("model.kwargs.x= true ", 'YAML would make "true" of it: expected true, or as text '),
    ("model.kwargs.x=5 # half", 'YAML would make "5" of it: expected 5, or as text '),
    ("model.kwargs.x=2026-11-25", "YAML would make a date of it: as text it is written "),
    ("model.kwargs.x=my #2", 'YAML would make "my" of it'),
    ("model.kwargs.x=#2", "YAML would keep nothing of it"),
    ('model.kwargs.x="a" #2', "YAML would take what follows # for a comment"),
    ("model.kwargs.x=--- a", 'YAML would make "a" of it'),
    ("model.kwargs.x=a\nb", 'YAML would make "a b" of it'),
    ("model.kwargs.x=@x", "is not YAML"),
    ("train.optimizer_kwargs.x=[on, 1]", "train.optimizer_kwargs.x.0 = on: YAML would make True of it: expected true"),
]


@pytest.mark.parametrize("override,sentence", REFUSED, ids=[override[:40] for override, _ in REFUSED])
def test_a_value_that_would_be_misread_is_refused_with_the_right_spelling(override, sentence):
    with pytest.raises(UserError) as error:
        parse_config({}, [override])
    said = str(error.value)
    assert said.startswith("command line: ") and sentence in said and "\n" not in said
    as_text = re.search('[ :,] as text (it is written )?(?!in quotes|["])(.*)', said)
    if as_text:
        (right,) = shlex.split(as_text[2])  # as a shell reads it
        key, _, text = override.partition("=")
        assert value_of(parse_config({}, [right]), key) == text


FILES = [
    ("train: {seed: 010}", "train.seed = 010: expected a decimal number: 10"),
    ("train: {batch_size: 0x100}", "train.batch_size = 0x100: expected a decimal number: 256"),
    ("run: {checkpoint_minutes: 1:30}", "run.checkpoint_minutes = 1:30: expected a decimal number"),
    ("train: {epochs: 1_000}", "train.epochs = 1_000: expected a decimal number: 1000"),
    ("data: {mean: [0.5, 0.5, 01]}", "data.mean.2 = 01: expected a decimal number: 1"),
    ("model: {kwargs: {x: 010}}", 'model.kwargs.x = 010: YAML would make 8 of it: expected 10, or as text "010"'),
    (
        "model: {kwargs: {x: [off]}}",
        'model.kwargs.x.0 = off: YAML would make False of it: expected false, or as text "off"',
    ),
    (
        "model: {kwargs: {x: 2026-11-25}}",
        'model.kwargs.x = 2026-11-25: YAML would make a date of it: text stands in quotes, "',
    ),
    ("model: {kwargs: {x: " + "1" * 5000 + "}}", "model.kwargs.x = 111"),
    ("train: {lr: !!float 1" + ":1" * 300 + ".5}", "is not YAML"),
    ("data: {root: null}", "data.root = None: input should be a valid string"),
]


@pytest.mark.parametrize("text,sentence", FILES, ids=[text[:40] for text, _ in FILES])
def test_a_number_in_a_file_is_decimal_or_refused_by_file_and_key(tmp_path, text, sentence):
    (tmp_path / "base.yaml").write_text(text)
    (tmp_path / "a.yaml").write_text("base: base.yaml\n")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "a.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'base.yaml'}: {sentence}")


def test_text_in_a_file_stays_text_where_the_key_takes_text(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "data: {root: ~/x, train_split: 2012, val_split: no}\n"
        "train: {nesterov: no, amp: none}\n"
        "run: {dir: 2026-11-25}\n"
    )
    config = load_config(tmp_path / "a.yaml")
    assert (config.data.root, config.data.train_split, config.data.val_split) == (f"{HOME}/x", "2012", "no")
    assert (config.run.dir, config.train.nesterov, config.train.amp) == ("2026-11-25", False, "none")


@pytest.mark.parametrize("text", ["train: &a {x: *a}", "&a {train: *a}", "model: {kwargs: &a [*a]}", "[" * 3000])
def test_yaml_that_holds_itself_is_one_sentence(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=r"a\.yaml: (is not YAML in line 1: an alias stands in|is nested too deeply)"):
        load_config(tmp_path / "a.yaml")
