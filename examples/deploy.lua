-- One deployment of a place at a time: the newest wins, what was begun is undone after a failure or a cancel.
--   moonyard submit deploy --input place=staging --input version=1.5.0 --follow

local before -- what stood there before this job; nil as long as nothing was changed

local function switch(job, version)
  fs.write(job.inputs.place .. ".txt", version .. "\n")
  log.info(job.inputs.place .. " is at " .. version)
end

local function undo(job)
  if before then
    switch(job, before)
  end
end

return {
  name = "deploy",
  inputs = {
    place = { default = "staging", choices = { "staging", "production" } },
    version = { default = "1.5.0" },
    healthy = { type = "boolean", default = true, description = "false shows what a failure does" },
  },
  concurrency = { group = "deploy-${place}", limit = 1, cancel_running = true },
  cancel_grace = "30s",
  stages = {
    {
      name = "switch",
      script = function(job)
        before = "1.4.2"
        switch(job, job.inputs.version)
      end,
    },
    {
      name = "check",
      timeout = "1m",
      script = function(job)
        process.run({ command = "test", args = { tostring(job.inputs.healthy), "=", "true" } })
        before = nil -- from here on it stays
      end,
    },
  },
  -- These run in the same Lua: what the stages set is still there.
  on_cancel = { { name = "give-up", script = undo } },
  finally = {
    {
      name = "settle",
      script = function(job)
        if job.state == "failed" then
          undo(job)
        end
      end,
    },
  },
}
