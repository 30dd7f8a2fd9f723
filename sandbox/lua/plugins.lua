-- plugins: loads the plugins of a job, each in an environment of its own, and makes what a pipeline sees of them.
--
-- A plugin's `init.lua` declares operations with `plugin.operation`; nothing else of it is to be had from outside.
--
-- Guarantees:
--   * a plugin has the core modules and the plugins that its manifest names, and no others;
--   * a pipeline, and each plugin that uses another one, has a table of its own with the operations: what it does to
--     that is seen by nobody else; arguments and results are copies (specs.lua);
--   * only files of a plugin's own folder are loaded; operations are declared while `init.lua` is, and never later.
--
-- Inputs: raise(code, message, hint), specs (the table that specs.lua gives), collect (of positional.lua), is_loading()
--         -> whether a pipeline's file is being loaded, and module_names (those of the core modules).
-- Gives:  { set, set_environment, face, placeholder, has, names, hooks, hook, describe }

local raise, specs, collect, is_loading, module_names = ...

local type, pairs, ipairs, load, select, setmetatable = type, pairs, ipairs, load, select, setmetatable
local tostring, sub, find, match, concat = tostring, string.sub, string.find, string.match, table.concat

local build_environment -- of environment.lua, which needs this file in its turn
local packages, order = {}, {}

local MODULES = {}
for _, name in ipairs(module_names) do
  MODULES[name] = true
end

local function invalid(package, message, hint)
  raise("plugin_invalid", "plugin `" .. package.name .. "`: " .. message, hint)
end

-- --- what a plugin's code sees

local function declaring(package, what)
  if package.state ~= "loading" then
    invalid(package, what .. " was called after `init.lua` was loaded", "Declare at the top level of `init.lua`.")
  end
end

local function at_top_level(call)
  raise(
    "call_at_top_level",
    call .. " cannot be called while the file is loaded: a pipeline is loaded to be checked, too",
    "Call it in a stage's `script` function."
  )
end

local function gather(call, operation, ...)
  local first = ...
  if select("#", ...) == 1 and specs.stands_alone(operation, first) then
    return { [operation.positional[1]] = first }
  end
  return collect(call, operation.positional, ...)
end

local function wrap(call, operation, body)
  return function(...)
    if is_loading() then
      at_top_level(call)
    end
    local arguments = specs.arguments(call, operation, gather(call, operation, ...))
    return specs.result(call, operation, (body(arguments)))
  end
end

local function declare_operation(package, name, spec, body)
  declaring(package, "plugin.operation")
  if not specs.is_name(name) then
    invalid(package, "`" .. tostring(name) .. "` cannot be an operation's name", "Small letters, digits and `_`.")
  elseif package.operations[name] then
    invalid(package, "operation `" .. name .. "` is declared twice")
  end
  local operation = specs.read("operation `" .. name .. "` of plugin `" .. package.name .. "`", spec)
  if type(body) ~= "function" then
    invalid(
      package, "operation `" .. name .. "` has no function, got " .. (body == nil and "nil" or "a " .. type(body)),
      "Write plugin.operation(name, { description = ... }, function(arguments) ... end)."
    )
  end
  for code in pairs(operation.errors) do
    package.errors[code] = true
  end
  package.operations[name] = operation
  package.functions[name] = wrap(package.name .. "." .. name, operation, body)
end

local function declare_hook(package, name, body)
  declaring(package, "plugin." .. name)
  if package[name] then
    invalid(package, "plugin." .. name .. " is called twice")
  elseif type(body) ~= "function" then
    invalid(package, "plugin." .. name .. " takes a function")
  end
  package[name] = body
end

local function fail(package, code, message, hint)
  if code ~= "argument_invalid" and not package.errors[code] then
    local names = specs.names(package.errors)
    raise(
      "plugin_defect",
      "plugin `" .. package.name .. "` raised `" .. tostring(code) ..
      "`, and no operation of it declares that in `errors`" ..
      (names[1] and " (declared: " .. concat(names, ", ") .. ")" or "") .. ": " .. tostring(message)
    )
  end
  raise(
    code == "argument_invalid" and code or package.name .. "_" .. code, tostring(message),
    hint ~= nil and tostring(hint) or nil
  )
end

local function build_plugin_table(package)
  return {
    name = package.name,
    version = package.version,
    state = {},
    operation = function(name, spec, body)
      declare_operation(package, name, spec, body)
    end,
    setup = function(body)
      declare_hook(package, "setup", body)
    end,
    teardown = function(body)
      declare_hook(package, "teardown", body)
    end,
    fail = function(code, message, hint)
      fail(package, code, message, hint)
    end,
  }
end

-- --- files

local function source_name(package, path)
  return "@plugins/" .. package.name .. "/" .. path
end

local function compile(package, path)
  local chunk, problem = load(package.files[path], source_name(package, path), "t", package.environment)
  if not chunk then
    raise("plugin_invalid", "plugin `" .. package.name .. "` cannot be loaded: " .. problem)
  end
  return chunk
end

local function require_file(package, name)
  local path = sub(name, 3)
  if find("/" .. path .. "/", "/%.+/") or find(path, "//", 1, true) or not find(path, "^[%w_./-]+$") then
    invalid(package, "require(\"" .. name .. "\") does not name a file of its folder", "Write require(\"./other\").")
  end
  path = match(path, "%.lua$") and path or path .. ".lua"
  local loaded = package.loaded[path]
  if loaded == nil then
    if not package.files[path] then
      local there = concat(specs.names(package.files), ", ")
      invalid(package, "there is no file `" .. path .. "` to require", "It has: " .. there)
    end
    local chunk = compile(package, path)
    package.loaded[path] = { is_loading = true }
    local value = chunk()
    loaded = { value = value == nil and true or value }
    package.loaded[path] = loaded
  elseif loaded.is_loading then
    invalid(package, "`" .. path .. "` is required while it is loaded: files require each other in a circle")
  end
  return loaded.value
end

local function undeclared(package, kind, name)
  raise(
    "plugin_undeclared",
    "plugin `" .. package.name .. "` uses the " .. kind .. " `" .. name .. "` and does not declare it",
    "Add it to `" .. kind .. "s` in its plugin.toml."
  )
end

local face

local function build_plugin_require(package)
  return function(name)
    if type(name) == "string" and sub(name, 1, 2) == "./" then
      return require_file(package, name)
    elseif package.modules[name] then
      return package.environment[name]
    elseif MODULES[name] then
      undeclared(package, "module", name)
    elseif package.needs[name] then
      package.faces[name] = package.faces[name] or face(name)
      return package.faces[name]
    elseif type(name) == "string" and packages[name] then
      undeclared(package, "plugin", name)
    end
    raise(
      "module_unknown",
      "plugin `" .. package.name .. "` has no module, plugin or file `" .. tostring(name) .. "`",
      "Core modules and plugins by name, as plugin.toml declares them; files of its folder as require(\"./other\")."
    )
  end
end

local function load_package(name)
  local package = packages[name]
  if not package then
    raise("plugin_unknown", "there is no plugin `" .. tostring(name) .. "` in this job")
  end
  if package.state == "loaded" then
    return package
  elseif package.state ~= "new" then
    invalid(package, "it is required while it is loaded: plugins need each other in a circle")
  elseif MODULES[name] then
    invalid(package, "its name is that of a core module")
  end
  package.state = "loading"
  for _, need in ipairs(specs.names(package.needs)) do
    load_package(need)
  end
  local environment = build_environment(name, package.modules)
  package.environment = environment
  environment.plugin = build_plugin_table(package)
  environment.require = build_plugin_require(package)
  setmetatable(environment, {
    __metatable = false,
    __index = function(_, key)
      if MODULES[key] then
        undeclared(package, "module", key)
      end
    end,
  })
  local value = compile(package, "init.lua")()
  if value ~= nil then
    invalid(package, "`init.lua` returns a value", "What pipelines get is what plugin.operation declares.")
  end
  package.state = "loaded"
  order[#order + 1] = name
  return package
end

-- --- what others see of a plugin

-- Makes a table with the operations, for one environment.
function face(name)
  local package = load_package(name)
  local operations = {}
  for operation, body in pairs(package.functions) do
    operations[operation] = body
  end
  return setmetatable(operations, {
    __name = "plugin " .. name,
    __metatable = false,
    __index = function(_, key)
      local meant = type(key) == "string" and specs.near(key, package.operations)
      raise(
        "operation_unknown",
        "plugin `" .. name .. "` " .. package.version .. " has no operation `" .. tostring(key) .. "`" ..
        (meant and "; did you mean `" .. meant .. "`?" or "") ..
        " (operations: " .. concat(specs.names(package.operations), ", ") .. ")"
      )
    end,
  })
end

-- Stands for a plugin that is not there yet, while a file is loaded only to see which it names.
local function placeholder(name)
  return setmetatable({}, {
    __name = "plugin " .. name,
    __metatable = false,
    __index = function(_, key)
      return function()
        at_top_level(name .. "." .. tostring(key))
      end
    end,
  })
end

local function as_set(list)
  local set = {}
  for _, name in ipairs(list) do
    set[name] = true
  end
  return set
end

return {
  face = face,
  placeholder = placeholder,
  has = function(name)
    return packages[name] ~= nil
  end,
  names = function()
    return specs.names(packages)
  end,
  set_environment = function(build)
    build_environment = build
  end,
  -- Takes the plugins of a job, by name: each with `version`, `files`, and the lists `modules` and `plugins`.
  set = function(given)
    packages, order = {}, {}
    for name, package in pairs(given) do
      packages[name] = {
        name = name, version = package.version, files = package.files, modules = as_set(package.modules),
        needs = as_set(package.plugins), state = "new", operations = {}, functions = {}, errors = {}, loaded = {},
        faces = {},
      }
    end
  end,
  -- Gives which of the loaded plugins want to be called when: those that others need first.
  hooks = function()
    local setup, teardown = {}, {}
    for _, name in ipairs(order) do
      if packages[name].setup then
        setup[#setup + 1] = name
      end
      if packages[name].teardown then
        teardown[#teardown + 1] = name
      end
    end
    return setup, teardown
  end,
  hook = function(name, which)
    return packages[name][which]
  end,
  describe = function(name)
    local package = load_package(name)
    return package.operations, package.setup ~= nil, package.teardown ~= nil
  end,
}
