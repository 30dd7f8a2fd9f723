-- What a submit may give: text, numbers, yes or no, and one of several; what does not fit is refused at once.
--   moonyard run examples/inputs.lua --input who=you --input copies=3 --input colour=green

return {
  name = "inputs",
  inputs = {
    who = { type = "string", description = "the only one that has to be given" },
    copies = { type = "integer", default = 1, description = "how many greetings" },
    scale = { type = "number", default = 1.5 },
    loud = { type = "boolean", default = false },
    colour = { default = "blue", choices = { "blue", "green", "red" } },
  },
  stages = {
    {
      name = "greet",
      script = function(job)
        local greeting = "hello, " .. job.inputs.who
        if job.inputs.loud then
          greeting = greeting:upper() .. "!"
        end
        for _ = 1, job.inputs.copies do
          log.info(greeting, { colour = job.inputs.colour, size = 12 * job.inputs.scale })
        end
      end,
    },
  },
}
