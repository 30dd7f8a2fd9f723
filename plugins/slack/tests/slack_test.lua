-- What the plugin asks of Slack; a server of Slack's documented form is asked by Moonyard's own tests.
local slack = require("slack")

local POST = "https://slack.com/api/chat.postMessage"

describe("slack", function()
  local asked
  before_each(function()
    asked = {}
    mock.secret("TOKEN", "xoxb-1234-abcd-of-a-test")
    mock.http("POST " .. POST, function(request)
      asked[#asked + 1] = json.decode(request.body)
      return { json = { ok = true, ts = "1700000000.00000" .. #asked, channel = "C1" } }
    end)
  end)

  local function post(text, more)
    local options = { channel = "#builds", token = secret.get("TOKEN") }
    for name, value in pairs(more or {}) do
      options[name] = value
    end
    return slack.post(text, options)
  end

  it("posts, and calls nobody by accident", function()
    expect(post("<!channel> a & b").ts).equals("1700000000.000001")
    expect(asked[1]).contains({ channel = "#builds", text = "&lt;!channel&gt; a &amp; b" })
    post("<https://example.org|x>", { escape = false })
    expect(asked[2].text).equals("<https://example.org|x>")
  end)

  it("splits long texts into answers to the first part, and loses nothing", function()
    local line = ("é<"):rep(30) .. "\n"
    local made = post(line:rep(200), { long = "split" })
    expect(made.parts).equals(#asked)
    local whole = ""
    for index, message in ipairs(asked) do
      whole = whole .. message.text
      expect(#message.text <= 4000).is_true()
      expect(utf8.len(message.text)).is_a("number")
      expect(message.thread_ts).equals(index > 1 and made.ts or nil)
    end
    expect(whole).equals((line:rep(200):gsub("<", "&lt;")))
  end)

  it("never cuts within a character or an escape", function()
    for shift = 0, 8 do
      post(("x"):rep(shift) .. ("<é"):rep(1500), { long = "split" })
    end
    for _, message in ipairs(asked) do
      expect(utf8.len(message.text)).is_a("number")
      expect((message.text:gsub("&lt;", ""))).never.contains("&")
      expect((message.text:gsub("&lt;", ""))).never.contains("lt;")
    end
  end)

  it("refuses what Slack would cut, and what says nothing", function()
    expect(function() post(("x"):rep(40001)) end).raises("40001 characters")
    expect(function() post("") end).raises("give `text` or `blocks`")
    expect(function() slack.post("x", { token = secret.get("TOKEN") }) end).raises("`channel` says where to")
    expect(function() slack.post("x", { channel = "C1" }) end).raises("give `webhook` or `token`")
    expect(function() slack.post("x", { channel = "C1", token = "xoxb-plain" }) end).raises("`token` must be a secret")
    expect(asked).has_length(0)
  end)

  it("waits as long as Slack asks, and not for ever", function()
    local left = 2
    mock.http("POST " .. POST, function()
      left = left - 1
      if left >= 0 then
        return { status = 429, headers = { ["Retry-After"] = "7" }, body = "" }
      end
    end)
    expect(post("x").parts).equals(1)
    mock.http("POST " .. POST, { status = 429, headers = { ["Retry-After"] = "3600" }, body = "" })
    expect(function() post("x") end).raises("slack_rate_limited")
  end)

  it("tells Slack's own word and what it means", function()
    mock.http("POST " .. POST, { json = { ok = false, error = "not_in_channel" } })
    expect(function() post("x") end).raises("not_in_channel (the app is not in the channel: invite it there)")
    mock.http("POST " .. POST, { json = { ok = false, error = "missing_scope", needed = "chat:write" } })
    expect(function() post("x") end).raises("it needs `chat:write`")
    mock.http("POST " .. POST, { status = 502, body = "<html>" })
    expect(function() post("x") end).raises("slack_refused")
  end)

  it("sends nothing twice where there was no answer", function()
    mock.http("POST " .. POST, { error = { code = "http_timeout", message = "there was no answer" } })
    expect(function() post("x") end).raises("slack_unreachable")
  end)
end)
