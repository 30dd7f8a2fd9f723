-- git: brings repositories into the workspace, looks at them, and pushes what a job made of them. Each operation runs
-- in a container of its own, so the pipeline's containers need no git, and never see this one.

local commands = require("./commands")
local clone = require("./clone")
local push = require("./push")
local git, read, inside = commands.git, commands.read, commands.inside

local function has(path, ref)
  return git({ "-C", path, "rev-parse", "--verify", "--quiet", ref }, { check = false }).ok
end

local PLAIN = "[^%s%-][^%s]*" -- no spaces, and no option

local PATH = {
  type = "string", default = ".",
  description = "where the repository is, below the workspace; by default the workspace itself",
}
local URL = "`https://`, `http://`, `ssh://`, `git://`, or a path below /workspace"
local TOKEN = {
  type = "secret",
  description = "a password or access token for the URL's host, from `secret.get`; for https:// and http:// alone",
}
local USER = { type = "string", default = "git", length_minimum = 1, description = "the user that goes with `token`" }

plugin.operation("clone", {
  description = "Clones a repository into the workspace. A path that is not empty is refused, and what fails leaves " ..
    "nothing behind.",
  positional = { "url" },
  arguments = {
    url = { type = "string", required = true, pattern = PLAIN, description = URL },
    branch = {
      type = "string", pattern = PLAIN,
      description = "a branch, a tag or a commit's full SHA; by default the repository's own branch",
    },
    tag = { type = "string", pattern = PLAIN, description = "a tag, also where a branch has the same name" },
    commit = { type = "string", pattern = "%x+", length_minimum = 40, length_maximum = 64,
      description = "a commit's full SHA" },
    depth = { type = "integer", default = 1, minimum = 0, description = "how many commits of history; 0 for all" },
    path = { type = "string", default = ".",
      description = "where to, below the workspace; by default the workspace itself" },
    submodules = { type = "string", choices = { "none", "direct", "recursive" }, default = "none",
      description = "whether submodules are fetched, and theirs" },
    sparse = { type = "list", length_minimum = 1, items = { type = "string", pattern = "[^%-].*" },
      description = "only these folders, and the files beside them, are checked out" },
    lfs = { type = "boolean", default = false,
      description = "whether files in Git LFS are fetched, those of submodules too" },
    token = TOKEN,
    user = USER,
  },
  gives = {
    path = { type = "string", required = true, description = "where the clone is, below the workspace" },
    commit = { type = "string", required = true, description = "the full SHA of what was checked out" },
    branch = { type = "string", required = true, description = "the branch that is checked out; empty for none" },
  },
  errors = {
    path_not_empty = "there is something at `path`",
    repository_empty = "the repository has no commit",
    lfs_missing = "`lfs` was asked for, and the image has no git-lfs",
  },
  example = [[
local made = git.clone({ url = "https://example.org/app.git", branch = "main", path = "app" })
log.info("commit " .. made.commit)]],
}, clone)

plugin.operation("checkout", {
  description = "Checks out a branch, a tag or a commit of a repository in the workspace.",
  positional = { "ref" },
  arguments = {
    ref = { type = "string", required = true, pattern = PLAIN, description = "a branch, a tag or a commit" },
    create = { type = "boolean", default = false, description = "makes a branch of that name where HEAD is" },
    path = PATH,
  },
  gives = { commit = { type = "string", required = true, description = "the full SHA of what was checked out" } },
  errors = { ref_unknown = "the repository has no such branch, tag or commit" },
  example = [[git.checkout("release/1", { create = true })]],
}, function(arguments)
  local path = commands.path("git.checkout", arguments.path)
  return inside(function()
    if arguments.create then
      git({ "-C", path, "checkout", "--quiet", "-b", arguments.ref })
    else
      if not has(path, arguments.ref .. "^{commit}") and not has(path, "origin/" .. arguments.ref) then
        plugin.fail(
          "ref_unknown", "git.checkout: the repository has no branch, tag or commit `" .. arguments.ref .. "`",
          "A clone has one commit unless git.clone is given another `depth`; 0 brings all."
        )
      end
      git({ "-C", path, "checkout", "--quiet", arguments.ref, "--" })
    end
    return { commit = read({ "-C", path, "rev-parse", "HEAD" }) }
  end)
end)

local CHANGES = {
  type = "list", required = true, description = "the files, in the order of their paths",
  items = {
    type = "table",
    fields = {
      path = { type = "string", required = true, description = "below the repository" },
      state = { type = "string", required = true,
        choices = { "added", "modified", "deleted", "renamed", "copied", "type_changed", "unmerged", "untracked" },
        description = "what became of it" },
      from = { type = "string", description = "the path before, of what was renamed or copied" },
    },
  },
}
local STATES = {
  A = "added", M = "modified", D = "deleted", R = "renamed", C = "copied", T = "type_changed", U = "unmerged",
  ["?"] = "untracked",
}

local function in_order(changes)
  table.sort(changes, function(one, other)
    return one.path < other.path
  end)
  return changes
end

plugin.operation("status", {
  description = "Says which files of a repository are not as in its commit, untracked ones included.",
  arguments = { path = PATH },
  gives = {
    clean = { type = "boolean", required = true, description = "whether there is no such file" },
    branch = { type = "string", required = true, description = "the branch that is checked out; empty for none" },
    commit = { type = "string", required = true, description = "the commit's full SHA; empty where there is none" },
    files = CHANGES,
  },
  example = [[if not git.status().clean then log.warn("the build changed files of the repository") end]],
}, function(arguments)
  local path = commands.path("git.status", arguments.path)
  return inside(function()
    local words = { "-C", path, "status", "--porcelain=v1", "-z", "--untracked-files=all" }
    local files, parts, told = {}, {}, git(words, { quiet = true })
    for part in told.stdout:gmatch("([^%z]*)%z") do
      parts[#parts + 1] = part
    end
    local index = 1
    while parts[index] do
      local staged, unstaged, name = parts[index]:match("^(.)(.) (.*)$")
      local letter = staged ~= " " and staged or unstaged
      if staged == "U" or unstaged == "U" or staged .. unstaged == "AA" or staged .. unstaged == "DD" then
        letter = "U"
      end
      local change = { path = name, state = STATES[letter] }
      if letter == "R" or letter == "C" then
        index = index + 1
        change.from = parts[index]
      end
      files[#files + 1] = change
      index = index + 1
    end
    local head = git({ "-C", path, "rev-parse", "--verify", "--quiet", "HEAD" }, { check = false })
    return {
      clean = #files == 0, files = in_order(files), commit = head.stdout:match("^%x+") or "",
      branch = read({ "-C", path, "branch", "--show-current" }),
    }
  end)
end)

plugin.operation("diff", {
  description = "Names the files that differ between two commits, or between one and the workspace.",
  arguments = {
    from = { type = "string", default = "HEAD", pattern = PLAIN, description = "a commit, branch or tag" },
    to = { type = "string", pattern = PLAIN, description = "another; by default the files in the workspace" },
    staged = { type = "boolean", default = false, description = "compares `from` with what is staged instead" },
    within = { type = "list", items = { type = "string", length_minimum = 1 },
      description = "only these files and folders" },
    path = PATH,
  },
  gives = { files = CHANGES },
  errors = { ref_unknown = "the repository has no such branch, tag or commit" },
  example = [[
for _, file in ipairs(git.diff({ from = "HEAD~1", to = "HEAD" }).files) do
  log.info(file.state .. " " .. file.path)
end]],
}, function(arguments)
  local path = commands.path("git.diff", arguments.path)
  return inside(function()
    local words = { "-C", path, "diff", "--name-status", "-z", "--no-ext-diff", "--find-renames" }
    if arguments.staged then
      words[#words + 1] = "--cached"
    end
    for _, ref in ipairs({ arguments.from, arguments.to }) do
      if not has(path, ref .. "^{commit}") then
        plugin.fail("ref_unknown", "git.diff: the repository has no commit `" .. ref .. "`",
          "A clone has one commit unless git.clone is given another `depth`; 0 brings all.")
      end
      words[#words + 1] = ref
    end
    words[#words + 1] = "--"
    table.move(arguments.within or {}, 1, #(arguments.within or {}), #words + 1, words)
    local files, parts = {}, {}
    for part in git(words, { quiet = true }).stdout:gmatch("([^%z]*)%z") do
      parts[#parts + 1] = part
    end
    local index = 1
    while parts[index] do
      local letter = parts[index]:sub(1, 1)
      local change = { state = STATES[letter] or "modified", path = parts[index + 1] }
      if letter == "R" or letter == "C" then
        change.from, change.path = parts[index + 1], parts[index + 2]
        index = index + 1
      end
      files[#files + 1] = change
      index = index + 2
    end
    return { files = in_order(files) }
  end)
end)

local AUTHOR = {
  type = "table", default = { name = "Moonyard", email = "moonyard@localhost" },
  fields = {
    name = { type = "string", required = true, length_minimum = 1, description = "as `git log` shows it" },
    email = { type = "string", required = true, length_minimum = 1, description = "as `git log` shows it" },
  },
  description = "who makes it",
}

local function signed(author)
  return {
    GIT_AUTHOR_NAME = author.name, GIT_AUTHOR_EMAIL = author.email,
    GIT_COMMITTER_NAME = author.name, GIT_COMMITTER_EMAIL = author.email,
  }
end

plugin.operation("commit", {
  description = "Commits files of a repository, all that changed unless some are named.",
  positional = { "message" },
  arguments = {
    message = { type = "string", required = true, length_minimum = 1, description = "the commit's message" },
    files = { type = "list", length_minimum = 1, items = { type = "string", length_minimum = 1 },
      description = "which files and folders; by default all that changed, new ones included" },
    author = AUTHOR,
    allow_empty = { type = "boolean", default = false, description = "commits also where nothing changed" },
    path = PATH,
  },
  gives = { commit = { type = "string", required = true, description = "the new commit's full SHA" } },
  errors = { nothing_to_commit = "nothing changed" },
  example = [[git.commit("Update the changelog", { files = { "CHANGELOG.md" } })]],
}, function(arguments)
  local path = commands.path("git.commit", arguments.path)
  return inside(function()
    local words = { "-C", path, "add", "--all", "--" }
    table.move(arguments.files or { "." }, 1, #(arguments.files or { "." }), #words + 1, words)
    git(words)
    local staged = git({ "-C", path, "diff", "--cached", "--quiet" }, { check = false })
    if staged.ok and not arguments.allow_empty then
      plugin.fail("nothing_to_commit", "git.commit: nothing changed, so there is nothing to commit",
        "`allow_empty = true` commits all the same.")
    end
    git(
      { "-C", path, "commit", "--quiet", "--no-gpg-sign", "--allow-empty", "--message=" .. arguments.message },
      { env = signed(arguments.author) }
    )
    return { commit = read({ "-C", path, "rev-parse", "HEAD" }) }
  end)
end)

plugin.operation("tag", {
  description = "Makes a tag: one with a message is an annotated tag.",
  positional = { "name" },
  arguments = {
    name = { type = "string", required = true, pattern = PLAIN, description = "the tag's name" },
    message = { type = "string", length_minimum = 1, description = "makes an annotated tag of it" },
    ref = { type = "string", default = "HEAD", pattern = PLAIN, description = "what it names" },
    author = AUTHOR,
    force = { type = "boolean", default = false, description = "moves a tag that is there" },
    path = PATH,
  },
  gives = { commit = { type = "string", required = true, description = "the full SHA of the commit that it names" } },
  errors = { tag_exists = "there is such a tag" },
  example = [[git.tag("v1.2.0", { message = "Release 1.2.0" })]],
}, function(arguments)
  local path = commands.path("git.tag", arguments.path)
  return inside(function()
    local name = arguments.name
    if not arguments.force and has(path, "refs/tags/" .. name) then
      plugin.fail("tag_exists", "git.tag: the repository has a tag `" .. name .. "` already", "`force` moves it.")
    end
    local words = { "-C", path, "tag", "--no-sign" }
    if arguments.force then
      words[#words + 1] = "--force"
    end
    if arguments.message then
      words[#words + 1] = "--annotate"
      words[#words + 1] = "--message=" .. arguments.message
    end
    table.move({ "--", name, arguments.ref }, 1, 3, #words + 1, words)
    git(words, { env = signed(arguments.author) })
    return { commit = read({ "-C", path, "rev-parse", "refs/tags/" .. name .. "^{commit}" }) }
  end)
end)

plugin.operation("describe", {
  description = "Names a commit by the newest tag before it: `v1.2.0`, or `v1.2.0-3-g1a2b3c4` three commits later.",
  arguments = {
    ref = { type = "string", default = "HEAD", pattern = PLAIN, description = "the commit" },
    match = { type = "string", length_minimum = 1, description = "only tags that fit this pattern, such as `v*`" },
    annotated = { type = "boolean", default = false, description = "whether only annotated tags count" },
    path = PATH,
  },
  gives = {
    text = { type = "string", required = true, description = "the name" },
    tag = { type = "string", required = true, description = "the tag in it" },
    distance = { type = "integer", required = true, description = "how many commits came after the tag" },
    commit = { type = "string", required = true, description = "the commit's full SHA" },
  },
  errors = { no_tag = "no tag is before the commit, in the history that is here" },
  example = [[local version = git.describe({ match = "v*" }).text]],
}, function(arguments)
  local path = commands.path("git.describe", arguments.path)
  return inside(function()
    local words = { "-C", path, "describe", "--long", "--abbrev=7" }
    if not arguments.annotated then
      words[#words + 1] = "--tags"
    end
    if arguments.match then
      words[#words + 1] = "--match=" .. arguments.match
    end
    words[#words + 1] = arguments.ref
    local told = git(words, { check = false })
    local tag, distance, short = told.stdout:match("^(.*)%-(%d+)%-g(%x+)\n$")
    if not tag then
      plugin.fail("no_tag", "git.describe: " .. (told.stderr:match("[^\n]+") or "no tag was found"),
        "A clone has no tags and one commit unless git.clone is given `depth = 0`.")
    end
    return {
      tag = tag, distance = tonumber(distance),
      text = distance == "0" and tag or tag .. "-" .. distance .. "-g" .. short,
      commit = read({ "-C", path, "rev-parse", arguments.ref .. "^{commit}" }),
    }
  end)
end)

plugin.operation("push", {
  description = "Pushes a commit, and tags, to a remote repository. It goes where the job cloned from, or to `url`; " ..
    "what the repository in the workspace says of remotes does not count, for a job's commands may have written that.",
  arguments = {
    branch = { type = "string", pattern = PLAIN,
      description = "the branch to push to; by default the one that is checked out, or none where `tags` are named" },
    ref = { type = "string", default = "HEAD", pattern = PLAIN, description = "what the branch is to be" },
    tags = { type = "list", length_minimum = 1, items = { type = "string", pattern = PLAIN },
      description = "tags to push, by name" },
    url = { type = "string", pattern = PLAIN, description = URL .. "; by default that of git.clone" },
    force = { type = "boolean", default = false,
      description = "pushes also where the branch or tag there would lose commits" },
    token = TOKEN,
    user = USER,
    path = PATH,
  },
  gives = { commit = { type = "string", required = true, description = "the full SHA of what was pushed" } },
  errors = {
    push_rejected = "the remote has commits that are not here, or refuses for a reason of its own",
    ref_unknown = "the repository has no such branch, tag or commit",
    url_unknown = "the job did not clone this repository, and there is no `url`",
  },
  example = [[git.push({ tags = { "v1.2.0" }, token = secret.get("GIT_TOKEN") })]],
}, push)
