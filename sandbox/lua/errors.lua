-- errors: what an error is on its way from a host call or a script to the runner.
--
-- An error that Moonyard raises is a table { code, message, hint, cause, where } whose `tostring` is its message, so
-- that `tostring(err)`, `"..." .. err` and `err.code` all work after a `pcall`. What a script raises can be anything.
--
-- Guarantees:
--   * `describe` gives a message for every value that Lua can raise, and never raises itself;
--   * the call chain is the one at the place where the error arose, also when it crossed coroutines and
--     `container.run` blocks on its way.
--
-- Inputs: running() and resumer(coroutine), which tell what runs on whose behalf, and how much memory there is.
-- Gives:  { raise, raise_info, new, capture, describe, set_pipeline, remember_in }

local running, resumer, memory_mib = ...

local error, type, tostring, pcall, rawget, setmetatable = error, type, tostring, pcall, rawget, setmetatable
local getinfo, getmetatable = debug.getinfo, getmetatable
local sub, find, match, gsub = string.sub, string.find, string.match, string.gsub
local format, byte = string.format, string.byte
local utf8_len = utf8.len
local insert, concat, next, load = table.insert, table.concat, next, load

-- Finding a level costs as much as it is deep: after a stack overflow, all of them would take minutes.
local LEVELS_MAXIMUM = 50
local OWN_CODE = "=[moonyard]"

local pipeline_source, pipeline_name = nil, nil
-- Error tables are known by identity; of strings only the last of each script is remembered, for equal strings are the
-- same value.
local captured = setmetatable({}, { __mode = "k" })
local last = {}

local error_type = { __name = "error", __metatable = "error" }

function error_type.__tostring(err)
  return tostring(rawget(err, "message"))
end

function error_type.__concat(left, right)
  return tostring(left) .. tostring(right)
end

local function new(info)
  return setmetatable(info, error_type)
end

local function frame_text(info)
  local where = info.short_src .. ":" .. info.currentline
  if info.what == "main" then
    return where .. ": in main chunk"
  elseif info.name then
    return format("%s: in function '%s'", where, info.name)
  end
  return format("%s: in function <%s:%d>", where, info.short_src, info.linedefined)
end

local function add_frames(frames, coroutine, first_level)
  for level = first_level, first_level + LEVELS_MAXIMUM do
    local info
    if coroutine then
      info = getinfo(coroutine, level, "Sln")
    else
      info = getinfo(level, "Sln")
    end
    if not info then
      return
    end
    if info.source ~= OWN_CODE and info.what ~= "C" and info.currentline > 0 then
      frames[#frames + 1] = { text = frame_text(info), source = info.source, line = info.currentline }
    end
  end
end

-- Remembers the call chain of an error where it arose: of coroutine `from`, or of the caller, then of whoever resumed
-- it.
local function capture(err, from)
  if type(err) == "table" then
    if captured[err] then
      return err
    end
  elseif err == last.text and last.frames then
    return err
  end
  local frames = {}
  if from then
    add_frames(frames, from, 0)
    add_frames(frames, nil, 2)
  else
    add_frames(frames, nil, 2)
  end
  local above = resumer(running())
  while above do
    add_frames(frames, above, 0)
    above = resumer(above)
  end
  if type(err) == "table" then
    captured[err] = frames
  else
    last.text, last.frames = err, frames
  end
  return err
end

-- What is told has to be text: bytes that are no UTF-8, and NUL, are shown as escapes.
local function printable(text)
  if utf8_len(text) and not find(text, "\0", 1, true) then
    return text
  end
  return (gsub(text, "[%z\128-\255]", function(character)
    return format("\\x%02x", byte(character))
  end))
end

-- Raises an error of Moonyard's. Its call chain is remembered now, for a `pcall` would lose it.
local function raise_info(info)
  error(capture(new(info)), 0)
end

local function raise(code, message, hint)
  raise_info({ code = code, message = message, hint = hint })
end

local function safe_text(value)
  local ok, text = pcall(tostring, value)
  if ok and type(text) == "string" then
    return printable(text)
  end
  return "a " .. type(value) .. " whose tostring fails"
end

local function table_text(value)
  if getmetatable(value) and getmetatable(value) ~= "error" then
    return safe_text(value)
  end
  local parts, count = {}, 0
  for key, item in next, value do
    count = count + 1
    if count > 8 then
      insert(parts, "...")
      break
    end
    insert(parts, safe_text(key) .. " = " .. safe_text(item))
  end
  return "a table { " .. concat(parts, ", ") .. " }"
end

local function optional_text(value)
  if value ~= nil then
    return safe_text(value)
  end
end

-- A cause goes on as it came when it has the shape of an error, else as the text it has.
local function cause_of(value, depth)
  if value == nil or depth > 16 then
    return nil
  elseif type(value) ~= "table" then
    return { code = "lua_error", message = safe_text(value) }
  end
  return {
    code = safe_text(rawget(value, "code") or "lua_error"),
    message = safe_text(rawget(value, "message") or table_text(value)),
    hint = optional_text(rawget(value, "hint")),
    where = optional_text(rawget(value, "where")),
    cause = cause_of(rawget(value, "cause"), depth + 1),
  }
end

local split_position
function split_position(text)
  if pipeline_name and sub(text, 1, #pipeline_name + 1) == pipeline_name .. ":" then
    local line, rest = match(sub(text, #pipeline_name + 2), "^(%d+): (.*)$")
    if line then
      -- `assert(pcall(f))` puts its own position before the one that is there: the innermost is where it arose.
      local where, inner = split_position(rest)
      return where or (pipeline_name .. ":" .. line), inner
    end
  end
  local where, rest = match(text, "^(plugins/[%w_/.-]+%.lua:%d+): (.*)$")
  return where, rest or text
end

local function describe_value(err)
  if type(err) == "string" then
    local where, message = split_position(printable(err))
    if find(err, "not enough memory", 1, true) then
      return {
        code = "memory_limit",
        message = "the pipeline's Lua used more than " .. memory_mib .. " MiB of memory",
        hint = "Keep large data in files of the workspace rather than in Lua variables.",
      }
    end
    if message == "" then
      message = "error called with an empty message"
    end
    return { code = "lua_error", message = message, where = where }
  elseif err == nil then
    return { code = "lua_error", message = "error called with nil" }
  elseif type(err) == "table" then
    local message = rawget(err, "message")
    local info = cause_of(err, 0)
    info.message = message ~= nil and safe_text(message) or ("error called with " .. table_text(err))
    return info
  end
  return { code = "lua_error", message = "error called with a " .. type(err) .. ": " .. safe_text(err) }
end

-- Gives an error as plain data, with where it arose in the pipeline's file, and the call chain.
local function describe(err)
  capture(err)
  local frames
  if type(err) == "table" then
    frames = captured[err]
  else
    frames = last.frames
    last.text, last.frames = nil, nil
  end
  local info = describe_value(err)
  local trace = {}
  for index = 1, #frames do
    local frame = frames[index]
    if index <= LEVELS_MAXIMUM then
      trace[index] = printable(frame.text)
    end
    if not info.where and frame.source == pipeline_source then
      info.where = pipeline_name .. ":" .. frame.line
    end
  end
  info.where = info.where or (frames[1] and match(frames[1].text, "^(.-:%d+): in "))
  info.where = info.where and printable(info.where)
  -- Where memory ran out there is no chain to tell; an empty one would not go as a list.
  info.trace = trace[1] and trace
  return info
end

return {
  new = new,
  raise = raise,
  raise_info = raise_info,
  capture = capture,
  describe = describe,
  -- Scripts take turns, and what one raised is not the other's: each has a table that this is remembered in.
  remember_in = function(memory)
    last = memory
  end,
  -- Tells which chunk is the user's own file, so that `where` points into it rather than into a plugin.
  set_pipeline = function(source)
    pipeline_source = source
    local chunk = load("return 0", source, "t")
    pipeline_name = getinfo(chunk, "S").short_src
  end,
}
