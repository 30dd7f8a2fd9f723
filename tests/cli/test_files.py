"""``fs``, ``archive`` and the data modules in real pipelines, beside real containers."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.command import ROOT, moonyard
from tests.cli.conftest import Runner
from tests.cli.job_lines import SHELL, succeeded

SECTIONS = ("fs", "archive", "json, yaml and toml", "hash and base64")


def example(section: str) -> str:
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {section}\n(?:(?!^### ).*\n)*?```lua\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None, section
    return found[1]


async def test_the_examples_of_the_reference_run(run: Runner) -> None:
    stages = ", ".join(
        f'{{ name = "s{number}", script = function(job)\n{example(section)}\nend }}'
        for number, section in enumerate(SECTIONS)
    )
    succeeded(await run(f'return {{ name = "try", stages = {{ {stages} }} }}'))


async def test_the_example_packs_a_release_and_finds_it_whole(run: Runner, tmp_path: Path) -> None:
    example = str(ROOT / "examples" / "files.lua")
    printed = succeeded(
        await moonyard(
            "run", example, "--json", "--state-folder", str(run.state_folder), "--input", "version=7", cwd=tmp_path
        )
    )
    assert printed.texts(source="lua")[-1] == "the greeting is: hello from 7"


async def test_files_go_from_lua_to_containers_and_back_whoever_runs_there(run: Runner) -> None:
    printed = succeeded(
        await run.script(
            SHELL
            + """
    fs.mkdir("in/deep")
    fs.write("in/file", "from lua\\n")
    fs.write("in/key", "secret", { mode = "0600" })
    fs.write("in/bytes", "\\0\\xff\\n")
    archive.create("in.tar.gz", { from = "in" })
    archive.extract("in.tar.gz", { to = "out" })
    local change = "echo changed >> in/file && touch in/deep/new && echo changed >> out/file && mkdir out/deep/new"
    sh(change, { user = "1234", check = true })
    log.info(fs.read("in/file") == "from lua\\nchanged\\n", fs.read("out/file") == "from lua\\nchanged\\n")
    log.info(fs.read("/workspace/in/bytes") == "\\0\\xff\\n", fs.stat("in/key").mode, fs.exists("in/deep/new"))
    sh("printf 'one\\\\ntwo' > lines; printf '%s' 'x' > \\"$(printf 'odd\\\\377name')\\"")
    for line in fs.lines("lines") do log.info("line", line) end
    local odd = fs.glob("odd*")[1]
    log.info(odd == "odd\\xffname", fs.read(odd), fs.remove(odd), fs.remove(odd))
    log.info(table.concat(fs.list("in"), " "), table.concat(fs.list(), " "))
    for entry in fs.walk("out", { exclude = { "bytes" } }) do log.info(entry.path, entry.type, entry.mode) end
    sh("ln -s in/file inner; ln -s /etc/passwd outer; mkfifo pipe")
    log.info(fs.stat("inner").type, fs.stat("inner", { follow = false }).target, fs.stat("pipe").type)
    log.info(fs.temp({ suffix = ".txt" }):match("^tmp%-%x+%.txt$") ~= nil, fs.stat(fs.temp{ folder = true }).type)
"""
        )
    )
    assert printed.texts(source="lua") == [
        "true true",
        "true 0600 true",
        "line one",
        "line two",
        "true x true false",
        "bytes deep file key in in.tar.gz lines out",
        "out/deep folder 0777",
        "out/deep/new folder 0777",
        "out/file file 0666",
        "out/key file 0600",
        "file in/file other",
        "true folder",
    ]


async def test_what_does_not_work_is_told_to_the_script(run: Runner) -> None:
    printed = succeeded(
        await run.script(
            SHELL
            + """
    sh("ln -s /etc out; ln -s /workspace/file absolute; mkfifo pipe; mkdir -p full/in")
    fs.write("file", "x")
    process.run{ command = "sh", args = { "-c", "head -c 17000000 /dev/zero > large" } }
    fs.write("bad.json", "{\\n  1")
    fs.write("text.tar", "no archive")
    local wrong = {
      { fs.read, "/etc/passwd" }, { fs.read, "../x" }, { fs.read, "out/passwd" }, { fs.read, "absolute" },
      { fs.read, "pipe" }, { fs.read, "full" }, { fs.read, "missing" }, { fs.read, "large" },
      { fs.read, "file", { offset = -1 } }, { fs.read, "file", { size = 2^40 } }, { fs.read, "file", 7 }, { fs.read },
      { fs.read, 7 }, { fs.read, "file", { siez = 1 } }, { fs.read, "file", {}, {} },
      { fs.write, "file" }, { fs.write, "file", 7 }, { fs.write, "out/new", "x" }, { fs.write, "no/folder", "x" },
      { fs.write, "file", "x", { mode = "4755" } }, { fs.write, ".", "x" },
      { fs.mkdir, "out/new" }, { fs.mkdir, "file" }, { fs.remove, "full" }, { fs.remove, "/workspace" },
      { fs.move, "file" }, { fs.move, "file", "out/file" }, { fs.copy, "full", "full" }, { fs.copy, "out", "x" },
      { fs.glob, "../*" }, { fs.glob, "/etc/*" }, { fs.walk, "file" }, { fs.list, "out" },
      { fs.hash, "file", { algorithm = "crc" } }, { fs.temp, { prefix = "../" } },
      { fs.chmod, "file", "u+x" }, { fs.read_json, "bad.json" },
      { fs.write_json, "x", { [1] = 1, [3] = 3 } }, { fs.write_toml, "x", { 1 } },
      { archive.create, "x" }, { archive.create, "x.rar" }, { archive.create, "x.tar", { format = "rar" } },
      { archive.create, "out/x.tar" }, { archive.extract, "text.tar" }, { archive.extract, "missing.tar" },
      { archive.extract, "text.tar", { max_size = "lots" } }, { archive.extract, "text.tar", { strip = -1 } },
      { json.decode, "[" }, { json.decode }, { json.encode, 1/0 }, { yaml.decode, "a: [" }, { toml.decode, "a" },
      { base64.decode, "?" }, { hash.sha256 }, { hash.sha256, {} }, { json.encode, 1, 2 }, { json.array, 1 },
      { json.encode, print },
    }
    for _, call in ipairs(wrong) do log.info((try(table.unpack(call)))) end
    log.info("messages")
    for _, number in ipairs({ 8, 14, 19, 37, 47 }) do log.info(select(2, try(table.unpack(wrong[number])))) end
    log.info(fs.read("file"), table.concat(fs.list("full"), " "))
"""
        )
    )
    lines = printed.texts(source="lua")
    codes, messages = lines[: lines.index("messages")], lines[lines.index("messages") + 1 :]
    assert codes == [
        *["path_refused"] * 5, "path_is_folder", "path_not_found", "file_too_large",
        *["argument_invalid"] * 7,
        *["argument_invalid"] * 2, "path_refused", "path_not_found",
        "argument_invalid", "path_refused",
        "path_refused", "path_exists", "path_not_empty", "path_refused",
        "argument_invalid", "path_refused", "path_exists", "path_refused",
        "argument_invalid", "path_refused", "path_refused", "path_refused", "argument_invalid",
        *["argument_invalid"] * 2, "data_invalid",
        *["data_invalid"] * 2,
        *["argument_invalid"] * 3,
        "path_refused", "archive_damaged", "path_not_found",
        *["argument_invalid"] * 2,
        "data_invalid", "argument_invalid", *["data_invalid"] * 3,
        "data_invalid", *["argument_invalid"] * 4,
        "not_plain",
    ]  # fmt: skip
    assert messages == [
        "fs.read: `large` has 17000000 bytes, and at most 16777216 (16 MiB) come into Lua at once",
        "fs.read: `siez` is not an argument; did you mean `size`? (accepted: path, offset, size)",
        "fs.write: `no` does not exist in the workspace",
        "fs.read_json: `bad.json`: line 2, column 3: expecting property name enclosed in double quotes, found `1`",
        "archive.extract: `strip` is 0 to 100, got -1",
        "x in",
    ]


async def test_data_goes_through_lua_and_stays_what_it_is(run: Runner) -> None:
    printed = succeeded(
        await run.script(
            """
    local value = json.decode('{"list": [1, null, 2.5, []], "table": {}, "none": null, "text": "\\\\u00fc"}')
    log.info(value.list[2] == json.null, value.none == json.null, tostring(json.null), #value.list, value.text)
    log.info(json.encode(value), json.encode({}), json.encode(json.array({})), json.encode(nil), json.encode(fs.list()))
    log.info(pcall(setmetatable, json.null, {}), getmetatable(json.null))
    log.info(yaml.decode(yaml.encode(value)).list[2] == json.null, json.encode({ json.null, value.none }))
    fs.write_yaml("a.yaml", value)
    fs.write_json("a.json", fs.read_yaml("a.yaml"), { pretty = false })
    log.info((fs.read("a.json"):gsub("\\n$", "")))
    fs.write_toml("a.toml", { a = { b = { 1, 2 } } })
    log.info(fs.read_toml("a.toml").a.b[2], #fs.read_yaml("a.yaml", { all = true }))
    log.info(hash.md5(""), #hash.blake2b("x"), base64.decode("/w=="):byte(), base64.encode("\\xff\\xfe", { url=true }))
    local answers = {}
    for i = 1, 20 do answers[i] = coroutine.wrap(function() return json.decode("[" .. i .. "]")[1] end)() end
    log.info(table.concat(answers, ","))
"""
        )
    )
    text = '{"list":[1,null,2.5,[]],"none":null,"table":{},"text":"ü"}'
    assert printed.texts(source="lua") == [
        "true true null 4 ü",
        f"{text} {{}} [] null []",
        "false false",
        "true [null,null]",
        text,
        "2 1",
        "d41d8cd98f00b204e9800998ecf8427e 128 255 __4",
        ",".join(str(number) for number in range(1, 21)),
    ]


async def test_a_condition_may_compute_and_touch_no_file(run: Runner) -> None:
    stage = '{{ name = "{}", when = function() {} end, script = function() log.info("{} ran") end }}'
    stages = ", ".join(
        [
            stage.format("a", 'return json.decode("[true]")[1]', "a"),
            stage.format("b", 'return hash.md5("x") == "y"', "b"),
            stage.format("c", 'return select(2, pcall(fs.write, "x", "y")).code == "call_in_condition"', "c"),
        ]
    )
    printed = succeeded(await run(f'return {{ name = "try", stages = {{ {stages} }} }}'))
    assert printed.texts(source="lua") == ["a ran", "c ran"]


async def test_a_hostile_archive_from_a_container_leaves_nothing(run: Runner) -> None:
    printed = succeeded(
        await run.script(
            SHELL
            + """
    sh("mkdir a; ln -s /etc a/evil; tar cf bad.tar -C a .; rm -r a", { check = true })
    local code, message = try(archive.extract, "bad.tar", { to = "out" })
    log.info(code, message, fs.exists("out"))
    log.info((try(archive.list, "bad.tar")))
"""
        )
    )
    assert printed.texts(source="lua") == [
        "archive_refused archive.extract: entry `./evil` is a link that leads, or may lead, out: to `/etc` false",
        "archive_refused",
    ]
