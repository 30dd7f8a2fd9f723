"""Attacks on Moonyard by those whom it lets in: Lua, containers, runners and people with less right than they want.

Each module has a class of attacks: ``async def attempts(...)`` tries each of them against the real parts and says of
each whether it was stopped. ``python -m tests.attack`` runs them all.
"""
