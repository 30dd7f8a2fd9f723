-- semver: versions as Semantic Versioning 2.0.0 has them, and ranges of them as npm writes them.
--
-- It computes and asks the runner for nothing, so it works everywhere, in a stage's `when` and at the file's top level.
--
-- Inputs: raise(code, message, hint). Gives: { names, build() -> modules by name }

local raise = ...

local type, next, tonumber, setmetatable = type, next, tonumber, setmetatable
local match, gmatch, gsub, sub, find, format = string.match, string.gmatch, string.gsub, string.sub, string.find,
  string.format
local sort, concat = table.sort, table.concat

local LENGTH_MAXIMUM = 256
local RANGE_LENGTH_MAXIMUM = 1024
local SORTED_MAXIMUM = 10000
local PARTS = { "major", "minor", "patch", "prerelease" }

local function given(value)
  if type(value) == "string" then
    return '"' .. sub(value, 1, 80) .. '"'
  end
  return value == nil and "nil" or "a " .. type(value)
end

local version_type = { __name = "version", __metatable = "version" }
function version_type.__tostring(version)
  return version.text
end

-- Reads a number that has no zero before it, and that Lua holds exactly.
local function number_of(text)
  if match(text, "^%d+$") and (text == "0" or sub(text, 1, 1) ~= "0") and #text <= 15 then
    return tonumber(text)
  end
end

local function identifiers(text, may_have_zeros)
  local found = {}
  if sub(text, -1) == "." or sub(text, 1, 1) == "." or find(text, "..", 1, true) then
    return nil
  end
  for part in gmatch(text, "[^.]+") do
    if not match(part, "^[%w-]+$") or (match(part, "^%d+$") and not may_have_zeros and not number_of(part)) then
      return nil
    end
    found[#found + 1] = part
  end
  return found[1] and found
end

-- Gives a version, or nil for what is none.
local function read(text)
  if type(text) ~= "string" or #text > LENGTH_MAXIMUM then
    return nil
  end
  local core, build = match(text, "^v?([^+]*)%+(.*)$")
  if not core then
    core = match(text, "^v?([^+]*)$")
  end
  local numbers, prerelease = match(core or "", "^([%d.]+)%-(.*)$")
  local major, minor, patch = match(numbers or core or "", "^(%d+)%.(%d+)%.(%d+)$")
  major, minor, patch = number_of(major or ""), number_of(minor or ""), number_of(patch or "")
  if not major or not minor or not patch then
    return nil
  end
  local before = prerelease and identifiers(prerelease, false) or {}
  if (prerelease and not before[1]) or (build and not identifiers(build, true)) then
    return nil
  end
  return setmetatable({
    major = major,
    minor = minor,
    patch = patch,
    prerelease = prerelease,
    build = build,
    text = format("%d.%d.%d", major, minor, patch) .. (prerelease and "-" .. prerelease or "") ..
      (build and "+" .. build or ""),
  }, version_type)
end

local function parsed(name, argument, value)
  local version = read(type(value) == "table" and value.text or value)
  if not version then
    raise(
      "argument_invalid",
      name .. ": `" .. argument .. "` must be a version such as \"1.4.2\" or \"2.0.0-rc.1\", got " .. given(value),
      "semver.valid(text) tells whether a text is one."
    )
  end
  return version
end

local function compare_identifiers(left, right)
  local first, second = match(left, "^%d+$"), match(right, "^%d+$")
  if first and second then
    left, right = tonumber(left), tonumber(right)
  elseif first or second then
    return first and -1 or 1 -- a number comes before a word
  end
  return left == right and 0 or left < right and -1 or 1
end

-- Strings are compared byte by byte: `<` would go by the locale, which the sandbox leaves at "C".
local function compare(left, right)
  for index = 1, 3 do
    local part = PARTS[index]
    if left[part] ~= right[part] then
      return left[part] < right[part] and -1 or 1
    end
  end
  if not left.prerelease or not right.prerelease then
    return left.prerelease and -1 or right.prerelease and 1 or 0
  end
  local first, second = identifiers(left.prerelease), identifiers(right.prerelease)
  for index = 1, #first < #second and #second or #first do
    if not first[index] or not second[index] then
      return first[index] and 1 or -1
    end
    local order = compare_identifiers(first[index], second[index])
    if order ~= 0 then
      return order
    end
  end
  return 0
end

local function version_of(major, minor, patch, prerelease)
  return { major = major, minor = minor, patch = patch, prerelease = prerelease }
end

-- Reads what may leave parts out, or have `x` and `*` for them: gives how many are there, and the version of zeros.
local function read_partial(text)
  local core = gsub(match(text, "^v?(.-)$"), "%+.*$", "")
  local whole = read(core)
  if whole then
    return 3, whole
  end
  local numbers, open = {}, false
  for part in gmatch(core == "" and "*" or core, "[^.]+") do
    if part == "x" or part == "X" or part == "*" then
      open = true
    elseif open or #numbers == 3 or not number_of(part) then
      return nil
    else
      numbers[#numbers + 1] = number_of(part)
    end
  end
  if find(core, "..", 1, true) or match(core, "^%.") or match(core, "%.$") or #numbers == 3 then
    return nil
  end
  return #numbers, version_of(numbers[1] or 0, numbers[2] or 0, 0)
end

-- The first version that is beyond all with the same first parts.
local function after(version, parts)
  if parts <= 1 then
    return version_of(version.major + 1, 0, 0, "0")
  elseif parts == 2 then
    return version_of(version.major, version.minor + 1, 0, "0")
  end
  return version_of(version.major, version.minor, version.patch + 1, "0")
end

local function add(bounds, operator, version)
  bounds[#bounds + 1] = { operator, version }
end

local function add_comparator(bounds, operator, text)
  local parts, version = read_partial(text)
  if not parts then
    return false
  end
  if operator == "^" then
    add(bounds, ">=", version)
    if parts > 0 then
      local kept = (version.major > 0 or parts == 1) and 1 or (version.minor > 0 or parts == 2) and 2 or 3
      add(bounds, "<", after(version, kept))
    end
  elseif operator == "~" then
    add(bounds, ">=", version)
    if parts > 0 then
      add(bounds, "<", after(version, parts == 1 and 1 or 2))
    end
  elseif operator == "" or operator == "=" then
    if parts == 3 then
      add(bounds, "=", version)
    else
      add(bounds, ">=", version)
      if parts > 0 then
        add(bounds, "<", after(version, parts))
      end
    end
  elseif parts == 3 then
    add(bounds, operator, version)
  elseif operator == ">" then
    add(bounds, parts == 0 and "<" or ">=", parts == 0 and version_of(0, 0, 0, "0") or after(version, parts))
  elseif operator == "<=" then
    if parts > 0 then
      add(bounds, "<", after(version, parts))
    end
  elseif operator == "<" then
    add(bounds, "<", version_of(version.major, version.minor, version.patch, "0"))
  else
    add(bounds, ">=", version)
  end
  return true
end

-- Reads one alternative of a range into bounds that all have to hold.
local function read_bounds(text)
  local bounds = {}
  local low, high = match(text, "^%s*(%S+)%s+%-%s+(%S+)%s*$")
  if low then
    if add_comparator(bounds, ">=", low) and add_comparator(bounds, "<=", high) then
      return bounds
    end
    return nil
  end
  text = gsub(text, "([<>=~^]+)%s+", "%1")
  for word in gmatch(text, "%S+") do
    local operator, version = match(word, "^([<>=~^]*)(.*)$")
    if operator ~= "" and operator ~= "=" and operator ~= "^" and operator ~= "~" and operator ~= ">" and
      operator ~= "<" and operator ~= ">=" and operator ~= "<=" then
      return nil
    end
    if version == "" or not add_comparator(bounds, operator, version) then
      return nil
    end
  end
  return bounds
end

local function refuse_range(name, value)
  raise(
    "argument_invalid",
    name .. ': `range` must be a range such as "^1.4", ">=1.2 <2" or "1.x || 3.x", got ' .. given(value)
  )
end

local function read_range(name, text)
  if type(text) ~= "string" or #text > RANGE_LENGTH_MAXIMUM then
    refuse_range(name, text)
  end
  local alternatives, at = {}, 1
  while true do
    local first, last = find(text, "||", at, true)
    local bounds = read_bounds(sub(text, at, (first or 0) - 1))
    if not bounds then
      refuse_range(name, text)
    end
    alternatives[#alternatives + 1] = bounds
    if not first then
      return alternatives
    end
    at = last + 1
  end
end

local function holds(version, operator, bound)
  local order = compare(version, bound)
  if operator == "=" then
    return order == 0
  elseif operator == "<" then
    return order < 0
  elseif operator == "<=" then
    return order <= 0
  elseif operator == ">" then
    return order > 0
  end
  return order >= 0
end

local function is_within(version, bounds)
  local is_named = version.prerelease == nil
  for index = 1, #bounds do
    local operator, bound = bounds[index][1], bounds[index][2]
    if not holds(version, operator, bound) then
      return false
    end
    -- A version that is not released yet is meant only where a bound names one of the same numbers.
    is_named = is_named or (bound.prerelease ~= nil and bound.prerelease ~= "0" and bound.major == version.major
      and bound.minor == version.minor and bound.patch == version.patch)
  end
  return is_named
end

local function satisfies(name, version, range)
  local alternatives = read_range(name, range)
  for index = 1, #alternatives do
    if is_within(version, alternatives[index]) then
      return true
    end
  end
  return false
end

local function bump(value, part, identifier)
  local version = parsed("semver.bump", "version", value)
  local major, minor, patch = version.major, version.minor, version.patch
  if part == "major" then
    -- What is on its way to a release becomes it.
    if not (version.prerelease and minor == 0 and patch == 0) then
      major, minor, patch = major + 1, 0, 0
    end
  elseif part == "minor" then
    if not (version.prerelease and patch == 0) then
      minor, patch = minor + 1, 0
    end
  elseif part == "patch" then
    if not version.prerelease then
      patch = patch + 1
    end
  elseif part == "prerelease" then
    identifier = identifier == nil and "rc" or identifier
    if type(identifier) ~= "string" or not match(identifier, "^%a[%w-]*$") then
      raise("argument_invalid", "semver.bump: `identifier` must be a word such as \"rc\", got " .. given(identifier))
    end
    local number = version.prerelease and match(version.prerelease, "^" .. gsub(identifier, "%-", "%%-") .. "%.(%d+)$")
    if not version.prerelease then
      patch = patch + 1
    end
    return format("%d.%d.%d-%s.%d", major, minor, patch, identifier, number and tonumber(number) + 1 or 1)
  else
    raise(
      "argument_invalid",
      'semver.bump: `part` must be one of "' .. concat(PARTS, '", "') .. '", got ' .. given(part)
    )
  end
  return format("%d.%d.%d", major, minor, patch)
end

local function check_list(name, list)
  if type(list) ~= "table" then
    raise("argument_invalid", name .. ": `versions` must be a list of versions, got " .. given(list))
  elseif #list > SORTED_MAXIMUM then
    raise("argument_invalid", name .. ": `versions` has at most " .. SORTED_MAXIMUM .. " versions, got " .. #list)
  end
end

local functions = {
  valid = function(text)
    return read(text) ~= nil
  end,
  parse = function(text)
    return parsed("semver.parse", "version", text)
  end,
  compare = function(left, right)
    return compare(parsed("semver.compare", "left", left), parsed("semver.compare", "right", right))
  end,
  satisfies = function(version, range)
    return satisfies("semver.satisfies", parsed("semver.satisfies", "version", version), range)
  end,
  bump = bump,
  sort = function(versions)
    check_list("semver.sort", versions)
    local read_versions, sorted = {}, {}
    for index = 1, #versions do
      read_versions[index] = { parsed("semver.sort", "versions[" .. index .. "]", versions[index]), index }
    end
    sort(read_versions, function(left, right)
      local order = compare(left[1], right[1])
      return order < 0 or (order == 0 and left[2] < right[2])
    end)
    for index = 1, #read_versions do
      sorted[index] = versions[read_versions[index][2]]
    end
    return sorted
  end,
  max = function(versions, range)
    check_list("semver.max", versions)
    local newest, found
    for index = 1, #versions do
      local version = parsed("semver.max", "versions[" .. index .. "]", versions[index])
      if (range == nil or satisfies("semver.max", version, range)) and (not newest or compare(version, newest) > 0) then
        newest, found = version, versions[index]
      end
    end
    return found
  end,
}

return {
  names = { "semver" },
  build = function()
    local copy = {}
    for name, value in next, functions do
      copy[name] = value
    end
    return { semver = copy }
  end,
}
