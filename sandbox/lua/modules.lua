-- modules: the Lua face of each core module. What a module does is done on the runner; here are only its names.
--
-- `build(plugin)` makes the modules anew for the pipeline (plugin = nil) and for each plugin, so that a script that
-- changes its own `process.run` changes nobody else's, and the runner knows whose code made a call.
--
-- Inputs: call(plugin, name, ...), which makes a host call, log(plugin, level, text), now(), which gives the time,
--         raise(code, message, hint), capture(error), running() and resumer(coroutine), a list of tables as this file
--         gives one, each with more modules, and the tables that groups.lua, durations.lua and positional.lua give.
-- Gives:  { build, names, left_open(threads) -> the handles of blocks that coroutines below these opened }

local call, send_log, now, raise, capture, running, resumer, more, groups, durations, positional = ...

local ipairs, pairs, next, getmetatable = ipairs, pairs, next, getmetatable
local type, tostring, error, select, setmetatable = type, tostring, error, select, setmetatable
local xpcall, pack, unpack, concat = xpcall, table.pack, table.unpack, table.concat
local match, find, sub = string.match, string.find, string.sub

local FIELDS_MAXIMUM, FIELD_NAME_LENGTH_MAXIMUM = 32, 64
local GROUP_NAME_LENGTH_MAXIMUM, GROUP_DEPTH_MAXIMUM = 200, 8

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

-- Takes the fields of a line: by name, and nothing that would have to be called to be shown.
local function check_fields(name, given)
  local fields, count = {}, 0
  for key, value in next, given do
    count = count + 1
    if type(key) ~= "string" or not match(key, "^[%a_][%w_.-]*$") or #key > FIELD_NAME_LENGTH_MAXIMUM then
      raise(
        "argument_invalid",
        name .. ": a field's name is up to " .. FIELD_NAME_LENGTH_MAXIMUM ..
        " letters, digits, `_`, `.` and `-`, got " .. tostring(key),
        "A list is shown by json.encode(list)."
      )
    elseif count > FIELDS_MAXIMUM then
      raise("argument_invalid", name .. ": a line has at most " .. FIELDS_MAXIMUM .. " fields")
    end
    local kind = type(value)
    fields[key] = (kind == "string" or kind == "number" or kind == "boolean") and value or tostring(value)
  end
  return count > 0 and fields or nil
end

local function build_log(plugin)
  local function at(level)
    return function(...)
      local parts = pack(...)
      local last, fields = parts[parts.n], nil
      if parts.n > 1 and type(last) == "table" and getmetatable(last) == nil then
        fields = check_fields("log." .. level, last)
        parts.n = parts.n - 1
      end
      for index = 1, parts.n do
        local text = parts[index]
        parts[index] = type(text) == "string" and text or tostring(text)
      end
      send_log(plugin, level, concat(parts, " ", 1, parts.n), fields)
    end
  end
  local function group(name, body, ...)
    if type(name) ~= "string" or name == "" or #name > GROUP_NAME_LENGTH_MAXIMUM or find(name, "%c") then
      raise(
        "argument_invalid",
        "log.group takes a name of up to " .. GROUP_NAME_LENGTH_MAXIMUM .. " characters on one line, got " ..
        (type(name) == "string" and '"' .. sub(name, 1, 80) .. '"' or type(name))
      )
    elseif type(body) ~= "function" then
      raise(
        "argument_invalid",
        "log.group takes a name and a function, got " .. (body == nil and "nil" or "a " .. type(body)),
        'Write log.group("compile", function() ... end).'
      )
    elseif #(groups.path() or {}) >= GROUP_DEPTH_MAXIMUM then
      raise("argument_invalid", "log.group: groups stand in each other at most " .. GROUP_DEPTH_MAXIMUM .. " deep")
    end
    return groups.run(name, function()
      send_log(plugin, "info", name, nil, true)
    end, capture, body, ...)
  end
  return { debug = at("debug"), info = at("info"), warn = at("warn"), error = at("error"), group = group }
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
    save = positional.build(plugin, "artifact.save", { "path" }),
    fetch = positional.build(plugin, "artifact.fetch", { "name" }),
    list = function(options)
      return call(plugin, "artifact.list", options)
    end,
    test_report = positional.build(plugin, "artifact.test_report", { "path" }),
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
    seconds = function(duration)
      return durations.seconds("time.seconds: `duration`", duration)
    end,
    duration = durations.text,
    format = positional.build(plugin, "time.format", { "seconds" }),
    parse = positional.build(plugin, "time.parse", { "text" }),
    parts = positional.build(plugin, "time.parts", { "seconds" }),
  }
end

for _, part in ipairs(more) do
  for _, name in ipairs(part.names) do
    names[#names + 1] = name
  end
end

return {
  names = names,
  left_open = function(threads)
    local handles = {}
    for thread, own in pairs(blocks) do
      local above = thread
      while above and not threads[above] do
        above = resumer(above)
      end
      for index = above and #own or 0, 1, -1 do
        handles[#handles + 1], own[index] = own[index], nil
      end
    end
    return handles
  end,
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
