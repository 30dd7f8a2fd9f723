-- What the plugin sends and refuses; a mail server and a web server are asked by Moonyard's own tests.
local notify = require("notify")

local URL = "https://example.org/hooks/1"

describe("notify.webhook", function()
  local asked
  before_each(function()
    asked = {}
    mock.http("POST https://example.org/*", function(request)
      asked[#asked + 1] = request
      return { body = "taken" }
    end)
  end)

  local function signed(name, key)
    mock.secret(name, key)
    notify.webhook(URL, "x", { secret = secret.get(name) })
    return asked[#asked].headers["x-hub-signature-256"]
  end

  it("signs what it sends, with keys of any length", function()
    -- Made with openssl dgst -sha256 -hmac.
    expect(signed("SHORT", "the key of a hook"))
      .equals("sha256=c9aad55f0287733e797782c81281ce657d4b1d6582b733182ac08230b032af2b")
    expect(signed("LONG", ("long key "):rep(20)))
      .equals("sha256=3888c38eb6f49f7a0e12d168eb0ed45bad8dbcd8d5ede7572836fa6134f54e40")
    expect(asked[1].body).equals('"x"')
  end)

  it("marks each call, so that tries can be told from messages", function()
    notify.webhook(URL, { a = 1 })
    notify.webhook(URL, { a = 1 })
    expect(asked[1].headers["idempotency-key"]).matches("^%x+$")
    expect(asked[1].headers["idempotency-key"] ~= asked[2].headers["idempotency-key"]).is_true()
  end)

  it("tells what was answered, and no secret URL", function()
    mock.http("POST https://example.org/*", { status = 410, body = "gone\n" })
    expect(function() notify.webhook(URL, {}) end).raises("https://example.org/hooks/1 answered with status 410: gone")
    mock.secret("PLACE", "https://example.org/of-nobody-else")
    local ok, problem = pcall(notify.webhook, secret.get("PLACE"), {})
    expect(ok).is_false()
    expect(problem.message).equals("notify.webhook: *** answered with status 410: gone ")
  end)
end)

describe("notify.email", function()
  local function send(more)
    local given = {
      host = "mail.example.org", from = "ci@example.org", to = "a@example.org", subject = "s", text = "t",
    }
    for name, value in pairs(more) do
      given[name] = value
    end
    return notify.email(given)
  end

  it("gives what the server said of each recipient", function()
    mock.process("python3", { stdout = '{"refused": {"b@example.org": "550 no"}, "sent": 1, "id": "<1@x>"}' })
    local made = send({ to = { "A <a@example.org>", "b@example.org" } })
    expect(made).equals({ sent = 1, id = "<1@x>", refused = { "b@example.org: 550 no" } })
    mock.process("python3", { stdout = '{"error": "login_refused", "reason": "535 no"}' })
    expect(function() send({}) end).raises("notify_login_refused")
  end)

  it("refuses what would be more than it seems", function()
    expect(function() send({ subject = "a\nBcc: b@example.org" }) end).raises("line break")
    expect(function() send({ to = "a@example.org, b@example.org" }) end).raises("`to` must be addresses")
    expect(function() send({ from = "nobody" }) end).raises("`from` must be addresses")
    expect(function() send({ password = "plain", user = "me" }) end).raises("`password` must be a secret")
    mock.secret("PASSWORD", "pass-word-of-a-test")
    expect(function() send({ tls = "none", user = "me", password = secret.get("PASSWORD") }) end).raises("without TLS")
    expect(function() send({ user = "me" }) end).raises("go together")
  end)
end)
