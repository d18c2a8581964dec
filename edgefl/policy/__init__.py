"""Which exit answers: pure functions of signals, measured costs and a request; the same in every language."""

from __future__ import annotations

from edgefl.policy.exit_policy import Decision, ExitCost, Reason, Request, Rules, choose_exit
from edgefl.policy.stopping import why_stop

__all__ = ["Decision", "ExitCost", "Reason", "Request", "Rules", "choose_exit", "why_stop"]
