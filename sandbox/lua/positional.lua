-- positional: makes functions that take their main arguments in order and the others by name in a table, or all of them
-- by name: `fs.write("a", "text", { mode = "0600" })` or `fs.write({ path = "a", data = "text", mode = "0600" })`.
--
-- What the arguments may be is checked on the runner; here only that they can be told apart.
--
-- Inputs: call(plugin, name, ...), which makes a host call, and raise(code, message, hint).
-- Gives:  { collect(name, parameters, ...) -> table by name, build(plugin, name, parameters) -> function }

local call, raise = ...

local type, next, getmetatable, pack, concat = type, next, getmetatable, table.pack, table.concat

-- A secret is a table, and still one value.
local function is_table(value)
  return type(value) == "table" and getmetatable(value) ~= "secret"
end

local function refuse(name, parameters, given)
  raise(
    "argument_invalid",
    name .. " takes " .. concat(parameters, ", ") .. (#parameters > 0 and " and then " or "") ..
    "a table of named arguments, got " .. given,
    "Write " .. name .. "(" .. concat(parameters, ", ") .. (#parameters > 0 and ", " or "") .. "{ name = value })."
  )
end

local function collect(name, parameters, ...)
  local given, count = pack(...), #parameters
  if given.n == 1 and is_table(given[1]) then
    return given[1]
  elseif given.n > count + 1 then
    refuse(name, parameters, given.n .. " arguments")
  end
  local arguments, options = {}, given[count + 1]
  if is_table(options) then
    for key, value in next, options do
      arguments[key] = value
    end
  elseif options ~= nil then
    refuse(name, parameters, "a " .. type(options) .. " as argument " .. count + 1)
  end
  for index = 1, count do
    if given[index] ~= nil then
      arguments[parameters[index]] = given[index]
    end
  end
  return arguments
end

return {
  collect = collect,
  build = function(plugin, name, parameters)
    return function(...)
      return call(plugin, name, collect(name, parameters, ...))
    end
  end,
}
