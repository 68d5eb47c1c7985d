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
        return _by_default(known or new, new)
    players: list[Any]
    if isinstance(asked, Mapping):
        names, players, said = _by_mapping(known, new, asked)
    else:
        players = list(asked)
        if known is not None and len(players) != len(known):
            raise ValueError(
                f"channels={asked!r} has {len(players)} entries for the featurizer's "
                f"{len(known)} channels, {list(known)}: give one for each, None where "
                "it is missing."
            )
        names = known or tuple(new[_place(player, new, "X")] for player in players)
        said = frozenset(n for n, p in zip(names, players, strict=True) if p is None)
    places = (None if p is None else _place(p, new, "X") for p in players)
    return ChannelMap(names, tuple(places), said)


def _by_mapping(
    known: tuple[str, ...] | None, new: tuple[str, ...], asked: Mapping
) -> tuple[tuple[str, ...], list[Any], frozenset[str]]:
    """Names, who plays each, and those that are said to be missing.

    What the mapping leaves out is played by the channel of its own name, if that plays
    no other.
    """
    if known is None:
        names, players = tuple(map(str, asked)), list(asked.values())
        missing = (n for n, p in zip(names, players, strict=True) if p is None)
        return names, players, frozenset(missing)
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
    return known, [(own | chosen).get(name) for name in known], said


def _by_default(names: tuple[str, ...], new: tuple[str, ...]) -> ChannelMap:
    if unnamed(names) or unnamed(new):
        places = [k if k < len(new) else None for k in range(len(names))]
    else:
        places = [new.index(name) if name in new else None for name in names]
    return ChannelMap(names, tuple(places))


def _place(channel: Any, names: Sequence[str], whose: str) -> int:
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    is_index = isinstance(channel, Integral) and not isinstance(channel, bool)
    if is_index and 0 <= channel < len(names):
        return int(channel)
    raise ValueError(
        f"There is no channel {channel!r} in {whose}: it has {list(names)}, numbered "
        f"from 0 to {len(names) - 1}."
    )
