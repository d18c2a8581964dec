"""Settings are checked once and survive the way through Flower's run config."""

from __future__ import annotations

import pytest

from edgefl.errors import BadInputError
from edgefl_server.settings import Scalar, Settings

REQUIRED: dict[str, Scalar] = {"bundle": "b", "state": "s", "rounds": 4}


def test_settings_come_back_from_the_run_config_as_they_went_in() -> None:
    settings = Settings.from_run_config(REQUIRED | {"quorum": 0.25, "draw": "own", "seed": 2**63 - 1})
    assert Settings.from_run_config(settings.to_run_config()) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("min_clients", 0),
        ("draw", "random"),
        ("optimizer", "adam"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1e-3),
        ("clip", float("inf")),
        ("epochs", True),
        ("batch_size", 2.5),
        ("deadline_seconds", 0.0),
        ("quorum", 0.0),
        ("quorum", 1.5),
        ("grace_seconds", -1.0),
        ("weighting", "loss"),
        ("untouched", "forget"),
        ("server_momentum", 1.0),
        ("schedule", "linear"),
        ("seed", -1),
        ("rouns", 3),
    ],
)
def test_a_setting_that_cannot_be_run_is_refused_by_name(name: str, value: Scalar) -> None:
    with pytest.raises(BadInputError, match=name):
        Settings.from_run_config(REQUIRED | {name: value})


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    settings = Settings.from_run_config(REQUIRED | {"learning_rate": 0.1})
    # 0.5·(1 + cos(π·(t - 1)/4)) for t = 1..4, cos(π/4) = 0.70711
    expected = [0.1, 0.1 * (1 + 0.7071068) / 2, 0.05, 0.1 * (1 - 0.7071068) / 2]
    assert [settings.learning_rate_in(number) for number in range(1, 5)] == pytest.approx(expected)


def test_a_constant_schedule_keeps_the_learning_rate() -> None:
    settings = Settings.from_run_config(REQUIRED | {"learning_rate": 0.1, "schedule": "constant"})
    assert settings.learning_rate_in(4) == 0.1
