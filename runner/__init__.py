"""Runs jobs on a machine with a container engine: claims them, drives the sandbox, executes commands in containers."""
