"""What a pipeline file says about caches: read whole, and refused with its line."""

from __future__ import annotations

import pytest

from sandbox.parent import WarmParent
from schema import caches
from schema.definition import CacheDefinition, InputDefinition, PipelineDefinition, PipelineInvalid, StageDefinition


async def load(cache: str, of_stage: str = "nil", stage: str = "") -> PipelineDefinition:
    source = (
        f'return {{\nname = "p", inputs = {{ ref = {{ default = "main" }} }},\ncache = {cache},\n'
        f'stages = {{ {{ name = "s", cache = {of_stage}, script = function() end{stage} }} }} }}'
    )
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return await sandbox.load("p.lua", source, {})


async def test_all_fields_of_caches_are_read_and_paths_are_written_in_one_way():
    definition = await load(
        '{ key = "deps", paths = { "node_modules" } }',
        """{ { key = "cargo-${ref}-${os}", files = { "/workspace/Cargo.lock", "**/*.toml" },
            paths = { "./target/", "/workspace/.cargo//registry", "target" },
            restore_keys = { "cargo-${ref}-", "cargo-" }, policy = "restore", when = "always", scope = "${ref}" },
          { key = "other", paths = { "x" } } }""",
        ', matrix = { os = { "debian" } }',
    )
    assert definition.cache == [CacheDefinition(key="deps", paths=["node_modules"])]
    assert definition.stages[0].cache == [
        CacheDefinition(
            key="cargo-${ref}-${os}",
            files=["Cargo.lock", "**/*.toml"],
            paths=[".cargo/registry", "target"],
            restore_keys=["cargo-${ref}-", "cargo-"],
            policy="restore",
            when="always",
            scope="${ref}",
        ),
        CacheDefinition(key="other", paths=["x"]),
    ]


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ("5", "`cache` of the pipeline must be a table, or a list of them, got a number"),
        ("{ 5 }", "`cache[1]` of the pipeline must be a table, got a number"),
        ('{ key = "k" }', "the cache of the pipeline has no `paths`"),
        ('{ paths = { "x" } }', "the cache of the pipeline has no `key`"),
        ('{ key = "", paths = { "x" } }', "`key` of the cache of the pipeline must be text of up to 200 printable"),
        ('{ key = 5, paths = { "x" } }', "`key` of the cache of the pipeline must be text"),
        ('{ key = "${nope}", paths = { "x" } }', "`key` of the cache of the pipeline holds `${nope}`, and there is no"),
        ('{ key = "k", scope = "${os}", paths = { "x" } }', "(there are: `ref`)"),
        ('{ key = "k", paths = {} }', "`paths` of the cache of the pipeline names nothing"),
        ('{ key = "k", paths = "x" }', "`paths` of the cache of the pipeline must be a list of up to 50 texts"),
        ('{ key = "k", paths = { "../x" } }', "holds `../x`, which names nothing inside the workspace"),
        ('{ key = "k", paths = { "/etc" } }', "holds `/etc`, which names nothing inside the workspace"),
        ('{ key = "k", paths = { "." } }', "holds `.`, which names nothing inside the workspace"),
        ('{ key = "k", paths = { 5 } }', "holds a number, which names nothing inside the workspace"),
        ('{ key = "k", paths = { "a", "a/b" } }', "`a/b` is inside `a` already"),
        (
            '{ key = "k", paths = { "a" }, files = { "../lock" } }',
            "`files` of the cache of the pipeline holds `../lock`",
        ),
        ('{ key = "k", paths = { "a" }, restore_keys = "k-" }', "`restore_keys` of the cache of the pipeline must be"),
        (
            '{ key = "k", paths = { "a" }, restore_keys = { "${x}" } }',
            "`restore_keys` of the cache of the pipeline holds",
        ),
        ('{ key = "k", paths = { "a" }, policy = "pull" }', '"restore_and_save", "restore", "save", got `pull`'),
        ('{ key = "k", paths = { "a" }, when = "never" }', 'must be one of "on_success", "always", got `never`'),
        ('{ key = "k", path = { "a" }, paths = { "a" } }', "`path` is no field of a cache; did you mean `paths`?"),
    ],
)
async def test_what_cannot_be_a_cache_is_refused_with_its_line(cache: str, said: str):
    with pytest.raises(PipelineInvalid) as raised:
        await load(cache)
    [problem] = raised.value.problems
    assert said in problem.message
    assert problem.where == "p.lua:3"


async def test_stages_that_run_after_the_others_have_no_caches():
    source = """return { name = "p", stages = { { name = "s", script = function() end } },
      finally = { { name = "f", cache = { key = "k", paths = { "x" } }, script = function() end } } }"""
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        with pytest.raises(PipelineInvalid) as raised:
            await sandbox.load("p.lua", source, {})
    assert "it has no `cache`" in raised.value.message


def declared(key: str) -> caches.Declared:
    return caches.Declared(CacheDefinition(key=key, paths=["x"]), {"os": "a", "fast": True})


def test_a_key_is_filled_with_inputs_and_the_values_of_the_matrix():
    cache = declared("${os}-${fast}-${count}")
    assert caches.key(cache, {"count": 3}) == "a-true-3"
    assert caches.key(cache, {"count": 3}, 32 * "f") == f"a-true-3-{32 * 'f'}"
    assert caches.is_key("a-true-3", cache, {"count": 3})
    assert not caches.is_key("a-true-4", cache, {"count": 3})
    assert not caches.is_key(f"a-true-3-{32 * 'f'}", cache, {"count": 3})


def test_the_files_hash_is_all_that_may_differ_in_a_key():
    cache = caches.Declared(CacheDefinition(key="k-${ref}", paths=["x"], files=["lock"]), {})
    assert caches.is_key(f"k-main-{32 * '0'}", cache, {"ref": "main"})
    for text in ("k-main", f"k-main-{31 * '0'}", f"k-main-{32 * 'G'}", f"k-other-{32 * '0'}", 32 * "0", ""):
        assert not caches.is_key(text, cache, {"ref": "main"})


PIPELINE = PipelineDefinition(
    name="p",
    inputs={"ref": InputDefinition(type="string", default="main"), "who": InputDefinition(type="string")},
    stages=[StageDefinition(name="s")],
)


def test_a_job_reads_its_own_scope_and_the_one_of_the_defaults_and_is_never_in_anothers():
    def scopes(pattern: str | None, **inputs: str) -> list[str]:
        return caches.scopes(CacheDefinition(key="k", paths=["x"], scope=pattern), PIPELINE, inputs)

    assert scopes(None, ref="feature") == [""]
    assert scopes("${ref}", ref="main") == ["main"]
    assert scopes("${ref}", ref="feature") == ["feature", "main"]
    assert scopes("${who}", who="me") == ["me"]
    assert scopes("${ref}/${who}", ref="main", who="me") == ["main/me"]


@pytest.mark.parametrize("ref", ["", "x" * 300, "a\nb", "a~" + 32 * "0"])
def test_whatever_an_input_holds_its_scope_is_no_other_ones(ref: str):
    cache = CacheDefinition(key="k", paths=["x"], scope="${ref}")
    [own, base] = caches.scopes(cache, PIPELINE, {"ref": ref})
    assert base == "main"
    assert 0 < len(own) <= 200
    assert own.isprintable()
    # Nor can anybody name it by giving the abridged form for an input.
    assert caches.scopes(cache, PIPELINE, {"ref": own})[0] != own


def test_values_that_run_into_each_other_are_told_apart():
    def scope(pattern: str, ref: str, who: str) -> str:
        return caches.scopes(CacheDefinition(key="k", paths=["x"], scope=pattern), PIPELINE, {"ref": ref, "who": who})[
            0
        ]

    assert scope("of ${ref}/${who}!", "main", "me") == "of main/me!"
    pairs = [("a/b", "c"), ("a", "b/c"), ("a/", "/b/c"), ("a/b/", "c"), ("a", "/b/c")]
    for pattern in ("${ref}/${who}", "${ref}${who}", "${ref}//${who}", "${who}/${ref}"):
        assert len({scope(pattern, *pair) for pair in pairs}) == len(pairs)
