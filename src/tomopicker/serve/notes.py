"""Notes: particles and verdicts as a person's actions leave them, with undo and redo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tomopicker.errors import InputError
from tomopicker.verdicts import Answer, Candidate, Order, Verdict, judge

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
Voxel: TypeAlias = tuple[Number, Number, Number]
"""``z y x``, in voxels of the tomogram."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shown(_Part):
    """A candidate as it was shown."""

    at: Voxel
    score: Number
    probability: Number | None = None
    picked: bool = True
    model: str = ""


class Add(_Part):
    """Put particles where there are none."""

    do: Literal["add"] = "add"
    tomogram: str
    at: tuple[Voxel, ...] = Field(min_length=1)

    @property
    def places(self) -> tuple[Voxel, ...]:
        """Where it happens."""
        return self.at


class Move(_Part):
    """Move a particle."""

    do: Literal["move"] = "move"
    tomogram: str
    particle: int
    at: Voxel

    @property
    def places(self) -> tuple[Voxel, ...]:
        """Where it happens."""
        return (self.at,)


class Delete(_Part):
    """Take particles away, and the verdicts that they came of."""

    do: Literal["delete"] = "delete"
    tomogram: str
    particles: tuple[int, ...] = Field(min_length=1)

    @property
    def places(self) -> tuple[Voxel, ...]:
        """Nowhere that is told: what is gone has no place."""
        return ()


class Judge(_Part):
    """Say of candidates what they are; accepted ones become particles."""

    do: Literal["judge"] = "judge"
    tomogram: str
    answer: Answer
    order: Order
    shown: tuple[Shown, ...] = Field(min_length=1)

    @property
    def places(self) -> tuple[Voxel, ...]:
        """Where it happens."""
        return tuple(one.at for one in self.shown)


Action: TypeAlias = Annotated[Add | Move | Delete | Judge, Field(discriminator="do")]


class Entry(_Part):
    """A line of the journal: an action, or one taken back or done again."""

    what: Action | Literal["undo", "redo"]
    who: str
    when: str
    first: int = 0
    """Number of the first particle that the action makes."""


ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


@dataclass(frozen=True, kw_only=True)
class Particle:
    """A particle that a person put or accepted."""

    number: int
    tomogram: str
    voxel: Voxel
    of: Verdict | None = None
    """The verdict that it came of; None where it was clicked."""


class Notes:
    """What the entries of a journal amount to."""

    def __init__(self) -> None:
        self.particles: dict[int, Particle] = {}
        self.verdicts: tuple[Verdict, ...] = ()
        self.next_number = 1
        self._done: list[tuple[Action, Entry]] = []
        self._undone: list[tuple[Action, Entry]] = []

    @property
    def can_undo(self) -> bool:
        """Whether there is an action to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is an action to do again."""
        return bool(self._undone)

    def of(self, tomogram: str) -> list[Particle]:
        """Particles of one tomogram, in the order in which they were made."""
        return [one for one in self.particles.values() if one.tomogram == tomogram]

    def check(self, entry: Entry) -> None:
        """Refuse an entry that makes no sense here, before it is written down.

        Raises
        ------
        InputError
            When a particle is not there, or there is nothing to take back.
        """
        if entry.what == "undo" and not self._done:
            raise InputError("there is nothing to undo")
        if entry.what == "redo" and not self._undone:
            raise InputError("there is nothing to redo")
        if isinstance(entry.what, Move):
            wanted: tuple[int, ...] = (entry.what.particle,)
        elif isinstance(entry.what, Delete):
            wanted = entry.what.particles
        else:
            return
        for number in wanted:
            particle = self.particles.get(number)
            if particle is None or particle.tomogram != entry.what.tomogram:
                raise InputError(
                    f"particle {number} is not there any more, perhaps changed in another window; "
                    "reload the page"
                )

    def apply(self, entry: Entry) -> Action:
        """Take in an entry that passed `check`; returns what is done, undone or done again."""
        match entry.what:
            case "undo":
                last = self._done.pop()
                self._undone.append(last)
                # Actions are few and cheap: doing all of them again has no inverse to get wrong.
                self.particles, self.verdicts = {}, ()
                for action, of in self._done:
                    self._do(action, of)
                return last[0]
            case "redo":
                action, entry = self._undone.pop()
            case _:
                action = entry.what
                self._undone.clear()
        self._done.append((action, entry))
        self._do(action, entry)
        return action

    def _do(self, action: Action, entry: Entry) -> None:
        match action:
            case Add(tomogram=tomogram, at=places):
                for number, place in enumerate(places, start=entry.first):
                    self._put(Particle(number=number, tomogram=tomogram, voxel=place))
            case Move(particle=number, at=place):
                self.particles[number] = replace(self.particles[number], voxel=place)
            case Delete(particles=numbers):
                for number in numbers:
                    verdict = self.particles.pop(number).of
                    self.verdicts = tuple(one for one in self.verdicts if one is not verdict)
            case Judge():
                for number, shown in enumerate(action.shown, start=entry.first):
                    self._judge(number, shown, action, entry)

    def _judge(self, number: int, shown: Shown, action: Judge, entry: Entry) -> None:
        candidate = Candidate(
            tomogram=action.tomogram,
            voxel=shown.at,
            score=shown.score,
            probability=shown.probability,
            picked=shown.picked,
            model=shown.model,
        )
        verdict = Verdict(
            candidate=candidate,
            answer=action.answer,
            who=entry.who,
            when=entry.when,
            order=action.order,
        )
        self.verdicts = judge(self.verdicts, verdict)
        earlier = [
            one.number
            for one in self.particles.values()
            if one.of is not None and one.of.candidate == candidate
        ]
        for one in earlier:
            del self.particles[one]
        if action.answer == "accept":
            self._put(Particle(number=number, tomogram=action.tomogram, voxel=shown.at, of=verdict))

    def _put(self, particle: Particle) -> None:
        self.particles[particle.number] = particle
        self.next_number = max(self.next_number, particle.number + 1)


def read_entry(line: object, source: str) -> Entry:
    """Read a line of a journal.

    Raises
    ------
    InputError
        Naming the journal, when the line is of a newer version or damaged.
    """
    try:
        return ENTRY.validate_python(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{source}: holds an entry that is not understood ({first['msg']}); it is damaged, or "
            "of a newer version of TomoPicker"
        ) from error
