-- files: the Lua face of `fs` and `archive`. What they do is done on the runner, in the job's workspace.
--
-- Inputs: call(plugin, name, ...), which makes a host call, and positional (the table that positional.lua gives).
-- Gives:  { names, build(plugin) -> modules by name }

local call, positional = ...

local pairs = pairs

-- What each function takes in order.
local PARAMETERS = {
  fs = {
    read = { "path" },
    write = { "path", "data" },
    append = { "path", "data" },
    list = { "path" },
    glob = { "pattern" },
    stat = { "path" },
    exists = { "path" },
    mkdir = { "path" },
    move = { "from", "to" },
    copy = { "from", "to" },
    remove = { "path" },
    temp = {},
    hash = { "path" },
    size = { "path" },
    chmod = { "path", "mode" },
    read_json = { "path" },
    read_yaml = { "path" },
    read_toml = { "path" },
    write_json = { "path", "value" },
    write_yaml = { "path", "value" },
    write_toml = { "path", "value" },
  },
  archive = {
    create = { "path" },
    list = { "path" },
    extract = { "path" },
  },
}

-- Gives the file's lines, one at each call. Some are fetched at once, for a call for each would take its time.
local function build_lines(plugin)
  return function(...)
    local arguments = positional.collect("fs.lines", { "path" }, ...)
    local path, index = arguments.path, 0
    local batch = call(plugin, "fs.lines", arguments)
    return function()
      index = index + 1
      while batch.lines[index] == nil do
        if batch.ended then
          return nil
        end
        batch = call(plugin, "fs.lines", { path = path, offset = batch.offset, identity = batch.identity })
        index = 1
      end
      return batch.lines[index]
    end
  end
end

local function build_walk(plugin)
  return function(...)
    local entries, index = call(plugin, "fs.walk", positional.collect("fs.walk", { "path" }, ...)), 0
    return function()
      index = index + 1
      return entries[index]
    end
  end
end

return {
  names = { "archive", "fs" },
  build = function(plugin)
    local modules = {}
    for module, functions in pairs(PARAMETERS) do
      modules[module] = {}
      for name, parameters in pairs(functions) do
        modules[module][name] = positional.build(plugin, module .. "." .. name, parameters)
      end
    end
    modules.fs.lines = build_lines(plugin)
    modules.fs.walk = build_walk(plugin)
    return modules
  end,
}
