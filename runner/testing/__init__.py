"""Runs test files of pipelines and plugins: everything as in a job but for what would leave the sandbox.

mocks      asks the test what stands in for a command, a request, a secret or an artifact
engine     containers that start nothing: what runs in them is mocked
web        requests that nobody is sent
calls      the host side of the Lua modules, with those in place of the real ones
rehearsal  one job of a pipeline, run for a test
files      finds test files, and runs one to its end
"""
