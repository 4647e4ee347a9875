"""Stop strings: text that could become one is held back until that is settled."""

from __future__ import annotations


class StopChecker:
    """Feeds on text piece by piece and releases what can no longer belong to a stop string."""

    __slots__ = ("_held", "_longest", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns (text to release, the stop string that was found). After a find nothing more comes out.

        The earliest stop string in the text wins; it and what follows it are dropped.
        """
        if not self._stops:
            return text, None
        text = self._held + text
        found = min(
            ((position, stop) for stop in self._stops if (position := text.find(stop)) >= 0),
            default=None,
        )
        if found is not None:
            self._held = ""
            return text[: found[0]], found[1]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The held back text, when the sequence ends for another reason."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
