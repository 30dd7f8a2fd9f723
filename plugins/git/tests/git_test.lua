-- What the plugin asks git to do; that git then does it is tried with a real server by Moonyard's own tests.
local git = require("git")

local COMMIT = ("0123456789"):rep(4)

describe("git.clone", function()
  before_each(function()
    mock.process("git", {})
    mock.process("ls", {})
    mock.process("test", { code = 1 })
    mock.process("rm", {})
    mock.process("find", {})
    mock.process("git -C . rev-parse", { stdout = COMMIT .. "\n" })
    mock.process("git -C app rev-parse", { stdout = COMMIT .. "\n" })
  end)

  it("gives the path and the commit", function()
    local made = git.clone("https://example.org/app.git", { path = "app" })
    expect(made.path).equals("app")
    expect(made.commit).equals(COMMIT)
  end)

  it("refuses what would be an option of git's", function()
    expect(function() git.clone("--upload-pack=x") end).raises("argument_invalid")
    expect(function() git.clone("https://example.org/a.git", { branch = "--x" }) end).raises("argument_invalid")
    expect(function() git.clone("https://example.org/a.git", { path = "../out" }) end).raises("argument_invalid")
  end)

  it("says that the image has no git-lfs, and leaves nothing", function()
    local removed
    mock.process("git lfs version", { code = 1 })
    mock.process("rm", function(command) removed = command.text return {} end)
    expect(function() git.clone("https://example.org/app.git", { path = "app", lfs = true }) end)
      .raises("git_lfs_missing")
    expect(removed).equals("rm -rf -- app")
  end)

  it("says that a repository is empty", function()
    mock.process("git -C . rev-parse", { code = 128 })
    expect(function() git.clone("https://example.org/app.git") end).raises("git_repository_empty")
  end)
end)
