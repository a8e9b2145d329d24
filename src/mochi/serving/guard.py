"""Addresses that a server may be sent to: none inside its own network, in any spelling.

The name is resolved once, every answer is checked, and the checked address is the one that is
dialled, so a name that changes its mind in between leads nowhere.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mochi.core.errors import RequestError

MAX_URL = 2048
Resolver = Callable[[str, int], Sequence[str]]
"""IP addresses of a name."""

_PORTS = (80, 443, 8080, 8443)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(host: str, port: int) -> Sequence[str]:
    """What the system says a name means."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@dataclass(frozen=True)
class Target:
    """Where to connect, and what to ask for there.

    Attributes:
        address: the IP address that was checked.
        host: the name, for TLS and the Host header.
    """

    scheme: str
    host: str
    port: int
    address: str
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        standard = {"http": 80, "https": 443}[self.scheme]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == standard else f"{host}:{self.port}"


@dataclass(frozen=True)
class Policy:
    """Which addresses webhooks may go to.

    Attributes:
        hosts: names; `*` is every host with a public address. Empty: none.
        resolver: names to addresses.
        private: hosts that are named may be at private addresses, on any port.
    """

    hosts: Sequence[str]
    resolver: Resolver = resolve
    private: bool = False

    def check(self, url: object) -> str:
        """A URL that may be kept; its name is not resolved yet.

        Raises:
            RequestError: with the rule that is broken.
        """
        text = url if isinstance(url, str) else ""
        if not self.hosts:
            raise RequestError("webhook", url, "is not possible: this server sends no webhooks")
        if not text or len(text) > MAX_URL or any(not 33 <= ord(letter) < 127 for letter in text):
            raise RequestError("webhook", url, "is not a URL")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise RequestError("webhook", url, "is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError("webhook", url, "is not an http:// or https:// URL")
        if parts.username is not None or parts.password is not None or "\\" in text:
            raise RequestError("webhook", url, "holds a name or password")
        host = parts.hostname.rstrip(".").lower()
        if self._trusts(host):
            return text
        if port is not None and port not in _PORTS:
            raise RequestError("webhook", url, "is on an unusual port", ", ".join(map(str, _PORTS)))
        if "*" not in self.hosts and host not in self.hosts:
            raise RequestError("webhook", url, "is at a host that this server does not send to")
        literal = _literal(host)
        if literal is not None and not is_public(literal):
            raise RequestError("webhook", url, "is not at a public address")
        return text

    def target(self, url: str) -> Target:
        """Resolve a URL and check every address.

        Raises:
            RequestError: as `check`, or an address is not public.
            OSError: the name cannot be resolved.
        """
        parts = urlsplit(self.check(url))
        host = (parts.hostname or "").rstrip(".").lower()
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        found = [ipaddress.ip_address(it.partition("%")[0]) for it in self.resolver(host, port)]
        if not found:
            raise OSError("the name has no address")
        for address in found:
            if not is_public(address) and not self._trusts(host):
                raise RequestError("webhook", url, "is not at a public address")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, str(found[0]), path)

    def _trusts(self, host: str) -> bool:
        return self.private and host in self.hosts


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is on the open internet; wrappings of IPv4 in IPv6 are looked into."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and (address in _NAT64 or int(address) < 2**32):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A host that is an address in any spelling that a resolver would take: 127.1, 0x7f000001."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None
