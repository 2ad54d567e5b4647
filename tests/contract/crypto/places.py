"""Where key sets are kept, as the contract sees it: opening a provider there, and changing it."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from base64 import b64decode
from pathlib import Path
from typing import Any

import aioboto3
from azure.core.credentials import AccessToken

from pipeline.config import AwsKeys, AzureKeys, EnvironmentKeys, FileKeys
from pipeline.crypto.keys.aws import AwsKeyProvider
from pipeline.crypto.keys.azure import AzureKeyProvider
from pipeline.crypto.keys.environment import EnvironmentKeyProvider
from pipeline.crypto.keys.file import FileKeyProvider
from pipeline.crypto.keys.kept import KeptKeys
from pipeline.crypto.keys.memory import MemoryKeyProvider
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.port import KeyProvider
from pipeline.crypto.ring import KeyRing
from tests.keyvault.vault import TOKEN, Vault
from tests.servicebus.certificates import Certificates

SECONDS = 5.0


async def until_current(ring: KeyRing, key_id: str) -> None:
    """Wait until a ring seals with a key; there is a current one all the while."""
    async with asyncio.timeout(20):
        while (await ring.current()).id != key_id:  # noqa: ASYNC110 - a ring tells nobody
            await asyncio.sleep(0.01)


class Place(ABC):
    """A place with no key set yet."""

    writable = True
    provider: Any

    @abstractmethod
    async def open(self) -> KeyProvider:
        """A provider that reads there, not started; the place is the test's."""

    @abstractmethod
    async def put(self, keys: KeySet | str) -> None:
        """Keep a key set, or what is none, as somebody else does."""


class Memory(Place):
    writable = False

    async def open(self) -> KeyProvider:
        self.provider = MemoryKeyProvider({"none": bytes(32)}, current="none")
        return self.provider

    async def put(self, keys: KeySet | str) -> None:
        assert isinstance(keys, KeySet)
        for key_id in keys.ids:
            self.provider.add(key_id, b64decode(keys.texts[key_id]))
        self.provider.make_current(keys.current)
        for key_id in await self.provider.valid_key_ids():
            if key_id not in keys.ids:
                self.provider.retire(key_id)


class Environment(Place):
    writable = False

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}

    async def open(self) -> KeptKeys:
        settings = EnvironmentKeys(variable="KEYS")
        self.provider = EnvironmentKeyProvider(settings, SECONDS, self.variables)
        return self.provider

    async def put(self, keys: KeySet | str) -> None:
        self.variables["KEYS"] = keys if isinstance(keys, str) else keys.text()


class File(Place):
    def __init__(self, directory: Path) -> None:
        self.path = directory / "keys.json"

    async def open(self) -> KeptKeys:
        self.provider = FileKeyProvider(FileKeys(path=str(self.path)), SECONDS)
        return self.provider

    async def put(self, keys: KeySet | str) -> None:
        self.path.write_text(keys if isinstance(keys, str) else keys.text(), encoding="utf-8")


class Aws(Place):
    def __init__(self, endpoint: str, **more: Any) -> None:
        self.settings = AwsKeys(
            secret=f"keys/{uuid.uuid4().hex}",
            endpoint=endpoint,
            region="eu-central-1",
            access_key_id="env:KEY_ID",
            secret_access_key="env:KEY_SECRET",
        ).model_copy(update=more)

    async def open(self) -> KeptKeys:
        self.provider = AwsKeyProvider(self.settings, SECONDS)
        return self.provider

    def client(self) -> Any:
        return aioboto3.Session("AKID", "secret", region_name="eu-central-1").client(
            "secretsmanager", endpoint_url=self.settings.endpoint
        )

    async def put(self, keys: KeySet | str) -> None:
        text = keys if isinstance(keys, str) else keys.text()
        async with self.client() as client:
            try:
                await client.create_secret(Name=self.settings.secret, SecretString=text)
            except client.exceptions.ResourceExistsException:
                await client.put_secret_value(SecretId=self.settings.secret, SecretString=text)


class Credential:
    """Gives the token that the vault takes, or what it is told to."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.failure: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        self.closed = False

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked.append({"scopes": scopes} | options)
        if self.failure is not None:
            raise self.failure
        return AccessToken(self.token, 4_000_000_000)

    async def close(self) -> None:
        self.closed = True


class Azure(Place):
    def __init__(self, vault: Vault, authority: Certificates, **more: Any) -> None:
        self.vault = vault
        self.settings = AzureKeys(
            vault=vault.url, secret="queue-keys", ca_bundle=str(authority.ca)
        ).model_copy(update=more)
        self.credential: Any = Credential()

    async def open(self) -> KeptKeys:
        self.provider = AzureKeyProvider(self.settings, SECONDS, self.credential)
        return self.provider

    async def put(self, keys: KeySet | str) -> None:
        text = keys if isinstance(keys, str) else keys.text()
        self.vault.set(self.settings.secret, text)
