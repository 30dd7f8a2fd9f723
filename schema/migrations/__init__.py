"""The database's schema, as Alembic migrations whose statements stand in ``sql/``, and the helper that runs those."""
