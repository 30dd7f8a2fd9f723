-- How commands run: arguments as they are, what they read, their folder, user and environment, and what they gave.
--   moonyard run examples/commands.lua

return {
  name = "commands",
  stages = {
    {
      name = "run",
      script = function()
        -- No shell reads these: spaces, quotes and $ arrive as they are.
        process.run({ command = "printf", args = { "%s\n", "two  spaces", "$HOME", "it's" } })

        -- What it reads, and what it wrote, byte by byte.
        local sorted = process.run({ command = "sort", stdin = "pear\napple\nfig\n", stdout = "off" })
        assert(sorted.stdout == "apple\nfig\npear\n")

        -- Where, as whom and with what.
        fs.mkdir("src")
        process.run({
          command = "sh",
          args = { "-c", 'echo "$(id -u) in $(pwd) is $MOOD" > note.txt' },
          cwd = "src",
          user = 1000,
          env = { MOOD = "fine" },
        })
        log.info("user " .. fs.read("src/note.txt"):gsub("\n", ""))

        -- A shell where a shell is wanted, with its own options.
        local r = process.run({ command = "sh", args = { "-euc", "seq 1 5 | tail -n 1; exit 7" }, check = false })
        log.info("it ended with " .. r.code .. " and said " .. r.stdout:gsub("\n", ""))
      end,
    },
  },
}
