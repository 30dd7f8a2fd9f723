-- flow: the globals `parallel`, `retry` and `sleep`, which steer what a script does when.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), branch(plugin, functions,
--         limit), which runs functions at the same time, durations (the table that durations.lua gives), and
--         log(plugin, level, text).
-- Gives:  { names, build(plugin) -> functions by name }

local call, raise, branch, durations, log = ...

local type, next, tostring, rawlen, error = type, next, tostring, rawlen, error
local pcall, pack, unpack, format = pcall, table.pack, table.unpack, string.format
local min, math_type = math.min, math.type

local BRANCHES_MAXIMUM = 256
local RETRIES_MAXIMUM = 100
local DELAY_SECONDS_MAXIMUM = 3600
local RETRY_ARGUMENTS = { "times", "delay", "backoff", "on", "fn" }

local function given(value)
  return value == nil and "nil" or "a " .. type(value)
end

local function refuse(message, hint)
  raise("argument_invalid", message, hint)
end

local function build_parallel(plugin)
  return function(functions, options)
    if type(functions) ~= "table" then
      refuse("parallel takes a list of functions, got " .. given(functions), "Write parallel({ build, test }).")
    end
    local count = rawlen(functions)
    if count == 0 then
      refuse("parallel takes a list of at least one function, got an empty one")
    elseif count > BRANCHES_MAXIMUM then
      refuse("parallel takes at most " .. BRANCHES_MAXIMUM .. " functions, got " .. count)
    end
    for index = 1, count do
      if type(functions[index]) ~= "function" then
        refuse("parallel: entry " .. index .. " of the list must be a function, got " .. given(functions[index]))
      end
    end
    local limit = count
    if options ~= nil then
      if type(options) ~= "table" then
        refuse("parallel takes a list of functions and then a table of options, got " .. given(options))
      end
      for key in next, options do
        if key ~= "limit" then
          refuse("parallel: `" .. tostring(key) .. "` is not an argument (accepted: limit)")
        end
      end
      limit = options.limit or count
      if math_type(limit) ~= "integer" or limit < 1 then
        refuse("parallel: `limit` must be a whole number of at least 1, got " .. tostring(options.limit))
      end
    end
    return unpack(branch(plugin, functions, count, min(limit, count)), 1, count)
  end
end

local function check_retry(options)
  if type(options) ~= "table" then
    refuse(
      "retry takes a table, got " .. given(options),
      'Write retry({ times = 3, delay = "2s", fn = function() ... end }).'
    )
  end
  local chosen = { times = 2, delay = 0, backoff = "constant" }
  for named, value in next, options do
    local key, known = named == 1 and "fn" or named, false
    for index = 1, #RETRY_ARGUMENTS do
      known = known or RETRY_ARGUMENTS[index] == key
    end
    if not known then
      refuse("retry: `" .. tostring(key) .. "` is not an argument (accepted: times, delay, backoff, on, fn)")
    end
    chosen[key] = value
  end
  if type(chosen.fn) ~= "function" then
    refuse("retry: `fn` must be a function, got " .. given(chosen.fn))
  end
  if math_type(chosen.times) ~= "integer" or chosen.times < 0 or chosen.times > RETRIES_MAXIMUM then
    refuse("retry: `times` must be a whole number from 0 to " .. RETRIES_MAXIMUM .. ", got " .. tostring(chosen.times))
  end
  if chosen.delay ~= 0 then
    chosen.delay = durations.seconds("retry: `delay`", chosen.delay)
  end
  if chosen.backoff ~= "constant" and chosen.backoff ~= "exponential" then
    refuse('retry: `backoff` must be one of "constant", "exponential", got ' .. tostring(chosen.backoff))
  end
  if type(chosen.on) == "string" then
    chosen.on = { chosen.on }
  elseif chosen.on ~= nil and type(chosen.on) ~= "table" then
    refuse("retry: `on` must be a list of errors' codes, got " .. given(chosen.on))
  end
  return chosen
end

local function code_of(problem)
  return type(problem) == "table" and problem.code or "lua_error"
end

local function is_meant(codes, problem)
  if codes == nil then
    return true
  end
  for index = 1, #codes do
    if codes[index] == code_of(problem) then
      return true
    end
  end
  return false
end

local function build_retry(plugin)
  return function(options)
    local chosen = check_retry(options)
    local pause = chosen.delay
    for try = 1, chosen.times + 1 do
      local results = pack(pcall(chosen.fn, try))
      if results[1] then
        return unpack(results, 2, results.n)
      end
      local left = chosen.times + 1 - try
      if left == 0 or not is_meant(chosen.on, results[2]) then
        error(results[2], 0)
      end
      local when = pause > 0 and format(" in %.3g s", pause) or ""
      local problem = results[2]
      local message = type(problem) == "table" and problem.message or problem
      log(plugin, "warn", tostring(message) .. "; trying again" .. when .. " (" .. left .. " left)")
      if pause > 0 then
        call(plugin, "time.sleep", pause)
      end
      if chosen.backoff == "exponential" and pause < DELAY_SECONDS_MAXIMUM then
        pause = min(pause * 2, DELAY_SECONDS_MAXIMUM)
      end
    end
  end
end

return {
  names = { "parallel", "retry", "sleep" },
  build = function(plugin)
    return {
      parallel = build_parallel(plugin),
      retry = build_retry(plugin),
      sleep = function(duration)
        return call(plugin, "time.sleep", duration)
      end,
    }
  end,
}
