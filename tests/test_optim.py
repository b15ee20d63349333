"""Optimizers beside the paper's SGD, losses, and how the learning rate follows batch and layer."""

import io

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from ddfnet.config import Train
from ddfnet.errors import UserError
from ddfnet.tasks.classification.losses import classification_loss
from ddfnet.train.optim import _sgd, build_optimizer, parameter_groups, peak_learning_rate


def resnet():
    return timm.create_model("ddf_resnet18", channels=[8, 8, 16, 16], stem_width=8, num_classes=5)


# ---- optimizers


def test_sgd_is_never_timms_nesterov():
    assert type(build_optimizer(resnet(), Train())) is torch.optim.SGD
    assert not any(group["nesterov"] for group in build_optimizer(resnet(), Train()).param_groups)
    (group,) = create_optimizer_v2(resnet().parameters(), opt="sgd").param_groups
    assert group["nesterov"]  # what "sgd" means to timm


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_fused_sgd_survives_an_overflow_in_its_first_step(momentum):
    """Its momentum begins at zero, not at what the memory holds; and on a CPU no run uses it."""
    train = Train(amp="fp16", momentum=momentum)

    def steps(build):
        torch.manual_seed(0)
        model = nn.Linear(512, 8)
        optimizer, scaler = build(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            x = torch.full((2, 512), torch.inf if step == 0 else 0.1 * step)
            scaler.scale(model(x).square().mean()).backward()
            garbage = [torch.full_like(p, torch.nan) for p in model.parameters() for _ in range(20)]
            del garbage  # what an empty tensor is then made of
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return list(model.parameters())

    plain = steps(lambda model: build_optimizer(model, train))
    fused = steps(lambda model: _sgd(parameter_groups(model, train), train, fused=True))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-7)
    assert not any(group["fused"] for group in build_optimizer(nn.Linear(2, 2), train).param_groups)


def test_options_reach_timms_optimizer():
    train = Train(optimizer="adamw", lr=0.5, weight_decay=0.3, optimizer_kwargs={"betas": [0.8, 0.9], "eps": 1e-4})
    (group,) = build_optimizer(resnet(), train).param_groups
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (0.5, 0.3, (0.8, 0.9), 1e-4)


def test_weight_decay_is_on_timms_parameters_on_demand():
    model = resnet()
    ours = build_optimizer(model, Train(optimizer="lamb", decay_norm_and_bias=False)).param_groups
    timms = create_optimizer_v2(model, opt="lamb", weight_decay=1e-4, filter_bias_and_bn=True).param_groups

    def decayed(groups):
        return {id(p) for group in groups if group["weight_decay"] for p in group["params"]}

    assert decayed(ours) == decayed(timms) and sum(len(group["params"]) for group in ours) == len([*model.parameters()])
    assert len(decayed(build_optimizer(model, Train(optimizer="lamb")).param_groups)) == len([*model.parameters()])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "lion", "adan", "muon", "madgrad", "rmsproptf"])
def test_resume_is_exact_with_every_optimizer(optimizer):
    """Six steps are three, a checkpoint read by weights_only, and three."""
    train = Train(optimizer=optimizer, decay_norm_and_bias=False)
    x, labels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5

    def start():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        return model, build_optimizer(model, train)

    def steps(model, optimizer, first, last):
        for step in range(first, last):
            torch.manual_seed(step)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()

    whole, whole_optimizer = start()
    steps(whole, whole_optimizer, 0, 6)
    broken, broken_optimizer = start()
    steps(broken, broken_optimizer, 0, 3)
    file = io.BytesIO()
    torch.save([broken.state_dict(), broken_optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed, resumed_optimizer = start()
    resumed.load_state_dict(weights)
    options = [{k: v for k, v in group.items() if k != "params"} for group in resumed_optimizer.param_groups]
    resumed_optimizer.load_state_dict(state)
    for group, own in zip(resumed_optimizer.param_groups, options, strict=True):
        group.update(own)  # as train/state.py does
    steps(resumed, resumed_optimizer, 3, 6)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "name,options,sentence",
    [
        ("adamww", {}, "train.optimizer = 'adamww' is none that timm knows, did you mean adamw?"),
        ("SGD", {}, "train.optimizer = 'SGD' is none that timm knows"),
        ("adahessian", {}, "train.optimizer = 'adahessian' needs second derivatives"),
        ("lion", {"eps": 1e-3}, "train.optimizer_kwargs.eps = 0.001 is no option of lion"),
        (
            "adamw",
            {"filter_bias_and_bn": True},
            "train.optimizer_kwargs.filter_bias_and_bn = True is no option of adamw",
        ),
        ("adamw", {"beta": 1}, "train.optimizer = 'adamw' cannot be built with train.optimizer_kwargs = {'beta': 1}: "),
        ("adamw", {"betas": [2.0, 0.9]}, "cannot be built with train.optimizer_kwargs = {'betas': [2.0, 0.9]}: "),
    ],
    ids=str,
)
def test_an_optimizer_that_cannot_be_is_one_sentence(name, options, sentence):
    with pytest.raises(UserError) as error:
        build_optimizer(resnet(), Train(optimizer=name, optimizer_kwargs=options))
    assert sentence in str(error.value) and "\n" not in str(error.value)


# ---- learning rates


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_layer_decay_is_timms(decay_norm_and_bias):
    model = resnet()
    train = Train(layer_decay=0.7, decay_norm_and_bias=decay_norm_and_bias)
    scales = {id(p): group["lr_scale"] for group in build_optimizer(model, train).param_groups for p in group["params"]}
    timms = param_groups_layer_decay(model, weight_decay=1e-4, layer_decay=0.7)
    assert scales == {id(p): group["lr_scale"] for group in timms for p in group["params"]}
    assert scales[id(model.fc.weight)] == 1 and scales[id(model.conv1.weight)] == min(scales.values()) < 0.1


def test_without_layer_decay_groups_are_the_plain_ones():
    assert all("lr_scale" not in group for group in parameter_groups(resnet(), Train(decay_norm_and_bias=False)))


def test_layer_decay_needs_layers():
    with pytest.raises(UserError, match=r"train\.layer_decay = 0\.5: Sequential does not number its layers"):
        build_optimizer(nn.Sequential(nn.Linear(2, 2)), Train(layer_decay=0.5))


def test_the_learning_rate_is_scaled_with_the_batch_as_asked():
    rates = {
        how: peak_learning_rate(Train(lr=0.1, batch_size=1024, lr_scaling=how)) for how in ("linear", "sqrt", "none")
    }
    assert rates == {"linear": 0.4, "sqrt": 0.2, "none": 0.1}


# ---- losses


def logits_and_targets():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(16, 7, generator=generator, dtype=torch.float64)
    soft = torch.rand(16, 7, generator=generator, dtype=torch.float64) ** 4
    return logits, torch.arange(16) % 7, soft / soft.sum(1, keepdim=True)


def test_cross_entropy_is_timms_of_labels_and_of_mixtures():
    logits, labels, soft = logits_and_targets()
    close = dict(rtol=1e-12, atol=0)
    torch.testing.assert_close(classification_loss(logits, labels), F.cross_entropy(logits, labels), **close)
    smoothed = LabelSmoothingCrossEntropy(0.1)(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels, smoothing=0.1), smoothed, **close)
    torch.testing.assert_close(classification_loss(logits, soft), SoftTargetCrossEntropy()(logits, soft), **close)
    both = SoftTargetCrossEntropy()(logits, 0.9 * soft + 0.1 / 7)
    torch.testing.assert_close(classification_loss(logits, soft, smoothing=0.1), both, **close)


@pytest.mark.parametrize("smoothing,threshold", [(0.0, None), (0.1, None), (0.0, 0.2)])
def test_binary_cross_entropy_is_timms(smoothing, threshold):
    logits, labels, soft = logits_and_targets()
    timms = BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold)
    options = dict(loss="bce", smoothing=smoothing, threshold=threshold)
    torch.testing.assert_close(
        classification_loss(logits, labels, **options), timms(logits, labels), rtol=1e-12, atol=0
    )
    expected = timms(logits, soft * (1 - smoothing) + smoothing / 7)  # timm expects mixtures to come smoothed
    torch.testing.assert_close(classification_loss(logits, soft, **options), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_the_loss_of_a_batch_is_the_mean_over_its_parts(loss):
    logits, labels, soft = logits_and_targets()
    for targets in (labels, soft):
        parts = [
            classification_loss(logits[a:b], targets[a:b], loss, 0.1) * (b - a) for a, b in ((0, 6), (6, 12), (12, 16))
        ]
        torch.testing.assert_close(sum(parts) / 16, classification_loss(logits, targets, loss, 0.1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_computed_in_float32(loss, dtype):
    logits, _, soft = logits_and_targets()
    low = classification_loss(logits.to(dtype), soft, loss)
    assert low.dtype == torch.float32
    expected = classification_loss(logits.to(dtype).double(), soft, loss)
    torch.testing.assert_close(low.double(), expected, rtol=1e-5, atol=0)
