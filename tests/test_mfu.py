"""Memory, and the share of the device's peak."""

from types import SimpleNamespace

import pytest
import timm
import torch
from small_runs import ALONE

from ddfnet.models import count_macs
from ddfnet.tasks.classification import Classification
from ddfnet.train import World
from ddfnet.train.mfu import AMPERE_AND_LATER, BEFORE, DeviceUse, mfu, peak_flops, peak_flops_by_name


@pytest.mark.parametrize(
    "name,half,none",
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H100 NVL", 835.5, 417.5),
        ("NVIDIA H200", 989.4, 494.7),
        ("NVIDIA B200", 2250, 1125),
        ("NVIDIA A100-SXM4-80GB", 312, 156),
        ("NVIDIA A100 80GB PCIe", 312, 156),
        ("NVIDIA A10G", 70, 35),
        ("NVIDIA L4", 121, 60.5),
        ("NVIDIA L40S", 362, 183),
    ],
)
def test_peak_of_a_device_by_the_name_that_the_driver_gives_it(name, half, none):
    assert peak_flops_by_name(name, "bf16") == peak_flops_by_name(name, "fp16") == half * 1e12
    assert peak_flops_by_name(name, "none") == none * 1e12


@pytest.mark.parametrize("name,half,none", [("Tesla T4", 65, 8.1), ("Tesla V100-SXM2-16GB", 125, 15.7)])
def test_no_tensor_cores_for_bfloat16_before_ampere(name, half, none):
    assert peak_flops_by_name(name, "fp16") == half * 1e12 and peak_flops_by_name(name, "none") == none * 1e12
    assert peak_flops_by_name(name, "bf16") is None


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H200 NVL",
        "NVIDIA GeForce RTX 4090",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3080 Ti",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA GeForce GTX 1080",
        "Quadro RTX 6000",
        "a device of next year",
    ],
)
def test_nothing_is_claimed_of_what_is_not_in_the_table(name):
    assert all(peak_flops_by_name(name, amp) is None for amp in ("none", "bf16", "fp16"))


def test_the_table_is_plausible():
    for name, (half, tf32) in AMPERE_AND_LATER.items():
        assert 1.9 < half / tf32 < 2.1 and peak_flops_by_name(name, "bf16") == half * 1e12, name
    assert not set(AMPERE_AND_LATER) & set(BEFORE)


def test_mfu_counts_the_backward_pass_twice():
    """The figures of A100s on ResNet-50: 4.09 GMACs, 2,470 img/s, 312 TFLOP/s; about a fifth (61 TFLOP/s)."""
    assert mfu(2470, 4.09e9, 312e12) == pytest.approx(6 * 4.09e9 * 2470 / 312e12) == pytest.approx(0.194, abs=0.001)


def test_a_cpu_has_neither_memory_nor_mfu():
    assert peak_flops(torch.device("cpu"), "bf16") is None
    assert DeviceUse(ALONE, "none", task=None).values(1000.0) == {}


def test_a_gpu_has_both_and_mfu_is_of_all_ranks(monkeypatch):
    """Everything that is asked of CUDA, answered as an H100 would."""
    resets = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    device = torch.device("cuda:0")
    use = DeviceUse(World(rank=0, size=8, device=device), "bf16", SimpleNamespace(macs_per_image=10**9))
    assert use.values(4096.0) == {"memory": 5 * 2**30, "mfu": mfu(4096.0, 10**9, 8 * 989.4e12)}
    assert resets == [device]
    unknown = SimpleNamespace(macs_per_image=None)
    assert set(DeviceUse(World(0, 8, device), "bf16", unknown).values(4096.0)) == {"memory"}


def test_macs_per_image_are_the_networks_at_the_training_size(small):
    task = Classification(small("a"), ALONE)
    kwargs = dict(small("a").model.kwargs, num_classes=10)
    assert task.macs_per_image == count_macs(timm.create_model("ddf_resnet18", **kwargs), (3, 16, 16))


def test_a_network_that_meta_cannot_run_has_no_count(small, monkeypatch):
    task = Classification(small("a"), ALONE)
    task.model.forward = lambda x: x.sum().item()
    assert task.macs_per_image is None
