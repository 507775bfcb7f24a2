"""The way to a service through a proxy, where the environment names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from urllib3 import PoolManager


def connections(address: str, **options: Any) -> PoolManager:
    """Connections to an address (`https://host:port`), with the options of urllib3's `PoolManager`.

    They go through the proxy that HTTP_PROXY or HTTPS_PROXY names, unless NO_PROXY has the host, as other clients read
    these; urllib3 itself does not.
    """
    import urllib3

    place = urlsplit(address)
    proxy = getproxies().get(place.scheme)
    # With its port, as an entry may have one, and without: an IPv6 address stands in brackets before it.
    if proxy is None or proxy_bypass(place.netloc) or proxy_bypass(place.hostname or ""):
        return urllib3.PoolManager(**options)
    return urllib3.ProxyManager(proxy, **options)
