-- boot: the Lua side of the sandbox. Puts its parts together and gives a function that answers the runner's requests
-- until the process is ended. What comes before is done once, by the warm parent; the function runs in its children.
--
-- One frame comes in, one or more go out:
--   load     compiles the pipeline's file and runs its top level    -> loaded, or failed
--   run      runs a stage's script                                  -> call (its answer comes next), log, done, failed
--   abandon  instead of an answer: ends the script that waits       -> abandoned
--
-- Guarantees:
--   * scripts run in coroutines under an instruction hook, in an environment of their own; nothing of this file is in
--     reach;
--   * a request is answered whatever the script does, short of being killed.
--
-- Inputs: receive() -> bytes or false (it was too large), send(bytes), orphaned(), now(), limits as numbers, and the
-- sources of the other files.

local receive, send, orphaned, now, load_seconds, job_seconds, sources = ...

local error, load, pairs, type, xpcall, pcall = error, load, pairs, type, xpcall, pcall
local sethook, clock, gsub = debug.sethook, os.clock, string.gsub
local seed_random = math.randomseed
local HOOK_INSTRUCTIONS = 1000000
local STAGE_LISTS = { "stages", "on_cancel", "finally" }

local function part(name, ...)
  local chunk, problem = load(sources(name), "=[moonyard]", "t")
  return assert(chunk, problem)(...)
end

local messages = part("messages")

-- The hook gives an endless loop its line. It is no wall: a script can catch its error, and C functions do not meet it.
local deadline, deadline_message
local function hook()
  orphaned()
  if deadline and clock() > deadline then
    error({ code = "cpu_limit", message = deadline_message }, 0)
  end
end

local function watch(thread)
  sethook(thread, hook, "", HOOK_INSTRUCTIONS)
end

local errors
local coroutines = part("coroutines", watch, function(err, thread)
  return errors.capture(err, thread)
end)
errors = part("errors", coroutines.running, coroutines.resumer)
local raise = errors.raise

local function send_frame(frame)
  send(messages.encode(frame))
end

-- --- host calls

local loading = false

local function call(plugin, name, first, second)
  if loading then
    raise(
      "call_at_top_level",
      name .. " cannot be called while the file is loaded: a pipeline is loaded to be checked, too",
      "Call it in a stage's `script` function."
    )
  end
  local null = messages.null
  local arguments = { first == nil and null or first, second == nil and null or second }
  local encoded, frame = pcall(messages.encode, { op = "call", name = name, arguments = arguments, plugin = plugin })
  if not encoded then
    local problem = type(frame) == "table" and frame or { code = "memory_limit", message = frame }
    raise(problem.code, name .. ": " .. problem.message)
  end
  local answer = coroutines.call(frame)
  if answer.code == "call_in_callback" then
    raise(
      "call_in_callback",
      name .. " was called in a function that C code calls back (string.gsub, table.sort, ...), where it cannot wait",
      "Collect what is to be done in the callback, and call " .. name .. " after it."
    )
  elseif answer.error then
    errors.raise_info(answer.error)
  end
  return answer.value
end

local function log(plugin, level, text)
  local encoded, frame = pcall(messages.encode, { op = "log", level = level, text = text, plugin = plugin })
  if not encoded then
    local problem = type(frame) == "table" and frame or { code = "memory_limit", message = frame }
    raise(problem.code, "log." .. level .. ": " .. problem.message)
  end
  send(frame)
end

-- --- the parts that scripts see

local required = {}
local modules = part("modules", call, log, now, raise, errors.capture, coroutines.running, coroutines.resumer)
local environment = part("environment", coroutines.library, modules, raise, function(name, line)
  if loading and not required[name] then
    required[name] = line
  end
end)

-- --- requests

local scripts, pipeline_environment = {}, nil

-- Runs a function as a coroutine to its end; gives its results as xpcall does, or nothing when it was abandoned.
local function run_to_end(body, argument)
  local thread = coroutines.create(function()
    return xpcall(body, errors.capture, argument)
  end)
  watch(thread)
  local resumed, first, second = coroutines.raw_resume(thread)
  while resumed and first == coroutines.HOST do
    send(second)
    local reply = receive()
    if not reply then
      local message = "the answer is larger than the memory that is left for the pipeline's Lua"
      reply = { error = { code = "memory_limit", message = message } }
    else
      reply = messages.decode(reply)
    end
    if reply.op == "abandon" then
      pcall(coroutines.close, thread)
      return nil
    end
    resumed, first, second = coroutines.raw_resume(thread, reply)
  end
  if not resumed then
    return false, first
  end
  return first, second
end

local function fail(err)
  local described, info = pcall(errors.describe, err)
  if not described then
    info = { code = "lua_error", message = "an error that could not be told: " .. tostring(info) }
  end
  send_frame({ op = "failed", error = info })
end

local function find_scripts(pipeline)
  for _, field in pairs(STAGE_LISTS) do
    local stages = type(pipeline) == "table" and rawget(pipeline, field)
    for _, stage in pairs(type(stages) == "table" and stages or {}) do
      if type(stage) == "table" and rawget(stage, "name") ~= nil then
        scripts[rawget(stage, "name")] = rawget(stage, "script")
      end
    end
  end
end

local function inject_plugins(pipeline)
  local plugins = type(pipeline) == "table" and rawget(pipeline, "plugins")
  for _, name in pairs(type(plugins) == "table" and plugins or {}) do
    if type(name) == "string" and rawget(pipeline_environment, name) == nil then
      local found, value = pcall(environment.load_plugin, name)
      if found then
        pipeline_environment[name] = value
      end
    end
  end
end

local function load_pipeline(request)
  local source_name = "@" .. request.filename
  errors.set_pipeline(source_name)
  environment.set_plugins(request.plugins)
  pipeline_environment = environment.build(nil)
  -- As Lua's own `loadfile` does: a byte order mark, and a first line that begins with `#`, are no part of the program.
  local source = gsub(gsub(request.source, "^\xef\xbb\xbf", ""), "^#[^\n]*", "")
  local chunk, problem = load(source, source_name, "t", pipeline_environment)
  if not chunk then
    send_frame({ op = "failed", error = { code = "lua_syntax", message = problem } })
    return
  end
  loading = true
  deadline = clock() + load_seconds
  deadline_message = "the file's top level ran for more than " .. load_seconds .. " s without coming to its end"
  local ok, pipeline = run_to_end(chunk)
  if not ok then
    fail(pipeline)
    return
  end
  find_scripts(pipeline)
  inject_plugins(pipeline)
  loading = false
  local encoded, frame = pcall(messages.encode, { op = "loaded", pipeline = pipeline, required = required }, true)
  if not encoded then
    local reason = type(frame) == "table" and frame.message or tostring(frame)
    fail(errors.new({ code = "pipeline_invalid", message = "what the file returns is no pipeline: " .. reason }))
    return
  end
  send(frame)
end

local function run_stage(request)
  local script = scripts[request.stage]
  local ok, err = run_to_end(script, request.job)
  if ok == nil then
    send_frame({ op = "abandoned" })
  elseif ok then
    send_frame({ op = "done" })
  else
    fail(err)
  end
end

-- The seed is a process's own: children of one parent are not to draw the same numbers.
return function(seed_high, seed_low)
  seed_random(seed_high, seed_low)
  while true do
    local frame = receive()
    if not frame then
      local message = "the file is larger than the memory of a sandbox"
      send_frame({ op = "failed", error = { code = "memory_limit", message = message } })
    else
      local request = messages.decode(frame)
      if request.op == "load" then
        load_pipeline(request)
      elseif request.op == "run" then
        run_stage(request)
      end
      deadline = job_seconds
      deadline_message = "the pipeline's Lua used more than " .. job_seconds .. " s of processor time"
      loading = false
    end
  end
end
