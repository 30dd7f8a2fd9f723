"""Data as text: JSON, YAML and TOML, between what Lua has and what files have."""
