-- notify: tells others what a job does, by email and by webhooks. What it guarantees is in email.lua and webhook.lua.

local email = require("./email")
local webhook = require("./webhook")

local ADDRESSES = { type = "string", length_minimum = 3 }

local function addresses(description, required)
  return {
    type = { "string", "list" }, length_minimum = 1, length_maximum = 1000, items = ADDRESSES, required = required,
    description = description,
  }
end

plugin.operation("webhook", {
  description = "Posts JSON to a URL, signed if a secret is given for that. An answer with a status other than " ..
    "2xx raises.",
  positional = { "url", "json" },
  arguments = {
    url = {
      type = { "string", "secret" }, required = true,
      description = "where to; a secret if who knows it may post there",
    },
    json = { type = "any", required = true, description = "what is told" },
    secret = { type = "secret", description = "the key of the signature, which the receiver has as well" },
    signature_header = {
      type = "string", default = "X-Hub-Signature-256", pattern = "[%w-]+",
      description = "the header with the signature: `sha256=` and HMAC-SHA256 of the body in hexadecimal, as " ..
        "GitHub's webhooks have it",
    },
    headers = { type = "table", values = { type = { "string", "secret" } }, description = "others, by name" },
    retries = {
      type = "integer", default = 3, minimum = 0, maximum = 10,
      description = "how often it is tried again after no answer, or 429, 502, 503, 504",
    },
    timeout = { type = "string", default = "30s", pattern = "[%d.]+%a+", description = "for each try" },
  },
  gives = {
    status = { type = "integer", required = true, description = "the answer's status" },
    body = { type = "string", required = true, description = "the answer" },
  },
  errors = { refused = "the answer says that it did not work", unreachable = "there was no answer" },
  example = [[
local told = { job = job.id, state = "deployed" }
notify.webhook("https://example.org/hooks/builds", told, { secret = secret.get("HOOK_KEY") })]],
}, webhook)

plugin.operation("email", {
  description = "Sends an email by an SMTP server, which a container of the plugin's connects to. It raises where " ..
    "no recipient is taken; where some are not, the log and the result tell which.",
  arguments = {
    host = { type = "string", required = true, pattern = "[%w.:-]+", description = "the SMTP server" },
    port = {
      type = "integer", minimum = 1, maximum = 65535,
      description = "by default 587; 465 with implicit TLS, 25 without TLS",
    },
    tls = {
      type = "string", choices = { "starttls", "implicit", "none" }, default = "starttls",
      description = "how the connection is kept private; without TLS there is no password",
    },
    verify = { type = "boolean", default = true, description = "whether the server's certificate is checked" },
    ca = {
      type = "string", length_minimum = 1,
      description = "a file of the workspace with certificates to trust, instead of the usual ones",
    },
    user = { type = "string", length_minimum = 1, description = "who sends it, for the server" },
    password = { type = "secret", description = "of the user" },
    from = { type = "string", required = true, description = "the sender's address" },
    to = addresses("the recipients' addresses, `Name <address>` or the address alone", true),
    cc = addresses("who gets a copy"),
    bcc = addresses("who gets a copy that nobody sees"),
    reply_to = { type = "string", description = "where answers go" },
    subject = {
      type = "string", required = true, length_minimum = 1, length_maximum = 900,
      description = "the subject",
    },
    text = { type = "string", description = "the message" },
    html = { type = "string", description = "the message as HTML; with `text`, both are sent, and readers choose" },
    attachments = {
      type = "list", length_maximum = 50, description = "files of the workspace, 25 MiB together at most",
      items = {
        type = { "string", "table" },
        fields = {
          path = { type = "string", required = true, length_minimum = 1, description = "the file" },
          name = { type = "string", length_minimum = 1, description = "its name in the message" },
        },
      },
    },
  },
  gives = {
    sent = { type = "integer", required = true, description = "how many recipients the server took" },
    refused = { type = "list", required = true, description = "those that it did not, with its reasons" },
    id = { type = "string", required = true, description = "the message's id" },
  },
  errors = {
    login_refused = "the server did not take user and password",
    refused = "the server did not take the message, or none of the recipients",
    unreachable = "the server could not be connected to, or not with TLS as it was asked for",
  },
  example = [[
notify.email({
  host = "mail.example.org", user = "ci", password = secret.get("SMTP_PASSWORD"), from = "CI <ci@example.org>",
  to = "team@example.org", subject = "Build " .. job.id, text = "It worked.",
})]],
}, email)
