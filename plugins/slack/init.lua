-- slack: tells Slack, or a server that talks as it does, what a job does. What it guarantees is in client.lua.

local client = require("./client")
local text = require("./text")

local API = "https://slack.com/api"
local PARTS_MAXIMUM = 25

local TOKEN = { type = "secret", description = "a bot's token, `xoxb-...`, from `secret.get`" }
local API_SPEC = {
  type = "string", default = API, pattern = "https?://[^%s]*[^%s/]",
  description = "where the Web API is, without a slash at its end; for a server that talks as Slack does",
}
local BLOCKS = {
  type = "list", length_maximum = 50,
  description = "Slack's blocks, as tables; they are sent as they are",
}
local ESCAPE = {
  type = "boolean", default = true,
  description = "whether `&`, `<` and `>` in `text` stand for themselves, so that nothing in it is a link or a mention",
}
local CHANNEL = "a channel's id or `#name`, or a user's id"
local ERRORS = {
  refused = "Slack did not take it; the message has Slack's own word and what it means",
  rate_limited = "Slack asked to wait for longer than five minutes",
  unreachable = "there was no answer",
}

local function access(arguments)
  return { api = arguments.api, token = arguments.token }
end

local function token_required()
  return { type = "secret", required = true, description = TOKEN.description }
end

-- Gives the texts of the messages that a text becomes.
local function parts_of(call, arguments)
  local words = arguments.text
  if not words then
    return { false }
  elseif arguments.escape then
    words = text.escape(words)
  end
  local length = text.length(words)
  if arguments.long == "split" then
    local parts = text.split(words)
    if #parts > PARTS_MAXIMUM then
      plugin.fail(
        "argument_invalid",
        ("%s: `text` would be %d messages, and at most %d are posted"):format(call, #parts, PARTS_MAXIMUM),
        "Upload it as a file: slack.upload."
      )
    end
    return parts
  elseif length > text.LENGTH_MAXIMUM then
    plugin.fail(
      "argument_invalid",
      ("%s: `text` has %d characters, and Slack cuts off what is beyond %d"):format(call, length, text.LENGTH_MAXIMUM),
      '`long = "split"` posts it in parts; slack.upload posts it as a file.'
    )
  end
  return { words }
end

local function need_content(call, arguments)
  if (not arguments.text or arguments.text == "") and not arguments.blocks then
    plugin.fail("argument_invalid", call .. ": give `text` or `blocks`")
  end
end

local function message_of(arguments, words, is_first)
  local message = {
    channel = arguments.channel, text = words or nil, thread_ts = arguments.thread, username = arguments.username,
    blocks = is_first and arguments.blocks or nil, reply_broadcast = arguments.broadcast or nil,
  }
  if arguments.icon then
    message[arguments.icon:sub(1, 1) == ":" and "icon_emoji" or "icon_url"] = arguments.icon
  end
  if arguments.unfurl == false then
    message.unfurl_links, message.unfurl_media = false, false
  end
  return message
end

plugin.operation("post", {
  description = "Posts a message, by an incoming webhook or by the Web API. Only the API tells which message it " ..
    "became, so threads take a `token`.",
  positional = { "text" },
  arguments = {
    text = { type = "string", description = "what is said; with `blocks`, what notifications show" },
    blocks = BLOCKS,
    channel = { type = "string", pattern = "[^%s]+", description = CHANNEL .. "; a webhook has its own" },
    thread = { type = "string", pattern = "%d+%.%d+", description = "the `ts` of the message that this one answers" },
    broadcast = { type = "boolean", default = false, description = "shows an answer in the channel as well" },
    username = { type = "string", length_minimum = 1, length_maximum = 80, description = "who it seems to be from" },
    icon = { type = "string", pattern = "[:h][^%s]+", description = "an emoji, `:rocket:`, or the URL of a picture" },
    unfurl = { type = "boolean", default = true, description = "whether links are shown with what they lead to" },
    escape = ESCAPE,
    long = {
      type = "string", choices = { "refuse", "split" }, default = "refuse",
      description = "what becomes of a text of more than 40,000 characters; `split` posts any text in parts of " ..
        "about 4,000, with a token the later ones as answers to the first",
    },
    webhook = { type = "secret", description = "the URL of an incoming webhook, from `secret.get`" },
    token = TOKEN,
    api = API_SPEC,
  },
  gives = {
    ts = { type = "string", description = "which message it is: for `thread` and slack.update; not of a webhook" },
    channel = { type = "string", description = "the channel's id; not of a webhook" },
    parts = { type = "integer", required = true, description = "how many messages it became" },
  },
  errors = ERRORS,
  example = [[
local token = secret.get("SLACK_TOKEN")
local made = slack.post("Build " .. job.number .. " began", { channel = "#builds", token = token })
slack.post("All tests passed", { channel = made.channel, thread = made.ts, token = token })]],
}, function(arguments)
  local call = "slack.post"
  need_content(call, arguments)
  if (arguments.webhook == nil) == (arguments.token == nil) then
    plugin.fail("argument_invalid", call .. ": give `webhook` or `token`, one of them")
  elseif arguments.token and not arguments.channel then
    plugin.fail("argument_invalid", call .. ": with `token`, `channel` says where to")
  end
  local parts = parts_of(call, arguments)
  if arguments.webhook then
    for index, words in ipairs(parts) do
      client.webhook(call, arguments.webhook, message_of(arguments, words, index == 1))
    end
    return { parts = #parts }
  end
  local first
  for index, words in ipairs(parts) do
    local message = message_of(arguments, words, index == 1)
    message.channel = first and first.channel or message.channel
    message.thread_ts = message.thread_ts or first and first.ts
    local told = client.method(call, access(arguments), "chat.postMessage", message)
    first = first or told
  end
  return { ts = first.ts, channel = first.channel, parts = #parts }
end)

plugin.operation("update", {
  description = "Changes a message that the same token posted.",
  positional = { "ts" },
  arguments = {
    ts = { type = "string", required = true, pattern = "%d+%.%d+", description = "the message, as slack.post gave it" },
    channel = {
      type = "string", required = true, pattern = "[^%s]+",
      description = "the channel's id, as slack.post gave it",
    },
    text = { type = "string", description = "what it says from now on" },
    blocks = BLOCKS,
    escape = ESCAPE,
    token = token_required(),
    api = API_SPEC,
  },
  gives = { ts = { type = "string", required = true, description = "which message it is" } },
  errors = ERRORS,
  example = [[
local token = secret.get("SLACK_TOKEN")
local made = slack.post("Deploying", { channel = "#builds", token = token })
slack.update(made.ts, { channel = made.channel, text = "Deployed", token = token })]],
}, function(arguments)
  need_content("slack.update", arguments)
  local told = client.method("slack.update", access(arguments), "chat.update", {
    channel = arguments.channel, ts = arguments.ts, blocks = arguments.blocks,
    text = parts_of("slack.update", arguments)[1] or nil,
  })
  return { ts = told.ts }
end)

plugin.operation("upload", {
  description = "Uploads a file of the workspace, and posts it where a `channel` is named.",
  positional = { "path" },
  arguments = {
    path = { type = "string", required = true, length_minimum = 1, description = "the file, below the workspace" },
    channel = {
      type = "string", pattern = "[CDG][A-Z0-9]+",
      description = "the channel's id, `C...`; names do not work here",
    },
    name = { type = "string", length_minimum = 1, description = "by default the file's own name" },
    title = { type = "string", length_minimum = 1, description = "by default the name" },
    text = { type = "string", description = "what is said with it" },
    thread = { type = "string", pattern = "%d+%.%d+", description = "the `ts` of the message that it answers" },
    escape = ESCAPE,
    token = token_required(),
    api = API_SPEC,
  },
  gives = { id = { type = "string", required = true, description = "the file's id" } },
  errors = ERRORS,
  example = [[slack.upload("build.log", { channel = "C0123456789", token = secret.get("SLACK_TOKEN") })]],
}, function(arguments)
  local call = "slack.upload"
  if not arguments.channel and (arguments.thread or arguments.text) then
    plugin.fail("argument_invalid", call .. ": `thread` and `text` go with a `channel`")
  end
  local name = arguments.name or arguments.path:match("[^/]+$") or arguments.path
  local size = fs.stat(arguments.path).size
  if size == 0 then
    plugin.fail("argument_invalid", call .. ": `" .. arguments.path .. "` is empty, and Slack takes no empty file")
  end
  local file = { filename = name, length = size }
  local asked = client.method(call, access(arguments), "files.getUploadURLExternal", file, true)
  client.file(call, asked.upload_url, arguments.path)
  client.method(call, access(arguments), "files.completeUploadExternal", {
    files = { { id = asked.file_id, title = arguments.title or name } }, channel_id = arguments.channel,
    thread_ts = arguments.thread, initial_comment = parts_of(call, arguments)[1] or nil,
  })
  return { id = asked.file_id }
end)

plugin.operation("escape", {
  description = "Makes a text safe to be put between Slack's own marks, for `blocks` and `escape = false`.",
  positional = { "text" },
  arguments = { text = { type = "string", required = true, description = "any text" } },
  gives = {
    text = { type = "string", required = true, description = "the same, with nothing in it that Slack reads" },
  },
  example = [[
local title = slack.escape("a < b").text
slack.post("<https://example.org/1|" .. title .. ">", { escape = false, webhook = secret.get("SLACK_WEBHOOK") })]],
}, function(arguments)
  return { text = text.escape(arguments.text) }
end)
