"""What is set before the first step."""

import pytest
import torch

from ddfnet.train.begin import let_cudnn_measure


@pytest.mark.parametrize("repeatable", [False, True])
def test_cudnn_tries_its_algorithms_where_results_need_not_be_repeatable(monkeypatch, repeatable):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", repeatable)
    torch.use_deterministic_algorithms(repeatable)
    try:
        let_cudnn_measure()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.backends.cudnn.benchmark is not repeatable


def test_training_on_a_gpu_has_cudnn_try(monkeypatch, small):
    """And on a CPU not: there is nothing to try."""
    from types import SimpleNamespace

    from ddfnet.train import begin

    asked = []
    monkeypatch.setattr(begin, "let_cudnn_measure", lambda: asked.append(True))
    monkeypatch.setattr(begin, "State", lambda *parts: parts)
    monkeypatch.setattr(begin, "grad_scaler", lambda *parts: None)
    config = small("run")
    task = SimpleNamespace(model=torch.nn.Linear(2, 2), config=config, data_identity=None)
    for device, expected in (("cpu", []), ("cuda", [True])):
        begin.begin(config, task, SimpleNamespace(device=torch.device(device), size=1))
        assert asked == expected
