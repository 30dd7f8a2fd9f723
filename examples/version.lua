-- The next version from the commits since the last tag, and the notes for it: feat, fix and breaking changes.
--   moonyard run examples/version.lua

local git = require("git")

local MAKE_ORIGIN = [[
git init -q -b main /workspace/app && cd /workspace/app
git config user.name someone && git config user.email someone@example.org
echo 1 > code.txt && git add . && git commit -qm "chore: begin" && git tag -a v1.4.2 -m 1.4.2
git commit -q --allow-empty -m "fix(parser): take an empty line"
git commit -q --allow-empty -m "feat: colours"
git commit -q --allow-empty -m "docs: a typo"
]]

local TITLES = { feat = "Added", fix = "Fixed" }

return {
  name = "version",
  plugins = { "git@1" },
  stages = {
    {
      name = "checkout",
      script = function()
        container.run("docker.io/alpine/git:latest", function()
          process.run({ command = "sh", args = { "-euc", MAKE_ORIGIN } })
        end)
      end,
    },
    {
      name = "bump",
      script = function(job)
        local last = git.describe({ path = "app" })
        local history
        container.run("docker.io/alpine/git:latest", function()
          history = process.run({
            command = "git",
            args = { "-c", "safe.directory=*", "-C", "app", "log", "--format=%s", last.tag .. "..HEAD" },
            stdout = "off",
          }).stdout
        end)

        local part, notes = "patch", { feat = {}, fix = {} }
        for line in history:gmatch("[^\n]+") do
          local found = regex.match(line, [[^(?P<kind>\w+)(\([\w-]+\))?(?P<breaking>!)?: (?P<what>.+)$]])
          if found then
            if found.groups.breaking then
              part = "major"
            elseif found.groups.kind == "feat" and part ~= "major" then
              part = "minor"
            end
            if notes[found.groups.kind] then
              table.insert(notes[found.groups.kind], "- " .. found.groups.what)
            end
          end
        end

        local version = semver.bump(last.tag, part)
        local text = "# " .. version .. "\n"
        for _, kind in ipairs({ "feat", "fix" }) do
          if #notes[kind] > 0 then
            text = text .. "\n## " .. TITLES[kind] .. "\n\n" .. table.concat(notes[kind], "\n") .. "\n"
          end
        end
        fs.write("NOTES.md", text)
        artifact.save("NOTES.md")
        job.output("version", version)
        log.info(last.tag .. " becomes " .. version)
      end,
    },
  },
}
