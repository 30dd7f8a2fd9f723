-- What the plugin asks node and npm to do; real ones are asked by Moonyard's own tests.
local node = require("node")

describe("node", function()
  it("installs what a lock file names, and nothing without one", function()
    fs.mkdir("app")
    expect(function() node.install({ path = "app" }) end).raises("node_no_lock")
    fs.write("app/package-lock.json", "{}")
    mock.process("npm ci --omit=dev --ignore-scripts", function(command)
      expect(command.cwd).equals("/workspace/app")
      expect(command.env.npm_config_cache).equals("/workspace/.cache/npm")
      return {}
    end)
    node.install({ path = "app", production = true, scripts = false })
  end)

  it("runs scripts, and takes none for an option", function()
    mock.process("npm run --silent build -- --loud", { stdout = "built\n" })
    expect(node.run("build", { args = { "--loud" } }).stdout).equals("built\n")
    expect(function() node.run("--version") end).raises("argument_invalid")
  end)

  it("tells tests that failed from tests that did not run", function()
    mock.process("node --test", { code = 9, stderr = "node: bad option: --test-reporter=junit\n" })
    expect(function() node.test() end).raises("node ended with code 9: node: bad option")
    mock.process("node --test", function()
      fs.write("node-test.xml", '<testsuites><testcase name="one"><failure/></testcase></testsuites>')
      return { code = 1 }
    end)
    expect(function() node.test() end).raises("1 of 1 tests failed: one")
  end)
end)
