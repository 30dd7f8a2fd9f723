-- What the plugin asks buildah to do; a real buildah and a real registry are asked by Moonyard's own tests.
local docker = require("docker")

describe("docker.build", function()
  local seen
  before_each(function()
    seen = {}
    mock.process("buildah", function(command)
      seen[#seen + 1] = command
      return {}
    end)
    mock.process("cat /tmp/image", { stdout = ("ab"):rep(32) .. "\n" })
    mock.process("cat /tmp/digest", { stdout = "sha256:" .. ("cd"):rep(32) .. "\n" })
    mock.secret("PASSWORD", "pass-word-of-a-test")
  end)

  it("builds, and pushes under each name", function()
    local made = docker.build({
      context = "app", args = { B = 1 }, push = { "example.org/a:1", "example.org/a:2" },
      logins = { { registry = "example.org", user = "ci", password = secret.get("PASSWORD") } },
    })
    expect(made).equals({ id = ("ab"):rep(32), digest = "sha256:" .. ("cd"):rep(32) })
    expect(seen).has_length(4)
    expect(seen[1].argv).never.contains("pass-word-of-a-test")
    expect(seen[2].argv).contains("--build-arg=B=1")
    expect(seen[2].argv[#seen[2].argv]).equals("/workspace/app")
    expect(seen[4].argv[#seen[4].argv]).equals("docker://example.org/a:2")
  end)

  it("tells buildah's last words", function()
    mock.process("buildah --storage-driver=vfs build", { code = 1, stderr = "a line\nError: no such stage\n" })
    expect(function() docker.build({ archive = "a.tar" }) end).raises("docker.build: no such stage")
  end)

  it("refuses what is no image's name, and secrets that would stay in it", function()
    expect(function() docker.build({ push = { "--all" } }) end).raises("argument_invalid")
    expect(function() docker.build({ push = { "team/app:1" } }) end).raises("does not say which registry")
    expect(function() docker.build({ archive = "a", args = { TOKEN = secret.get("PASSWORD") } }) end)
      .raises("`args.TOKEN` must be")
    expect(function() docker.build({ archive = "a", context = "/" }) end).raises("path below the workspace")
    expect(seen).has_length(0)
  end)
end)
