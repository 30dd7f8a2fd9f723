---@meta
-- What the code of plugins has besides (`plugin`), and what test files have. Nothing here is run.

---What a value has to be: an argument, a field of one, an entry of a list, or a field of a result.
---@class moonyard.plugin.Value
---@field type moonyard.plugin.Type|moonyard.plugin.Type[] # or which types do
---@field description? string
---@field required? boolean
---@field default? any
---@field choices? (string|number)[] # what is accepted at all
---@field minimum? number
---@field maximum? number
---@field pattern? string # a pattern of Lua's, which all of a string has to match
---@field length_minimum? integer # of a string in bytes, or of a list in entries
---@field length_maximum? integer
---@field fields? table<string, moonyard.plugin.Value> # of a table: those that it may have, and no other
---@field values? moonyard.plugin.Value # of a table: what stands under each of its names
---@field items? moonyard.plugin.Value # of a list: each of its entries

---@alias moonyard.plugin.Type
---| "string"
---| "integer"
---| "number"
---| "boolean"
---| "list"
---| "table"
---| "function"
---| "secret"
---| "any"

---@class moonyard.plugin.Operation
---@field description string # a sentence or a few
---@field arguments? table<string, moonyard.plugin.Value> # what it takes, by name
---@field positional? string[] # which of them may be given in order
---@field gives? table<string, moonyard.plugin.Value> # the fields of its result
---@field errors? table<string, string> # its own codes, without the plugin's name before them, and what each means
---@field example? string # a few lines of Lua

---What a plugin's code declares itself by.
---@class moonyard.plugin
---@field name string # of plugin.toml
---@field version string # of plugin.toml
---@field state table # what it keeps for the job
plugin = {}

---Declares an operation: a function that pipelines get.
---@param name string
---@param spec moonyard.plugin.Operation
---@param body fun(arguments: table): any
function plugin.operation(name, spec, body) end

---Declares what is run in a job before the plugin's first operation.
---@param body fun()
function plugin.setup(body) end

---Declares what is run at the end of a job in which the plugin was used.
---@param body fun()
function plugin.teardown(body) end

---Raises one of the errors that the plugin's operations declare.
---@param code string # without the plugin's name before it
---@param message string
---@param hint? string
function plugin.fail(code, message, hint) end

---Tells a group of tests.
---@param title string
---@param body fun()
function describe(title, body) end

---Tells a test.
---@param title string
---@param body fun()
function it(title, body) end

---Runs before each test of the group.
---@param body fun()
function before_each(body) end

---Runs after each test of the group, whatever became of it.
---@param body fun()
function after_each(body) end

---@class moonyard.test.Expectation
---@field never moonyard.test.Expectation # the same for the opposite
---@field equals fun(other: any)
---@field is_true fun()
---@field is_false fun()
---@field is_nil fun()
---@field is_a fun(kind: string)
---@field has_length fun(length: integer)
---@field contains fun(part: any)
---@field matches fun(pattern: string)
---@field raises fun(part?: string)
---@field succeeded fun()
---@field failed fun(part?: string)

---Asks something of a value, and fails the test where it does not hold.
---@param value any
---@return moonyard.test.Expectation
function expect(value) end

---@class moonyard.test.CommandAnswer
---@field code? integer # the exit code (default: `0`)
---@field stdout? string
---@field stderr? string
---@field signal? string # what killed it
---@field duration? number # seconds that it is told to have taken
---@field error? { code: string, message: string } # it is not run, or not to its end

---@class moonyard.test.RequestAnswer
---@field status? integer # (default: `200`)
---@field headers? table<string, string>
---@field body? string
---@field json? any
---@field elapsed? number
---@field error? { code: string, message: string } # there is no answer

---Answers what would leave the sandbox.
---@class moonyard.test.Mock
mock = {}

---Stands in for commands that begin with these words, or for any.
---@param words string|string[]|fun(command: table): moonyard.test.CommandAnswer?
---@param answer? moonyard.test.CommandAnswer|fun(command: table): moonyard.test.CommandAnswer?
function mock.process(words, answer) end

---Stands in for requests to a place, or for any.
---@param place string|fun(request: table): moonyard.test.RequestAnswer?
---@param answer? moonyard.test.RequestAnswer|fun(request: table): moonyard.test.RequestAnswer?
function mock.http(place, answer) end

---Stands in for a secret.
---@param name string
---@param value string
function mock.secret(name, value) end

---Stands in for an artifact of another job.
---@param name string
---@param data string
function mock.artifact(name, data) end

---@class moonyard.test.Result
---@field state "succeeded"|"failed"
---@field error? moonyard.Error
---@field stages table<string, table> # by name: `state`, `error`, `outputs`
---@field commands table[] # those that were asked for, in order
---@field requests table[] # the HTTP requests, in order
---@field log table[] # its lines: `stage`, `level`, `source`, `text`
---@field artifacts table<string, table> # by name: `data`, `content_type`

---Runs pipelines in tests.
---@class moonyard.test.Pipelines
pipeline = {}

---Runs a job of a pipeline to its end, without anything leaving the sandbox.
---@param file string # the path from the test file's folder
---@param options? { inputs?: table<string, any>, stages?: string[] }
---@return moonyard.test.Result
function pipeline.run(file, options) end

---Gives a pipeline as it is checked when it is pushed.
---@param file string # the path from the test file's folder
---@return table
function pipeline.load(file) end
