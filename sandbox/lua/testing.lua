-- testing: what a test file sees besides the modules: describe, it, before_each, after_each, expect, mock, pipeline.
--
-- The file's top level only collects the tests. Each is then run as a script of its own, with what `mock` was told
-- forgotten between two of them. Whoever runs them asks by one script more what stands in for a command or request.
--
-- Guarantees:
--   * hooks run around each test of their `describe` and of those in it: `before_each` from the outermost to the
--     innermost, `after_each` the other way round, each of them whatever became of the test;
--   * the rule that was told last is asked first; one that is a function and gives nil leaves it to the others.
--
-- Inputs: call(plugin, name, ...), which makes a host call, raise(code, message, hint), and capture(error).
-- Gives:  { install(environment), collected() -> a table as a pipeline's }

local call, raise, capture = ...

local type, next, ipairs, tostring, error, pcall = type, next, ipairs, tostring, error, pcall
local xpcall, rawequal, setmetatable, getinfo, math_type = xpcall, rawequal, setmetatable, debug.getinfo, math.type
local concat, sort, insert, unpack = table.concat, table.sort, table.insert, table.unpack
local format, find, gsub, gmatch = string.format, string.find, string.gsub, string.gmatch
local sub, match, byte = string.sub, string.match, string.byte

local DIFFERENCES_MAXIMUM, DEPTH_MAXIMUM, SHOWN_MAXIMUM, ENTRIES_MAXIMUM = 8, 20, 200, 20
local MOCK = "mock" -- the name of the script that answers for what is mocked

-- --- values, for messages

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\" }

local function quoted(text)
  return '"' .. gsub(text, '[%c"\\]', function(letter)
    return ESCAPES[letter] or format("\\x%02x", byte(letter))
  end) .. '"'
end

local function sorted_keys(value)
  local keys = {}
  for key in next, value do
    keys[#keys + 1] = key
  end
  sort(keys, function(left, right)
    if type(left) == type(right) and (type(left) == "number" or type(left) == "string") then
      return left < right
    end
    return type(left) == "number" or (type(right) ~= "number" and tostring(left) < tostring(right))
  end)
  return keys
end

local function show(value, depth)
  depth = depth or 0
  if type(value) == "string" then
    return quoted(value)
  elseif type(value) ~= "table" then
    return tostring(value)
  elseif depth > 4 then
    return "{ ... }"
  end
  local parts, length, size = {}, #value, 0
  for _, key in ipairs(sorted_keys(value)) do
    local text = show(value[key], depth + 1)
    if not (math_type(key) == "integer" and key >= 1 and key <= length) then
      text = (match(tostring(key), "^[%a_][%w_]*$") and key or "[" .. show(key, depth + 1) .. "]") .. " = " .. text
    end
    parts[#parts + 1], size = text, size + #text
    if size > 4 * SHOWN_MAXIMUM then
      parts[#parts + 1] = "..."
      break
    end
  end
  return #parts == 0 and "{}" or "{ " .. concat(parts, ", ") .. " }"
end

local function shown(value)
  local text = show(value)
  if #text > 2 * SHOWN_MAXIMUM then
    return sub(text, 1, 2 * SHOWN_MAXIMUM) .. " ... (" .. #text .. " characters)"
  end
  return text
end

-- Shows a value below what is said of it: the entries of a list on a line each.
local function shown_lines(value)
  if type(value) ~= "table" or #value < 2 then
    return "\n  " .. shown(value)
  end
  local lines = {}
  for index = 1, #value do
    if index > ENTRIES_MAXIMUM then
      lines[index] = "\n  ... (" .. #value .. " entries)"
      break
    end
    lines[index] = "\n  " .. shown(value[index])
  end
  return concat(lines)
end

-- Tells at which places two values differ, as lines; none where they are equal.
local function differences(expected, got, path, found, depth)
  if rawequal(expected, got) or #found > DIFFERENCES_MAXIMUM then
    return found
  end
  if type(expected) ~= "table" or type(got) ~= "table" or depth > DEPTH_MAXIMUM then
    if expected ~= got then
      found[#found + 1] = { path = path, expected = expected, got = got }
    end
    return found
  end
  local seen = {}
  for _, key in ipairs(sorted_keys(expected)) do
    seen[key] = true
    local place = type(key) == "string" and match(key, "^[%a_][%w_]*$") and "." .. key or "[" .. show(key) .. "]"
    differences(expected[key], got[key], path .. place, found, depth + 1)
  end
  for _, key in ipairs(sorted_keys(got)) do
    if not seen[key] then
      local place = type(key) == "string" and match(key, "^[%a_][%w_]*$") and "." .. key or "[" .. show(key) .. "]"
      differences(nil, got[key], path .. place, found, depth + 1)
    end
  end
  return found
end

-- Where two long texts begin to differ is told by the line.
local function text_difference(expected, got)
  local number, rest = 0, gmatch(got .. "\n", "(.-)\n")
  for line in gmatch(expected .. "\n", "(.-)\n") do
    number = number + 1
    local other = rest()
    if line ~= other then
      return "\n  line " .. number .. " is\n    expected: " .. quoted(line) .. "\n    got:      " ..
        (other and quoted(other) or "nothing")
    end
  end
  return "\n  line " .. number + 1 .. " is\n    expected: nothing\n    got:      " .. quoted(rest() or "")
end

local function describe_differences(expected, got)
  if type(expected) == "string" and type(got) == "string" and find(expected .. got, "\n", 1, true) then
    return text_difference(expected, got)
  end
  if type(expected) ~= "table" or type(got) ~= "table" then
    return "\n  expected: " .. shown(expected) .. "\n  got:      " .. shown(got)
  end
  local lines = {}
  for index, difference in ipairs(differences(expected, got, "", {}, 0)) do
    if index > DIFFERENCES_MAXIMUM then
      lines[#lines + 1] = "\n  ..."
      break
    end
    lines[#lines + 1] = "\n  at " .. difference.path .. "\n    expected: " .. shown(difference.expected) ..
      "\n    got:      " .. shown(difference.got)
  end
  return concat(lines)
end

local function equal(expected, got)
  return #differences(expected, got, "", {}, 0) == 0
end

-- --- expect

local function fail(message)
  raise("expectation_failed", message)
end

-- Whether a value has at least what is wanted: all fields of a table, and of those that are tables the same.
local function has(value, wanted)
  if type(wanted) ~= "table" or type(value) ~= "table" then
    return equal(wanted, value)
  end
  for key, item in next, wanted do
    if not has(value[key], item) then
      return false
    end
  end
  return true
end

local function contains(value, wanted)
  if type(value) == "string" then
    return type(wanted) == "string" and find(value, wanted, 1, true) ~= nil
  elseif type(value) ~= "table" then
    return false
  elseif #value > 0 then
    for _, item in ipairs(value) do
      if has(item, wanted) then
        return true
      end
    end
    return false
  end
  return type(wanted) == "table" and has(value, wanted)
end

local function check_result(value, name)
  if type(value) ~= "table" or type(value.state) ~= "string" or type(value.commands) ~= "table" then
    raise("argument_invalid", "expect(...)." .. name .. "() is for what pipeline.run gave, got " .. shown(value))
  end
end

local function error_text(problem)
  local lines = {}
  while problem do
    lines[#lines + 1] = "\n  " .. (problem.where and problem.where .. ": " or "") .. problem.message ..
      " [" .. problem.code .. "]"
    problem = problem.cause
  end
  return concat(lines)
end

local function error_has(problem, wanted)
  while problem do
    if problem.code == wanted or find(tostring(problem.message), wanted, 1, true) then
      return true
    end
    problem = problem.cause
  end
  return false
end

-- Each gives whether it holds, and what to say in either case: where it does not, and where it was not to.
local MATCHERS = {
  equals = function(value, wanted)
    return equal(wanted, value), "expected another value" .. describe_differences(wanted, value),
      "expected another value than " .. shown(wanted)
  end,
  is_true = function(value)
    return value == true, "expected true, got " .. shown(value), "expected something else than true"
  end,
  is_false = function(value)
    return value == false, "expected false, got " .. shown(value), "expected something else than false"
  end,
  is_nil = function(value)
    return value == nil, "expected nil, got " .. shown(value), "expected something else than nil"
  end,
  is_a = function(value, kind)
    return type(value) == kind, "expected a " .. tostring(kind) .. ", got " .. shown(value),
      "expected something else than a " .. tostring(kind) .. ", got " .. shown(value)
  end,
  has_length = function(value, length)
    if type(value) ~= "table" and type(value) ~= "string" then
      return false, "expected something with a length, got " .. shown(value), ""
    end
    return #value == length, "expected the length " .. tostring(length) .. ", got " .. #value .. ": " .. shown(value),
      "expected another length than " .. tostring(length)
  end,
  contains = function(value, wanted)
    return contains(value, wanted), "expected " .. shown(wanted) .. " in" .. shown_lines(value),
      "did not expect " .. shown(wanted) .. " in" .. shown_lines(value)
  end,
  matches = function(value, pattern)
    local holds = type(value) == "string" and find(value, pattern) ~= nil
    return holds, "expected a match of the pattern " .. quoted(pattern) .. ", got\n  " .. shown(value),
      "did not expect a match of the pattern " .. quoted(pattern) .. ", got\n  " .. shown(value)
  end,
  raises = function(value, wanted)
    if type(value) ~= "function" then
      raise("argument_invalid", "expect(...).raises() is for a function, got " .. shown(value),
        "Write expect(function() ... end).raises(\"a part of its message, or its code\").")
    end
    local ok, problem = pcall(value)
    if ok then
      return false, "expected an error" .. (wanted and " with " .. shown(wanted) or "") .. ", and there was none", ""
    end
    if type(problem) ~= "table" then
      problem = { code = "lua_error", message = tostring(problem) }
    end
    local holds = wanted == nil or error_has(problem, wanted)
    return holds, "expected an error with " .. shown(wanted) .. ", and it was" .. error_text(problem),
      "did not expect an error, and there was" .. error_text(problem)
  end,
  succeeded = function(value)
    check_result(value, "succeeded")
    return value.state == "succeeded", "expected the job to succeed, and it " .. value.state .. error_text(value.error),
      "did not expect the job to succeed"
  end,
  failed = function(value, wanted)
    check_result(value, "failed")
    local holds = value.state == "failed" and (wanted == nil or error_has(value.error, wanted))
    return holds, "expected the job to fail" .. (wanted and " with " .. shown(wanted) or "") .. ", and it " ..
      value.state .. error_text(value.error), "did not expect the job to fail, and it did" .. error_text(value.error)
  end,
}

local function unknown_matcher(_, name)
  raise("argument_invalid", "expect(...) has no `" .. tostring(name) .. "` (there are: never, " ..
    concat(sorted_keys(MATCHERS), ", ") .. ")")
end

local function matchers(value, is_negated)
  local made = {}
  for name, matcher in next, MATCHERS do
    made[name] = function(...)
      local holds, message, message_negated = matcher(value, ...)
      if holds == is_negated then
        fail(is_negated and message_negated or message)
      end
    end
  end
  return made
end

local function expect(value)
  local made = matchers(value, false)
  made.never = setmetatable(matchers(value, true), { __index = unknown_matcher })
  return setmetatable(made, { __index = unknown_matcher })
end

-- --- mock

local rules = {}

local function add_rule(kind, fits, answer)
  rules[kind] = rules[kind] or {}
  insert(rules[kind], 1, { fits = fits, answer = answer })
end

local function check_answer(name, answer)
  if answer ~= nil and type(answer) ~= "table" and type(answer) ~= "function" then
    raise("argument_invalid", name .. " takes a table or a function as what to answer, got " .. shown(answer))
  end
end

local function words_of(rule)
  if type(rule) == "table" then
    return rule
  end
  local words = {}
  for word in gmatch(rule, "%S+") do
    words[#words + 1] = word
  end
  return words
end

local function fits_words(words)
  return function(asked)
    for index, word in ipairs(words) do
      local given = asked.argv[index]
      if given == nil or (word ~= "*" and tostring(word) ~= given) then
        return false
      end
    end
    return true
  end
end

local function fits_place(rule)
  local method, place = match(rule, "^(%u+)%s+(.*)$")
  place = place or rule
  local pattern = "^" .. gsub(gsub(place, "[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"), "%*", ".*") .. "$"
  return function(asked)
    return (method == nil or method == asked.method) and find(asked.url, pattern) ~= nil
  end
end

local function always()
  return true
end

local function mock_process(rule, answer)
  if type(rule) == "function" and answer == nil then
    return add_rule("process", always, rule)
  elseif (type(rule) ~= "string" and type(rule) ~= "table") or #words_of(rule) == 0 then
    raise("argument_invalid", "mock.process takes a command's first words and what to answer, got " .. shown(rule),
      'Write mock.process("cargo build", { stdout = "..." }), or mock.process(function(command) ... end).')
  end
  check_answer("mock.process", answer)
  add_rule("process", fits_words(words_of(rule)), answer or {})
end

local function mock_http(rule, answer)
  if type(rule) == "function" and answer == nil then
    return add_rule("http", always, rule)
  elseif type(rule) ~= "string" then
    raise("argument_invalid", "mock.http takes a place and what to answer, got " .. shown(rule),
      'Write mock.http("GET https://example.org/*", { json = { ... } }), or mock.http(function(request) ... end).')
  end
  check_answer("mock.http", answer)
  add_rule("http", fits_place(rule), answer or {})
end

local function mock_named(kind, field)
  return function(name, value)
    if type(name) ~= "string" or type(value) ~= "string" then
      raise("argument_invalid", "mock." .. kind .. " takes a name and a " .. field .. ", both strings, got " ..
        shown(name) .. " and a " .. type(value))
    end
    add_rule(kind, function(asked)
      return asked.name == name
    end, { [field] = value })
  end
end

-- Tells what stands in for something: a table with `answer`, or an empty one.
local function answer(job)
  local asked = job.asked
  for _, rule in ipairs(rules[asked.kind] or {}) do
    if rule.fits(asked) then
      local given = rule.answer
      if type(given) == "function" then
        given = given(asked)
      end
      if given ~= nil then
        return call(nil, "test.answer", { answer = given })
      end
    end
  end
  return call(nil, "test.answer", {})
end

-- --- the tests of a file

local tests = {}
local group = { before = {}, after = {} } -- the `describe` that is being told, with its title and the one around it
local is_collecting = true

local function check_collecting(name)
  if not is_collecting then
    raise("test_invalid", name .. " was called while a test runs", "Tests are told at the file's top level.")
  end
end

local function check_title(name, title, body)
  check_collecting(name)
  if type(title) ~= "string" or title == "" or type(body) ~= "function" then
    raise("argument_invalid", name .. " takes a title and a function, got " .. shown(title) .. " and a " .. type(body),
      "Write " .. name .. '("...", function() ... end).')
  end
end

local function describe(title, body)
  check_title("describe", title, body)
  local outer = group
  group = { title = title, around = outer, before = {}, after = {} }
  local ok, problem = xpcall(body, capture)
  group = outer
  if not ok then
    error(problem, 0)
  end
end

-- Hooks may be told below a test, or below a `describe` in theirs: they are looked for when the test runs.
local function run(test, innermost)
  rules = {}
  local before, after, around = {}, {}, innermost
  while around do
    for index = #around.before, 1, -1 do
      insert(before, 1, around.before[index])
    end
    for index = #around.after, 1, -1 do
      insert(after, around.after[index])
    end
    around = around.around
  end
  insert(before, test)
  local ok, problem = true, nil
  for index = 1, #before do
    if ok then
      ok, problem = xpcall(before[index], capture)
    end
  end
  for index = 1, #after do
    local ended, trouble = xpcall(after[index], capture)
    if ok and not ended then
      ok, problem = false, trouble
    end
  end
  if not ok then
    error(problem, 0)
  end
end

local function it(title, body)
  check_title("it", title, body)
  local innermost, titles, around = group, { title }, group
  while around.title do
    insert(titles, 1, around.title)
    around = around.around
  end
  tests[#tests + 1] = {
    name = tostring(#tests + 1),
    titles = titles,
    line = getinfo(2, "l").currentline,
    script = function()
      run(body, innermost)
    end,
  }
end

local function hook(name, field)
  return function(body)
    check_collecting(name)
    if type(body) ~= "function" then
      raise("argument_invalid", name .. " takes a function, got " .. shown(body))
    end
    insert(group[field], body)
  end
end

local function pipeline_call(name)
  return function(file, options)
    if type(file) ~= "string" then
      raise("argument_invalid", name .. " takes a pipeline's file, got " .. shown(file),
        "Write " .. name .. '("build.lua"): the path is that from the test\'s folder.')
    end
    return call(nil, "test." .. sub(name, 10), { file = file, options = options or {} })
  end
end

return {
  install = function(environment)
    environment.describe = describe
    environment.it = it
    environment.before_each = hook("before_each", "before")
    environment.after_each = hook("after_each", "after")
    environment.expect = expect
    environment.mock = {
      process = mock_process, http = mock_http,
      secret = mock_named("secret", "value"), artifact = mock_named("artifact", "data"),
    }
    environment.pipeline = { run = pipeline_call("pipeline.run"), load = pipeline_call("pipeline.load") }
  end,
  collected = function()
    is_collecting = false
    local stages = { unpack(tests) }
    stages[#stages + 1] = { name = MOCK, script = answer }
    return { stages = stages }
  end,
}
