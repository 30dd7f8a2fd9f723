-- Tests of examples/hello.lua and examples/failing.lua: no container is started, nothing is waited for.
--   moonyard test examples

describe("hello", function()
  before_each(function()
    mock.process("echo", function(command)
      return { stdout = table.concat(command.argv, " ", 2) .. "\n", duration = 0.25 }
    end)
  end)

  it("greets the world when nobody is named", function()
    local result = pipeline.run("../hello.lua")
    expect(result).succeeded()
    expect(result.commands).has_length(1)
    expect(result.commands[1].argv).equals({ "echo", "Hello, world, from a container!" })
  end)

  it("greets whom it is told to, and says how long that took", function()
    local result = pipeline.run("../hello.lua", { inputs = { name = "you" } })
    expect(result.log).contains({ source = "stdout", text = "Hello, you, from a container!" })
    expect(result.log).contains({ level = "info", text = "the command took 0.250 s" })
  end)
end)

describe("failing", function()
  it("does not deploy what does not pass its tests", function()
    mock.process("sh -c", { code = 3, stderr = "1 of 12 failed\n" })
    local result = pipeline.run("../failing.lua")
    expect(result).failed("command_failed")
    expect(result.stages.deploy.state).equals("skipped")
  end)

  it("deploys what does", function()
    mock.process("sh -c", {})
    expect(pipeline.run("../failing.lua").stages.deploy.state).equals("succeeded")
  end)
end)
