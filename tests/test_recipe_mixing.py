"""Mixup, cutmix and random erasing: functions of seed, step and place in the global batch."""

import numpy as np
import pytest
import timm.data.mixup
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import ALONE

from ddfnet.data import Place
from ddfnet.tasks.classification import Classification
from ddfnet.tasks.classification.mix import Mixing, mix, mixtures, neighbours_of
from ddfnet.tasks.classification.random_erasing import erased_boxes, random_erase
from ddfnet.train import World

BOTH = Mixing(mixup=0.2, cutmix=1.0)


def batch(count, size=24, classes=7):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, size, size, generator=generator), torch.arange(count) % classes


# ---- mixing


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.integers(1, 4),
    world=st.integers(1, 4),
    step=st.integers(0, 1000),
    mixing=st.sampled_from([BOTH, Mixing(mixup=0.4), Mixing(cutmix=0.7)]),
)
def test_mixing_is_the_same_for_any_number_of_processes(pairs, world, step, mixing):
    count, share = 2 * pairs * world, 2 * pairs
    images, labels = batch(count)
    whole = mix(images, labels, 7, mixing, Place(3, step, count, 0, count))
    parts = [
        mix(
            images[first : first + share], labels[first : first + share], 7, mixing, Place(3, step, count, first, share)
        )
        for first in range(0, count, share)
    ]
    for together, values in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(together), values)


def test_mixing_depends_on_seed_and_step_only():
    images, labels = batch(8)
    torch.manual_seed(0)
    mixed, targets = mix(images, labels, 7, BOTH, Place(3, 5, 8))
    torch.manual_seed(1)
    np.random.seed(1)
    again = mix(images, labels, 7, BOTH, Place(3, 5, 8))
    assert torch.equal(mixed, again[0]) and torch.equal(targets, again[1])
    for place in (Place(3, 6, 8), Place(4, 5, 8)):
        assert not torch.equal(mixed, mix(images, labels, 7, BOTH, place)[0])


def test_mixup_is_the_formula_and_timms_targets():
    """Of a batch of two the neighbour is timm's partner, the batch in reverse."""
    for step in range(20):
        images, labels = batch(2)
        place = Place(0, step, 2)
        mixed, targets = mix(images, labels, 7, Mixing(mixup=0.3), place)
        share = torch.from_numpy(mixtures(Mixing(mixup=0.3), 24, 24, place)[1])[:, None]
        x, weight = images.double(), share[:, :, None, None]
        torch.testing.assert_close(mixed.double(), weight * x + (1 - weight) * x.flip(0), rtol=0, atol=1e-6)
        expected = timm.data.mixup.mixup_target(labels, 7, share, smoothing=0.0)
        torch.testing.assert_close(targets.double(), expected.double(), rtol=0, atol=1e-7)


def test_cutmix_pastes_the_neighbours_pixels_and_its_targets_are_the_areas():
    cut = 0
    for step in range(20):
        images, labels = batch(6)
        mixed, targets = mix(images, labels, 7, Mixing(cutmix=1.0), Place(0, step, 6))
        neighbours = neighbours_of(6)
        foreign = (mixed != images).all(1)
        assert torch.equal(mixed, torch.where(foreign[:, None], images[neighbours], images))
        for i, pixels in enumerate(foreign):
            rows, columns = pixels.any(1), pixels.any(0)
            assert torch.equal(pixels, rows[:, None] & columns)  # one rectangle
            share = 1 - pixels.double().mean()
            assert targets[i, labels[i]].item() == pytest.approx(share.item(), abs=1e-6)
            assert targets[i, labels[neighbours[i]]].item() == pytest.approx(1 - share.item(), abs=1e-6)
        cut += foreign.any((1, 2)).sum().item()
    assert cut > 60


def test_shares_are_beta_distributed_and_the_probabilities_are_kept():
    count, mixing = 40_000, Mixing(0.2, 0.8, probability=0.6, switch_probability=0.25)
    boxes, outside = mixtures(mixing, 1000, 1000, Place(0, 0, count))
    cut, up = boxes[:, 1] > boxes[:, 0], outside < 1
    assert not (cut & up).any()
    assert cut.mean() == pytest.approx(0.6 * 0.25, abs=0.01) and up.mean() == pytest.approx(0.6 * 0.75, abs=0.01)
    assert outside[up].mean() == pytest.approx(0.5, abs=0.01)
    assert outside[up].var() == pytest.approx(0.25 / 1.4, rel=0.03)  # of beta(a, a): 1 / (4 (2a + 1))
    # timm's rectangle: its sides are sqrt(1 - share) of the picture's, before the border cuts it
    within = boxes[(boxes[:, 0] > 0) & (boxes[:, 1] < 1000) & (boxes[:, 2] > 0) & (boxes[:, 3] < 1000)]
    assert np.abs((within[:, 1] - within[:, 0]) - (within[:, 3] - within[:, 2])).max() == 0
    centre = np.stack((within[:, 0] + within[:, 1], within[:, 2] + within[:, 3]))
    assert abs(np.corrcoef(centre)[0, 1]) < 0.1  # anywhere, not on the diagonal


@pytest.mark.parametrize("count", range(2, 10))
def test_no_picture_mixes_with_itself(count):
    neighbours = neighbours_of(count)
    assert ((neighbours >= 0) & (neighbours < count) & (neighbours != np.arange(count))).all()


def test_mixing_and_erasing_keep_the_memory_format():
    images, labels = batch(8)
    images = images.contiguous(memory_format=torch.channels_last)
    erased = random_erase(images, 1.0, Place(0, 0, 8))
    mixed, _ = mix(erased, labels, 7, BOTH, Place(0, 0, 8))
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (erased, mixed))


def test_the_last_epochs_see_whole_pictures(small):
    config = small("a", "data.mixup=0.2", "data.mix_off_epochs=1", "train.cooldown_epochs=1", "data.random_erase=0.0")
    task = Classification(config, ALONE)
    last = 3 * task.steps_per_epoch  # of four epochs
    read = next(task.train_batches(last - 1, last))
    plain = task.prepare(read, last)
    assert torch.equal(plain.targets, read.targets) and plain.targets.dtype == torch.int64
    mixed = task.prepare(read, last - 1)
    assert mixed.targets.shape == (200, 10) and mixed.targets.dtype == torch.float32
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(200))
    assert not torch.equal(mixed.images, plain.images)


def test_two_processes_prepare_together_what_one_does(small):
    config = small("a", "data.mixup=0.2", "data.cutmix=1.0")
    tasks = [Classification(config, World(rank, size, ALONE.device)) for rank, size in ((0, 1), (0, 2), (1, 2))]
    whole, first, second = (task.prepare(next(task.train_batches(3, 4)), 3) for task in tasks)
    for part in ("images", "targets"):
        assert torch.equal(getattr(whole, part), torch.cat([getattr(first, part), getattr(second, part)]))


# ---- erasing


@pytest.mark.parametrize("count", [1, 3])
def test_erasing_is_the_same_for_any_number_of_processes(count):
    images, _ = batch(60)

    def erase(images, *place):
        return random_erase(images.clone(), 0.5, Place(1, *place), count)

    whole = erase(images, 2, 60, 0, 60)
    for share in (1, 3, 6, 20):  # 8 of them are drawn together
        parts = [erase(images[i : i + share], 2, 60, i, share) for i in range(0, 60, share)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(erase(images, 2, 60), whole) and not torch.equal(erase(images, 3, 60, 0, 60), whole)


def test_erasing_replaces_one_rectangle_by_noise():
    images = torch.full((64, 3, 32, 32), 9.0)
    erased = random_erase(images.clone(), 0.5, Place(0, 0, 64))
    touched = erased != 9
    shares = touched[:, 0].float().mean((1, 2))
    assert 20 < (shares > 0).sum() < 44 and all(share == 0 or 0.01 < share < 0.4 for share in shares.tolist())
    for pixels in touched:
        assert torch.equal(pixels, (pixels[0].any(1)[:, None] & pixels[0].any(0)).expand(3, -1, -1))
    assert abs(erased[touched].mean()) < 0.2 and abs(erased[touched].std() - 1) < 0.2
    assert torch.equal(random_erase(images.clone(), 0.0, Place(0, 0, 64)), images)
    assert (random_erase(images.clone(), 1.0, Place(0, 0, 64)) != 9).flatten(1).any(1).all()


def test_one_box_is_erased_as_it_always_was():
    """The bits of a run that goes on; of version 247aa8d."""
    erased = random_erase(torch.zeros(6, 3, 16, 16), 0.7, Place(3, 5, 6))
    assert [int(pixels.any(0).sum()) for pixels in erased] == [12, 5, 10, 48, 32, 0]
    assert erased.double().sum().item() == pytest.approx(-33.607994875870645, abs=1e-4)


def test_up_to_three_boxes_share_the_area_of_one():
    """As timm's RandomErasing of min_count 1 and max_count 3 does."""
    one, three = (erased_boxes(0.5, 200, 300, Place(0, 0, 6000), count) for count in (1, 3))
    sides = three[:, :, 1::2] - three[:, :, 0::2]
    areas = sides.prod(2) / (200 * 300)
    numbers, erased = (areas > 0).sum(1), (areas > 0).any(1)
    assert 2850 < erased.sum() < 3150 and np.array_equal(erased, (one[:, 0] > 0).any(1))
    assert all(930 < (numbers == number).sum() < 1070 for number in (1, 2, 3))
    for number in (1, 2, 3):  # each box 1/n of what a uniform draw from 2 % to 33 % gives
        shares = areas[numbers == number][:, :number] * number
        assert 0.0195 < shares.min() < 0.03 and 0.32 < shares.max() < 0.34 and abs(shares.mean() - 0.177) < 0.006
    ratios = sides[areas > 0][:, 0] / sides[areas > 0][:, 1]
    assert 0.28 < ratios.min() < 0.31 and 3.2 < ratios.max() < 3.6
    top, bottom, left, right = three[areas > 0].T
    assert top.min() == left.min() == 0 and bottom.max() == 200 and right.max() == 300


def test_several_boxes_have_noise_of_each_image():
    images = torch.full((64, 3, 32, 32), 9.0)
    one, three = (random_erase(images.clone(), 1.0, Place(0, 0, 64), count) for count in (1, 3))

    def shared(erased):  # noise that other images have at the same pixel
        values = erased[erased != 9]
        return 1 - len(values.unique()) / len(values)

    assert shared(three) < 0.001 < 0.5 < shared(one)
    assert abs(three[three != 9].mean()) < 0.02 and abs(three[three != 9].std() - 1) < 0.02
    rectangles = [torch.equal(p, p.any(1)[:, None] & p.any(0)) for p in (three != 9)[:, 0]]
    assert 10 < sum(rectangles) < 35 and torch.equal(images, random_erase(images.clone(), 0.0, Place(0, 0, 64), 3))


def test_the_task_erases_as_many_boxes_as_its_config_says(small):
    tasks = [Classification(small("a", "data.random_erase=1", f"data.random_erase_count={n}"), ALONE) for n in (1, 3)]
    one, three = (task.prepare(next(task.train_batches(0, 1)), 0).images for task in tasks)
    want = random_erase(tasks[0].normalised(next(tasks[0].train_batches(0, 1)).images), 1.0, Place(0, 0, 200), 3)
    assert torch.equal(three, want) and not torch.equal(one, three)
