"""What Linux's system services know: metered networks, idle users, the wish to save power."""

from __future__ import annotations

from pathlib import Path

from edgefl.signals.commands import output_of
from edgefl.signals.files import read_text

__all__ = ["is_idle", "is_metered", "saves_power"]


def is_metered() -> bool | None:
    """Say whether NetworkManager holds the connection for metered, or has good reason to; None where it cannot tell."""
    manager = "org.freedesktop.NetworkManager"
    answer = _property(manager, "/org/freedesktop/NetworkManager", manager, "Metered")
    # 1 and 2 are the user's word, 3 and 4 NetworkManager's own, from what the network says of itself.
    return {"u 1": True, "u 2": False, "u 3": True, "u 4": False}.get(answer or "")


def is_idle() -> bool | None:
    """Say whether logind holds all sessions for idle; None where it is not there."""
    answer = _property(
        "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "IdleHint"
    )
    return {"b true": True, "b false": False}.get(answer or "")


def saves_power(root: Path) -> bool | None:
    """Say whether the platform's profile is the one that saves power; None where there is no profile.

    Args:
        root: The root of the file system.
    """
    profile = read_text(root / "sys/firmware/acpi/platform_profile")
    if profile:
        return profile in {"low-power", "quiet"}
    daemon = "net.hadess.PowerProfiles"
    answer = _property(daemon, "/net/hadess/PowerProfiles", daemon, "ActiveProfile")
    return answer == 's "power-saver"' if answer else None


def _property(service: str, path: str, interface: str, name: str) -> str | None:
    """Read a property of a system service, with its type before it as busctl prints it."""
    return output_of("busctl", "--system", "--timeout=1", "get-property", service, path, interface, name)
