"""Properties: any value that the program hands over arrives as it is; any that is typed does, or is refused."""

import os
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_values import value_of

from ddfnet.config import as_override, dump_config, load_config, parse_config
from ddfnet.config.yaml_file import NULL
from ddfnet.errors import UserError

PIECES = [
    "#",
    " #2",
    ": ",
    "'",
    '"',
    "\\",
    "~",
    "null",
    "no",
    "0",
    "007",
    "1:30",
    "-",
    "=",
    "[",
    "{",
    "\n",
    "ä",
    "*",
    "\udce9",
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=5).map("".join)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT.filter(bool), inner, max_size=3)),
    max_leaves=5,
)


def test_letters_of_every_language_stay_readable_in_what_is_written():
    config = parse_config({"data": {"root": "/データ/Größe"}}, [])
    assert "root: /データ/Größe\n" in dump_config(config)
    assert as_override("model.kwargs.names", ["データ", "Größe"]) == "model.kwargs.names=[データ, Größe]"


def handed_over(key, value):
    override = as_override(key, value)
    return value_of(parse_config({}, [override]), key)


@settings(deadline=None)
@given(TEXT)
def test_a_text_that_the_program_hands_over_arrives_as_it_is(text):
    for key in ("model.name", "data.val_split", "data.auto_augment", "model.kwargs.x"):
        assert handed_over(key, text) == text
    for key in ("run.dir", "data.root"):
        assert handed_over(key, text) == (f"./{text}" if text.startswith("~") else text)  # not the home directory


@settings(deadline=None)
@given(VALUES)
def test_any_value_that_the_program_hands_over_arrives_as_it_is(value):
    assert handed_over("model.kwargs.x", value) == value
    assert repr(handed_over("model.kwargs.x", [value])) == repr([value])  # types too


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1e6, exclude_min=True), st.booleans())
def test_a_number_that_the_program_hands_over_arrives_as_it_is(seed, lr, nesterov):
    assert handed_over("train.seed", seed) == seed
    assert handed_over("train.lr", lr) == lr and handed_over("train.clip_grad", lr) == lr
    assert handed_over("train.nesterov", nesterov) is nesterov and handed_over("train.clip_grad", None) is None
    assert handed_over("data.scale", [min(lr, 1), 1.0]) == [min(lr, 1), 1.0]


@settings(deadline=None)
@given(VALUES, TEXT)
@example("1e-4", "1e-4")  # text for YAML 1.1, a number here
def test_a_config_that_was_written_reads_back_equal(tmp_path_factory, value, text):
    config = parse_config({"model": {"kwargs": {"x": value}}, "data": {"val_split": text, "auto_augment": text}})
    file = tmp_path_factory.mktemp("dumped") / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8", newline="")
    again = load_config(file, ["run.dir=null"])
    assert (again.model, again.data) == (config.model, config.data)


NUMBER_LIKE = st.text("0123456789_:xX+-.eE", max_size=6)


def keeps_what_was_typed(got, text):
    """Whether a value that is no text is what the typed text says to anybody: no 8 of 010, no False of no."""
    if isinstance(got, (list, dict)):
        return any(mark in text for mark in "[{:-!")
    if isinstance(got, bool) or got is None:
        return text in (("true", "True", "TRUE") if got else ("false", "False", "FALSE") if got is False else NULL)
    if isinstance(got, int):
        return got == int(text, 10) and re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text)
    return "_" not in text and repr(got) == repr(float(text.replace(".inf", "inf").replace(".nan", "nan").lower()))


@settings(deadline=None)
@given(st.one_of(TEXT, NUMBER_LIKE))
@example("010")
@example("no")
@example("1:30")
@example("1_0")
@example("1.5e3")
@example("-.inf")
def test_a_typed_text_is_taken_as_it_is_or_refused_in_one_line(text):
    for key in ("data.val_split", "model.kwargs.x"):
        try:
            got = value_of(parse_config({}, [f"{key}={text}"]), key)
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and (key == "model.kwargs.x" or not text)
            continue
        if text[:1] in ("'", '"', "!") and key == "model.kwargs.x":
            continue  # YAML's own spellings of text and types
        assert got == text if isinstance(got, str) else key == "model.kwargs.x" and keeps_what_was_typed(got, text)


@settings(deadline=None)
@given(NUMBER_LIKE)
@example("010")
@example("0x10")
@example("1_0")
@example("1:30")
@example("1e-4")
def test_a_typed_number_is_decimal_or_refused(text):
    for key, read in (("train.seed", lambda text: int(text, 10)), ("train.lr", float)):
        try:
            got = value_of(parse_config({}, [f"{key}={text}"]), key)
        except UserError:
            continue
        assert "_" not in text and got == read(text)
        assert key == "train.lr" or not re.match("[-+]?0[0-9]", text)
    with pytest.raises(UserError):
        parse_config({}, [f"train.compile={text}"])


@pytest.mark.parametrize("value", [None, 1.1, True, ["a"], {"a": 1}])
def test_what_is_no_text_is_not_handed_over_to_a_key_that_takes_text(value):
    with pytest.raises(TypeError, match=r"data\.val_split takes text, not "):
        handed_over("data.val_split", value)
    assert handed_over("data.auto_augment", None) is None


@pytest.mark.parametrize("root", ["my set #2", "007", "null", "a: b", "../a=b", "~nobody-here/x"])
def test_a_datasets_folder_named_on_a_command_line_may_be_called_anything(root):
    import argparse

    from ddfnet.config.data_arguments import add_arguments, data_section

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    got = data_section(parser.parse_args([root])).root
    assert os.path.normpath(got) == root and not got.startswith("~")
