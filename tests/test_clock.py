"""How fast the steps go, by a clock that is set by hand."""

import pytest

from ddfnet.train.clock import Clock


def test_the_speed_is_that_of_the_steps_since_the_last_line(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: seconds[0])

    def batches():
        while True:
            seconds[0] += 0.5  # waited for
            yield "a batch"

    clock = Clock(10)
    arrived = clock.waiting_for(batches())
    for step, speed in ((14, 4 / 10), (34, 20 / 16)):
        for _ in range(4):
            next(arrived)
        seconds[0] += 8 if step == 14 else 14
        assert clock.lap(step) == (pytest.approx(speed), pytest.approx(2 / (10 if step == 14 else 16)))
    seconds[0] += 100
    clock.restart()
    seconds[0] += 1
    assert clock.lap(35)[0] == pytest.approx(1)
