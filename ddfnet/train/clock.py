"""How fast the steps of a run go."""

import time
from collections.abc import Iterator


class Clock:
    """How fast the steps go, and how much of their time the loop waits for data."""

    def __init__(self, step: int):
        self.step, self._waited = step, 0.0
        self._lap = self._asked = time.perf_counter()

    def waiting_for(self, batches: Iterator) -> Iterator:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def lap(self, step: int) -> tuple[float, float]:
        """(steps per second, share of the time that was waited for data) since the last lap."""
        seconds = time.perf_counter() - self._lap
        speed, share = (step - self.step) / seconds, self._waited / seconds
        self.step = step
        self.restart()
        return speed, share

    def restart(self) -> None:
        """Leave out what happened since the last lap."""
        self._lap, self._waited = time.perf_counter(), 0.0

    def since_asked(self) -> float:
        """Seconds since the last call, or since the start."""
        asked, self._asked = self._asked, time.perf_counter()
        return self._asked - asked
