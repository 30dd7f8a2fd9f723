"""What scripts can use, told once: the core modules with their functions, and the fields of a pipeline's table.

Arguments come from the structs that check them (``runner.modules``), so their names, types and defaults cannot drift
from what is accepted; what else there is to say stands here, a file a module. Editors' stubs, the reference page and
``moonyard check`` are made from it.
"""
