"""The credentials that a pipeline names for registries of images: a user, and the secret that holds the password.

    an image has to be pulled, or it has to be seen whether the job may have it ── ask for the secret ──> its registry

The secret is asked for like any other (``runner.secrets``), just then, for the stage whose container it is; so it is
granted, on the record, and looked for in all that the attempt writes. It goes from there to the engine alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from runner.engine import credentials
from runner.engine.credentials import Login
from runner.engine.errors import CredentialsUnusable
from runner.secrets import JobSecrets
from schema.definition import RegistryLogin

WHOLE_JOB: Final = ""
"""In a stage's place, for what is the job's: its services."""


class JobRegistries:
    """Those of one attempt."""

    def __init__(self, registries: Mapping[str, RegistryLogin], secrets: JobSecrets) -> None:
        self._registries = registries
        self._secrets = secrets

    def of(self, stage: str) -> StageLogins | None:
        """Give the credentials of a stage's containers; None where the pipeline names none."""
        return StageLogins(self._registries, self._secrets, stage) if self._registries else None


class StageLogins:
    """Finds a stage's credentials for images."""

    def __init__(self, registries: Mapping[str, RegistryLogin], secrets: JobSecrets, stage: str) -> None:
        self._registries = registries
        self._secrets = secrets
        self._stage = stage

    async def find(self, image: str) -> Login | None:
        """Give the credentials for an image: those for the most specific part of its name.

        :raises MoonyardError: when the stage is not to have the secret.
        :raises CredentialsUnusable: when it can be no password.
        """
        for scope in credentials.scopes(image):
            if (named := self._registries.get(scope)) is not None:
                return await self._login(scope, named)
        return None

    async def _login(self, scope: str, named: RegistryLogin) -> Login:
        delivery = await self._secrets.get(named.password_secret, self._stage, "registry")
        try:
            # A file's last line ends, and no password has such an end.
            password = delivery.value.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            password = ""
        if not password or not password.isprintable():
            raise CredentialsUnusable(
                f"secret `{named.password_secret}` cannot be the password of `{named.username}` at {scope}: it is "
                + ("empty, or no text" if not password else "more than one line, or has other unprintable characters"),
                hint=f"Store the password, and nothing else: moonyard secret set {named.password_secret}",
            )
        return Login(username=named.username, password=password, secret=named.password_secret)
