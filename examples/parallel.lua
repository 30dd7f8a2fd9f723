-- At the same time: stages that wait only for what they need, and functions within a stage.
--   moonyard run examples/parallel.lua

local function sh(script)
  return process.run({ command = "sh", args = { "-c", script } })
end

return {
  name = "parallel",
  parallel = 3, -- stages at once; by default 8
  stages = {
    { name = "fetch", script = function() sh("echo sources > sources.txt") end },
    { name = "build", needs = { "fetch" }, script = function() sh("cp sources.txt app.txt") end },
    { name = "docs", needs = { "fetch" }, script = function() sh("cp sources.txt docs.txt") end },
    {
      name = "check",
      needs = { "build", "docs" },
      script = function()
        -- Each function waits for its own command; the first values come back in order.
        local app, docs = parallel({
          function() return sh("wc -c < app.txt").stdout end,
          function() return sh("wc -c < docs.txt").stdout end,
        })
        assert(app == docs, "both are made of the same sources")

        local hashes = {}
        for index, path in ipairs({ "sources.txt", "app.txt", "docs.txt" }) do
          hashes[index] = function() return path .. " " .. fs.hash(path):sub(1, 8) end
        end
        log.info(table.concat({ parallel(hashes, { limit = 2 }) }, ", "))
      end,
    },
  },
}
