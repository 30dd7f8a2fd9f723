"""An S3-compatible store for the chunks of contents, where the setting `artifact_store` names one.

Each chunk is an object of its own, `PREFIX/ID/POSITION-WRITER`: it is there whole or not at all, and an upload
that broke off goes on after the last one. What is known of contents is in Postgres all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from uuid import UUID

from obstore.exceptions import BaseError
from obstore.store import S3Store

from orchestrator.problems import StoreUnavailable
from schema.errors import MoonyardError

if TYPE_CHECKING:  # the library has these for checkers alone
    from obstore import ObjectMeta
    from obstore.store import S3Config

REGION: Final = "us-east-1"
REQUEST_SECONDS: Final = 60
CONNECT_SECONDS: Final = 5
RETRIES: Final = 5
RETRY_SECONDS: Final = 30


class ObjectStoreInvalid(MoonyardError):
    """A setting that names no store."""

    code = "settings_invalid"


class ObjectStore:
    """The chunks in a bucket."""

    def __init__(self, address: str, endpoint: str | None = None, region: str | None = None) -> None:
        """Prepare; nothing is asked yet. Credentials come from the environment: `AWS_ACCESS_KEY_ID` and its like.

        :param address: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        :param endpoint: where the store is, unless it is Amazon's.
        :raises ObjectStoreInvalid: when the address names no bucket.
        """
        parts = urlsplit(address)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise ObjectStoreInvalid(
                "`artifact_store` names no bucket",  # and is not shown: it may hold credentials
                hint="Write `s3://BUCKET` or `s3://BUCKET/PREFIX`, or leave it out for Postgres. Credentials are taken "
                "from the environment.",
            )
        if endpoint is not None and urlsplit(endpoint).scheme not in {"http", "https"}:
            raise ObjectStoreInvalid(f"`artifact_endpoint` is `{endpoint}`, and has to begin with https:// or http://")
        self.address = address
        config: S3Config = {"region": region or REGION, "virtual_hosted_style_request": endpoint is None}
        if endpoint is not None:
            config["endpoint"] = endpoint
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=config,
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )

    async def put(self, blob: UUID, name: str, data: bytes) -> None:
        """Store a chunk.

        :raises StoreUnavailable: when the store does not take it.
        """
        try:
            await self._store.put_async(f"{blob}/{name}", data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise self._failed("a chunk could not be stored", error) from error

    async def get(self, blob: UUID, name: str) -> bytes:
        """Give a chunk.

        :raises StoreUnavailable: when the store does not give it.
        """
        try:
            found = await self._store.get_async(f"{blob}/{name}")
            return bytes(await found.bytes_async())
        except (BaseError, OSError) as error:
            raise self._failed("a chunk could not be read", error) from error

    async def remove(self, blob: UUID) -> None:
        """Remove all chunks of a content.

        :raises StoreUnavailable: when the store does not do it.
        """
        try:
            async for names in self._names(blob):
                await self._store.delete_async(names)
        except (BaseError, OSError) as error:
            raise self._failed("chunks could not be removed", error) from error

    async def _names(self, blob: UUID) -> AsyncIterator[list[str]]:
        pages: AsyncIterator[Sequence[ObjectMeta]] = self._store.list(f"{blob}/")  # pyright: ignore[reportUnknownMemberType]  # one of its ways is not typed
        async for page in pages:
            yield [found["path"] for found in page]

    def _failed(self, what: str, error: Exception) -> StoreUnavailable:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        return StoreUnavailable(
            f"artifact store {self.address}: {what} ({reason})",
            hint="Is it reachable from the orchestrator, and do its credentials (AWS_ACCESS_KEY_ID, ...) let it "
            "read, write, list and delete there?",
        )
