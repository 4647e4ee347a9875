"""Who may ask a deployment."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tandem.api.base import ApiModel, DataKey, DnsName, Rule, never

_FIX = "Put the keys in a Secret, one per line, and name it in access.apiKeysSecretRef: {name, key}."


class ApiKeysRef(ApiModel):
    """A Secret's key that holds API keys, one per line."""

    name: DnsName = Field(description="Name of the Secret.")
    key: DataKey = Field("api-keys", description="Key in it; its value has one API key per line.")


class Access(ApiModel):
    """What clients must show. Without it everyone who reaches the deployment's address may ask."""

    cel_rules: ClassVar = (
        never("api_keys", reason="API keys are never written inline", fix=_FIX),
        Rule(
            cel="has(self.apiKeysSecretRef) || has(self.apiKeys)",
            reason="access names no keys, so nobody would be kept out",
            fix="Give apiKeysSecretRef: {name: SECRET}, or remove access.",
            holds=lambda access: access.api_keys_secret_ref is not None or access.api_keys is not None,
        ),
    )
    not_fields: ClassVar = dict.fromkeys(
        ("apikey", "key", "keys", "token", "tokens", "secretref", "apikeysecretref", "apikeysref"),
        "Write apiKeysSecretRef: {name: SECRET}; the Secret holds one API key per line.",
    )
    example: ClassVar = "{apiKeysSecretRef: {name: SECRET}}"

    api_keys_secret_ref: ApiKeysRef | None = Field(
        None,
        description="Requests need one of these keys (Authorization: Bearer KEY); changes hold without a restart.",
    )
    api_keys: Annotated[str, Field(max_length=65_536)] | None = Field(
        None, description="Never allowed: put the keys in a Secret and name it in apiKeysSecretRef."
    )
