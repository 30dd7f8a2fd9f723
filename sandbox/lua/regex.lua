-- regex: the Lua face of `regex`. Patterns are matched on the runner, in time that grows with the text alone.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), and positional (the table that
--         positional.lua gives).
-- Gives:  { names, build(plugin) -> modules by name }

local call, raise, positional = ...

local type, tostring, sub, concat = type, tostring, string.sub, table.concat

local SUBJECT = { "text", "pattern" }

-- Puts what a function gives in the place of each match: it runs here, and may make calls of its own.
local function replace_by(plugin, arguments)
  local by = arguments.replacement
  local matches = call(plugin, "regex.find_all", {
    text = arguments.text, pattern = arguments.pattern, limit = arguments.count,
    ignore_case = arguments.ignore_case, multiline = arguments.multiline, dotall = arguments.dotall,
  })
  local parts, at = {}, 1
  for index = 1, #matches do
    local found = matches[index]
    local value = by(found)
    if type(value) ~= "string" and type(value) ~= "number" then
      raise(
        "argument_invalid",
        "regex.replace: the function `replacement` must give a string, got " ..
        (value == nil and "nil" or "a " .. type(value))
      )
    end
    parts[#parts + 1] = sub(arguments.text, at, found.first - 1)
    parts[#parts + 1] = tostring(value)
    at = found.last + 1
  end
  parts[#parts + 1] = sub(arguments.text, at)
  return concat(parts), #matches
end

return {
  names = { "regex" },
  build = function(plugin)
    return {
      regex = {
        match = positional.build(plugin, "regex.match", SUBJECT),
        find_all = positional.build(plugin, "regex.find_all", SUBJECT),
        split = positional.build(plugin, "regex.split", SUBJECT),
        escape = positional.build(plugin, "regex.escape", { "text" }),
        find = function(...)
          local found = call(plugin, "regex.match", positional.collect("regex.find", SUBJECT, ...))
          if found then
            return found.first, found.last
          end
        end,
        replace = function(...)
          local arguments = positional.collect("regex.replace", { "text", "pattern", "replacement" }, ...)
          if type(arguments.replacement) == "function" then
            return replace_by(plugin, arguments)
          end
          local made = call(plugin, "regex.replace", arguments)
          return made.text, made.count
        end,
      },
    }
  end,
}
