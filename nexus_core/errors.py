"""The one error root. The CLI's funnel prints `message` and `hint`, and exits with `exit_code`."""

from __future__ import annotations


class NexusError(Exception):
    """What is wrong and where (`message`), and what to type next (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(NexusError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class ContractFailed(NexusError):
    """A student fell below its retention contract: there is no bundle."""

    exit_code = 3


class PluginError(NexusError):
    """A plugin is quarantined, raised inside a hook, or returned the wrong type."""


class RegistryError(NexusError):
    """registry.yaml cannot be used; the message carries file and line."""


class StateError(NexusError):
    """The sticky state file cannot be used; the message names the key."""


class DataError(NexusError):
    """A dataset, archive or sample cannot be used; the message names the file and the place in it."""


class ModelError(NexusError):
    """A model directory cannot be detected or loaded; the message lists each attempt."""
