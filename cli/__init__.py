"""The ``moonyard`` command."""
