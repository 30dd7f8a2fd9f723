"""Plain Lua that tries to get out of its state, to bring its process down, or to outstay its welcome.

Each snippet is a stage's script (or, where it says so, a file's top level) in a real job. What it should not have got,
it says in a line that begins with ``GOT``. Whatever it does, its job ends with an error of its own, and the process
that it ran in breaks no rule: a Lua state that can be made to send a wrong frame was got the better of.
"""

from __future__ import annotations

import anyio

from tests.attack.attempts import Attempt, stopped, through
from tests.attack.jobs import Attacked, Runner

AT_ONCE = 4
GOT = "local function got(...) log.info('GOT', ...) end\n"

REACHING = {
    "reach io": "if io then got(io) end",
    "reach the debug library": "if debug then got(debug) end",
    "reach package and its loaders": "if package or require == nil then got(package) end",
    "reach Python": "if python then got(python) end for _, m in ipairs({'python', 'os.execute', 'lupa'}) do "
    "local ok, it = pcall(require, m) if ok then got(it) end end",
    "run a program": "if os.execute or os.exit or os.getenv or os.remove then got(os) end",
    "find a userdata": """
        local seen = {}
        local function walk(value, name)
          if type(value) == "userdata" then got(name) end
          if type(value) == "table" and not seen[value] then
            seen[value] = true
            for key, item in next, value do walk(key, name) walk(item, name .. "." .. tostring(key)) end
            walk(getmetatable(value), name .. ".<meta>")
          end
        end
        walk(_G, "_G") walk(getmetatable(""), "strings") walk({ coroutine.running() }, "thread")
        walk({ pcall(fs.read, nil) }, "error") walk({ pcall(error) }, "error")
        walk(select(2, pcall(time.sleep, "x")), "error") walk(secret, "secret") walk(json.null, "null")""",
    "load bytecode": 'local f = load("\\27Lua\\x54\\0\\x19\\x93\\r\\n\\x1a\\n", "x", "b") if f then got(f) end '
    'f = load("\\27LuaT", "x", "bt") if f then got(f) end f = load("\\27LuaT") if f then got(f) end '
    'local parts = { "\\27L", "uaT" } f = load(function() return table.remove(parts, 1) end) if f then got(f) end',
    "dump a function": "if string.dump or ('').dump then got(string.dump) end",
    "change the methods of strings": 'local m = getmetatable("") if m then got(m) end '
    'if pcall(setmetatable, "", {}) then got("set") end',
    "hang a finalizer on a table": "if pcall(setmetatable, {}, { __gc = function() end }) then got('gc') end",
    "hang a finalizer on by a metatable's metatable": "local meta = setmetatable({}, { __index = function(_, key) "
    "if key == '__gc' then return function() got('finalized') end end end }) "
    "for _ = 1, 1e5 do setmetatable({}, meta) end",
    "add a finalizer afterwards": "local meta = {} local t = setmetatable({}, meta) "
    "meta.__gc = function() got('finalized') end t = nil for _ = 1, 1e6 do t = {} end",
    "take another's environment": "local f = load('return _ENV') if f() ~= _ENV and f() ~= _G then got('env') end "
    "local env = load('return _ENV.io or _ENV.debug', 'x', 't')() if env then got(env) end",
    "pass for the sandbox's own code": "local f = load('error(\"x\")', '=[moonyard]') pcall(f) pcall(error, {})",
    "get at a module's upvalues": "for _, f in pairs(fs) do if pcall(debug and debug.getupvalue or error, f, 1) then "
    "got('upvalue') end end",
    "yield to the scheduler": "local ok = pcall(coroutine.yield, {}, 'frame') if ok then got('yielded') end",
    "yield the scheduler's mark": "local co = coroutine.create(function() return pcall(coroutine.yield, {}) end) "
    "local _, mark = coroutine.resume(co) "
    "coroutine.wrap(function() coroutine.yield(mark, '\\x81\\xa2op\\xa4done') end)()",
    "close a coroutine that is under way": "local main = coroutine.running() if pcall(coroutine.close, main) then "
    "got('closed') end",
    "change what the sandbox itself calls": "table.concat, string.pack, string.gsub, pcall, type, tostring, next, "
    "pairs = "
    "nil, nil, nil, error, error, error, error, error fs.write('x', 'y') log.info('still')",
    "read a secret from its table": "local ok, s = pcall(secret.get, 'MINE') if rawget(s, 'name') or next(s) or "
    "getmetatable(s) ~= 'secret' then got('inside') end "
    "for _, f in ipairs({ function() return #s end, function() return "
    "s.value end, function() return s < s end, function() s.x = 1 end }) do if pcall(f) then got('operated') end end "
    "if tostring(s):find('hidden') or string.format('%s', s):find('hidden') then got('shown') end",
    "guess a secret's names by equality": "local a = secret.get('MINE') if a == secret.get('MINE') .. '' "
    "and a == 'hidden value 1234' then got('equal') end",
}
EXHAUSTING = {
    "have a string of a gigabyte": "pcall(string.rep, 'x', 1e9) local s = ('x'):rep(1e9)",
    "have a table of all numbers": "local t = {} for i = 1, 1e9 do t[i] = i end",
    "double a string without end": "local s = 'x' while true do s = s .. s end",
    "call itself without end": "local function f() return 1 + f() end pcall(f) f()",
    "call itself through metatables": "local t = setmetatable({}, {}) getmetatable(t).__index = function(s, k) "
    "return s[k .. 'x'] end local _ = t.x",
    "call itself in a C function": "local function f() return (('x'):gsub('x', f)) end pcall(f) f()",
    "start coroutines in each other": "local function f() return coroutine.wrap(f)() end pcall(f) f()",
    "keep a million coroutines": "local t = {} while true do t[#t + 1] = coroutine.create(print) "
    "coroutine.resume(t[#t]) end",
    "unpack more than fits": "pcall(table.unpack, {}, 1, 1e8) return select('#', table.unpack({}, 1, 1e7))",
    "concatenate more than fits": "local t = {} for i = 1, 1e6 do t[i] = ('x'):rep(1000) end return table.concat(t)",
    "format a wide number": "pcall(string.format, '%99999999d', 1) "
    "return string.format('%' .. ('9'):rep(200) .. 'd', 1)",
    "compile a hundred thousand brackets": "load('return ' .. ('('):rep(1e5)) load(('{'):rep(1e5)) error('done')",
    "compile a function of a million constants": "local t = {} for i = 1, 1e6 do t[i] = '\"' .. i .. '\"' end "
    "load('return {' .. table.concat(t, ',') .. '}') error('done')",
    "pack without end": "pcall(string.pack, ('s8'):rep(1e6), 'x') return string.pack('!16' .. ('xi16'):rep(1e6))",
    "match a pattern without end": "return (('a'):rep(30)):find(('a?'):rep(30) .. ('a'):rep(30) .. 'b')",
    "match balanced brackets without end": "local s = ('('):rep(3e5) return s:find(('.-'):rep(12) .. '%b()x')",
    "sort with an order that is none": "local t = {} for i = 1, 1e5 do t[i] = i end "
    "pcall(table.sort, t, function() return true end) error('done')",
    "loop without end": "while true do end",
    "loop without end, and catch each error": "while true do pcall(function() while true do end end) end",
    "catch each error in an error's handler": "local function again() while true do end end "
    "while true do xpcall(again, again) end",
    "loop in a coroutine": "while true do pcall(coroutine.wrap(function() while true do end end)) end",
    "loop while a variable is closed": "local t <close> = setmetatable({}, { __close = function() "
    "while true do pcall(function() while true do end end) end end }) error('leave')",
    "choose the keys of a table for the runner": "local t = {} for i = 1, 20000 do t[i << 21] = 0 end json.encode(t)",
    "hand over a table in itself": "local t = {} t.t = t json.encode(t)",
    "hand over more than a frame": "local s = ('x'):rep(13e6) fs.write('x', s .. s)",
    "log more than a frame": "local s = ('x'):rep(13e6) log.info(s .. s)",
}
ERRORS = {
    "raise a table whose text loops": "error(setmetatable({}, { __tostring = function() while true do end end }))",
    "raise a table whose text is a number": "error(setmetatable({}, { __tostring = function() return 5 end }))",
    "raise a table whose text raises itself": "local e = {} "
    "error(setmetatable(e, { __tostring = function() error(e) end, "
    "__name = {}, __index = function() error(e) end, __metatable = 5, __len = error, __concat = error }))",
    "raise a table that leads to itself": "local e = {} "
    "e.cause, e.message, e.code, e.hint, e.where = e, e, e, e, e error(e)",
    "raise bytes that are no text": "error('\\xff\\0\\xfe\\x1b[2J')",
    "raise nothing": "error(nil)",
    "raise a function": "error(print)",
    "raise a coroutine": "error(coroutine.create(print))",
    "raise a secret": "error(secret.get('MINE'))",
    "raise five megabytes": "error(('x'):rep(5e6), 0)",
    "raise what claims a defect of the runner": "error({ code = 'lua_error', message = 'internal', "
    "trace = { ('t'):rep(1e6) }, where = ('w'):rep(1e6) })",
    "raise in a place of a long name": "load('error(\"x\")', '@' .. ('n'):rep(1e6))()",
    "raise while a variable is closed": "local t <close> = setmetatable({}, { __close = function() error({}) end }) "
    "error(t)",
    "raise in a call's answer": "coroutine.wrap(function() fs.read('none') end)()",
    "raise out of a comparison": "table.sort({ 3, 2, 1 }, function() fs.read('x') end)",
}
FILES = {
    "loop at the top level": "while true do pcall(function() while true do end end) end",
    "take memory at the top level": "local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end",
    "give a table that makes entries": "return setmetatable({}, { __index = function(_, k) return k end, "
    "__pairs = function() return function() return 1, 1 end end, __len = function() return 1e9 end })",
    "give stages without end": "local s = {} for i = 1, 1e5 do s[i] = { name = 's' .. i, script = print } end "
    "return { name = 'x', stages = s }",
    "give a pipeline that is its own stage": "local p = { name = 'x' } p.stages = { p } return p",
    "give names that lead elsewhere": "return { name = '../../x', stages = { { name = '../y', script = print } } }",
    "give a table of many levels": "local t = {} for _ = 1, 1e5 do t = { t } end return { name = 'x', stages = t }",
}


def _pipeline(body: str) -> str:
    stage = f'{{ name = "s", timeout = "1s", script = function(job)\n{GOT}{body}\nend }}'
    return f'return {{ name = "lua", stages = {{ {stage} }} }}'


async def attempts(runner: Runner) -> list[Attempt]:
    """Try all."""
    made: list[Attempt] = []
    slots = anyio.Semaphore(AT_ONCE)

    async def make(name: str, source: str) -> None:
        async with slots:
            made.append(_judged(name, await runner.run(source, secrets={"MINE": b"hidden value 1234"})))

    async def make_file(name: str, source: str) -> None:
        async with slots:
            made.append(await _load(runner, name, source))

    async with anyio.create_task_group() as tasks:
        for name, body in (REACHING | EXHAUSTING | ERRORS).items():
            tasks.start_soon(make, name, _pipeline(body))
        for name, source in FILES.items():
            tasks.start_soon(make_file, name, source)
    return made


def _judged(name: str, job: Attacked) -> Attempt:
    if got := [text for text in job.texts if text.startswith("GOT")]:
        return through(name, "; ".join(got))
    codes = {error.code for error in job.errors}
    if wrong := codes & {"internal_error", "sandbox_breach", "sandbox_lost"}:
        return through(name, f"{wrong}: {job.outcome}")
    if name not in REACHING and job.final.state != "failed":
        return through(name, f"it was not noticed: {job.outcome}")
    if b"hidden value" in job.raw:
        return through(name, "a secret's value stands in what was told")
    return stopped(name, job.outcome)


async def _load(runner: Runner, name: str, source: str) -> Attempt:
    from sandbox import loading
    from schema.definition import PipelineInvalid

    try:
        await loading.load(runner.parent, "attack.lua", source, loading.SHIPPED_ONLY)
    except PipelineInvalid as error:
        return stopped(name, error.problems[0].message)
    return through(name, "it was taken for a pipeline")
