"""Activation checkpointing: the same step as without it, to the last bit, in less memory."""

import copy

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from ddfnet.errors import UserError
from ddfnet.models.activation_checkpointing import checkpoint_activations

SMALL = dict(channels=[8, 8, 16, 16], stem_width=8, num_classes=5, drop_path_rate=0.3)
NETWORKS = {
    "ddf_resnet18": SMALL,
    "ddf_resnet50": SMALL,
    "resnet18": SMALL | dict(drop_rate=0.2),
    "regnetx_002": dict(num_classes=5),  # timm's batch norm with its own activation
}


def network(name):
    torch.manual_seed(0)
    return timm.create_model(name, **NETWORKS[name])


def step(model, amp=False, parallel=lambda model: model):
    """Gradients, buffers and loss of one training step."""
    torch.manual_seed(1)
    x, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        loss = nn.functional.cross_entropy(parallel(model.train())(x).float(), labels)
    loss.backward()
    return (
        {"loss": loss.detach(), "rng": torch.get_rng_state()}
        | dict(model.named_buffers())
        | {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    )


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_batch_norm_statistics_are_bitwise_those_without(name, amp):
    plain, checkpointed = network(name), network(name)
    checkpoint_activations(checkpointed)
    a, b = step(plain, amp), step(checkpointed, amp)
    assert_same(a, b)
    counts = [value.item() for key, value in b.items() if key.endswith("num_batches_tracked")]
    assert counts and set(counts) == {1}
    assert_same(step(plain, amp), step(checkpointed, amp))  # momentum and counts are what they were
    assert checkpointed.state_dict().keys() == plain.state_dict().keys()


def test_it_works_under_data_parallelism():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain, checkpointed = network("ddf_resnet18"), network("ddf_resnet18")
        checkpoint_activations(checkpointed)
        a = step(plain)
        b = step(checkpointed, parallel=lambda model: nn.parallel.DistributedDataParallel(model))
        assert_same(a, b)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "ddf_resnet18"])
def test_it_works_under_compile(name):
    plain, checkpointed = network(name), network(name)
    checkpoint_activations(checkpointed)
    a, b = (step(m, parallel=lambda m: torch.compile(m, backend="aot_eager")) for m in (plain, checkpointed))
    assert_same(a, b)
    assert {value.item() for key, value in b.items() if key.endswith("num_batches_tracked")} == {1}


def saved_bytes(model):
    """What autograd keeps from the forward pass, parameters aside, each memory once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.train()(torch.randn(2, 3, 64, 64))
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["ddf_resnet50", "resnet50"])
def test_less_is_kept_for_the_backward_pass(name):
    model = timm.create_model(name)
    before = saved_bytes(model)
    checkpoint_activations(model)
    assert saved_bytes(model) < 0.4 * before


def test_evaluation_and_copies_are_unaffected():
    model, plain = network("ddf_resnet18"), network("ddf_resnet18")
    checkpoint_activations(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.layer1[0].bn2.bias.fill_(1)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert not torch.equal(copied.eval()(x), plain(x))  # the copy computes with its own weights


def test_a_model_without_blocks_is_refused():
    with torch.device("meta"):
        model = timm.create_model("vgg11")
    with pytest.raises(UserError, match=r"train\.activation_checkpointing = True: VGG names no blocks"):
        checkpoint_activations(model)
