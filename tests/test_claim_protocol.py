"""The protocol of the claim in a small model: every order of its steps, with a kill at every point, is tried.

A hand-over and a recovery are programs of atomic actions on one attempt's folder. `explore` runs every interleaving
of a step that hands over, the worker it starts, and two later steps that recover (as far as the run's lock lets
them run at once: a step that sleeps while its lock is taken over is one of them), each of which may die anywhere.

    legend    F the folder exists          C the claim: None, "torn" (a worker's, being written), "worker", "step",
              "nobody" (of a worker that gave up)
              started  how often the command ran        alive  the worker's process exists
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class World:
    folder: bool = False
    claim: str | None = None
    logs: bool = False  # its output files are there
    spawned: bool = False
    worker: str = "none"  # none, at "cd", "claim", "write", "open", "run", "ended", "dead"
    started: int = 0
    handing: str = "mkdir"  # the first step: "mkdir", "spawn", "done", "dead"
    recovering: tuple[str, ...] = ("look", "look")  # two later steps: "look", "link", "read", or a verdict

    @property
    def alive(self) -> bool:
        return self.worker in ("cd", "claim", "write", "open", "run")


def hand_over(world: World) -> Iterator[World]:
    if world.handing == "mkdir":
        yield replace(world, folder=True, handing="spawn")
    elif world.handing == "spawn":
        yield replace(world, spawned=True, worker="cd", handing="done")
    if world.handing in ("mkdir", "spawn"):
        yield replace(world, handing="dead")  # killed


def worker(world: World) -> Iterator[World]:
    """cd or exit; create the claim exclusively or exit; write its line; open its files and run, or give the claim up."""
    if world.worker == "cd":
        yield replace(world, worker="claim" if world.folder else "ended")
    elif world.worker == "claim":
        yield replace(world, claim="torn", worker="write") if world.claim is None else replace(world, worker="ended")
    elif world.worker == "write":
        yield replace(world, claim="worker", worker="open")
        yield replace(world, worker="ended")  # the disk is full: it runs nothing
    elif world.worker == "open":
        yield replace(world, logs=True, worker="run")
        yield replace(world, claim="nobody", worker="ended")  # no room for them
        yield replace(world, logs=True, claim="nobody", worker="ended")  # or for its end
    elif world.worker == "run":
        yield replace(world, started=world.started + 1, worker="ended")
        yield replace(world, claim="nobody", worker="ended")  # it is refused a process
    if world.alive:
        yield replace(world, worker="dead")  # killed


def recover(world: World, who: int) -> Iterator[World]:
    """Link a whole claim in place; if another came first, believe it: torn ones only when no worker lives."""
    state = world.recovering[who]

    def at(following: str, **changes: object) -> World:
        states = list(world.recovering)
        states[who] = following
        return replace(world, recovering=tuple(states), **changes)  # type: ignore[arg-type]

    if state == "look":
        yield at("link")
    elif state == "link" and not world.folder:
        yield at("not started", folder=True, claim="step")  # it makes the folder to put its claim there
    elif state == "link":
        yield at("not started", claim="step") if world.claim is None else at("read")
    elif state == "read" and world.claim in ("step", "nobody"):
        yield at("not started")
    elif state == "read" and world.claim == "worker":
        yield at("adopted")
    elif state == "read" and world.alive:
        yield at("unknown")
    elif state == "read":
        # No process has the folder as an argument: read once more, it may have written its line before it ended.
        yield at(
            {"worker": "adopted", "torn": "gone" if world.logs else "not started"}.get(str(world.claim), "not started")
        )
    if state in ("look", "link", "read"):
        yield at("dead")  # killed


def explore(first: World) -> set[World]:
    seen, border = {first}, [first]
    while border:
        world = border.pop()
        for following in (*hand_over(world), *worker(world), *recover(world, 0), *recover(world, 1)):
            if following not in seen:
                seen.add(following)
                border.append(following)
    return seen


WORLDS = explore(World())


def ever_after(world: World) -> set[World]:
    return explore(replace(world))


def test_the_model_is_explored_in_full():
    assert len(WORLDS) > 300
    assert {state for world in WORLDS for state in world.recovering} >= {"not started", "adopted", "unknown", "dead"}
    assert {world.worker for world in WORLDS} == {"none", "cd", "claim", "write", "open", "run", "ended", "dead"}


def test_a_command_never_starts_twice():
    assert max(world.started for world in WORLDS) == 1


def test_what_is_said_never_to_have_started_has_not_and_never_will():
    for world in WORLDS:
        if "not started" in world.recovering:
            assert max(later.started for later in ever_after(world)) == 0, world


def test_what_is_adopted_was_claimed_by_its_worker_and_by_nobody_else():
    for world in WORLDS:
        if "adopted" in world.recovering:
            assert world.claim == "worker" or (world.claim == "nobody" and world.started == 0)


def test_two_that_recover_contradict_each_other_only_about_a_worker_that_gave_up_between_them():
    for world in WORLDS:
        if {"not started", "adopted"} <= set(world.recovering):
            assert (world.claim, world.worker, world.started) == ("nobody", "ended", 0), world


def test_unknown_is_only_said_while_a_worker_lives_and_is_decided_later():
    for world in WORLDS:
        if world.recovering[0] == "unknown" and not world.alive and world.claim == "torn":
            again = replace(world, recovering=("look", world.recovering[1]))
            assert {later.recovering[0] for later in ever_after(again)} >= {"not started"}
