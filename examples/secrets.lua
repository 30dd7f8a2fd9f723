-- Uses a token without ever seeing it: a command's environment, a file that only its owner reads, and a log without it.
-- Run it: DEPLOY_TOKEN=any-long-value moonyard run examples/secrets.lua --secret DEPLOY_TOKEN

return {
  name = "secrets",
  stages = {
    {
      name = "deploy",
      script = function()
        -- Into one command's environment, and nowhere else: Lua has no part in it.
        process.run({
          command = "sh",
          args = { "-c", 'echo "deploying with a token of ${#DEPLOY_TOKEN} characters"' },
          secrets = { "DEPLOY_TOKEN" },
        })
        -- Whoever prints it all the same, also encoded, finds [secret DEPLOY_TOKEN] in the log.
        process.run({
          command = "sh",
          args = { "-c", 'echo "token: $TOKEN"; echo "$TOKEN" | base64' },
          secrets = { TOKEN = "DEPLOY_TOKEN" },
        })
      end,
    },
    {
      name = "configure",
      script = function()
        local token = secret.get("DEPLOY_TOKEN")
        log.info("a secret shows itself as", token)
        fs.write(".netrc", "machine git.example.org login ci password " .. token .. "\n")
        log.info("the file has mode", fs.stat(".netrc").mode)
        fs.remove(".netrc")
      end,
    },
  },
}
