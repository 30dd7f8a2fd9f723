-- boot: the Lua side of the sandbox. Puts its parts together and gives a function that answers the runner's requests
-- until the process is ended. What comes before is done once, by the warm parent; the function runs in its children.
--
-- One frame comes in, one goes out, after any number of log frames:
--   load     compiles the pipeline's file and runs its top level    -> loaded, or failed
--   describe loads a plugin, and nothing of any pipeline            -> described, or failed
--            (of a file of tests, `testing`: what it tells comes as a pipeline's stages)
--   run      begins with a stage's script                           -> call, done, failed
--   ask      begins with a stage's condition, its `when`            -> call, done, failed
--   hook     begins with what a plugin does at a job's start or end -> call, done, failed
--   answer   goes on with a script that made a call                 -> call, done, failed
--   branch   begins with a function of `parallel`, as a script      -> call, done, failed
--   abandon  ends a script that waits for an answer, if there is it -> abandoned
-- A script that calls `parallel` waits for the runner to say that its branches have ended, as for any answer.
-- Any number of scripts may wait for answers, and each frame says by a number which one it is for: scripts take turns,
-- and give them up only where they make a call.
--
-- Guarantees:
--   * scripts run in coroutines under an instruction hook, in an environment of their own; nothing of this file is in
--     reach;
--   * a request is answered whatever the script does, short of being killed.
--
-- Inputs: receive() -> bytes (a script's number in four, and the message unless it was too large), send(bytes),
-- orphaned(), now(), limits as numbers, and the sources of the other files.

local receive, send, orphaned, now, load_seconds, job_seconds, memory_mib, sources = ...

local error, load, next, pairs, type, xpcall, pcall = error, load, next, pairs, type, xpcall, pcall
local sethook, clock, gsub, match, unpack_string = debug.sethook, os.clock, string.gsub, string.match, string.unpack
local seed_random = math.randomseed
local HOOK_INSTRUCTIONS = 1000000
local NUMBER_FORMAT, NUMBER_BYTES = ">I4", 4
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
errors = part("errors", coroutines.running, coroutines.resumer, memory_mib)
local raise = errors.raise
local groups = part("groups", coroutines.running, coroutines.resumer)

local function send_frame(frame)
  send(messages.encode(frame))
end

-- --- host calls

local loading = false
local testing -- where the file is one of tests: what it sees besides the modules
local turn -- the script that has it

local function refuse_while_loading(name)
  if loading then
    raise(
      "call_at_top_level",
      name .. " cannot be called while the file is loaded: a pipeline is loaded to be checked, too",
      testing and "Call it in a test: `it`." or "Call it in a stage's `script` function."
    )
  end
end

-- Sends a frame of a script's, and gives the answer to it.
local function ask(name, message)
  local encoded, frame = pcall(messages.encode, message)
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

local function call(plugin, name, first, second)
  refuse_while_loading(name)
  local null = messages.null
  local arguments = { first == nil and null or first, second == nil and null or second }
  return ask(
    name, { op = "call", name = name, arguments = arguments, plugin = plugin, group = groups.path() }
  )
end

local function log(plugin, level, text, fields, heading)
  local encoded, frame = pcall(
    messages.encode,
    {
      op = "log", level = level, text = text, plugin = plugin, fields = fields, group = groups.path(),
      heading = heading,
    }
  )
  if not encoded then
    local problem = type(frame) == "table" and frame or { code = "memory_limit", message = frame }
    raise(problem.code, "log." .. level .. ": " .. problem.message)
  end
  send(frame)
end

-- --- functions at the same time

local modules
local branches, branch_count = {}, 0 -- by number: what is to run, or runs, for a `parallel`

-- Runs functions at the same time, so many at once, each as a script of its own; gives the first value of each. Where
-- one raises, the others are ended, and it goes on from here.
local function run_branches(plugin, functions, count, limit)
  refuse_while_loading("parallel")
  local parent, first, results = coroutines.running(), branch_count + 1, {}
  branch_count = branch_count + count
  for index = 1, count do
    branches[first + index - 1] = {
      body = function()
        results[index] = (functions[index]())
      end,
      parent = parent,
      job = turn.job,
    }
  end
  local answered, failed = xpcall(
    ask, errors.capture, "parallel", { op = "fork", first = first, count = count, limit = limit, plugin = plugin }
  )
  local branch, threads = answered and failed and branches[first + failed - 1], {}
  for index = first, first + count - 1 do
    if branches[index].thread then
      threads[branches[index].thread] = true
    end
    branches[index] = nil
  end
  if not answered then
    error(failed, 0)
  elseif branch then
    -- One that was ended did not come to the end of its `container.run`.
    for _, handle in pairs(modules.left_open(threads)) do
      call(plugin, "container.close", handle)
    end
    error(branch.failure, 0)
  end
  return results
end

-- --- the parts that scripts see

local required = {}
local positional = part("positional", call, raise)
local durations = part("durations", raise)
local jobs = part("jobs", call, raise, function()
  return turn and turn.job
end)
modules = part(
  "modules", call, log, now, raise, errors.capture, coroutines.running, coroutines.resumer,
  {
    part("files", call, positional),
    part("data", call, raise, positional, messages),
    part("http", call, raise, positional),
    part("secret", call, raise, messages),
    part("flow", call, raise, run_branches, durations, log),
    part("regex", call, raise, positional),
    part("semver", raise),
    part("template", raise, messages.null),
    jobs,
  },
  groups, durations, positional
)
local specs = part("specs", raise, function(value)
  return type(value) == "table" and messages.secrets[value] ~= nil
end, messages)
local plugins = part("plugins", raise, specs, positional.collect, function()
  return loading
end, modules.names)
local environment = part("environment", coroutines.library, modules, raise, plugins, function(name, line)
  if loading and not required[name] then
    required[name] = line
  end
end)

-- --- requests

local scripts, conditions, pipeline_environment = {}, {}, nil
local waiting = {} -- by number: the scripts that made a call, as { thread, memory, is_condition }

-- Makes a coroutine of a function; it ends with what xpcall gives.
local function begin(body, argument)
  local thread = coroutines.create(function()
    return xpcall(body, errors.capture, argument)
  end)
  watch(thread)
  return thread
end

local function fail(err)
  local described, info = pcall(errors.describe, err)
  if not described then
    info = { code = "lua_error", message = "an error that could not be told: " .. tostring(info) }
  end
  send_frame({ op = "failed", error = info })
end

-- Gives a script its turn, until it makes a call or ends.
local function resume(number, script, answer)
  errors.remember_in(script.memory)
  turn = script
  local resumed, first, second = coroutines.raw_resume(script.thread, answer)
  turn = nil
  if resumed and first == coroutines.HOST then
    waiting[number] = script
    send(second)
  elseif not resumed or not first then
    local failure = not resumed and first or second
    if script.branch then
      script.branch.failure = failure
    end
    fail(failure)
  else
    send_frame({ op = "done", holds = not script.is_condition or not not second })
  end
end

local function find_scripts(pipeline)
  for _, field in pairs(STAGE_LISTS) do
    local stages = type(pipeline) == "table" and rawget(pipeline, field)
    for _, stage in pairs(type(stages) == "table" and stages or {}) do
      if type(stage) == "table" and rawget(stage, "name") ~= nil then
        scripts[rawget(stage, "name")] = rawget(stage, "script")
        conditions[rawget(stage, "name")] = rawget(stage, "when")
      end
    end
  end
end

-- Gives the name in an entry of `plugins`, or nil where there is none; what is wrong with it is the runner's to say.
local function plugin_name(entry)
  local name = type(entry) == "table" and rawget(entry, "name") or entry
  return type(name) == "string" and match(name, "^[^@]*") or nil
end

local function inject_plugins(pipeline)
  local named = type(pipeline) == "table" and rawget(pipeline, "plugins")
  for _, entry in next, type(named) == "table" and named or {} do
    local name = plugin_name(entry)
    if name and plugins.has(name) and rawget(pipeline_environment, name) == nil then
      pipeline_environment[name] = environment.plugin(name)
    end
  end
end

local function load_pipeline(request)
  local source_name = "@" .. request.filename
  errors.set_pipeline(source_name)
  plugins.set(request.plugins)
  environment.begin(request.draft)
  pipeline_environment = environment.build(nil)
  -- As Lua's own `loadfile` does: a byte order mark, and a first line that begins with `#`, are no part of the program.
  local source = gsub(gsub(request.source, "^\xef\xbb\xbf", ""), "^#[^\n]*", "")
  local chunk, problem = load(source, source_name, "t", pipeline_environment)
  if not chunk then
    send_frame({ op = "failed", error = { code = "lua_syntax", message = problem } })
    return
  end
  testing = request.testing and part("testing", call, raise, errors.capture)
  if testing then
    testing.install(pipeline_environment)
  end
  loading = true
  deadline = clock() + load_seconds
  deadline_message = "the file's top level ran for more than " .. load_seconds .. " s without coming to its end"
  -- It makes no call, so it is never the turn of anything else before its end.
  local resumed, ok, pipeline = coroutines.raw_resume(begin(function()
    local returned = chunk()
    inject_plugins(returned)
    return returned
  end))
  if not resumed then
    fail(ok)
    return
  elseif not ok then
    fail(pipeline)
    return
  end
  if testing then
    pipeline = testing.collected()
  end
  find_scripts(pipeline)
  loading = false
  local setup, teardown = plugins.hooks()
  messages.mark_list(setup)
  messages.mark_list(teardown)
  local encoded, frame = pcall(messages.encode, {
    op = "loaded", pipeline = pipeline, required = required, setup = setup, teardown = teardown,
  }, true)
  if not encoded then
    local reason = type(frame) == "table" and frame.message or tostring(frame)
    fail(errors.new({ code = "pipeline_invalid", message = "what the file returns is no pipeline: " .. reason }))
    return
  end
  send(frame)
end

local function describe(request)
  plugins.set(request.plugins)
  loading = true
  deadline = clock() + load_seconds
  deadline_message = "the plugin's top level ran for more than " .. load_seconds .. " s without coming to its end"
  local resumed, ok, operations, setup, teardown = coroutines.raw_resume(begin(function()
    return plugins.describe(request.plugin)
  end))
  if not resumed then
    fail(ok)
  elseif not ok then
    fail(operations)
  else
    local encoded, frame = pcall(messages.encode, {
      op = "described", operations = operations, setup = setup, teardown = teardown, modules = modules.names,
    })
    if encoded then
      send(frame)
    else
      local reason = type(frame) == "table" and frame.message or tostring(frame)
      fail(errors.new({ code = "plugin_invalid", message = "what the plugin declares cannot be told: " .. reason }))
    end
  end
end

local function run_hook(number, request)
  resume(number, { thread = begin(plugins.hook(request.plugin, request.hook)), memory = {} })
end

local function run(number, request)
  local is_condition = request.op == "ask"
  local body = (is_condition and conditions or scripts)[request.stage]
  local job = jobs.prepare(request.job)
  resume(number, { thread = begin(body, job), memory = {}, is_condition = is_condition, job = job })
end

local function run_branch(number, request)
  local branch = branches[request.branch]
  local thread = begin(branch.body)
  coroutines.run_for(thread, branch.parent)
  branch.thread = thread
  resume(number, { thread = thread, memory = {}, job = branch.job, branch = branch })
end

local function go_on(number, answer)
  local script = waiting[number]
  waiting[number] = nil
  resume(number, script, answer)
end

local function abandon(number)
  local script = waiting[number]
  waiting[number] = nil
  if script then
    pcall(coroutines.close, script.thread)
  end
  send_frame({ op = "abandoned" })
end

-- A frame that did not fit is an answer, or the file itself.
local function tell_too_large(number)
  if waiting[number] then
    local message = "the answer is larger than the memory that is left for the pipeline's Lua"
    go_on(number, { error = { code = "memory_limit", message = message } })
  else
    local message = "the file is larger than the memory of a sandbox"
    send_frame({ op = "failed", error = { code = "memory_limit", message = message } })
  end
end

-- Gives the number of the script that the next frame is for, and the message, or false for one that did not fit.
local function next_frame()
  local frame = receive()
  return unpack_string(NUMBER_FORMAT, frame), #frame > NUMBER_BYTES and messages.decode(frame, NUMBER_BYTES + 1)
end

-- The seed is a process's own: children of one parent are not to draw the same numbers.
return function(seed_high, seed_low)
  seed_random(seed_high, seed_low)
  while true do
    local number, request = next_frame()
    if not request then
      tell_too_large(number)
    elseif request.op == "load" then
      load_pipeline(request)
      deadline = job_seconds
      deadline_message = "the pipeline's Lua used more than " .. job_seconds .. " s of processor time"
      loading = false
    elseif request.op == "describe" then
      describe(request)
    elseif request.op == "hook" then
      run_hook(number, request)
    elseif request.op == "answer" then
      go_on(number, request)
    elseif request.op == "branch" then
      run_branch(number, request)
    elseif request.op == "abandon" then
      abandon(number)
    else
      run(number, request)
    end
  end
end
