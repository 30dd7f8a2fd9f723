-- modules: the Lua face of each core module. What a module does is done on the runner; here are only its names.
--
-- `build(plugin)` makes the modules anew for the pipeline (plugin = nil) and for each plugin, so that a script that
-- changes its own `process.run` changes nobody else's, and the runner knows whose code made a call.
--
-- Inputs: call(plugin, name, ...), which makes a host call, log(plugin, level, text), now(), which gives the time,
--         raise(code, message, hint), capture(error), running() and resumer(coroutine), and a list of tables as this
--         file gives one, each with more modules.
-- Gives:  { build, names }

local call, send_log, now, raise, capture, running, resumer, more = ...

local ipairs, pairs = ipairs, pairs
local type, tostring, error, select, setmetatable = type, tostring, error, select, setmetatable
local xpcall, pack, unpack, concat = xpcall, table.pack, table.unpack, table.concat

local names = { "artifact", "container", "log", "process", "time" }

-- By coroutine: the handles of the blocks that it opened and that have not ended, innermost last.
local blocks = setmetatable({}, { __mode = "k" })

-- Finds the block that the running code is in: its coroutine's own, or else that of whoever resumed it.
local function current_block()
  local thread = running()
  while thread do
    local own = blocks[thread]
    if own and #own > 0 then
      return own[#own]
    end
    thread = resumer(thread)
  end
end

local function build_log(plugin)
  local function at(level)
    return function(...)
      local parts = pack(...)
      for index = 1, parts.n do
        local text = parts[index]
        parts[index] = type(text) == "string" and text or tostring(text)
      end
      send_log(plugin, level, concat(parts, " ", 1, parts.n))
    end
  end
  return { debug = at("debug"), info = at("info"), warn = at("warn"), error = at("error") }
end

local function build_process(plugin)
  return {
    run = function(options, ...)
      if select("#", ...) > 0 then
        raise(
          "argument_invalid",
          "process.run takes one table of named arguments, got more than one argument",
          'Write process.run({ command = "cargo", args = { "build" } }).'
        )
      end
      return call(plugin, "process.run", current_block(), options)
    end,
  }
end

local function build_container(plugin)
  return {
    run = function(image, options, body)
      if body == nil and type(options) == "function" then
        options, body = nil, options
      end
      if type(body) ~= "function" then
        raise(
          "argument_invalid",
          "container.run takes a function to run in the container, got " .. (body == nil and "nil" or "a " ..
          type(body)),
          "Write container.run(image, function() ... end), or container.run(image, options, function() ... end)."
        )
      end
      local handle = call(plugin, "container.open", image, options)
      local thread = running()
      local own = blocks[thread] or {}
      blocks[thread] = own
      own[#own + 1] = handle
      local results = pack(xpcall(body, capture))
      own[#own] = nil
      call(plugin, "container.close", handle)
      if not results[1] then
        error(results[2], 0)
      end
      return unpack(results, 2, results.n)
    end,
  }
end

local function build_artifact(plugin)
  return {
    save = function(options)
      if type(options) == "string" then
        options = { path = options }
      end
      return call(plugin, "artifact.save", options)
    end,
  }
end

local function build_time(plugin)
  return {
    -- A function of the host's own is an object of Python's, which no script may hold.
    now = function()
      return now()
    end,
    sleep = function(duration)
      return call(plugin, "time.sleep", duration)
    end,
  }
end

for _, part in ipairs(more) do
  for _, name in ipairs(part.names) do
    names[#names + 1] = name
  end
end

return {
  names = names,
  build = function(plugin)
    local modules = {
      artifact = build_artifact(plugin),
      container = build_container(plugin),
      log = build_log(plugin),
      process = build_process(plugin),
      time = build_time(plugin),
    }
    for _, part in ipairs(more) do
      for name, module in pairs(part.build(plugin)) do
        modules[name] = module
      end
    end
    return modules
  end,
}
