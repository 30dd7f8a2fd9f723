-- email: hands a message to an SMTP server, by Python's own library in a container of the plugin's. It guarantees:
--   * the password is in the environment of that one command: in no argument, no file;
--   * it is sent through TLS alone, with a certificate that is checked, unless the caller says otherwise;
--   * nothing of subject, names and addresses can become another header or another recipient.

local IMAGE = "docker.io/library/python:3.11-alpine"
local ATTACHED_MAXIMUM = 25 * 1024 * 1024

-- Is told how long the program is, the program, and the message, all on stdin: arguments stand in the log.
local LOADER = "import sys; exec(sys.stdin.read(int(sys.stdin.readline())))"

-- Reads the message as JSON on stdin. Says {"refused": {address: reason}}, or {"error": code, "reason": text}.
local PROGRAM = [[
import email.message, email.utils, json, mimetypes, os, pathlib, smtplib, ssl, sys

def end(**told):
    print(json.dumps(told))
    sys.exit(0)

given = json.load(sys.stdin)
message = email.message.EmailMessage()
for name in ("from", "to", "cc", "reply_to"):
    if given.get(name):
        value = given[name]
        message[name.replace("_", "-").title()] = value if isinstance(value, str) else ", ".join(value)
message["Subject"] = given["subject"]
message["Date"] = email.utils.formatdate(localtime=False)
message["Message-ID"] = email.utils.make_msgid(domain=email.utils.parseaddr(given["from"])[1].partition("@")[2])
message["Auto-Submitted"] = "auto-generated"
if given.get("text") is not None or given.get("html") is None:
    message.set_content(given.get("text") or "")
    if given.get("html") is not None:
        message.add_alternative(given["html"], subtype="html")
else:
    message.set_content(given["html"], subtype="html")
for attached in given["attachments"]:
    kind, encoding = mimetypes.guess_type(attached["name"])
    main, sub = (kind if kind and not encoding else "application/octet-stream").split("/", 1)
    data = pathlib.Path(attached["path"]).read_bytes()
    message.add_attachment(data, maintype=main, subtype=sub, filename=attached["name"])
context = ssl.create_default_context(cafile=given.get("ca"))
if not given["verify"]:
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
everybody = [address for _, address in email.utils.getaddresses(given["to"] + given["cc"] + given["bcc"])]
sender = email.utils.parseaddr(given["from"])[1]
try:
    if given["tls"] == "implicit":
        server = smtplib.SMTP_SSL(given["host"], given["port"], timeout=given["seconds"], context=context)
    else:
        server = smtplib.SMTP(given["host"], given["port"], timeout=given["seconds"])
    with server:
        if given["tls"] == "starttls":
            server.starttls(context=context)
        if given.get("user") is not None:
            server.login(given["user"], os.environ["MOONYARD_SMTP_PASSWORD"])
        refused = server.send_message(message, sender, everybody)
except smtplib.SMTPAuthenticationError as error:
    end(error="login_refused", reason=f"{error.smtp_code} {error.smtp_error.decode(errors='replace')}")
except smtplib.SMTPRecipientsRefused as error:
    told = {one: f"{code} {said.decode(errors='replace')}" for one, (code, said) in error.recipients.items()}
    end(refused=told, sent=0)
except smtplib.SMTPNotSupportedError as error:
    end(error="unreachable" if "STARTTLS" in str(error) else "refused", reason=str(error))
except smtplib.SMTPResponseException as error:
    said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
    end(error="refused", reason=f"{error.smtp_code} {said}")
except ssl.SSLError as error:
    end(error="unreachable", reason=f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}")
except (smtplib.SMTPException, OSError) as error:
    end(error="unreachable", reason=str(error) or type(error).__name__)
end(refused={one: f"{code} {said.decode(errors='replace')}" for one, (code, said) in refused.items()},
    sent=len(everybody) - len(refused), id=message["Message-ID"])
]]

local CALL = "notify.email"

local function refuse(...)
  plugin.fail("argument_invalid", CALL .. ": " .. string.format(...))
end

local function check_line(name, value)
  if value:find("[\r\n%z]") then
    refuse("`%s` has a line break in it", name)
  end
end

local function addresses(name, value)
  local list = type(value) == "table" and value or { value }
  for _, one in ipairs(list) do
    check_line(name, one)
    local address = one:match("<([^<>]*)>%s*$") or one
    local words = one:gsub("<[^<>]*>%s*$", ""):gsub('"[^"]*"', "")
    if not address:find("^[^%s@<>,;]+@[^%s@<>,;]+$") or words:find(",", 1, true) then
      refuse("`%s` must be addresses such as `ci@example.org` or `CI <ci@example.org>`, got %q", name, one:sub(1, 100))
    end
  end
  return list
end

local function attachments_of(given)
  local attached, size = {}, 0
  for index, one in ipairs(given or {}) do
    local path = type(one) == "table" and one.path or one
    local name = type(one) == "table" and one.name or path:match("[^/]+$")
    check_line("attachments", name or "")
    local stat = fs.stat(path)
    if stat.type ~= "file" then
      refuse("`attachments[%d]` is no file: %s", index, path)
    end
    size = size + stat.size
    if size > ATTACHED_MAXIMUM then
      refuse("`attachments` have more than %d MiB, which mail servers do not take", ATTACHED_MAXIMUM // 2 ^ 20)
    end
    attached[index] = { path = path, name = name }
  end
  return json.array(attached)
end

return function(arguments)
  check_line("subject", arguments.subject)
  addresses("from", arguments.from)
  if not arguments.text and not arguments.html then
    refuse("give `text` or `html`, or both")
  elseif (arguments.user == nil) ~= (arguments.password == nil) then
    refuse("`user` and `password` go together")
  elseif arguments.password and arguments.tls == "none" then
    refuse('a password is not sent without TLS: `tls` must be "starttls" or "implicit"')
  end
  local message = {
    host = arguments.host, port = arguments.port or ({ starttls = 587, implicit = 465, none = 25 })[arguments.tls],
    tls = arguments.tls, verify = arguments.verify, ca = arguments.ca, seconds = 60, user = arguments.user,
    from = arguments.from, subject = arguments.subject, text = arguments.text, html = arguments.html,
    to = json.array(addresses("to", arguments.to)), cc = json.array(addresses("cc", arguments.cc or {})),
    bcc = json.array(addresses("bcc", arguments.bcc or {})), reply_to = arguments.reply_to,
    attachments = attachments_of(arguments.attachments),
  }
  if arguments.reply_to then
    addresses("reply_to", arguments.reply_to)
  end
  if not arguments.verify then
    log.warn(CALL .. ": whoever answers for " .. arguments.host .. " is trusted (`verify = false`)")
  end
  local ran = container.run(IMAGE, function()
    return process.run({
      command = "python3", args = { "-I", "-c", LOADER }, timeout = "5m",
      stdin = #PROGRAM .. "\n" .. PROGRAM .. json.encode(message),
      env = arguments.password and { MOONYARD_SMTP_PASSWORD = arguments.password } or nil,
      stdout = "off", stderr = "debug", check = false,
    })
  end)
  local ok, told = pcall(json.decode, ran.stdout, { nulls = false })
  if not ran.ok or not ok then
    local reason = ran.stderr:match("([^\n]+)\n*$") or "no reason is known"
    plugin.fail("refused", CALL .. ": the message could not be made: " .. reason)
  elseif told.error then
    plugin.fail(told.error, ("%s: %s:%d: %s"):format(CALL, message.host, message.port, told.reason))
  end
  local refused = {}
  for address, reason in pairs(told.refused) do
    refused[#refused + 1] = address .. ": " .. reason
  end
  table.sort(refused)
  if told.sent == 0 then
    local listed = table.concat(refused, "; ")
    plugin.fail("refused", ("%s: %s:%d took no recipient: %s"):format(CALL, message.host, message.port, listed))
  end
  for _, one in ipairs(refused) do
    log.warn(CALL .. ": not sent to " .. one)
  end
  return { sent = told.sent, refused = refused, id = told.id }
end
