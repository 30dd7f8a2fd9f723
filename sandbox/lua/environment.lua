-- environment: what a script can reach, and nothing else.
--
-- Guarantees:
--   * only what is listed here comes from Lua's standard library; no file, program, bytecode, debug library or garbage
--     collector's finalizer is within reach;
--   * the pipeline and each plugin have tables of their own; only values' methods (`("x"):upper()`) are shared.
--
-- Inputs: coroutine_library, modules (the table that modules.lua gives), raise, and note_require(name, line).
-- Gives:  { build(plugin) -> environment, load_plugin, set_plugins(sources) }

local coroutine_library, modules, raise, note_require = ...

local load, type, pairs, ipairs, rawget, setmetatable = load, type, pairs, ipairs, rawget, setmetatable
local getinfo, concat, sort = debug.getinfo, table.concat, table.sort

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
local plugin_sources, plugin_values = {}, {}

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
  local names = {}
  for _, name in ipairs(modules.names) do
    names[#names + 1] = name
  end
  for name in pairs(plugin_sources) do
    names[#names + 1] = name
  end
  sort(names)
  return concat(names, ", ")
end

local function load_plugin(name)
  local loaded = plugin_values[name]
  if loaded then
    return loaded.value
  end
  local chunk, problem = load(plugin_sources[name], "@plugins/" .. name .. "/init.lua", "t", build(name))
  if not chunk then
    raise("plugin_invalid", "plugin `" .. name .. "` cannot be loaded: " .. problem)
  end
  loaded = { value = chunk() }
  plugin_values[name] = loaded
  return loaded.value
end

local function build_require(plugin, environment)
  return function(name)
    for _, module in ipairs(modules.names) do
      if module == name then
        return environment[module]
      end
    end
    if type(name) == "string" and plugin_sources[name] then
      if not plugin then
        note_require(name, getinfo(2, "l").currentline)
      end
      return load_plugin(name)
    end
    raise(
      "module_unknown",
      "there is no module or plugin `" .. tostring(name) .. "` (there are: " .. known_names() .. ")",
      "A pipeline is one file: `require` gives core modules and plugins only."
    )
  end
end

function build(plugin)
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
  if not plugin then
    environment.string = string_methods
  end
  local coroutines = {}
  for name, value in pairs(coroutine_library) do
    coroutines[name] = value
  end
  environment.coroutine = coroutines
  for name, module in pairs(modules.build(plugin)) do
    environment[name] = module
  end
  environment._G = environment
  environment.setmetatable = safe_setmetatable
  environment.print = environment.log.info
  environment.require = build_require(plugin, environment)
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

return {
  build = build,
  load_plugin = load_plugin,
  set_plugins = function(sources)
    plugin_sources, plugin_values = sources, {}
  end,
}
