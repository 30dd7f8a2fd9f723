"""Finds mistakes in Lua files by reading them: names that nothing has, arguments that no function takes."""
