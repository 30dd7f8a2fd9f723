-- What the plugin asks Python to do; a real pip and a real pytest are asked by Moonyard's own tests.
local python = require("python")

describe("python", function()
  local function made_by(version)
    mock.process("python3 -m venv", function()
      fs.mkdir(".venv")
      fs.write(".venv/pyvenv.cfg", "home = /usr/bin\n")
      return {}
    end)
    mock.process("/workspace/.venv/bin/python", { stdout = "3.11.2\n" })
    return python.venv({ version = version })
  end

  it("makes an environment once, and remembers its Python", function()
    expect(made_by("3.11")).equals({
      path = ".venv", python = "/workspace/.venv/bin/python", version = "3.11.2", made = true,
    })
    expect(python.venv().made).is_false()
    expect(function() python.run({ args = { "x" }, version = "3.12" }) end).raises("was made by Python 3.11")
  end)

  it("takes nothing for an option of pip's, and hides an index's password", function()
    made_by()
    local seen
    mock.process("/workspace/.venv/bin/python -m pip install", function(command)
      seen = command
      return {}
    end)
    mock.process("/workspace/.venv/bin/python -m pip list", { stdout = "app==1.4.2\nb==2\n" })
    mock.secret("PASSWORD", "pass-word-of-a-test")
    local index = "https://me:" .. secret.get("PASSWORD") .. "@example.org/simple"
    expect(python.install({ packages = { "app" }, index = index }).packages).equals({ app = "1.4.2", b = "2" })
    expect(seen.argv).equals({ "/workspace/.venv/bin/python", "-m", "pip", "install", "--", "app" })
    expect(function() python.install({ packages = { "-r/etc/passwd" } }) end).raises("argument_invalid")
    expect(function() python.install({ packages = { "a" }, hashes = true }) end).raises("there are none")
    expect(function() python.install({}) end).raises("give `packages`, `requirements` or `project`")
  end)

  it("tells tests that failed from tests that did not run", function()
    made_by()
    mock.process("/workspace/.venv/bin/python -m pytest", { code = 5 })
    expect(function() python.test() end).raises("python_no_tests")
    mock.process("/workspace/.venv/bin/python -m pytest", { code = 4, stderr = "ERROR: not found\n" })
    expect(function() python.test() end).raises("pytest ended with code 4: ERROR: not found")
    mock.process("/workspace/.venv/bin/python -m pytest", function()
      fs.write("pytest.xml", '<testsuite><testcase name="one"><failure/></testcase></testsuite>')
      return { code = 1 }
    end)
    expect(function() python.test() end).raises("1 of 1 tests failed: one")
    expect(python.test({ fail_on = "never" }).failed).equals(1)
  end)
end)
