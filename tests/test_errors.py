"""What the sentences for users are made of."""

from ddfnet.errors import did_you_mean, first_line, one_line


def test_the_nearest_known_name_is_offered_by_what_it_is_called():
    known = {"lr": "train.lr", "epochs": "train.epochs"}
    assert did_you_mean("epoch", known) == ", did you mean epochs?"
    assert did_you_mean("epoch", known, shown=known) == ", did you mean train.epochs?"
    assert did_you_mean("zzz", known) == ""


def test_an_exceptions_text_is_one_line_whatever_it_says():
    error = ValueError("\n  no such  option\n\n  at line 3\n")
    assert one_line(error) == "no such option at line 3" and first_line(error) == "no such  option"
    assert one_line(AssertionError()) == first_line(AssertionError(" \n")) == "AssertionError"
