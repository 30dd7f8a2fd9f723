"""What crosses a boundary: events, pipeline definitions, HTTP messages, errors, and the database's migrations.

Everything else may import this package; it imports nothing of Moonyard's.
"""
