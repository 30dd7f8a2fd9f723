"""Statements about the state of the installation."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = "SELECT version_num FROM moonyard.schema_version"

RIGHTS: Final = """
SELECT login.rolname AS login, login.rolsuper AS is_superuser,
    pg_has_role(login.oid, home.nspowner, 'MEMBER') AS is_owner
FROM pg_roles AS login, pg_namespace AS home
WHERE login.rolname = session_user AND home.nspname = 'moonyard'
"""
