-- coroutines: Lua's own coroutine library, so that a host call made in a script's coroutine reaches the runner.
--
-- A host call yields the HOST mark. Where a script's `coroutine.resume` gets that mark, it passes the call on to
-- whoever resumed the coroutine it runs in, up to the scheduler, and takes the answer back down. To the script it
-- looks as if the call had blocked.
--
-- Guarantees:
--   * scripts never see the mark, and cannot make one;
--   * a coroutine knows who resumed it: by that the container of a `container.run` block is found;
--   * every coroutine is watched by the instruction hook.
--
-- Inputs: watch(coroutine), which sets the hook, and capture(error, coroutine), which remembers a call chain.
-- Gives:  { library, HOST, call, create, running, resumer, run_for, close, raw_resume }

local watch, capture = ...

local create, raw_resume, raw_yield = coroutine.create, coroutine.resume, coroutine.yield
local running, status, isyieldable, close = coroutine.running, coroutine.status, coroutine.isyieldable, coroutine.close
local error, type, setmetatable, pack, unpack = error, type, setmetatable, table.pack, table.unpack

local HOST = {}
local resumed_by = setmetatable({}, { __mode = "kv" })
local owned = setmetatable({}, { __mode = "k" })

local function current()
  return (running())
end

local function resume_with_host(thread, ...)
  local results = pack(raw_resume(thread, ...))
  while results[1] and results[2] == HOST do
    -- The coroutine made a host call: it is the caller's to pass on.
    if not isyieldable() then
      local refused = { code = "call_in_callback" }
      results = pack(raw_resume(thread, refused))
    else
      results = pack(raw_resume(thread, raw_yield(HOST, results[3])))
    end
  end
  return results
end

local function check_thread(thread, name)
  if type(thread) ~= "thread" then
    error("bad argument #1 to '" .. name .. "' (coroutine expected)", 3)
  end
end

local function resume(thread, ...)
  check_thread(thread, "resume")
  if resumed_by[thread] then
    return false, "cannot resume non-suspended coroutine"
  end
  resumed_by[thread] = current()
  local results = resume_with_host(thread, ...)
  resumed_by[thread] = nil
  if not results[1] then
    capture(results[2], thread)
  end
  return unpack(results, 1, results.n)
end

local function new(body)
  if type(body) ~= "function" then
    error("bad argument #1 to 'create' (function expected)", 3)
  end
  local thread = create(body)
  owned[thread] = true
  watch(thread)
  return thread
end

local function pass_or_raise(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

local library = {
  create = function(body)
    return new(body)
  end,
  resume = resume,
  wrap = function(body)
    local thread = new(body)
    return function(...)
      return pass_or_raise(resume(thread, ...))
    end
  end,
  yield = function(...)
    if not owned[current()] then
      error("attempt to yield from outside a coroutine", 2)
    end
    return raw_yield(...)
  end,
  close = function(thread)
    check_thread(thread, "close")
    if resumed_by[thread] or thread == current() then
      error("cannot close a running coroutine", 2)
    end
    return close(thread)
  end,
  status = function(thread)
    -- While its host call is under way a coroutine is suspended to Lua, but to its script it is running or waiting.
    check_thread(thread, "status")
    if resumed_by[thread] and status(thread) == "suspended" then
      return "normal"
    end
    return status(thread)
  end,
  running = function()
    -- To a script, what is no coroutine of its own is the main one.
    local thread = current()
    return thread, not owned[thread]
  end,
  isyieldable = function()
    return owned[current()] == true and isyieldable()
  end,
}

return {
  library = library,
  HOST = HOST,
  create = create,
  -- Makes a host call: yields its frame to the scheduler and gives the answer, or nil where nothing can yield.
  call = function(frame)
    if not isyieldable() then
      return { code = "call_in_callback" }
    end
    return raw_yield(HOST, frame)
  end,
  running = current,
  resumer = function(thread)
    return resumed_by[thread]
  end,
  -- Notes that a coroutine which the scheduler resumes runs on behalf of another.
  run_for = function(thread, other)
    resumed_by[thread] = other
  end,
  close = close,
  raw_resume = raw_resume,
}
