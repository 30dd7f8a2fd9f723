-- environment: what a script can reach, and nothing else.
--
-- Guarantees:
--   * only what is listed here comes from Lua's standard library; no file, program, bytecode, debug library or garbage
--     collector's finalizer is within reach;
--   * the pipeline and each plugin have tables of their own; what strings have for methods (`("x"):upper()`) is in
--     nobody's reach.
--
-- Inputs: coroutine_library, modules (the table that modules.lua gives), raise, plugins (that of plugins.lua), and
--         note_require(name, line).
-- Gives:  { build(plugin, declared) -> environment, begin(is_draft), plugin(name) -> what the pipeline sees of it }

local coroutine_library, modules, raise, plugins, note_require = ...

local load, type, pairs, ipairs, rawget, setmetatable = load, type, pairs, ipairs, rawget, setmetatable
local getinfo, concat, sort, pack, tostring = debug.getinfo, table.concat, table.sort, table.pack, tostring

local BASE = {
  "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen",
  "rawset", "select",
  "tonumber", "tostring", "type", "xpcall", "_VERSION",
}
local LIBRARIES = {
  table = { "concat", "insert", "move", "pack", "remove", "sort", "unpack" },
  utf8 = { "char", "charpattern", "codepoint", "codes", "len", "offset" },
  os = { "clock", "date", "difftime", "time" },
  math = {
    "abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max",
    "maxinteger", "min",
    "mininteger", "modf", "pi", "rad", "random", "randomseed", "sin", "sqrt", "tan", "tointeger", "type", "ult",
  },
  string = {
    "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "pack", "packsize", "rep",
    "reverse", "sub",
    "unpack", "upper",
  },
}

local globals = _G
local faces, is_draft = {}, false

-- What strings find as their methods is the listed part of the library too.
local string_methods = {}
for _, name in ipairs(LIBRARIES.string) do
  string_methods[name] = string[name]
end
local string_type = getmetatable("")
string_type.__index = string_methods
string_type.__metatable = false

local function safe_setmetatable(value, meta)
  if type(meta) == "table" and rawget(meta, "__gc") ~= nil then
    raise("sandbox_refused", "a metatable with __gc is not accepted: a finalizer could run after a script's end")
  end
  return setmetatable(value, meta)
end

local build

local function known_names()
  local names = plugins.names()
  for _, name in ipairs(modules.names) do
    names[#names + 1] = name
  end
  sort(names)
  return concat(names, ", ")
end

-- Gives what the pipeline sees of a plugin: always the same table.
local function plugin_face(name)
  faces[name] = faces[name] or (is_draft and plugins.placeholder or plugins.face)(name)
  return faces[name]
end

-- That of the pipeline; a plugin has one of its own (plugins.lua).
local function build_require(environment)
  return function(name)
    for _, module in ipairs(modules.names) do
      if module == name then
        return environment[module]
      end
    end
    if type(name) == "string" and (is_draft or plugins.has(name)) then
      note_require(name, getinfo(2, "l").currentline)
      return plugin_face(name)
    end
    raise(
      "module_unknown",
      "there is no module or plugin `" .. tostring(name) .. "` (there are: " .. known_names() .. ")",
      "A pipeline is one file: `require` gives core modules and the plugins that `plugins` names."
    )
  end
end

-- Makes the pipeline's environment, or a plugin's with the modules that it declares.
function build(plugin, declared)
  local environment = {}
  for _, name in ipairs(BASE) do
    environment[name] = globals[name]
  end
  for library, names in pairs(LIBRARIES) do
    local copy = {}
    for _, name in ipairs(names) do
      copy[name] = globals[library][name]
    end
    environment[library] = copy
  end
  local coroutines = {}
  for name, value in pairs(coroutine_library) do
    coroutines[name] = value
  end
  environment.coroutine = coroutines
  for name, module in pairs(modules.build(plugin)) do
    if not declared or declared[name] then
      environment[name] = module
    end
  end
  environment._G = environment
  environment.setmetatable = safe_setmetatable
  local info = environment.log and environment.log.info
  -- To `log.info` a table at the end is a line's fields; `print` shows whatever it is given.
  environment.print = info and function(...)
    local texts = pack(...)
    for index = 1, texts.n do
      texts[index] = tostring(texts[index])
    end
    info(concat(texts, " ", 1, texts.n))
  end or nil
  environment.require = not plugin and build_require(environment) or nil
  environment.load = function(chunk, name, mode, env)
    if mode ~= nil and mode ~= "t" and mode ~= "bt" then
      return nil, "only Lua source can be loaded, not bytecode"
    end
    if env == nil then
      env = environment
    end
    return load(chunk, name, "t", env)
  end
  return environment
end

plugins.set_environment(build)

return {
  build = build,
  plugin = plugin_face,
  -- With placeholders for plugins, where a file is loaded only to see which it names.
  begin = function(with_placeholders)
    faces, is_draft = {}, with_placeholders == true
  end,
}
