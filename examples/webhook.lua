-- A pipeline that a push starts: what a webhook says becomes inputs, and none of it is trusted.
-- moonyard run examples/webhook.lua --input 'message=Say hello'
-- moonyard hook create pushed --pipeline webhook --kind github --branch main

return {
  name = "webhook",
  inputs = {
    -- A hook fills these by their names: docs/webhooks.md.
    branch = { type = "string", default = "main", description = "the branch that was pushed" },
    commit = { type = "string", default = "", description = "its newest commit" },
    message = { type = "string", default = "", description = "that commit's message" },
  },
  stages = {
    {
      name = "look",
      script = function(job)
        if job.trigger.kind == "webhook" then
          local sender = job.trigger.sender or "somebody"
          log.info(job.trigger.event .. " by " .. sender .. " came by hook " .. job.trigger.by)
        end
        if job.inputs.commit ~= "" and not job.inputs.commit:match("^%x+$") then
          error("that is no commit: " .. job.inputs.commit)
        end
      end,
    },
    {
      name = "tell",
      script = function(job)
        -- A variable is text to a shell, whatever it holds; text that is put into a script would be run.
        process.run({
          command = "sh",
          args = { "-c", 'printf "%s on %s\\n" "$MESSAGE" "$BRANCH"' },
          env = { MESSAGE = job.inputs.message, BRANCH = job.inputs.branch },
        })
      end,
    },
  },
}
