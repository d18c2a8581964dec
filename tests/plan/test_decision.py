"""The deepest exit a budget affords, by an example worked out here and by what must hold of any."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.plan.decision import FASTEST_FIRST, Budget, Decision, Limit, Memory, Step, decide

MB = 1_000_000


def step(exit_index: int, memory: Memory, planned: int, upload: int = 10 * MB, seconds: float = 1.0) -> Step:
    return Step(
        exit_index=exit_index,
        memory=memory,
        planned_bytes=planned,
        mapped_bytes=0,
        upload_bytes=upload,
        seconds=seconds,
    )


# Exits 2 and 5: 30, 45 and 70 MB, and 40, 80 and 150 MB; the deeper one sends 2 MB more and takes twice the time.
STEPS = [
    *(step(2, memory, size * MB) for memory, size in zip(FASTEST_FIRST, (70, 45, 30), strict=True)),
    *(step(5, memory, size * MB, 12 * MB, 2.0) for memory, size in zip(FASTEST_FIRST, (150, 80, 40), strict=True)),
]


def budget(memory_mb: float, upload_mb: float = math.inf, seconds: float = math.inf) -> Budget:
    """Return a budget of which 50 MB are gone before there is a tensor."""
    return Budget(
        memory_bytes=round(memory_mb * MB), baseline_bytes=50 * MB, upload_bytes=upload_mb * MB, step_seconds=seconds
    )


@pytest.mark.parametrize(
    ("given_budget", "exit_index", "memory", "limits"),
    [
        (budget(80), 2, "lean", ("memory",)),  # 50 + 30
        (budget(89.9), 2, "lean", ("memory",)),  # exit 5 needs 50 + 40
        (budget(90), 5, "lean", ()),  # deeper with lean goes before shallower with fast
        (budget(130), 5, "balanced", ()),
        (budget(200), 5, "fast", ()),
        (budget(200, upload_mb=11), 2, "fast", ("upload",)),
        (budget(200, seconds=1.5), 2, "fast", ("time",)),
        (budget(100, upload_mb=11, seconds=1.5), 2, "balanced", ("upload", "time")),
        (budget(90, upload_mb=12, seconds=2.0), 5, "lean", ()),  # a budget may be used up
    ],
)
def test_the_deepest_exit_that_fits_goes_first_and_then_the_fastest_knob(
    given_budget: Budget, exit_index: int, memory: str, limits: tuple[Limit, ...]
) -> None:
    decision = decide(STEPS, given_budget)

    assert decision.affordable
    assert (decision.step.exit_index, decision.step.memory) == (exit_index, memory)
    assert decision.limits == limits


@pytest.mark.parametrize(
    ("given_budget", "limits"),
    [
        (budget(79.9), ("memory",)),
        (budget(0), ("memory",)),
        (budget(200, upload_mb=9), ("upload",)),
        (budget(200, seconds=0.5), ("time",)),
        (budget(60, upload_mb=9, seconds=0.5), ("memory", "upload", "time")),
    ],
)
def test_a_budget_that_affords_nothing_names_what_it_lacks_and_the_step_that_takes_the_least(
    given_budget: Budget, limits: tuple[Limit, ...]
) -> None:
    decision = decide(STEPS, given_budget)

    assert decision == Decision(step=step(2, "lean", 30 * MB), affordable=False, limits=limits)


sizes = st.integers(0, 40)
many_steps = st.dictionaries(
    st.tuples(st.integers(0, 5), st.sampled_from(FASTEST_FIRST)), st.tuples(sizes, sizes, sizes), min_size=1
).map(lambda found: [step(exit_index, memory, *takes) for (exit_index, memory), takes in found.items()])
budgets = st.builds(
    Budget,
    memory_bytes=sizes,
    baseline_bytes=st.integers(0, 10),
    upload_bytes=sizes | st.just(math.inf),
    step_seconds=sizes | st.just(math.inf),
)


@given(many_steps, budgets)
def test_what_is_chosen_fits_every_budget(steps: list[Step], limit: Budget) -> None:
    decision = decide(steps, limit)

    assert decision.step in steps
    if decision.affordable:
        assert decision.step.planned_bytes + limit.baseline_bytes <= limit.memory_bytes
        assert decision.step.upload_bytes <= limit.upload_bytes
        assert decision.step.seconds <= limit.step_seconds


@given(many_steps, budgets)
def test_nothing_that_fits_is_deeper_or_as_deep_and_faster(steps: list[Step], limit: Budget) -> None:
    decision = decide(steps, limit)

    fitting = [other for other in steps if not limit.exceeded(other)]
    assert decision.affordable == bool(fitting)
    for other in fitting:
        assert other.exit_index <= decision.step.exit_index
        if other.exit_index == decision.step.exit_index:
            assert FASTEST_FIRST.index(other.memory) >= FASTEST_FIRST.index(decision.step.memory)


@given(many_steps, budgets, sizes, sizes, sizes)
def test_a_larger_budget_never_gives_a_shallower_exit(
    steps: list[Step], limit: Budget, memory: int, upload: int, seconds: int
) -> None:
    larger = replace(
        limit,
        memory_bytes=limit.memory_bytes + memory,
        upload_bytes=limit.upload_bytes + upload,
        step_seconds=limit.step_seconds + seconds,
    )

    before, after = decide(steps, limit), decide(steps, larger)

    assert after.affordable >= before.affordable
    if before.affordable:
        assert after.step.exit_index >= before.step.exit_index


@given(many_steps, budgets)
def test_nothing_limits_the_deepest_exit_alone(steps: list[Step], limit: Budget) -> None:
    decision = decide(steps, limit)

    deepest = max(other.exit_index for other in steps)
    assert (not decision.limits) == (decision.affordable and decision.step.exit_index == deepest)


@given(many_steps, budgets)
def test_a_budget_raised_to_what_is_named_affords_the_step_and_less_memory_would_not(
    steps: list[Step], limit: Budget
) -> None:
    lacking = decide(steps, limit)
    if lacking.affordable:
        return
    raised = Budget(
        memory_bytes=lacking.step.planned_bytes + limit.baseline_bytes
        if "memory" in lacking.limits
        else limit.memory_bytes,
        baseline_bytes=limit.baseline_bytes,
        upload_bytes=lacking.step.upload_bytes if "upload" in lacking.limits else limit.upload_bytes,
        step_seconds=lacking.step.seconds if "time" in lacking.limits else limit.step_seconds,
    )

    assert decide(steps, raised).affordable
    if lacking.limits == ("memory",):
        assert not decide(steps, replace(raised, memory_bytes=raised.memory_bytes - 1)).affordable
