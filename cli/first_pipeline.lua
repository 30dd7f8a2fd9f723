-- @NAME@: a first pipeline, to read and to change.
--
--   moonyard run pipeline.lua                     runs it here and now
--   moonyard run pipeline.lua --input who=you     with an input of your own
--   moonyard check pipeline.lua                   finds mistakes without running it
--
-- An editor with the Lua language server knows all that is used here: point at a name to read about it.

-- Scripts share one Lua state, which lives as long as the job: what one stage sets, a later one reads.
local counted = {}

---@type moonyard.Pipeline
local pipeline = {
  name = "@NAME@",
  description = "A first pipeline",
  -- @PLUGINS@
  -- What a job may be given: `--input who=you`. Without a default, an input is required.
  inputs = {
    who = { type = "string", default = "world", description = "whom to greet" },
  },

  -- Stages run one after the other, unless their `needs` say otherwise.
  stages = {
    {
      name = "write",
      timeout = "5m",
      script = function(job)
        -- Lua runs on the runner, in a sandbox. Commands run in a container, with the job's workspace at /workspace.
        process.run({
          command = "sh",
          args = { "-c", 'for word in Hello, "$WHO"; do echo "$word"; done > words.txt' },
          env = { WHO = job.inputs.who },
        })
      end,
    },
    {
      name = "count",
      script = function()
        -- The workspace's files are at hand without a command, too.
        counted.words = 0
        for _ in fs.lines("words.txt") do
          counted.words = counted.words + 1
        end
      end,
    },
    {
      name = "keep",
      -- A stage can name its own image: container = "docker.io/library/python:3.11"
      script = function()
        log.info("the greeting has " .. counted.words .. " words")
        artifact.save("words.txt") -- kept beyond the end of the job
      end,
    },
  },
}

return pipeline
