"""Which addresses a tenant's URL may reach: nothing but the public Internet.

``ipaddress.is_global`` is no judge: it says True for NAT64 of the metadata address, 6to4 of loopback, multicast and
168.63.129.16. Hence explicit lists: for IPv4 what is refused, for IPv6 the one block that is allowed (2000::/3, all
that IANA has given out as global unicast) less its special parts. Sources: IANA's special-purpose address registries
(RFC 6890) and the clouds' own documentation. A NAT64 prefix of a network's own (RFC 6052 section 2.2) looks like any
other global address and cannot be known here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

#: What a refusal for 127.0.0.0/8 and ::1 says; the one kind that a setting can allow.
LOOPBACK = "loopback"

_REFUSED_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this network"),  # RFC 791; Linux connects 0.0.0.0 to itself
        ("10.0.0.0/8", "private"),  # RFC 1918
        ("100.64.0.0/10", "carrier-grade NAT"),  # RFC 6598; holds 100.100.100.200, Alibaba's metadata
        ("127.0.0.0/8", LOOPBACK),  # RFC 1122
        ("168.63.129.16/32", "cloud metadata"),  # Azure's host, publicly numbered
        ("169.254.0.0/16", "link-local, cloud metadata"),  # RFC 3927; 169.254.169.254
        ("172.16.0.0/12", "private"),  # RFC 1918
        ("192.0.0.0/24", "protocol assignments"),  # RFC 6890; holds 192.0.0.192, Oracle's metadata
        ("192.0.2.0/24", "documentation"),  # RFC 5737
        ("192.88.99.0/24", "6to4 relay"),  # RFC 7526
        ("192.168.0.0/16", "private"),  # RFC 1918
        ("198.18.0.0/15", "benchmarking"),  # RFC 2544
        ("198.51.100.0/24", "documentation"),  # RFC 5737
        ("203.0.113.0/24", "documentation"),  # RFC 5737
        ("224.0.0.0/4", "multicast"),  # RFC 5771
        ("240.0.0.0/4", "reserved or broadcast"),  # RFC 1112, RFC 919
    )
)

_GLOBAL_V6 = IPv6Network("2000::/3")

_REFUSED_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::1/128", LOOPBACK),  # RFC 4291
        ("64:ff9b::/96", "NAT64"),  # RFC 6052; outside 2000::/3, named for the message
        ("fc00::/7", "private"),  # RFC 4193; holds fd00:ec2::254, Amazon's metadata
        ("fe80::/10", "link-local"),  # RFC 4291
        ("ff00::/8", "multicast"),  # RFC 4291
        ("2001::/23", "protocol assignments"),  # RFC 2928; Teredo, benchmarking, ORCHID
        ("2001:db8::/32", "documentation"),  # RFC 3849
        ("2002::/16", "6to4"),  # RFC 3056; carries any IPv4 address
        ("3ffe::/16", "6bone, returned"),  # RFC 3701
        ("3fff::/20", "documentation"),  # RFC 9637
    )
)


def refusal(address: str | IPv4Address | IPv6Address, *, allow_loopback: bool = False) -> str | None:
    """Say why this address must not be contacted.

    Args:
      address: an IP address; an IPv6 zone (``%eth0``) is ignored.
      allow_loopback: lifts 127.0.0.0/8 and ::1, nothing else.

    Returns:
      None when it may be contacted, else the kind of address, such as "private" or :data:`LOOPBACK`.

    Raises:
      ValueError: it is no IP address.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # RFC 4291 section 2.5.5.2: the kernel speaks IPv4 to the inner address
    if isinstance(ip, IPv4Address):
        kind = next((what for network, what in _REFUSED_V4 if ip in network), None)
    else:
        ip = IPv6Address(int(ip))  # drops the zone
        kind = next((what for network, what in _REFUSED_V6 if ip in network), None)
        if kind is None and ip not in _GLOBAL_V6:
            kind = "not global unicast"
    return None if allow_loopback and kind == LOOPBACK else kind
