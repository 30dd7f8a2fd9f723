-- specs: checks values against what a plugin's operation declares of them (`ValueSpec` in schema/plugins.py).
--
-- Guarantees:
--   * what an operation's code gets is a copy: its own names alone, defaults filled in, so nobody changes it under way;
--   * what a pipeline gets from an operation is a copy as well, and has what was declared, so that pages and stubs tell
--     the truth;
--   * raw access only, so no metamethod of whoever gave a value runs; a secret's value is in no message.
--
-- Inputs: raise(code, message, hint), is_secret(value), which tells the opaque values that `secret` gives, and messages
--         (the table that messages.lua gives).
-- Gives:  { read(label, spec) -> operation, arguments(call, operation, given), result(call, operation, given),
--           near(name, names) -> the name that was meant, or nil, is_name(text), names(table), stands_alone(operation,
--           value) -> whether a call's only argument is the first in order, and no table of named ones }

local raise, is_secret, messages = ...

local type, next, ipairs, rawget, rawlen, rawequal = type, next, ipairs, rawget, rawlen, rawequal
local tostring, pcall = tostring, pcall
local math_type, to_integer = math.type, math.tointeger
local format, find, sub, byte = string.format, string.find, string.sub, string.byte
local concat, sort, min, max = table.concat, table.sort, math.min, math.max

local DEPTH_MAXIMUM = 16
local SHOWN_MAXIMUM = 60
local TYPES = {
  string = "a string", integer = "an integer", number = "a number", boolean = "true or false", list = "a list",
  table = "a table with names", ["function"] = "a function", secret = "a secret", any = "any value",
}
local OPERATION_FIELDS = {
  description = "string", arguments = "table", positional = "table", gives = "table", errors = "table",
  example = "string",
}
local VALUE_FIELDS = {
  type = true, description = "string", required = "boolean", default = true, choices = "table", minimum = "number",
  maximum = "number", pattern = "string", length_minimum = "number", length_maximum = "number", fields = "table",
  values = "table", items = "table",
}
local WORDS = {}
for _, word in ipairs({
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil", "not",
  "or", "repeat", "return", "then", "true", "until", "while",
}) do
  WORDS[word] = true
end

local function is_name(text)
  return type(text) == "string" and #text <= 50 and find(text, "^[a-z][a-z0-9_]*$") ~= nil and not WORDS[text]
end

-- --- names that were meant

-- Counts the letters to add, to leave out, to change, or to swap with the next.
local function distance(one, other)
  local rows = {}
  for line = 0, #one do
    rows[line] = { [0] = line }
  end
  for column = 1, #other do
    rows[0][column] = column
  end
  for line = 1, #one do
    for column = 1, #other do
      local cost = byte(one, line) == byte(other, column) and 0 or 1
      local least = min(rows[line - 1][column] + 1, rows[line][column - 1] + 1, rows[line - 1][column - 1] + cost)
      if line > 1 and column > 1 and byte(one, line) == byte(other, column - 1) and
        byte(one, line - 1) == byte(other, column) then
        least = min(least, rows[line - 2][column - 2] + 1)
      end
      rows[line][column] = least
    end
  end
  return rows[#one][#other]
end

local function sorted_names(of)
  local names = {}
  for name in next, of do
    names[#names + 1] = tostring(name)
  end
  sort(names)
  return names
end

local function near(name, of)
  name = sub(tostring(name), 1, SHOWN_MAXIMUM)
  local best, best_distance = nil, max(1, #name // 3) + 1
  for _, known in ipairs(sorted_names(of)) do
    local away = distance(name, known)
    if away < best_distance then
      best, best_distance = known, away
    end
  end
  return best
end

-- --- what is told of a value

local function is_list(value)
  local length, count = rawlen(value), 0
  for key in next, value do
    if math_type(key) ~= "integer" or key < 1 or key > length then
      return false
    end
    count = count + 1
  end
  return count == length
end

local function kind_of(value)
  if is_secret(value) then
    return "a secret"
  elseif value == nil then
    return "nil"
  elseif type(value) == "table" then
    return next(value) ~= nil and is_list(value) and "a list" or "a table"
  end
  return "a " .. type(value)
end

local function shown(value)
  if type(value) == "string" then
    return format("%q", #value > SHOWN_MAXIMUM and sub(value, 1, SHOWN_MAXIMUM) .. "..." or value)
  elseif type(value) == "number" or type(value) == "boolean" then
    return tostring(value)
  end
  return kind_of(value)
end

local function each_shown(values)
  local parts = {}
  for index, value in ipairs(values) do
    parts[index] = shown(value)
  end
  return concat(parts, ", ")
end

-- --- declarations

local function types_of(spec)
  return type(spec.type) == "table" and spec.type or { spec.type }
end

local check

local function defect(label, ...)
  raise("plugin_invalid", label .. ": " .. format(...))
end

local function known_fields(label, given, fields, what)
  if type(given) ~= "table" then
    defect(label, "%s must be a table, got %s", what, kind_of(given))
  end
  for field, value in next, given do
    local wanted = fields[field]
    if wanted == nil then
      local meant = near(field, fields)
      defect(
        label, "`%s` is no field of %s%s (fields: %s)", tostring(field), what,
        meant and "; did you mean `" .. meant .. "`?" or "", concat(sorted_names(fields), ", ")
      )
    elseif wanted ~= true and type(value) ~= wanted then
      defect(label, "`%s` of %s must be a %s, got %s", field, what, wanted, kind_of(value))
    end
  end
end

local read_value

local function read_values(label, given, what, depth)
  local values = {}
  for name, spec in next, given do
    if not is_name(name) then
      defect(label, "`%s` cannot be a name in `%s`: small letters, digits, `_`, a letter first", tostring(name), what)
    end
    values[name] = read_value(label, spec, "`" .. name .. "` in `" .. what .. "`", depth + 1)
  end
  return values
end

-- Copies what is declared of a value; it is read once, so what its author does to it later changes nothing.
function read_value(label, given, what, depth)
  if depth > DEPTH_MAXIMUM then
    defect(label, "%s is nested too deeply", what)
  end
  known_fields(label, given, VALUE_FIELDS, what)
  local spec = {}
  for field, value in next, given do
    spec[field] = value
  end
  if type(given.type) == "table" then
    spec.type = {}
    for index, kind in ipairs(given.type) do
      spec.type[index] = kind
    end
    if #spec.type == 0 then
      defect(label, "`type` of %s names none", what)
    end
  end
  for _, kind in ipairs(types_of(spec)) do
    if type(kind) ~= "string" or not TYPES[kind] then
      defect(
        label, "`type` of %s must be one of %s, or a list of these, got %s", what, concat(sorted_names(TYPES), ", "),
        shown(kind)
      )
    end
  end
  if spec.type == nil then
    defect(label, "%s has no `type`", what)
  end
  if spec.pattern and not pcall(find, "", spec.pattern) then
    defect(label, "`pattern` of %s is none: %s", what, shown(spec.pattern))
  end
  if spec.choices then
    spec.choices = {}
    for index, choice in ipairs(given.choices) do
      if type(choice) ~= "string" and type(choice) ~= "number" then
        defect(label, "`choices` of %s must be strings or numbers, got %s", what, kind_of(choice))
      end
      spec.choices[index] = choice
    end
  end
  if spec.fields then
    spec.fields = read_values(label, given.fields, "fields", depth)
  end
  if spec.items then
    spec.items = read_value(label, given.items, "`items` of " .. what, depth + 1)
  end
  if spec.values then
    spec.values = read_value(label, given.values, "`values` of " .. what, depth + 1)
  end
  if spec.default ~= nil then
    if spec.required then
      defect(label, "%s is required, so it can have no `default`", what)
    end
    local fits, problem = pcall(check, label, "default", spec, spec.default)
    if not fits then
      local why = type(problem) == "table" and problem.message or problem
      defect(label, "`default` of %s does not fit it: %s", what, why)
    end
  end
  return spec
end

local function read(label, given)
  known_fields(label, given, OPERATION_FIELDS, "an operation")
  if type(given.description) ~= "string" or given.description == "" then
    defect(label, "it has no `description`: say in a sentence what it does")
  end
  local operation = {
    description = given.description,
    example = given.example,
    arguments = read_values(label, given.arguments or {}, "arguments", 0),
    gives = given.gives and next(given.gives) ~= nil and read_values(label, given.gives, "gives", 0) or nil,
    positional = {},
    errors = {},
  }
  for index, name in ipairs(given.positional or {}) do
    if not operation.arguments[name] then
      defect(label, "`positional` names `%s`, which is no argument", tostring(name))
    end
    operation.positional[index] = name
  end
  for code, meaning in next, given.errors or {} do
    if not is_name(code) or type(meaning) ~= "string" then
      defect(label, "`errors` has codes with what each means, got %s", shown(code))
    end
    operation.errors[code] = meaning
  end
  return operation
end

-- --- values

local function refuse(code, call, ...)
  raise(code, call .. ": " .. format(...))
end

local function fits(kind, value)
  if kind == "any" then
    return value ~= nil
  elseif kind == "secret" or is_secret(value) then
    return kind == "secret" and is_secret(value)
  elseif kind == "integer" then
    return type(value) == "number" and to_integer(value) ~= nil
  elseif kind == "list" then
    return type(value) == "table" and is_list(value)
  end
  return type(value) == kind
end

local function takes(spec, kind)
  for _, candidate in ipairs(types_of(spec)) do
    if candidate == kind then
      return true
    end
  end
  return false
end

local function described_types(kinds)
  local words = {}
  for index, kind in ipairs(kinds) do
    words[index] = TYPES[kind]
  end
  return concat(words, " or ")
end

local function check_size(code, call, path, spec, size, unit)
  if spec.length_minimum and size < spec.length_minimum then
    refuse(code, call, "`%s` must have at least %d %s, got %d", path, spec.length_minimum, unit, size)
  elseif spec.length_maximum and size > spec.length_maximum then
    refuse(code, call, "`%s` must have at most %d %s, got %d", path, spec.length_maximum, unit, size)
  end
end

local function check_plain(code, call, path, spec, value)
  if type(value) == "number" then
    if value ~= value then
      refuse(code, call, "`%s` must be a number, got %s", path, shown(value))
    elseif spec.minimum and value < spec.minimum then
      refuse(code, call, "`%s` must be at least %s, got %s", path, shown(spec.minimum), shown(value))
    elseif spec.maximum and value > spec.maximum then
      refuse(code, call, "`%s` must be at most %s, got %s", path, shown(spec.maximum), shown(value))
    end
  elseif type(value) == "string" then
    check_size(code, call, path, spec, #value, "bytes")
    if spec.pattern and not find(value, "^" .. spec.pattern .. "$") then
      refuse(code, call, "`%s` is %s, which does not look as it must: %s", path, shown(value), spec.description or "")
    end
  end
  if spec.choices then
    for _, choice in ipairs(spec.choices) do
      if choice == value then
        return
      end
    end
    refuse(code, call, "`%s` must be one of %s, got %s", path, each_shown(spec.choices), shown(value))
  end
end

-- Copies what nothing more is declared of: entries alone, without a metatable. Secrets and `json.null` are themselves.
local function copied(code, call, path, value, depth)
  if type(value) ~= "table" or is_secret(value) or rawequal(value, messages.null) then
    return value
  elseif depth > DEPTH_MAXIMUM then
    refuse(code, call, "`%s` is nested too deeply", path)
  end
  local copy = {}
  for key, item in next, value do
    copy[key] = copied(code, call, path, item, depth + 1)
  end
  messages.copy_mark(value, copy)
  return copy
end

local check_fields

local function check_at(code, call, path, spec, value, depth)
  if depth > DEPTH_MAXIMUM then
    refuse(code, call, "`%s` is nested too deeply", path)
  end
  local kinds, kind = types_of(spec), nil
  for _, candidate in ipairs(kinds) do
    if fits(candidate, value) then
      kind = candidate
      break
    end
  end
  if not kind then
    local got = type(value) == "number" and shown(value) or kind_of(value)
    refuse(code, call, "`%s` must be %s, got %s", path, described_types(kinds), got)
  end
  if kind == "integer" then
    value = to_integer(value)
  elseif kind == "list" then
    local copy = {}
    check_size(code, call, path, spec, rawlen(value), "entries")
    for index = 1, rawlen(value) do
      local item = rawget(value, index)
      local place = path .. "[" .. index .. "]"
      if spec.items then
        item = check_at(code, call, place, spec.items, item, depth + 1)
      else
        item = copied(code, call, place, item, depth + 1)
      end
      copy[index] = item
    end
    messages.copy_mark(value, copy)
    return copy
  elseif kind == "table" and spec.fields then
    return check_fields(code, call, path .. ".", spec.fields, value, depth + 1)
  elseif kind == "table" and spec.values then
    local copy = {}
    for name, item in next, value do
      if type(name) ~= "string" then
        refuse(code, call, "the names in `%s` must be strings, got %s", path, kind_of(name))
      end
      copy[name] = check_at(code, call, path .. "." .. name, spec.values, item, depth + 1)
    end
    return copy
  end
  check_plain(code, call, path, spec, value)
  return copied(code, call, path, value, depth)
end

function check(call, path, spec, value)
  return check_at("argument_invalid", call, path, spec, value, 0)
end

local function copied_default(value)
  if type(value) ~= "table" or is_secret(value) then
    return value
  end
  local copy = {}
  for key, item in next, value do
    copy[key] = copied_default(item)
  end
  return copy
end

function check_fields(code, call, prefix, specs, given, depth)
  local made = {}
  for name in next, given do
    if type(name) ~= "string" or not specs[name] then
      local meant = near(name, specs)
      refuse(
        code, call, "`%s%s` is not %s%s (accepted: %s)", prefix, tostring(name),
        code == "argument_invalid" and "an argument" or "declared",
        meant and "; did you mean `" .. prefix .. meant .. "`?" or "", concat(sorted_names(specs), ", ")
      )
    end
  end
  for _, name in ipairs(sorted_names(specs)) do
    local spec, value = specs[name], rawget(given, name)
    if value ~= nil then
      made[name] = check_at(code, call, prefix .. name, spec, value, depth)
    elseif spec.required then
      refuse(
        code, call, "`%s%s` is required%s", prefix, name,
        spec.description and spec.description ~= "" and ": " .. spec.description or ""
      )
    else
      made[name] = copied_default(spec.default)
    end
  end
  return made
end

return {
  read = read,
  near = near,
  is_name = is_name,
  names = sorted_names,
  -- A secret is a table, and so is a list. An empty table is one of no named arguments, where that can be meant.
  stands_alone = function(operation, value)
    local name = operation.positional[1]
    if not name or type(value) ~= "table" then
      return false
    elseif is_secret(value) or rawequal(value, messages.null) or messages.is_marked(value) then
      return true
    elseif next(value) ~= nil then
      return is_list(value)
    end
    local spec = operation.arguments[name]
    return spec.required and (takes(spec, "list") or takes(spec, "any"))
  end,
  arguments = function(call, operation, given)
    return check_fields("argument_invalid", call, "", operation.arguments, given, 0)
  end,
  -- A result that is not as declared is the plugin's defect, and told as that.
  result = function(call, operation, given)
    if not operation.gives then
      return nil
    elseif type(given) ~= "table" then
      raise("plugin_defect", call .. " gave " .. kind_of(given) .. " where it declares a table with " ..
        concat(sorted_names(operation.gives), ", "))
    end
    local what = call .. " gave a result that is not as declared"
    return check_fields("plugin_defect", what, "", operation.gives, given, 0)
  end,
}
