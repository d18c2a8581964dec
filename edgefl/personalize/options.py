"""What the options of `edgefl personalize` mean for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `edgefl --help` stays light
    from edgefl.bundle import Bundle
    from edgefl.runtime.local_training import LocalPlan

__all__ = ["LEARNING_RATES", "plan_of"]

LEARNING_RATES = {"accumulator": 0.005, "parallel-adapters": 0.2, "client-token": 0.3}
"""By what is trained; found on 160 digits, inverted, mirrored, noisy, or of three classes only, in batches of 10."""


def plan_of(bundle: Bundle, options: Mapping[str, Any]) -> LocalPlan:
    """Return what to train, where and how.

    Args:
        bundle: The bundle.
        options: Of the command, by name.

    Raises:
        ExitsError: If the bundle does not have the exit.
        BadInputError: If it has nothing of what is to be trained.
    """
    from edgefl.core.exits import check_exits
    from edgefl.personalize.trained import trained_tensors
    from edgefl.runtime.local_training import LocalPlan

    exits, asked, rate = tuple(bundle.manifest.exits), options["exit_index"], options["learning_rate"]
    exit_index = exits[-1] if asked is None else asked
    check_exits((exit_index,), exits, f"bundle {bundle.folder.name}")
    return LocalPlan(
        exit_index=exit_index,
        draw="own",
        seed=options["seed"],
        optimizer="sgd",
        learning_rate=LEARNING_RATES[options["what"]] if rate is None else rate,
        momentum=options["momentum"],
        weight_decay=0.0,
        clip=0.0,
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        trained=trained_tensors(bundle, options["what"]),
    )
