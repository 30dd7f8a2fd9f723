-- Run by `moonyard plugin test NAME`; what a test can say is in Moonyard's docs/testing.md.
local NAME = require("NAME")

describe("NAME.greet", function()
  it("says hello as often as it is asked to", function()
    mock.process("echo", function(command)
      return { stdout = command.argv[2] .. "\n" }
    end)
    expect(NAME.greet("world", { times = 2 }).text).equals("hello, world\nhello, world\n")
  end)

  it("says so where a container cannot echo", function()
    mock.process("echo", { code = 127 })
    expect(function() NAME.greet("world") end).raises("NAME_speechless")
  end)

  it("refuses what it does not know", function()
    expect(function() NAME.greet({ whom = "world" }) end).raises("`whom` is not an argument")
  end)
end)
