"""From signals, measured costs and a request to an exit and a stopping rule; every decision says why.

Each rule allows exits up to some depth, and the shallowest of these is chosen.  `tests/golden/exit_policy.json` fixes
the outcome for every language.  What is unknown limits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from edgefl.core.signals import Signals

__all__ = ["Decision", "ExitCost", "Reason", "Request", "Rules", "choose_exit", "thresholds_of"]

_Exit = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Amount = Annotated[float, msgspec.Meta(ge=0.0)]


class ExitCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an answer at an exit took when it was measured.

    Attributes:
        exit_index: The exit.
        milliseconds: Its time, None where it has not been measured: a deadline is then kept by the shallowest exit.
        millijoules: Its energy, None where there is no meter.
    """

    exit_index: _Exit
    milliseconds: _Amount | None = None
    millijoules: _Amount | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What who asks can accept; None is everything.

    Attributes:
        deadline_ms: Time until the answer is wanted.
        energy_mj: Energy it may take.
        min_confidence: Confidence at which any shallower exit will do.
        thresholds: The same for single exits, by exit, as calibrated; `min_confidence` comes first.
    """

    deadline_ms: _Amount | None = None
    energy_mj: _Amount | None = None
    min_confidence: _Share | None = None
    thresholds: dict[int, _Share] = {}


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the owner of the device wants.

    Attributes:
        fixed: This exit whatever happens, or the next shallower one there is.
        min_exit: Never shallower than this.
        max_exit: Never deeper than this.
        low_charge: Charge at which, and below which, the shallowest exit answers.
        high_charge: Charge from which on the deepest may; between the two each exit has an equal part.
        charge_step: So much more charge than an exit's part begins with it takes to go deeper again.
        cool_celsius: Temperature up to which the deepest exit may answer.
        hot_celsius: Temperature from which on the shallowest answers.
        celsius_step: So much cooler than an exit's part ends with it must be to go deeper again.
    """

    fixed: _Exit | None = None
    min_exit: _Exit | None = None
    max_exit: _Exit | None = None
    low_charge: _Share = 0.1
    high_charge: _Share = 0.9
    charge_step: _Share = 0.05
    cool_celsius: float = 60.0
    hot_celsius: float = 80.0
    celsius_step: _Amount = 5.0


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule had to say.

    Attributes:
        rule: Its name.
        exit_index: The deepest exit it allows; of `min_exit` and `fixed` the one it wants.
        text: Why, in words.
    """

    rule: str
    exit_index: int
    text: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Which exit answers.

    Attributes:
        exit_index: The exit.
        least_exit: No shallower exit may answer, however late it is.
        thresholds: Shallower exits that may answer instead, each with the confidence at which it may.
        reasons: Of the rules that limit the depth or lift that limit, most limiting first; none at the deepest exit.
    """

    exit_index: int
    least_exit: int = 0
    thresholds: dict[int, float]
    reasons: tuple[Reason, ...]


def choose_exit(
    costs: Sequence[ExitCost], signals: Signals, request: Request, rules: Rules, previous: int | None = None
) -> Decision:
    """Choose an exit.

    Args:
        costs: Of the exits there are, one or more, exits rising.
        signals: What the device knows.
        request: What who asks can accept.
        rules: What the owner wants.
        previous: The exit chosen last time, so that noise around a threshold changes nothing.
    """
    exits = [cost.exit_index for cost in costs]
    deepest = exits[-1]
    if previous is not None:
        previous = _at_most(exits, previous)  # another bundle may have had another exit
    if rules.fixed is not None:
        wanted = _at_most(exits, rules.fixed)
        return Decision(
            exit_index=wanted,
            least_exit=wanted,
            thresholds={},
            reasons=(Reason(rule="fixed", exit_index=wanted, text=f"exit {rules.fixed} is wanted always"),),
        )
    allowed = [
        *_battery(exits, signals, rules, previous),
        *_heat(exits, signals, rules, previous),
        *_cost_limits(costs, request),
    ]
    if rules.max_exit is not None:
        wanted = _at_most(exits, rules.max_exit)
        allowed.append(Reason(rule="max_exit", exit_index=wanted, text=f"never deeper than exit {rules.max_exit}"))
    reasons = sorted((reason for reason in allowed if reason.exit_index < deepest), key=lambda r: r.exit_index)
    chosen = reasons[0].exit_index if reasons else deepest
    if rules.min_exit is not None and chosen < (floor := _at_least(exits, rules.min_exit)):
        text = f"never shallower than exit {rules.min_exit}"
        reasons, chosen = [Reason(rule="min_exit", exit_index=floor, text=text), *reasons], floor
    least = min(rules.min_exit or 0, chosen)
    thresholds = thresholds_of([e for e in exits if least <= e < chosen], request)
    return Decision(exit_index=chosen, least_exit=least, thresholds=thresholds, reasons=tuple(reasons))


def thresholds_of(exits: Sequence[int], request: Request) -> dict[int, float]:
    """Return which of some exits may answer for being sure, each with the confidence at which it may."""
    if request.min_confidence is not None:
        return dict.fromkeys(exits, request.min_confidence)
    return {e: request.thresholds[e] for e in exits if e in request.thresholds}


def _battery(exits: Sequence[int], signals: Signals, rules: Rules, previous: int | None) -> Iterator[Reason]:
    if signals.charging:
        return
    if signals.charge is not None:
        span = rules.high_charge - rules.low_charge

        def allowed(charge: float) -> int:
            share = (charge - rules.low_charge) / span if span > 0 else float(charge > rules.low_charge)
            return _part(exits, share)

        chosen = _with_hysteresis(allowed(signals.charge), allowed(signals.charge - rules.charge_step), previous)
        yield Reason(rule="battery", exit_index=chosen, text=f"the battery is at {signals.charge:.0%}")
    if signals.power_save:
        yield Reason(rule="power_save", exit_index=exits[(len(exits) - 1) // 2], text="the device is to save power")


def _heat(exits: Sequence[int], signals: Signals, rules: Rules, previous: int | None) -> Iterator[Reason]:
    if signals.celsius is not None:
        span = rules.hot_celsius - rules.cool_celsius

        def allowed(celsius: float) -> int:
            share = (rules.hot_celsius - celsius) / span if span > 0 else float(celsius < rules.hot_celsius)
            return _part(exits, share)

        chosen = _with_hysteresis(allowed(signals.celsius), allowed(signals.celsius + rules.celsius_step), previous)
        yield Reason(rule="heat", exit_index=chosen, text=f"the device is at {signals.celsius:.0f} °C")
    if signals.throttled:
        yield Reason(rule="throttled", exit_index=exits[(len(exits) - 1) // 2], text="the device is being throttled")


def _cost_limits(costs: Sequence[ExitCost], request: Request) -> Iterator[Reason]:
    if request.deadline_ms is not None:
        text = f"{request.deadline_ms:.4g} ms are left for the answer"
        times = [cost.milliseconds for cost in costs if cost.milliseconds is not None]
        if len(times) < len(costs):
            text = f"{text}, and no costs have been measured yet"
            yield Reason(rule="deadline", exit_index=costs[0].exit_index, text=text)
        else:
            fitting = [cost for cost, time in zip(costs, times, strict=True) if time <= request.deadline_ms]
            yield _deepest_fitting("deadline", costs, fitting, text)
    metered = [cost for cost in costs if cost.millijoules is not None]
    if request.energy_mj is not None and len(metered) == len(costs):
        fitting = [cost for cost in costs if (cost.millijoules or 0.0) <= request.energy_mj]
        yield _deepest_fitting("energy", costs, fitting, f"the answer may take {request.energy_mj:.4g} mJ")


def _deepest_fitting(rule: str, costs: Sequence[ExitCost], fitting: Sequence[ExitCost], text: str) -> Reason:
    if not fitting:
        return Reason(rule=rule, exit_index=costs[0].exit_index, text=f"{text}, which no exit keeps")
    return Reason(rule=rule, exit_index=max(cost.exit_index for cost in fitting), text=text)


def _part(exits: Sequence[int], share: float) -> int:
    """Return the exit into whose part a share falls, all parts of [0, 1] being alike."""
    return exits[min(max(int(share * len(exits)), 0), len(exits) - 1)]


def _with_hysteresis(allowed: int, allowed_surely: int, previous: int | None) -> int:
    """Return the exit that is allowed now; deeper than the previous one only where it is allowed surely."""
    if previous is None or allowed <= previous:
        return allowed
    return max(previous, allowed_surely)


def _at_most(exits: Sequence[int], wanted: int) -> int:
    return max((exit_index for exit_index in exits if exit_index <= wanted), default=exits[0])


def _at_least(exits: Sequence[int], wanted: int) -> int:
    return min((exit_index for exit_index in exits if exit_index >= wanted), default=exits[-1])
