"""Who comes in: the registry of devices, and the SuperLink that has to know the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgefl_server.host.control import Control
from edgefl_server.host.devices import Device, Registry

__all__ = ["Pairing"]


class Pairing:
    """Pairs devices; threads may share it.

    Attributes:
        authority_pem: The certificate of the authority that devices pin.
    """

    def __init__(
        self,
        registry: Registry,
        control: Callable[[], Control],
        authority_pem: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            registry: Of devices and tokens.
            control: Connects to the SuperLink.
            authority_pem: The certificate of the authority that signed the server's.
            now: Seconds since 1970.
        """
        self.authority_pem = authority_pem
        self._registry, self._control, self._now = registry, control, now

    def device_of(self, public_key: bytes) -> Device | None:
        """Return the device that has this key, revoked or not; None for a stranger's."""
        return self._registry.device_of(public_key)

    def pair(self, secret: bytes, public_key: bytes) -> Device:
        """Spend a token on a device and let the SuperLink know it.

        A crash or an error in between loses nothing: the device says its token again.

        Args:
            secret: Of the token.
            public_key: The device's, SPKI PEM.

        Raises:
            TokenError: If the token does not pair it.
            UnreachableError: If the SuperLink does not answer.
        """
        device = self._registry.pair(secret, public_key, self._now())
        with self._control() as control:
            control.register(public_key)
        return device
