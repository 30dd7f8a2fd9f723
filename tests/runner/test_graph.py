"""Which stages may begin: by what they wait for, and by how that ended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.graph import Graph, Outcome
from schema.definition import StageDefinition, When


def stage(name: str, needs: Sequence[str] | None = None, when: When = "on_success", of: str | None = None):
    return StageDefinition(name=name, needs=None if needs is None else list(needs), when=when, of=of)


def taken(graph: Graph) -> dict[str, Outcome | None]:
    """Take all whose turn has come."""
    found: dict[str, Outcome | None] = {}
    while (one := graph.take()) is not None:
        found[one[0].name] = one[1]
    return found


def ends(graph: Graph, **outcomes: Outcome) -> dict[str, Outcome]:
    """Settle all as told, by default as succeeded, to the end; give how each ended."""
    ended: dict[str, Outcome] = {}
    while found := taken(graph):
        for name, verdict in found.items():
            ended[name] = verdict or outcomes.get(name, "succeeded")
            graph.settle(name, ended[name])
    assert graph.waiting == []
    return ended


def test_stages_without_needs_go_one_after_the_other():
    graph = Graph([stage("a"), stage("b"), stage("c")], fail_fast=True)
    for name in "abc":
        assert taken(graph) == {name: None}
        assert taken(graph) == {}
        graph.settle(name, "succeeded")
    assert graph.states == dict.fromkeys("abc", "succeeded")


def test_stages_with_needs_begin_as_soon_as_those_have_ended_and_one_without_waits_for_all():
    graph = Graph([stage("a"), stage("b", "a"), stage("c", "a"), stage("d", ""), stage("e")], fail_fast=True)
    assert list(taken(graph)) == ["a", "d"]
    graph.settle("a", "succeeded")
    assert list(taken(graph)) == ["b", "c"]
    graph.settle("c", "succeeded")
    graph.settle("b", "succeeded")
    assert taken(graph) == {}
    graph.settle("d", "succeeded")
    assert list(taken(graph)) == ["e"]


def test_combinations_of_one_stage_wait_for_what_is_before_it_and_not_for_each_other():
    combinations = [stage(f"m{number}", of="m") for number in (1, 2)]
    graph = Graph([stage("a"), *combinations, stage("b", "m"), stage("c", ["m1"])], fail_fast=True)
    assert list(taken(graph)) == ["a"]
    graph.settle("a", "succeeded")
    assert list(taken(graph)) == ["m1", "m2"]
    graph.settle("m1", "succeeded")
    assert list(taken(graph)) == ["c"]
    graph.settle("m2", "succeeded")
    assert list(taken(graph)) == ["b"]


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_what_waits_for_a_stage_that_went_wrong_is_skipped_and_so_is_what_waits_for_that(outcome: Outcome):
    graph = Graph([stage("a", ""), stage("b", "a"), stage("c", "b"), stage("d", "")], fail_fast=False)
    assert ends(graph, a=outcome) == {"a": outcome, "b": "blocked", "c": "blocked", "d": "succeeded"}


def test_after_a_failure_nothing_else_begins_unless_the_pipeline_says_so():
    stages = [stage("a", ""), stage("b", ""), stage("c", "b"), stage("d", "b", "function")]
    assert ends(Graph(stages, fail_fast=False), a="failed")["c"] == "succeeded"
    ended = ends(Graph(stages, fail_fast=True), a="failed")
    assert (ended["c"], ended["d"]) == ("blocked", "blocked")


def test_stages_for_failures_run_when_something_they_wait_for_went_wrong():
    stages = [
        stage("a"),
        stage("b"),
        stage("rescue", None, "on_failure"),
        stage("tell", ["rescue"]),
        stage("rescue_a", "a", "on_failure"),
        stage("always", ["b"], "always"),
        stage("last"),
    ]
    for fail_fast in (True, False):
        well = ends(Graph(stages, fail_fast=fail_fast))
        assert (well["rescue"], well["rescue_a"], well["always"]) == ("passed_over", "passed_over", "succeeded")
        assert (well["tell"], well["last"]) == ("succeeded", "succeeded")
        ill = ends(Graph(stages, fail_fast=fail_fast), b="failed")
        assert (ill["rescue"], ill["rescue_a"], ill["always"]) == ("succeeded", "passed_over", "succeeded")
        assert ill["last"] == "blocked"
        deep = ends(Graph(stages, fail_fast=fail_fast), a="failed")
        assert (deep["b"], deep["rescue"], deep["rescue_a"]) == ("blocked", "succeeded", "succeeded")


@pytest.mark.parametrize("outcome", ["allowed_to_fail", "passed_over"])
def test_a_stage_that_may_fail_or_did_not_have_to_run_holds_up_nothing(outcome: Outcome):
    graph = Graph([stage("a"), stage("b"), stage("c", "a"), stage("d", "a", "on_failure")], fail_fast=True)
    ended = ends(graph, a=outcome)
    assert (ended["b"], ended["c"], ended["d"]) == ("succeeded", "succeeded", "passed_over")
    assert not graph.failed


def test_a_graph_that_is_halted_lets_nothing_begin():
    graph = Graph([stage("a"), stage("b", None, "always"), stage("c", None, "on_failure")], fail_fast=False)
    assert list(taken(graph)) == ["a"]
    graph.halt()
    graph.settle("a", "failed")
    assert ends(graph) == {"b": "blocked", "c": "blocked"}


def test_what_was_settled_before_is_not_taken():
    graph = Graph([stage("a"), stage("b"), stage("c"), stage("d", "")], fail_fast=True)
    graph.settle("a", "succeeded")
    graph.settle("b", "succeeded")
    assert [one.name for one in graph.waiting] == ["c", "d"]
    assert list(taken(graph)) == ["c", "d"]


@given(st.data())
def test_every_stage_gets_its_turn_once_and_after_all_that_it_waits_for(data: st.DataObject):
    count = data.draw(st.integers(1, 12))
    names = [f"s{number}" for number in range(count)]
    stages = [
        stage(
            name,
            data.draw(st.one_of(st.none(), st.lists(st.sampled_from(names[:place]), unique=True))) if place else None,
            data.draw(st.sampled_from(["on_success", "on_failure", "always", "function"])),
        )
        for place, name in enumerate(names)
    ]
    graph = Graph(stages, fail_fast=data.draw(st.booleans()))
    by_name = {one.name: one for one in stages}
    running: list[str] = []
    ended: set[str] = set()
    while True:
        while (found := graph.take()) is not None:
            one, verdict = found
            waits_for = names[: names.index(one.name)] if one.needs is None else one.needs
            assert {*waits_for} <= ended
            if verdict is None:
                running.append(one.name)
            else:
                ended.add(one.name)
                graph.settle(one.name, verdict)
        if not running:
            break
        name = running.pop(data.draw(st.integers(0, len(running) - 1)))
        ended.add(name)
        graph.settle(name, data.draw(st.sampled_from(["succeeded", "failed", "allowed_to_fail", "cancelled"])))
    assert ended == set(by_name)
