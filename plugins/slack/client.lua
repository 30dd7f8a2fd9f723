-- client: asks Slack, by webhook or by Web API. It guarantees:
--   * a request is sent again only after 429, which says that it was not taken: no message comes twice;
--   * a pause that Slack asks for is kept, said in the log, and at most WAIT_MAXIMUM seconds long in all;
--   * a webhook's URL and a token are secrets, which the plugin never reads; where Slack wants a file is in no error.

local client = {}

local TRIES_MAXIMUM = 6
local WAIT_MAXIMUM = 300
local TIMEOUT = "30s"

-- Slack's own words, and what to do about them.
local MEANINGS = {
  account_inactive = "the token is of an account or workspace that is gone",
  action_prohibited = "an admin of the workspace has forbidden it",
  cant_update_message = "the message is not one that this token posted",
  channel_is_archived = "the channel is archived",
  channel_not_found = "there is no such channel, or the app has not been invited to it",
  edit_window_closed = "the message is too old to be changed",
  invalid_arguments = "Slack does not take the arguments",
  invalid_auth = "the token is not one of Slack's, or not for this workspace",
  invalid_blocks = "Slack does not take the blocks; try them in its Block Kit Builder",
  invalid_payload = "Slack does not take the message; look at its blocks",
  invalid_token = "the webhook's URL is wrong, or was taken back",
  is_archived = "the channel is archived",
  message_not_found = "there is no message with this `ts` in the channel",
  missing_scope = "the app lacks a scope",
  msg_too_long = "the message is too long",
  no_service = "the webhook is gone",
  no_text = "the message has neither text nor blocks",
  not_authed = "there is no token",
  not_in_channel = "the app is not in the channel: invite it there",
  restricted_action = "an admin of the workspace has forbidden it",
  team_disabled = "the workspace is gone",
  token_expired = "the token's time is over",
  token_revoked = "the token was taken back",
  too_many_attachments = "a message has at most 100 attachments",
  user_not_found = "there is no such user",
}

local function refuse(call, word, more)
  local meaning = MEANINGS[word]
  plugin.fail(
    "refused", call .. ": Slack refused it: " .. word .. (meaning and " (" .. meaning .. ")" or "") .. (more or ""),
    not meaning and "Slack's documentation of its methods lists the words." or nil
  )
end

local function without(text, private)
  local first, last = text:find(private, 1, true)
  while first do
    text = text:sub(1, first - 1) .. "Slack" .. text:sub(last + 1)
    first, last = text:find(private, 1, true)
  end
  return text
end

-- Sends one request, and again when Slack asks to wait. `private` is a URL that no error may show.
local function send(call, request, private)
  request.timeout, request.check = request.timeout or TIMEOUT, false
  request.follow, request.retries = request.follow or false, 0
  local waited = 0
  for try = 1, TRIES_MAXIMUM do
    local ok, answer = pcall(http.request, request)
    if not ok then
      local code = type(answer) == "table" and answer.code
      if type(code) ~= "string" or code:sub(1, 5) ~= "http_" then
        error(answer, 0)
      end
      local words = private and without(answer.message, private) or answer.message
      plugin.fail("unreachable", call .. ": " .. words, "Whether it was taken is not known, so it was not sent again.")
    elseif answer.status ~= 429 then
      return answer
    end
    local pause = math.max(1, math.ceil(tonumber(answer.headers["retry-after"]) or 2 ^ (try - 1)))
    if try == TRIES_MAXIMUM or waited + pause > WAIT_MAXIMUM then
      plugin.fail(
        "rate_limited", ("%s: Slack asks to wait for another %d s, after %d requests and %d s"):format(
          call, pause, try, waited
        ), "Post less often: Slack takes about one message a second in a channel."
      )
    end
    log.info(call .. ": Slack takes no more for now, next try in " .. pause .. " s")
    time.sleep(pause)
    waited = waited + pause
  end
end

-- Posts to an incoming webhook, whose URL is a secret.
function client.webhook(call, webhook, message)
  local ok, answer = pcall(send, call, { url = webhook, method = "POST", json = message })
  if not ok and type(answer) == "table" and answer.code == "argument_invalid" then
    plugin.fail(
      "argument_invalid", call .. ": the secret in `webhook` is no URL",
      "Slack shows it whole: https://hooks.slack.com/..."
    )
  elseif not ok then
    error(answer, 0)
  end
  if not answer.ok then
    local word = answer.body:match("^%s*([%w_]+)%s*$")
    if not word then
      plugin.fail("refused", call .. ": the webhook answered with status " .. answer.status)
    end
    refuse(call, word)
  end
end

-- Calls a method of the Web API, with JSON, or with a form for those that take no JSON; gives its answer.
function client.method(call, access, method, arguments, is_form)
  local answer = send(call, {
    url = access.api .. "/" .. method, method = "POST", headers = { Authorization = "Bearer " .. access.token },
    json = not is_form and arguments or nil, form = is_form and arguments or nil,
  })
  local ok, told = pcall(json.decode, answer.body, { nulls = false })
  if not ok or type(told) ~= "table" or told.ok == nil then
    plugin.fail(
      "refused",
      ("%s: %s/%s answered with status %d, and not as Slack does"):format(call, access.api, method, answer.status),
      "See whether `api` is right, and Slack up."
    )
  elseif told.ok ~= true then
    local more = told.needed and "; it needs `" .. tostring(told.needed) .. "`" or ""
    for _, words in ipairs(type(told.response_metadata) == "table" and told.response_metadata.messages or {}) do
      more = more .. "; " .. tostring(words)
    end
    refuse(call, tostring(told.error), more)
  end
  if told.warning then
    log.warn(call .. ": Slack warns: " .. tostring(told.warning))
  end
  return told
end

-- Sends a file to where Slack wants it.
function client.file(call, url, path)
  local answer = send(call, { url = url, method = "POST", file = path, timeout = "10m" }, url)
  if not answer.ok then
    plugin.fail("refused", call .. ": Slack did not take the file, and answered with status " .. answer.status)
  end
end

return client
