"""That the checks on the kernels can fail: faults planted in the source or the launch are found, each by its check."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHORT = ["shared memory one word short", "an input one element short", "an output one element short"]
SHORT += ["branches: an input one element short"]


@pytest.fixture(scope="module")
def run(kernels_folder):
    def run(sanitizer: str, *faults: str) -> dict[str, list[str]]:
        """fault -> [outcome: right, wrong or ended, what was said]."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        }
        command = [sys.executable, str(HERE / "fault_run.py"), str(kernels_folder), sanitizer, *faults]
        if sanitizer:
            names = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}[sanitizer]
            asked = [
                subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True) for name in names
            ]
            libraries = [result.stdout.strip() for result in asked]
            if not all(os.path.isabs(library) for library in libraries):
                pytest.skip(f"g++ has no {' '.join(names)}")
            environment["LD_PRELOAD"] = " ".join(libraries)
            environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
            environment["TSAN_OPTIONS"] = "report_signal_unsafe=0:exitcode=66"
        if sanitizer == "thread" and shutil.which("setarch"):
            command = ["setarch", "-R", *command]  # its shadow memory wants fixed addresses
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout.splitlines()[-1])

    return run


FOUND = {  # by a wrong or changing result, or by the simulator's own word
    "none": "right",
    "no barrier after the copies": "wrong",
    "an output that is not written": "wrong",
    "no wait for the copies": "ended",
    "an address that its copies cannot have": "ended",
}
FOUND_SLOWLY = {
    "no barrier before a buffer is used again": "wrong",
    "no barrier after the statistics": "wrong",
    "branches: no barrier after the copies": "wrong",
    "a wait for one group too few": "wrong",
}


@pytest.mark.parametrize("expected", [FOUND, pytest.param(FOUND_SLOWLY, marks=pytest.mark.slow)], ids=["some", "rest"])
def test_each_planted_fault_is_found(run, expected):
    outcomes = run("", *expected)
    assert {fault: outcome for fault, (outcome, _) in outcomes.items()} == expected
    said = {fault: text for fault, (_, text) in outcomes.items()}
    if expected is FOUND:
        assert "cudasim: a thread ended with copies that it never waited for" in said["no wait for the copies"]
        assert "not a multiple of its size" in said["an address that its copies cannot have"]


@pytest.mark.parametrize(
    "faultless,faults",
    [
        (["none"], SHORT[:1]),
        pytest.param(["none, odd sizes", "branches: none"], SHORT[1:], marks=pytest.mark.slow),
    ],
    ids=["some", "rest"],
)
def test_address_sanitizer_finds_nothing_in_the_kernels_and_every_planted_overrun(run, faultless, faults):
    outcomes = run("address", *faultless, *faults)
    for fault in faultless:
        assert outcomes[fault][0] == "right" and "Sanitizer:" not in outcomes[fault][1], outcomes[fault]
    for fault in faults:
        outcome, said = outcomes[fault]
        assert outcome == "ended" and "AddressSanitizer: heap-buffer-overflow" in said, (fault, said)
        assert any(f"{file}.cu" in said for file in ("ddf_tile", "ddf_apply", "ddf_filter_grad", "ddf_branches")), said


@pytest.mark.slow
def test_address_sanitizer_finds_nothing_in_any_specialisation(run):
    outcome, said = run("address", "none, every specialisation")["none, every specialisation"]
    assert outcome == "right" and "Sanitizer:" not in said, said


@pytest.mark.slow
def test_thread_sanitizer_finds_nothing_in_the_kernels_and_every_missing_barrier(run):
    faults = ["no barrier after the copies", "no barrier before a buffer is used again"]
    outcomes = run("thread", "none", *faults)
    assert outcomes["none"][0] == "right" and "ThreadSanitizer" not in outcomes["none"][1], outcomes["none"]
    for fault in faults:
        assert "ThreadSanitizer: data race" in outcomes[fault][1], (fault, outcomes[fault])
