-- template: fills text with values, in the language of Mustache (https://mustache.github.io).
--
--   {{name}} {{a.b}}           a value; `{{{name}}}` and `{{&name}}` without the escaping that was asked for
--   {{#name}}...{{/name}}      once for each entry of a list, with its fields; once for a table with names, or a value
--   {{^name}}...{{/name}}      where there is nothing, `false`, or an empty list
--   {{.}}                      the entry itself
--   {{! words }}               nothing
--
-- A tag of a section or a comment that stands alone on its line takes the line with it.
--
-- Guarantees:
--   * it runs in the job's own process, within its limits of memory and time, and calls nothing of what it is given;
--   * a value that is not there, and one that is no plain value, such as a secret, is an error that names it.
--
-- Inputs: raise(code, message, hint), and null. Gives: { names, build() -> modules by name }

local raise, null = ...

local type, next, tostring, tonumber = type, next, tostring, tonumber
local rawget, rawlen, rawequal = rawget, rawlen, rawequal
local getmetatable, format, find, sub, gsub, match, byte = getmetatable, string.format, string.find, string.sub,
  string.gsub, string.match, string.byte
local concat, gmatch = table.concat, string.gmatch

local TEXT_BYTES_MAXIMUM = 1024 * 1024
local RESULT_BYTES_MAXIMUM = 16 * 1024 * 1024
local DEPTH_MAXIMUM = 50
local OPTIONS = { "escape", "name" }
local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local ESCAPES = {
  none = function(text)
    return text
  end,
  html = function(text)
    return (gsub(text, "[&<>\"']", HTML))
  end,
  json = function(text)
    return (gsub(gsub(text, '[\\"]', "\\%0"), "[%c\127]", function(character)
      return format("\\u%04x", byte(character))
    end))
  end,
  shell = function(text)
    return "'" .. gsub(text, "'", "'\\''") .. "'"
  end,
}

local function line_at(text, at)
  local _, count = gsub(sub(text, 1, at), "\n", "")
  return count + 1
end

local function refuse(name, text, at, message)
  raise("template_invalid", name .. ":" .. line_at(text, at - 1) .. ": " .. message)
end

-- Widens a tag that stands alone on its line to the whole line; gives where the text before ends, and the rest begins.
local function alone(text, first, last)
  local before = first - 1
  while before > 0 and (byte(text, before) == 32 or byte(text, before) == 9) do
    before = before - 1
  end
  if before == 0 or byte(text, before) == 10 then
    local _, ending = find(text, "^[ \t]*\r?\n", last + 1)
    if ending then
      return before, ending + 1
    elseif find(text, "^[ \t]*$", last + 1) then
      return before, #text + 1
    end
  end
  return first - 1, last + 1
end

-- Reads a template into a tree: strings, values { name =, raw =, at = } and sections { section =, inverted =, ... }.
local function read(name, text)
  local root = {}
  local open, at = { root }, 1
  while true do
    local first, last, kind, tag = find(text, "{{([#^/!&]?)%s*(.-)%s*}}", at)
    if not first then
      break
    end
    if sub(text, first, first + 2) == "{{{" then
      first, last, tag = find(text, "{{{%s*(.-)%s*}}}", first)
      if not first then
        refuse(name, text, at, "`{{{` has no `}}}`")
      end
      kind = "&"
    end
    local parent, before, rest = open[#open], first - 1, last + 1
    if kind == "#" or kind == "^" or kind == "/" or kind == "!" then
      before, rest = alone(text, first, last)
      before = before < at - 1 and at - 1 or before
    end
    if before >= at then
      parent[#parent + 1] = sub(text, at, before)
    end
    if kind ~= "!" and tag ~= "." and not match(tag, "^[%w_][%w_-]*$") and
      not match("." .. tag, "^%.[%w_-]+%.[%w_.-]*[%w_-]$") then
      refuse(name, text, first, "`" .. sub(tag, 1, 60) .. "` is no name of a value")
    end
    if kind == "#" or kind == "^" then
      local section = { section = tag, inverted = kind == "^", at = first }
      parent[#parent + 1] = section
      open[#open + 1] = section
      if #open > DEPTH_MAXIMUM then
        refuse(name, text, first, "sections stand in each other more than " .. DEPTH_MAXIMUM - 1 .. " deep")
      end
    elseif kind == "/" then
      if parent.section ~= tag then
        refuse(name, text, first, "`{{/" .. tag .. "}}` ends a section that is not open" ..
          (parent.section and ": `" .. parent.section .. "` is" or ""))
      end
      open[#open] = nil
    elseif kind ~= "!" then
      parent[#parent + 1] = { name = tag, raw = kind == "&", at = first }
    end
    at = rest
  end
  local unclosed = open[#open].section
  if unclosed then
    refuse(name, text, open[#open].at, "section `" .. unclosed .. "` has no `{{/" .. unclosed .. "}}`")
  end
  if find(text, "{{", at, true) then
    refuse(name, text, find(text, "{{", at, true), "`{{` has no `}}`")
  end
  root[#root + 1] = sub(text, at)
  return root
end

local function is_plain_table(value)
  return type(value) == "table" and getmetatable(value) == nil
end

local function field(value, name)
  if is_plain_table(value) then
    local found = rawget(value, name)
    if found == nil and match(name, "^%d+$") then
      found = rawget(value, tonumber(name))
    end
    return found
  end
end

-- Finds a value by its name: its first part in the innermost table that has it, the others below that.
local function find_value(stack, name)
  if name == "." then
    return stack[#stack]
  end
  local value
  local first, rest = match(name, "^([^.]+)%.?(.*)$")
  for index = #stack, 1, -1 do
    value = field(stack[index], first)
    if value ~= nil then
      break
    end
  end
  for part in gmatch(rest, "[^.]+") do
    value = field(value, part)
  end
  return value
end

local function text_of(state, node, value)
  local kind = type(value)
  if kind == "string" then
    return value
  elseif kind == "number" or kind == "boolean" then
    return tostring(value)
  elseif value == nil or rawequal(value, null) then
    raise(
      "template_value_missing",
      state.name .. ":" .. line_at(state.text, node.at - 1) .. ": there is no value `" .. node.name .. "`",
      "Sections tell whether there is one: {{#name}}...{{/name}} and {{^name}}...{{/name}}."
    )
  end
  local what = kind == "table" and (getmetatable(value) == nil and "a table" or "no plain value") or "a " .. kind
  refuse(
    state.name, state.text, node.at,
    "`" .. node.name .. "` is " .. what .. ", and texts, numbers and booleans are filled in"
  )
end

local render

local function put(state, text)
  state.count = state.count + 1
  state.size = state.size + #text
  state.parts[state.count] = text
  if state.size > RESULT_BYTES_MAXIMUM then
    raise("template_invalid", state.name .. ": the result is larger than 16 MiB")
  end
end

local function render_section(state, node, stack)
  local value = find_value(stack, node.section)
  local is_list = is_plain_table(value) and rawlen(value) > 0
  local is_empty = value == nil or value == false or rawequal(value, null) or
    (is_plain_table(value) and next(value) == nil)
  if node.inverted then
    if is_empty then
      render(state, node, stack)
    end
  elseif is_list then
    for index = 1, rawlen(value) do
      stack[#stack + 1] = rawget(value, index)
      render(state, node, stack)
      stack[#stack] = nil
    end
  elseif not is_empty then
    stack[#stack + 1] = value
    render(state, node, stack)
    stack[#stack] = nil
  end
end

function render(state, nodes, stack)
  for index = 1, #nodes do
    local node = nodes[index]
    if type(node) == "string" then
      put(state, node)
    elseif node.section then
      render_section(state, node, stack)
    else
      local text = text_of(state, node, find_value(stack, node.name))
      put(state, node.raw and text or state.escape(text))
    end
  end
end

local function given(value)
  return value == nil and "nil" or "a " .. type(value)
end

local function check_options(options)
  if options ~= nil and type(options) ~= "table" then
    raise("argument_invalid", "template.render takes a text, values and a table of options, got " .. given(options))
  end
  for key in next, options or {} do
    if key ~= OPTIONS[1] and key ~= OPTIONS[2] then
      raise(
        "argument_invalid",
        "template.render: `" .. tostring(key) .. "` is not an argument (accepted: escape, name)"
      )
    end
  end
  options = options or {}
  local escape = options.escape == nil and "none" or options.escape
  if not ESCAPES[escape] then
    raise(
      "argument_invalid",
      'template.render: `escape` must be one of "none", "html", "json", "shell", got ' .. tostring(escape)
    )
  end
  return ESCAPES[escape], type(options.name) == "string" and options.name or "template"
end

return {
  names = { "template" },
  build = function()
    return {
      template = {
        render = function(text, values, options)
          if type(text) ~= "string" then
            raise("argument_invalid", "template.render: `text` must be a string, got " .. given(text))
          elseif #text > TEXT_BYTES_MAXIMUM then
            raise("argument_invalid", "template.render: `text` has at most 1 MiB, got " .. #text .. " bytes")
          elseif values ~= nil and not is_plain_table(values) then
            raise("argument_invalid", "template.render: `values` must be a table with names, got " .. given(values))
          end
          local escape, name = check_options(options)
          local state = { name = name, text = text, escape = escape, parts = {}, count = 0, size = 0 }
          render(state, read(name, text), { values or {} })
          return concat(state.parts)
        end,
      },
    }
  end,
}
