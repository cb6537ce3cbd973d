"""Limits what the entries of a list may name: schemes of URIs, and hosts of web addresses.

A list may come from somebody else. Without limits its lines could make the workers call services inside the
network where they run. The functions of `pipeline.storage` take an `Access`; their default allows everything,
because a program that calls them names the URIs itself. `jobs/score_bucket.py` passes a strict one.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from pipeline.storage.chains import split_chain

SCHEMES = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file", "local", "https", "http")
)
"""Schemes that the entries of a list may have, besides those of `pipeline.storage.stores.STORES`."""
WEB = ("http", "https")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What may be read. Each field allows one kind of URI or host."""

    any_scheme: bool = True
    """Schemes other than `SCHEMES`, if fsspec has a driver for them."""
    http: bool = True
    """Addresses that are not encrypted, also as the target of a redirect."""
    private_hosts: bool = True
    """Hosts with private, loopback, link-local or otherwise reserved addresses."""


OPEN = Access()


def links(uri: str) -> list[str]:
    """Split a chained URI: ``zip://1.jpg::s3://b/x.zip`` gives ``zip://1.jpg`` and ``s3://b/x.zip``.

    Only a member of an archive begins a chain. In all other URIs, ``::`` is a part of the key.
    """
    chain = split_chain(uri)
    if chain is None:
        return [uri]
    return [f"{chain.kind}://{chain.name}", *links(chain.archive)]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    An IPv6 address that carries an IPv4 address is judged by the IPv4 address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        parsed = inner or parsed
    return parsed.is_global and not parsed.is_multicast
