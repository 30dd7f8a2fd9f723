-- names: finds the tests in a report that failed. `artifact.test_report` has read the report before and refused what is
-- no XML, or has document types or entities of its own, so little is left that a search by patterns could be wrong
-- about: comments and CDATA, which are stepped over, and `>` in attributes, which is looked for behind their quotes.

local ENTITIES = { lt = "<", gt = ">", amp = "&", quot = '"', apos = "'" }

local function unescaped(text)
  return (text:gsub("&(#?)(x?)(%w+);", function(number, hexadecimal, name)
    if number == "" then
      return ENTITIES[hexadecimal .. name]
    end
    local code = tonumber(name, hexadecimal == "" and 10 or 16)
    return code and code <= 0x10FFFF and utf8.char(code) or nil
  end))
end

-- Where a tag that begins at `from` ends: behind the first `>` that is in no quotes.
local function tag_end(text, from)
  local at = from
  while true do
    local found = text:find("[\"'>]", at)
    if not found then
      return #text
    end
    local sign = text:sub(found, found)
    if sign == ">" then
      return found
    end
    at = (text:find(sign, found + 1, true) or #text) + 1
  end
end

local function attribute(tag, name)
  local value = tag:match("%s" .. name .. '%s*=%s*"([^"]*)"') or tag:match("%s" .. name .. "%s*=%s*'([^']*)'")
  return value and unescaped(value)
end

-- Gives the names of the tests that failed, in order, `limit` at most.
return function(text, limit)
  local found, at, test = {}, 1, nil
  while #found < limit do
    local from = text:find("<", at, true)
    if not from then
      break
    elseif text:sub(from, from + 3) == "<!--" then
      at = select(2, text:find("-->", from, true)) or #text
    elseif text:sub(from, from + 8) == "<![CDATA[" then
      at = select(2, text:find("]]>", from, true)) or #text
    else
      at = tag_end(text, from)
      local tag = text:sub(from, at)
      local name = tag:match("^<([%w:_.-]+)")
      name = name and name:match("[^:]*$")
      if name == "testcase" then
        local class, own = attribute(tag, "classname"), attribute(tag, "name") or "?"
        test = class and class ~= "" and class .. "." .. own or own
      elseif test and (name == "failure" or name == "error") then
        local why = attribute(tag, "message")
        why = why and why:match("[^\n]+")
        found[#found + 1] = { name = test, kind = name, message = why and why:sub(1, 300) or nil }
        test = nil
      end
    end
    at = at + 1
  end
  return found
end
