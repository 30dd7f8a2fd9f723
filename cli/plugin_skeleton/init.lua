-- NAME: says what this plugin does, and what it guarantees.

plugin.operation("greet", {
  description = "Greets somebody from the container that the caller is in.",
  positional = { "who" },
  arguments = {
    who = { type = "string", required = true, length_minimum = 1, description = "whom to greet" },
    times = { type = "integer", default = 1, minimum = 1, maximum = 10, description = "how often" },
  },
  gives = {
    text = { type = "string", required = true, description = "what was said" },
  },
  errors = {
    speechless = "the container has no `echo`",
  },
  example = [[
local said = NAME.greet("world")
log.info(said.text)]],
}, function(arguments)
  local said = {}
  for index = 1, arguments.times do
    local done = process.run({ command = "echo", args = { "hello, " .. arguments.who }, check = false })
    if not done.ok then
      plugin.fail("speechless", "NAME.greet: the container cannot echo", "Use an image with a shell's tools.")
    end
    said[index] = done.stdout
  end
  return { text = table.concat(said) }
end)
