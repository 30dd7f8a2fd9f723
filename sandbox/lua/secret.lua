-- secret: the Lua face of `secret`: values that a script can hand on and not see.
--
-- `secret.get(name)` gives a table without anything in it. Which secret it stands for, and the text that it was
-- concatenated with, is known to this file and to messages.lua alone, and what the secret's value is, to the runner
-- alone: it puts it where it is accepted. So nothing that a script does to the table gives the value, and no defect
-- here can show it.
--
-- Guarantees:
--   * the value comes into this process only by `reveal`, which the runner may refuse, and writes down;
--   * `tostring`, and so `print`, `log` and `%s`, show `***` in its place; `..` gives another secret;
--   * two secrets are equal if they have the same names and texts in the same order, whatever the values are.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), and messages (that of
--         messages.lua).
-- Gives:  { names, build(plugin) -> modules by name }

local call, raise, messages = ...

local type, tostring, error, select, concat, setmetatable = type, tostring, error, select, table.concat, setmetatable
local secrets = messages.secrets
local origins = setmetatable({}, { __mode = "k" }) -- the plugins whose code made them

local SHOWN = "***"
local PARTS_MAXIMUM = 1000
local TEXT = { string = true, number = true }

local secret_type = { __name = "secret", __metatable = "secret" }

local function new(plugin, parts)
  local made = setmetatable({}, secret_type)
  secrets[made], origins[made] = parts, plugin
  return made
end

-- Adds a part, and joins it to the one before where both are text: so what is equal looks equal.
local function add(parts, part)
  if type(part) == "string" and type(parts[#parts]) == "string" then
    parts[#parts] = parts[#parts] .. part
  elseif part ~= "" then
    parts[#parts + 1] = part
  end
  if #parts > PARTS_MAXIMUM then
    raise("argument_invalid", "a secret is put together of more than 1,000 parts")
  end
end

local function add_all(parts, value)
  local own = type(value) == "table" and secrets[value]
  if own then
    for index = 1, #own do
      add(parts, own[index])
    end
  elseif TEXT[type(value)] then
    add(parts, tostring(value))
  else
    error("attempt to concatenate a secret with a " .. type(value) .. " value", 3)
  end
end

function secret_type.__concat(left, right)
  local parts = {}
  add_all(parts, left)
  add_all(parts, right)
  return new(origins[left] or origins[right], parts)
end

function secret_type.__tostring(value)
  local shown, parts = {}, secrets[value]
  for index = 1, #parts do
    shown[index] = type(parts[index]) == "string" and parts[index] or SHOWN
  end
  return concat(shown)
end

function secret_type.__eq(left, right)
  local mine, other = secrets[left], secrets[right]
  if not mine or not other or #mine ~= #other then
    return false
  end
  for index = 1, #mine do
    local one, two = mine[index], other[index]
    if type(one) == "table" and type(two) == "table" then
      one, two = one.name, two.name
    end
    if one ~= two then
      return false
    end
  end
  return true
end

local function refuse(what)
  raise(
    "secret_not_accepted",
    what .. ": a secret can be handed on, and not looked into",
    "`secret.get(name):reveal()` gives the value itself, where that is allowed; it is written down that it did."
  )
end

function secret_type.__len()
  refuse("the length of a secret was asked for")
end

function secret_type.__newindex(_, key)
  refuse("`" .. tostring(key) .. "` of a secret was to be set")
end

local function reveal(value, ...)
  if type(value) ~= "table" or not secrets[value] or select("#", ...) > 0 then
    raise("argument_invalid", "reveal takes nothing but the secret", 'Write secret.get("TOKEN"):reveal().')
  end
  return call(origins[value], "secret.reveal", value)
end

function secret_type.__index(_, key)
  if key == "reveal" then
    return reveal
  end
  refuse("`" .. tostring(key) .. "` of a secret was asked for")
end

return {
  names = { "secret" },
  build = function(plugin)
    return {
      secret = {
        get = function(name, ...)
          if type(name) ~= "string" or select("#", ...) > 0 then
            local given = type(name) == "string" and "more than one argument" or name == nil and "nil" or
              "a " .. type(name)
            raise("argument_invalid", "secret.get takes a secret's name, got " .. given, 'Write secret.get("TOKEN").')
          end
          call(plugin, "secret.get", name)
          return new(plugin, { { name = name } })
        end,
      },
    }
  end,
}
