"""What stages tell: whose a name is, what is forgotten, and how much is taken."""

from __future__ import annotations

import pytest

from runner.outputs import COUNT_MAXIMUM, JOB_BYTES_MAXIMUM, VALUE_BYTES_MAXIMUM, JobOutputs, OutputRefused


def test_a_name_is_its_stages_who_may_tell_it_anew():
    outputs = JobOutputs()
    outputs.tell("a", "image", "one")
    outputs.tell("a", "image", "two")
    with pytest.raises(OutputRefused, match="stage `a` told `image` already"):
        outputs.tell("b", "image", "three")
    outputs.tell("b", "size", 3)
    assert outputs.values == {"image": "two", "size": 3}
    assert outputs.of("a") == {"image": "two"}
    assert outputs.of("c") == {}


def test_what_a_try_told_is_forgotten_by_the_next():
    outputs = JobOutputs()
    outputs.tell("a", "image", "one")
    outputs.begin("a")
    assert outputs.values == {}
    outputs.tell("b", "image", "another may tell it now")


def test_stages_that_are_not_run_again_keep_what_they_told():
    outputs = JobOutputs()
    outputs.take_over({"a": {"image": "one"}, "b": {"size": 3}}, ["a"])
    assert outputs.values == {"image": "one"}
    outputs.tell("b", "size", 4)


def test_there_is_a_limit_to_a_value_to_all_and_to_their_number():
    outputs = JobOutputs()
    with pytest.raises(OutputRefused, match="at most 65536 are taken"):
        outputs.tell("a", "x", "x" * VALUE_BYTES_MAXIMUM)
    value = "x" * (VALUE_BYTES_MAXIMUM - 2)
    for number in range(JOB_BYTES_MAXIMUM // VALUE_BYTES_MAXIMUM):
        outputs.tell("a", f"x{number}", value)
    outputs.tell("a", "x0", value)
    with pytest.raises(OutputRefused, match="more than 262144 bytes"):
        outputs.tell("a", "one_more", 1)
    outputs.begin("a")
    for number in range(COUNT_MAXIMUM):
        outputs.tell("a", f"x{number}", 1)
    with pytest.raises(OutputRefused, match="more than the 200 outputs"):
        outputs.tell("a", "one_more", 1)
