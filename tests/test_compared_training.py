"""The compared systems in use: trained, exported, resumed, and with timm's options."""

import pytest
import timm
import torch
from compared_systems import SYSTEMS, TIMMS, small_system
from small_runs import ALONE, assert_equal_weights, run, weights

from ddfnet.models.compared.per_sample import PerSampleConv2d
from ddfnet.tasks.classification import Classification
from ddfnet.train import train

ALL = [*SYSTEMS, *TIMMS]


def nhwc(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ALL)
def test_trains_two_steps_in_bf16_and_channels_last(name):
    model = small_system(name, drop_path_rate=0.1).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    before = {key: value.clone() for key, value in model.named_parameters()}
    x, labels = nhwc(8, 3, 32, 32), torch.arange(8) % 7
    formats = []
    for module in model.modules():
        if isinstance(module, PerSampleConv2d):
            module.register_forward_hook(lambda m, i, y: formats.append(y))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
    assert all(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert all(y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last) for y in formats)


@pytest.mark.parametrize("name", ALL)
def test_bf16_is_near_float32(name):
    model, x = small_system(name), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        y = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            near = model(x)
        assert (near - y).norm() < 0.1 * (y - y.mean()).norm()
        torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("batch", [1, 3])
def test_exports(name, batch):
    model, x = small_system(name), torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("name", ["condconv_resnet18", "dy_resnet18", "aa_resnet50"])
def test_compiles_without_a_break(name):
    model, x = small_system(name), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ALL)
def test_resumes_exactly(small, name):
    """Killed in the second epoch and started again, it ends at the weights of the run that never died."""
    options = dict(layers="[1,1,1,1]", channels="[8,8,16,16]")
    if name.startswith("aa_"):
        options |= dict(channels="[8,80,80,80]", img_size="16")
    if name.startswith("resnext"):
        options |= dict(channels="[16,16,16,16]", cardinality="4")
    overrides = [f"model.name={name}", "data.image_size=16", "train.batch_size=700", "train.epochs=2"]
    overrides += [f"model.kwargs.{key}={value}" for key, value in options.items()]
    whole, broken = small("whole", *overrides), small("broken", *overrides)
    run(whole)
    task = Classification(broken, ALONE)
    batches = task.train_batches

    def dying(first, last):
        for step, batch in enumerate(batches(first, last)):
            if step == 3:
                raise Killed
            yield batch

    task.train_batches = dying
    with pytest.raises(Killed):
        train(broken, task, ALONE)
    assert weights(broken)["step"] == 2
    run(broken)
    a, b = weights(whole), weights(broken)
    assert a["step"] == b["step"] == 4
    assert_equal_weights(a, b)


# ---- timm's options


@pytest.mark.parametrize("name", SYSTEMS)
def test_timm_options(name):
    model = small_system(name, num_classes=3, in_chans=1, drop_path_rate=0.2, drop_rate=0.1)
    assert model.layer4[0].drop_path.drop_prob == pytest.approx(0.2)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    model.reset_classifier(5)
    model.set_grad_checkpointing()
    y = model.train()(torch.randn(2, 1, 32, 32))
    y.sum().backward()
    assert y.shape == (2, 5) and all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", SYSTEMS)
def test_timm_features_only(name):
    model = small_system(name, features_only=True, out_indices=(1, 2, 3, 4))
    maps = model(torch.randn(1, 3, 64, 96))
    channels = model.feature_info.channels()
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // r, 96 // r) for c, r in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", SYSTEMS)
def test_timm_output_stride_and_antialiasing(name):
    model = small_system(name, output_stride=8)
    assert model.forward_features(torch.randn(1, 3, 64, 64)).shape[-1] == 8
    smooth = small_system(name, aa_layer=timm.layers.BlurPool2d)
    assert smooth.forward_features(torch.randn(1, 3, 64, 64)).shape[-1] == 2


@pytest.mark.parametrize("name", SYSTEMS)
def test_builds_on_meta(name):
    for model in (timm.create_model(name, device="meta"), small_system(name, device="meta")):
        assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_convolutions_are_drawn_as_timm_draws_them():
    """Also those that have come after timm's ResNet drew its own, and the kernels that are no convolution's."""
    one_each = dict(layers=(1, 1, 1, 1))
    with_bam = timm.create_model("bam_resnet50", **one_each)
    dilated = with_bam.layer3[-1].spatial_gate[3].weight  # 64 channels, fan out 576
    assert dilated.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05)
    experts = timm.create_model("condconv_resnet18", channels=(64, 128, 8, 8), **one_each).layer2[0].conv2.weight
    assert experts.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    kernels = timm.create_model("dy_resnet18", channels=(32, 64, 8, 8), **one_each).layer2[0].conv2.weight
    assert kernels.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["dwcondconv_resnet50", "dwweightnet_resnet50", "dw_resnet50", "aa_resnet50"])
def test_groups_have_no_place_there(name):
    with pytest.raises(ValueError, match="32 groups, expected 1"):
        timm.create_model(name, cardinality=32, base_width=4, device="meta")


@pytest.mark.parametrize("name,option", [("condconv_resnet18", "experts"), ("dy_resnet50", "kernels")])
def test_none_to_mix_is_refused(name, option):
    with pytest.raises(ValueError, match=f"{option} is 0, expected at least 1"):
        timm.create_model(name, block_args={option: 0}, device="meta")


def test_bam_needs_two_pictures_in_training():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        small_system("bam_resnet50").train()(torch.randn(1, 3, 32, 32))
