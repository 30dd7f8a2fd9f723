-- groups: what a script says belongs together: the log lines of `log.group(name, fn)`, and the output of the commands
-- that `fn` runs.
--
-- Guarantees:
--   * a group is its coroutine's, and that of whatever the coroutine resumes: what runs at the same time in others is
--     not in it;
--   * a group ends with its function, however that ends.
--
-- Inputs: running() and resumer(coroutine), which tell what runs on whose behalf.
-- Gives:  { path() -> the names of the groups that the running code is in, outermost first, or nil,
--           run(name, begin, capture, fn, ...) -> what fn gives }

local running, resumer = ...

local next, setmetatable, error = next, setmetatable, error
local xpcall, pack, unpack, insert = xpcall, table.pack, table.unpack, table.insert

-- By coroutine: the names of the groups that it opened and that have not ended, innermost last.
local groups = setmetatable({}, { __mode = "k" })

local function path()
  if next(groups) == nil then
    return nil
  end
  local names, thread = {}, running()
  while thread do
    local own = groups[thread]
    for index = own and #own or 0, 1, -1 do
      insert(names, 1, own[index])
    end
    thread = resumer(thread)
  end
  return names[1] and names
end

return {
  path = path,
  run = function(name, begin, capture, fn, ...)
    local thread = running()
    local own = groups[thread] or {}
    groups[thread] = own
    own[#own + 1] = name
    begin()
    local results = pack(xpcall(fn, capture, ...))
    own[#own] = nil
    if #own == 0 then
      groups[thread] = nil
    end
    if not results[1] then
      error(results[2], 0)
    end
    return unpack(results, 2, results.n)
  end,
}
