"""What was read once and will be read again, within so many bytes of memory.

Pods decide what stands on their pages, so how many things are remembered says nothing: one label may have a
megabyte, or be another one every second. When there is no room left all is forgotten, and read anew where it
is asked for again: that costs time once, where a rank of what was used last would cost some at every look.
"""

from typing import Any

MIB = 1024 * 1024
# What one line costs beside its text, and each of its labels: their places in a set and in a dict (measured:
# tests/unit/test_remembered.py). A pair of a label's name and value is kept once, however many lines have it.
OF_A_LINE, OF_A_LABEL, OF_A_PAIR = 700, 110, 180
OF_A_BUCKET = 130  # its bound and its place, in a histogram that was put in order


class Remembered:
    """Dicts that are emptied together when they weigh more than `limit` bytes, as those say who fill them.

    Together, since what is in one keeps alive what is in another.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._shelves: list[dict[Any, Any]] = []

    def shelf(self) -> dict[Any, Any]:
        """One more dict, empty."""
        self._shelves.append({})
        return self._shelves[-1]

    def make_room(self, weight: int) -> bool:
        """Whether something of so many bytes may be put on a shelf now: for that it must be small itself."""
        if weight > self.limit // 2:
            return False
        self.bytes += weight
        if self.bytes > self.limit:
            self.forget()
            self.bytes = weight
        return True

    def forget(self) -> None:
        """Nothing is remembered."""
        self.bytes = 0
        for shelf in self._shelves:
            shelf.clear()


# Lines of all pages, their labels, and histograms' order: 17 000 lines of a sidecar, of 26 labels each.
PAGES = Remembered(96 * MIB)
