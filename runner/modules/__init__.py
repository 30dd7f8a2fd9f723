"""The host side of the Lua modules: one file a module, each with a table of its calls.

To add a module: a file here with ``CALLS``, its name in ``HANDLERS`` below, and its Lua face in the sandbox.
"""
