---@meta git
-- What an editor's Lua language server knows of this plugin; nothing here is run.
-- In .luarc.json: { "workspace.library": ["PATH/TO/moonyard/plugins"] }

---@class git
local git = {}

---@class git.CloneOptions
---@field url string     where from: https://, ssh://, git://, or a path below /workspace
---@field branch? string a branch, a tag, or a commit's full SHA; by default the repository's own branch
---@field depth? integer how many commits of history; by default 1; 0 for all
---@field path? string   where to, below the workspace; by default the workspace itself

---@class git.Clone
---@field path string    where the clone is, below the workspace
---@field commit string  the full SHA of what was checked out

---Clones a repository into the workspace, in a container of its own.
---
---Raises when git fails, with git's own words as the reason, and when an argument is wrong.
---@param options git.CloneOptions
---@return git.Clone
function git.clone(options) end

return git
