"""Every page of every guest of one inventory, made when first asked for."""

import ipaddress
from functools import lru_cache

from mdmw.inventory.values import Guest, Inventory
from mdmw.responder import ec2_tree, openstack_tree
from mdmw.responder.pages import Pages

_KEPT = 4096  # trees; about 10 KiB each


class Library:
    """Belongs to one version of the inventory, so that what it keeps is never stale."""

    def __init__(self, inventory: Inventory, dhcp_domain: str, network_data_type: str) -> None:
        self._guests = {guest.id: guest for guest in inventory.instances}
        self._networks = {network.id: network for network in inventory.networks}
        self._domain = f".{dhcp_domain}" if dhcp_domain else ""
        self._network_data_type = network_data_type
        self._openstack = lru_cache(_KEPT)(self._make_openstack)
        self._ec2 = lru_cache(_KEPT)(self._make_ec2)

    def guest(self, instance_id: str) -> Guest | None:
        """What is known of an instance."""
        return self._guests.get(instance_id)

    def openstack(self, guest: Guest, version: str) -> Pages:
        """The pages below /openstack/<version>."""
        return self._openstack(guest.id, version)

    def ec2(self, guest: Guest, version: str, peer_address: str) -> Pages:
        """The pages below /<version>; the peer's address stands in for a fixed IPv4 that is not there."""
        return self._ec2(guest.id, version, _first_ipv4(guest) or peer_address)

    def _make_openstack(self, guest_id: str, version: str) -> Pages:
        guest = self._guests[guest_id]
        return openstack_tree.pages(
            guest, version, guest.hostname + self._domain, self._networks, self._network_data_type
        )

    def _make_ec2(self, guest_id: str, version: str, local_ipv4: str) -> Pages:
        guest = self._guests[guest_id]
        return ec2_tree.pages(guest, version, guest.hostname + self._domain, local_ipv4)


def _first_ipv4(guest: Guest) -> str | None:
    addresses = (address for port in guest.ports for address in port.addresses)
    return next((address for address in addresses if ipaddress.ip_address(address).version == 4), None)
