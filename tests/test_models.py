"""The networks: exact integers, the authors' outputs and names, timm's features."""

import json

import pytest
import timm
import torch
from golden import golden_cases

import ddfnet
from ddfnet.models import complexity, count_macs, count_parameters

NAMES = [f"ddf_resnet{n}" for n in (18, 34, 50, 101, 152)] + [f"ddf_add_resnet{n}" for n in (50, 101, 152)]


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def ddf_options(**options):
    return dict(block_args=dict(ddf=options))


# name, options -> parameters, MACs of convolutions and head, with the filters' application, in the paper's counting
EXACT = [
    ("resnet18", {}, 11_689_512, 1_814_073_344, 1_814_073_344, None),
    ("resnet50", {}, 25_557_032, 4_089_184_256, 4_089_184_256, None),
    ("resnet101", {}, 44_549_160, 7_801_405_440, 7_801_405_440, None),
    # 368 M with combining and applying the filters, which the specification of the layout counts together
    ("ddf_resnet18", {}, 7_691_032, 342_477_056, 355_234_304, 372_850_932),
    ("ddf_resnet50", {}, 16_843_748, 2_254_415_872, 2_266_834_432, 2_297_525_315),
    ("ddf_resnet50", dict(squeeze_ratio=0.3), 18_091_484, 2_255_663_232, 2_268_081_792, 2_298_772_675),
    ("ddf_resnet50", dict(squeeze_ratio=0.4), 19_352_663, 2_256_924_032, 2_269_342_592, 2_300_033_475),
    ("ddf_resnet101", {}, 28_146_912, 4_011_239_936, 4_031_335_424, 4_079_155_303),
    ("ddf_resnet152", {}, 37_462_900, 5_769_476_096, 5_799_054_848, None),
    ("ddf_resnet50", dict(channel=False), 14_273_912, 2_251_914_752, 2_264_333_312, None),
    ("ddf_resnet50", dict(spatial=False), 16_809_620, 2_241_997_312, 2_254_415_872, None),
]


@pytest.mark.parametrize("name,options,params,layers,macs,paper", EXACT, ids=[f"{n} {o or ''}" for n, o, *_ in EXACT])
def test_parameters_and_macs_are_exact(name, options, params, layers, macs, paper):
    model = on_meta(name, **(ddf_options(**options) if options else {}))
    assert count_parameters(model) == params
    counted = complexity(model, ("layers", "macs", "paper"))
    for convention, expected in (("layers", layers), ("macs", macs), ("paper", paper)):
        assert expected is None or counted[convention] == expected, convention


def test_r18_has_the_papers_rounded_figures():
    counted = complexity(on_meta("ddf_resnet18"))
    assert round(counted["params"] / 1e6, 1) == 7.7 and round(counted["paper"] / 1e9, 1) == 0.4


def test_counting_leaves_the_model_as_it_was():
    model = timm.create_model("resnet18").train()
    model.bn1.eval()  # frozen
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    count_macs(model, (3, 64, 64))
    assert model.training and model.layer1.training and not model.bn1.training
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    with pytest.raises(ValueError, match="convention is 'flops', expected"):
        count_macs(model, convention="flops")


def test_logits_equal_the_authors(reference_data):
    for entry, model, x, logits in golden_cases(reference_data("reference/official_logits.npz")):
        with torch.no_grad():
            assert (model(x) - logits).abs().max() <= 1e-6 * logits.abs().max(), entry


@pytest.mark.parametrize("depth", [50, 101])
def test_state_dict_equals_the_authors_key_by_key(reference_data, depth):
    official = json.loads(reference_data(f"reference/official_ddf_mul_resnet{depth}_state.json").read_text())
    for name in (f"ddf_resnet{depth}", f"ddf_add_resnet{depth}"):
        own = on_meta(name).state_dict()
        assert list(own) == list(official)
        assert all(list(own[key].shape) == official[key]["shape"] for key in official)


def test_branches_are_initialised_as_the_authors_trained_them():
    torch.manual_seed(0)
    model = timm.create_model("ddf_resnet50")
    weights = torch.cat([m.conv2.spatial_branch[0].weight.flatten() for m in model.layer3])
    assert weights.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)  # timm's kaiming_normal, fan_out = 9
    stds = torch.cat([m.conv2.channel_branch[4].std for m in model.layer3])
    assert stds.std().item() == pytest.approx(2**0.5 / 3, rel=0.05)


def test_import_registers_all_models():
    assert set(NAMES) <= set(timm.list_models("ddf_*"))
    assert ddfnet.models.ddf_resnet.default_cfgs.keys() >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_runs_and_learns(name):
    model = timm.create_model(name, num_classes=7, in_chans=1)
    y = model(torch.randn(2, 1, 32, 32))
    y.square().sum().backward()
    assert y.shape == (2, 7) and all(p.grad is not None for p in model.parameters())


def test_add_models_add_and_block_args_merge():
    model = on_meta("ddf_add_resnet50", **ddf_options(squeeze_ratio=0.3))
    assert model.layer1[0].conv2.combine == "add"
    assert count_parameters(model) == 18_091_484


@pytest.mark.parametrize("name", ["ddf_resnet18", "ddf_resnet50"])
def test_timm_features_only(name):
    model = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    shapes = [tuple(f.shape[1:]) for f in model(torch.randn(1, 3, 64, 96))]
    channels = model.feature_info.channels()
    assert shapes == [(c, 64 // r, 96 // r) for c, r in zip(channels, (4, 8, 16, 32), strict=True)]
    getter = timm.create_model(name, features_only=True, feature_cls="getter").eval()
    assert len(getter(torch.randn(1, 3, 64, 64))) == 5


@pytest.mark.parametrize("name", ["ddf_resnet18", "ddf_resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_timm_output_stride_dilates_the_filters(name, output_stride):
    model = timm.create_model(name, output_stride=output_stride).eval()
    assert model.forward_features(torch.randn(1, 3, 64, 64)).shape[-1] == 64 // output_stride
    assert {m.dilation for m in model.modules() if isinstance(m, ddfnet.DDF)} >= {1, 2}


def test_timm_options_work_as_for_any_resnet():
    model = timm.create_model("ddf_resnet50", drop_path_rate=0.2, num_classes=10)
    assert model.layer4[-1].drop_path.drop_prob == pytest.approx(0.2)
    model.reset_classifier(3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    model.set_grad_checkpointing()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert timm.create_model("ddf_resnet50", block_args=dict(attn_layer="se")).layer1[0].se is not None
    assert on_meta("ddf_resnet18", aa_layer=timm.layers.BlurPool2d).layer2[0].conv1.ddf.stride == 1


def test_options_that_the_block_decides_are_refused():
    with pytest.raises(ValueError, match=r"block_args\.ddf\.stride comes from the block"):
        on_meta("ddf_resnet50", **ddf_options(stride=2))


def test_timm_refuses_grouped_blocks_in_a_sentence():
    with pytest.raises(ValueError, match="32 groups, expected 1"):
        on_meta("ddf_resnet50", cardinality=32, base_width=4)


def test_pretrained_weights_from_a_local_file(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("ddf_resnet18")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = dict(file=str(tmp_path / "weights.pth"))
    loaded = timm.create_model("ddf_resnet18", pretrained=True, pretrained_cfg_overlay=overlay)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))
    other_head = timm.create_model("ddf_resnet18", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5)
    assert torch.equal(other_head.layer1[0].conv1.pointwise.weight, model.layer1[0].conv1.pointwise.weight)


def test_whole_network_compiles_and_exports():
    model = timm.create_model("ddf_resnet18", num_classes=5, layers=[2, 1, 1, 1]).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_channels_last_stays_channels_last():
    model = timm.create_model("ddf_resnet18").eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    seen = []
    for module in model.modules():
        if isinstance(module, ddfnet.DDF):
            module.register_forward_hook(
                lambda m, i, y: seen.append((i[0].is_contiguous(memory_format=torch.channels_last), y))
            )
    model(x)
    assert len(seen) == 16
    assert all(ok and y.is_contiguous(memory_format=torch.channels_last) for ok, y in seen)
