"""NVRTC, where it is."""

import pytest


def need_nvrtc() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC (cuda-bindings)")
