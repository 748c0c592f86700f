"""What is measured: every scenario in its settings, for each subject, at both scales.

What lives here: data made by plain functions. What must not: processes and numbers; `campaign` carries this out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.plan import (
    CORE,
    CORE_UVLOOP,
    DBOS,
    PERDURE,
    PERDURE_UVLOOP,
    ROWS,
    STATES,
    Scale,
    Scenario,
    Step,
)

ACTIVITIES: Final = 5
"""Activities of a workflow where it is not said otherwise."""


def floor_of(step: Step) -> Step:
    """Return the floor of bare rows below a step of Perdure."""
    return Step(setting=step.setting, subject=ROWS, ask="rows", rounds=step.rounds, rows_of=step.subject.name)


def chains(count: int, workflows: int) -> dict[str, int]:
    """Return the arguments of the sequential scenario."""
    return {"in_flight": count, "workflows": workflows, "length": ACTIVITIES}


def sequential(scale: Scale) -> Scenario:
    """Workflows of five activities, some at a time."""
    steps: list[Step] = []
    for count, fast, slow in ((1, 60, 15), (10, 500, 60), (50, 2_000, 100), (500, 2_000, 500)):
        setting = f"{count} in flight"
        turns = scale.rounds if count != 50 else 2 * scale.rounds + 1  # most targets are about this one
        ours, theirs = chains(count, fast * scale.factor), chains(count, slow)
        quick = chains(count, max(100, 4 * count))
        mine = Step(setting=setting, subject=PERDURE, ask="sequential", arguments=ours, warm=quick, rounds=turns)
        steps += [mine, Step(**{**vars(mine), "subject": PERDURE_UVLOOP})]
        longer = chains(count, 2 * fast * scale.factor)  # the core is several times as fast
        steps += [Step(**{**vars(mine), "subject": core, "arguments": longer}) for core in (CORE, CORE_UVLOOP)]
        steps.append(floor_of(mine))
        # DBOS takes a quarter of a minute for 2,500 activities: there its rounds are few at the default scale.
        rounds = turns if count < 500 or scale.factor > 1 else 1
        warm = chains(min(count, 50), min(count, 50))
        steps.append(Step(setting=setting, subject=DBOS, ask="sequential", arguments=theirs, warm=warm, rounds=rounds))
    about = f"Workflows of {ACTIVITIES} activities, one after the other; a new one starts where one has ended."
    return Scenario(name="sequential", about=about, unit="activities", steps=tuple(steps))


def alone(scale: Scale, length: int, name: str) -> Scenario:
    """One workflow at a time on an idle system."""
    arguments = {"workflows": 40 * scale.factor, "length": length, "pause": 0.02}
    warm = arguments | {"workflows": 20}
    subjects = [
        ("one process", PERDURE),
        ("one process", PERDURE_UVLOOP),
        ("one process", CORE),
        ("one process", DBOS),
        ("client and worker in two", PERDURE.having(processes=1)),
    ]
    # A virtual machine has its caches to itself or shares them, by the second: more rounds than where it computes.
    rounds = 3 * scale.rounds
    steps = [
        Step(setting=setting, subject=subject, ask="single", arguments=arguments, warm=warm, rounds=rounds)
        for setting, subject in subjects
    ]
    what = "one activity" if length == 1 else f"{length} activities"
    about = f"One workflow of {what} at a time, 20 ms apart, on a system that has nothing else to do."
    return Scenario(name=name, about=about, unit="activities", steps=tuple(steps))


def fan_out(scale: Scale) -> Scenario:
    """Many activities at once in one workflow."""
    steps: list[Step] = []
    for width in scale.fan_outs:
        setting = f"{width:,} at once"
        for subject in (PERDURE, PERDURE_UVLOOP, CORE):
            step = Step(
                setting=setting,
                subject=subject,
                ask="fan-out",
                arguments={"width": width},
                warm={"width": 100},
                rounds=scale.rounds,
            )
            steps.append(step)
            if subject is PERDURE:
                steps.append(floor_of(step))
        if width <= 1_000 or scale.slow_fan_out:
            rounds = scale.rounds if width <= 1_000 else 1
            theirs = {"width": width}
            steps.append(
                Step(setting=setting, subject=DBOS, ask="fan-out", arguments=theirs, warm={"width": 20}, rounds=rounds)
            )
    about = "One workflow that starts all its activities at once and waits for all."
    return Scenario(name="fan-out", about=about, unit="activities", steps=tuple(steps))


def signals(scale: Scale) -> Scenario:
    """Messages from 50 senders."""
    ours = {"runs": scale.signals, "messages": 10 * scale.factor}
    theirs = {"runs": 20, "messages": 10}
    mine = Step(setting="50 senders", subject=PERDURE, ask="signals", arguments=ours, warm=theirs, rounds=scale.rounds)
    steps = (
        mine,
        floor_of(mine),
        Step(
            setting="50 senders",
            subject=DBOS,
            ask="signals",
            arguments=theirs,
            warm={"runs": 5, "messages": 2},
            rounds=scale.rounds,
        ),
    )
    about = "Runs that take messages; p50 and p99 are those of sending, until the message is accepted."
    return Scenario(name="signals", about=about, unit="signals", steps=steps)


def timers(scale: Scale) -> Scenario:
    """Sleepers that are all due at once."""
    sleepers = scale.sleepers
    ours = {"sleepers": sleepers, "lead": 10 + sleepers / 4_000}
    theirs = {"sleepers": 500 * scale.factor, "lead": 5.0 + 5.0 * scale.factor}
    steps = (
        Step(setting=f"{sleepers:,} sleeping", subject=STATES, ask="timers", arguments=ours, rounds=1),
        Step(setting=f"{theirs['sleepers']:,} sleeping", subject=DBOS, ask="timers", arguments=theirs, rounds=1),
    )
    about = (
        "Workflows that sleep until one moment (Perdure's parked: copies of one, made by SQL; DBOS's in memory); p50"
        " and p99 tell how many ms after it they had ended, the rate how fast the crowd was worked off."
    )
    return Scenario(name="timers", about=about, unit="timers", steps=steps)


def cold_replay(scale: Scale) -> Scenario:
    """Histories that are read by a process that has never seen their runs."""
    rounds = max(5, scale.rounds)
    steps = []
    for length in (1_000, 10_000):
        arguments = {"length": length}
        steps.append(
            Step(
                setting=f"{length:,} activities",
                subject=STATES,
                ask="cold replay",
                arguments=arguments,
                prepare="record",
                rounds=rounds,
            )
        )
    theirs = {"length": 300}
    steps.append(
        Step(
            setting="300 activities", subject=DBOS, ask="cold replay", arguments=theirs, prepare="record", rounds=rounds
        )
    )
    about = (
        "From the bytes of a history (one turn for each activity) to a run that could go on: decode, match, run the"
        " author's code; CPU time of the thread. DBOS: a fork that starts after the last step, from the first to the"
        " last line of the workflow."
    )
    return Scenario(name="cold replay", about=about, unit="events", steps=tuple(steps))


def start(scale: Scale) -> Scenario:
    """Handing runs in."""
    ours = {"in_flight": 500, "workflows": 10_000 * scale.factor}
    theirs = {"in_flight": 50, "workflows": 300 * scale.factor}
    alone_here = {"in_flight": 1, "workflows": 300 * scale.factor}
    nobody = PERDURE.having(worker=False)
    mine = Step(
        setting="500 at a time",
        subject=nobody,
        ask="start",
        arguments=ours,
        warm=ours | {"workflows": 1_000},
        rounds=scale.rounds,
    )
    one = Step(setting="one after the other", subject=nobody, ask="start", arguments=alone_here, rounds=scale.rounds)
    dbos = Step(setting="50 at a time", subject=DBOS, ask="start", arguments=theirs, rounds=scale.rounds)
    about = "A client hands workflows in while no worker is there (DBOS: a client that fills a queue)."
    return Scenario(name="start", about=about, unit="starts", steps=(mine, floor_of(mine), one, dbos))


def idle(scale: Scale) -> Scenario:
    """Nothing to do."""
    arguments = {"settle": 8, "seconds": scale.idle_seconds}
    steps = tuple(
        Step(setting="nothing to do", subject=subject, ask="idle", arguments=arguments, rounds=1)
        for subject in (PERDURE, DBOS)
    )
    about = (
        "A process with client and worker and nothing to do. Operations are the transactions that the server counted in"
        " the database (for Perdure one statement each), those of its own cleaning included; below, Perdure's by name."
    )
    return Scenario(name="idle", about=about, unit="statements", steps=steps, together=True)


def backlog(scale: Scale) -> Scenario:
    """Claims from short and long queues."""
    steps = tuple(
        Step(
            setting=f"{count:,} ready",
            subject=STATES.having(open=count),
            ask="backlog",
            arguments={"open": count},
            warm={"open": count},
            rounds=scale.rounds,
        )
        for count in (1_000, scale.backlog)
    )
    about = (
        "Claims of 100 runs each from a queue of ready runs (copies of one, made by SQL); p50 and p99 are those of one"
        " claim. There is nothing like it to ask DBOS for: it takes what it runs."
    )
    return Scenario(name="backlog", about=about, unit="runs", steps=steps)


def takeover(_: Scale) -> Scenario:
    """The death of a worker."""
    arguments = {"runs": 1_000, "lease": 10.0}
    about = (
        "A worker is killed with `kill -9` in the middle of 1,000 runs; another goes on with all of them. p50 and p99"
        " are ms from the kill to the end of a run; the lease has to run out first. A DBOS process takes over what"
        " another one left only when it is told to, so there is nothing to compare."
    )
    step = Step(setting="1,000 runs", subject=STATES, ask="takeover", arguments=arguments, rounds=1)
    return Scenario(name="takeover", about=about, unit="runs", steps=(step,))


def payloads(scale: Scale) -> Scenario:
    """Large results."""
    steps: list[Step] = []
    for size, title, fast, slow in ((1_000, "1 KB", 300, 20), (100_000, "100 KB", 40, 20), (1_000_000, "1 MB", 10, 10)):
        ours = {"in_flight": 10, "workflows": fast * scale.factor, "size": size, "length": ACTIVITIES}
        theirs = ours | {"workflows": slow}
        warm = ours | {"workflows": 10}
        mine = Step(setting=title, subject=PERDURE, ask="payloads", arguments=ours, warm=warm, rounds=scale.rounds)
        steps += [mine, floor_of(mine)]
        steps.append(
            Step(setting=title, subject=DBOS, ask="payloads", arguments=theirs, warm=warm, rounds=scale.rounds)
        )
    about = f"Workflows of {ACTIVITIES} activities whose results have this size, 10 in flight."
    return Scenario(name="payloads", about=about, unit="activities", steps=tuple(steps))


def memory(scale: Scale) -> Scenario:
    """What a worker keeps."""
    arguments = {"active": 1_000, "parked": scale.parked}
    step = Step(setting="one worker process", subject=STATES, ask="memory", arguments=arguments, rounds=1)
    about = (
        "Resident memory of a worker process: at rest, with 1,000 runs each in the middle of an activity, and what"
        f" {scale.parked:,} more parked runs add, first such that wait for a message, then such that sleep, after"
        " twice as many were parked to warm the buffers up."
    )
    return Scenario(name="memory", about=about, unit="runs", steps=(step,))


def long_run(scale: Scale) -> Scenario:
    """One run with a very long history."""
    step = Step(
        setting=f"{scale.long:,} activities",
        subject=STATES,
        ask="long run",
        arguments={"length": scale.long},
        rounds=1,
    )
    about = (
        "One workflow of that many activities, one after the other (two events each): CPU of the worker's process for"
        " an event in each tenth of its life."
    )
    return Scenario(name="long run", about=about, unit="activities", steps=(step,))


def by_workers(
    counts: Sequence[int], ask: str, arguments: Mapping[str, int | float], warm: Mapping[str, int | float], rounds: int
) -> tuple[Step, ...]:
    """Return the steps of the same work with so many workers, each in a process of its own."""
    return tuple(
        Step(
            setting=f"{count} worker{'s' if count > 1 else ''}",
            subject=PERDURE.having(processes=count),
            ask=ask,
            arguments=arguments,
            warm=warm,
            rounds=rounds,
        )
        for count in counts
    )


def processes(scale: Scale) -> Scenario:
    """More workers than one."""
    steps = by_workers((1, 4), "sequential", chains(200, 2_000 * scale.factor), chains(200, 400), scale.rounds)
    about = "The sequential work, 200 in flight, with a client in one process and workers in others."
    return Scenario(name="processes", about=about, unit="activities", steps=steps)


def idle_workers(scale: Scale) -> Scenario:
    """More workers than work."""
    arguments = {"workflows": 40 * scale.factor, "length": 1, "pause": 0.05}
    steps = by_workers((1, 16), "single", arguments, arguments | {"workflows": 20}, scale.rounds)
    about = "One workflow of one activity at a time, 50 ms apart, with a client in one process and workers in others."
    return Scenario(name="idle workers", about=about, unit="activities", steps=steps)


MAKERS: Final[tuple[Callable[[Scale], Scenario], ...]] = (
    sequential,
    lambda scale: alone(scale, 1, "single"),
    lambda scale: alone(scale, ACTIVITIES, "alone"),
    fan_out,
    signals,
    timers,
    cold_replay,
    start,
    idle,
    backlog,
    takeover,
    payloads,
    memory,
    long_run,
    processes,
    idle_workers,
)


def scenarios(scale: Scale) -> list[Scenario]:
    """Return everything, in the order in which it is measured."""
    return [make(scale) for make in MAKERS]
