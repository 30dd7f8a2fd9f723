"""Lua in a box: loads and checks a pipeline file, runs its stages. Knows nothing of containers or HTTP."""
