"""Plugins: those that ship, each a folder with its Lua code, and what finds, reads and locks any plugin.

Where things are, for those who build on it:

- ``schema.plugins``: ``Manifest``, ``Operation``, ``ValueSpec``, ``PluginDescription``: what a plugin says of itself;
- ``plugins.shipped() -> Mapping[str, Plugin]`` and ``plugins.folders.read(folder) -> Plugin``;
- ``await sandbox.loading.describe(parent: WarmParent, plugin: Plugin, others: Mapping[str, Plugin] = {})
  -> PluginDescription`` loads it in the sandbox and gives manifest, operations, hooks and README. ``others`` are the
  plugins that it needs itself;
- ``plugins.resolution.resolve(references, catalogue)`` finds versions; ``sandbox.loading.load`` does so for a pipeline.
"""

from __future__ import annotations

from plugins.folders import Plugin, shipped

__all__ = ["Plugin", "shipped"]
