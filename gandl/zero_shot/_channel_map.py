"""Which channel of the new images plays which of those that the featurizer knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from gandl._inputs import unnamed


@dataclass(frozen=True)
class ChannelMap:
    """The featurizer's channels and, for each, its place in the images, or None."""

    names: tuple[str, ...]
    places: tuple[int | None, ...]
    said_missing: frozenset[str] = frozenset()  # by the user
    guess: str = ""  # how channels were matched that nobody named

    def mismatch(self, new: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Channels of the images that are dropped, and such as lack unannounced."""
        dropped = [c for k, c in enumerate(new) if k not in self.places]
        lacking = [
            name
            for name, place in zip(self.names, self.places, strict=True)
            if place is None and name not in self.said_missing
        ]
        return dropped, lacking


def match(
    known: tuple[str, ...] | None, new: tuple[str, ...], asked: Any
) -> ChannelMap:
    """Match the channels of new images to the known ones, by what the user asked.

    Where no featurizer says which are known, those that are asked for are.
    """
    if asked is None:
        if known is None:
            return ChannelMap(new, tuple(range(len(new))))
        return _by_default(known, new)
    players: list[Any]
    if isinstance(asked, Mapping):
        names, players, said, own = _by_mapping(known, new, asked)
    else:
        players, own = list(asked), []
        if known is not None and len(players) != len(known):
            raise ValueError(
                f"channels={asked!r} has {len(players)} entries for the featurizer's "
                f"{len(known)} channels, {list(known)}: give one for each, None where "
                "it is missing."
            )
        names = known or tuple(new[_place(player, new, "X")] for player in players)
        if len(set(names)) < len(names):
            raise ValueError(f"channels={asked!r} names a channel twice.")
        said = frozenset(n for n, p in zip(names, players, strict=True) if p is None)
    places = tuple(None if p is None else _place(p, new, "X") for p in players)
    return ChannelMap(names, places, said, _of_numbers(own))


def _by_mapping(
    known: tuple[str, ...] | None, new: tuple[str, ...], asked: Mapping
) -> tuple[tuple[str, ...], list[Any], frozenset[str], list[str]]:
    """Names, who plays each, those said to be missing, those played by their own name.

    What the mapping leaves out is played by the channel of its own name, if that plays
    no other.
    """
    if known is None:
        names, players = tuple(map(str, asked)), list(asked.values())
        missing = (n for n, p in zip(names, players, strict=True) if p is None)
        return names, players, frozenset(missing), []
    chosen: dict[str, Any] = {}
    for key, player in asked.items():
        name = known[_place(key, known, "the featurizer")]
        if name in chosen:
            raise ValueError(f"channels={dict(asked)!r} names {name!r} twice.")
        chosen[name] = player
    taken = {new[_place(p, new, "X")] for p in chosen.values() if p is not None}
    own = {name: name for name in known if name in new and name not in taken}
    if unnamed(known) or unnamed(new):
        own = {}
    said = frozenset(name for name, player in chosen.items() if player is None)
    players = [(own | chosen).get(name) for name in known]
    return known, players, said, [name for name in own if name not in chosen]


def _by_default(names: tuple[str, ...], new: tuple[str, ...]) -> ChannelMap:
    nameless = [unnamed(names), unnamed(new)]
    if any(nameless):
        places = [k if k < len(new) else None for k in range(len(names))]
        whose = "of X" if nameless[1] else "of the featurizer"
        same = all(nameless) and len(names) == len(new)
        guess = (
            "" if same else f"takes channels in order, as those {whose} have no names"
        )
        return ChannelMap(names, tuple(places), guess=guess)
    places = [new.index(name) if name in new else None for name in names]
    return ChannelMap(
        names, tuple(places), guess=_of_numbers([n for n in names if n in new])
    )


def _of_numbers(names: list[str]) -> str:
    """Of channels that are taken for the same though their names are but numbers."""
    numbers = [name for name in names if name.isdecimal()]
    if not numbers:
        return ""
    return (
        f"takes {join(numbers)} for the same stains in both, which numbers do not say"
    )


def join(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _place(channel: Any, names: Sequence[str], whose: str) -> int:
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    is_index = isinstance(channel, Integral) and not isinstance(channel, bool)
    if is_index and 0 <= channel < len(names):
        if str(channel) in names and names[channel] != str(channel):
            raise ValueError(
                f"Channel {channel!r} of {whose} is ambiguous: write {str(channel)!r} "
                f"for the one of that name, {names[channel]!r} for the one at that "
                "index."
            )
        return int(channel)
    raise ValueError(
        f"There is no channel {channel!r} in {whose}: it has {list(names)}, numbered "
        f"from 0 to {len(names) - 1}."
    )
