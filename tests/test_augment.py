import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from kdlib.data import augment


def images(b=6, c=3, h=16, w=20, seed=0):
    return torch.randint(0, 256, (b, c, h, w), dtype=torch.uint8, generator=generator(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pil(x):
    """The same operation of Pillow on one image, with its own arithmetic."""
    return Image.fromarray(x.permute(1, 2, 0).numpy())


def back(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def test_shifting_agrees_with_moving_each_image_by_hand():
    x = images(20, 2, 5, 6)
    by = torch.randint(-2, 3, (20, 2), generator=generator())
    moved = augment.shifted(x, by, 2).numpy()
    for image, (down, right), got in zip(x.numpy(), by.tolist(), moved, strict=True):
        expected = np.zeros_like(image)
        for row in range(5):
            for column in range(6):
                if 0 <= row - down < 5 and 0 <= column - right < 6:
                    expected[:, row, column] = image[:, row - down, column - right]
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_repeats_by_its_generator_and_leaves_its_input(name, channels):
    x = images(64, channels)
    before = x.clone()
    change = augment.AUGMENTATIONS[name]
    state = torch.get_rng_state()
    first, again, other = (change(x, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == x.shape
    assert first.dtype == torch.uint8
    assert first.equal(again)
    assert not first.equal(other)
    assert x.equal(before)
    assert torch.get_rng_state().equal(state)  # no other generator is used


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_every_augmentation_is_random_for_each_image(name):
    x = images(1).expand(200, -1, -1, -1)
    different = augment.AUGMENTATIONS[name](x, generator()).unique(dim=0)
    assert len(different) >= (2 if name == "flip" else 20)


def test_shift_and_flip_move_and_mirror_whole_images():
    x = images(400, 1, 16, 16).clamp(min=1)
    by = {tuple(m.tolist()) for m in (augment.shift(x, generator()) == 0).sum((1, 2, 3))[:, None]}
    assert max(by)[0] == 16 * 16 - 14 * 14  # at most an eighth of 16 in each direction
    flipped = augment.flip(x, generator())
    mirrored = (flipped == x.flip(3)).all(dim=(1, 2, 3))
    assert (mirrored | (flipped == x).all(dim=(1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250


def test_cutout_blackens_one_square_of_half_the_side():
    x = torch.full((500, 3, 32, 32), 9, dtype=torch.uint8)
    cut = augment.cutout(x, generator()) == 0
    rows, columns = cut.any(1).any(2).sum(1), cut.any(1).any(1).sum(1)
    assert cut.sum((1, 2, 3)).equal(3 * rows * columns)  # one rectangle, all channels alike
    assert rows.max() == columns.max() == 16
    assert 8 <= rows.min() < 10  # its centre lies in the image
    assert cut.any(1).float().mean(0).min() > 0.03  # and can lie anywhere


def test_jitter_agrees_with_the_formula_per_image():
    x = images(4)
    factors = 1 + 0.4 * (2 * torch.rand(4, 3, generator=generator(3)) - 1)
    luma = np.array([0.299, 0.587, 0.114])
    for image, (bright, contrast, saturation), got in zip(
        x.numpy().astype(float), factors.tolist(), augment.jitter(x, generator(3)), strict=True
    ):
        pixels = image * bright
        middle = np.tensordot(luma, pixels, 1).mean()
        pixels = np.clip(middle + contrast * (pixels - middle), 0, 255)
        grey = np.tensordot(luma, pixels, 1)[None]
        pixels = np.clip(grey + saturation * (pixels - grey), 0, 255)
        np.testing.assert_allclose(got.numpy(), pixels, atol=0.51)


BY_PILLOW = {
    "equalize": (1.0, ImageOps.equalize, 3),
    "autocontrast": (1.0, ImageOps.autocontrast, 2),
    "posterize": (1.0, lambda image: ImageOps.posterize(image, 4), 0),
    "solarize": (0.5, lambda image: ImageOps.solarize(image, 128), 0),
    "colour": (0.5, lambda image: ImageEnhance.Color(image).enhance(1.45), 2),
    "contrast": (-0.5, lambda image: ImageEnhance.Contrast(image).enhance(0.55), 2),
    "brightness": (-0.5, lambda image: ImageEnhance.Brightness(image).enhance(0.55), 1),
}


@pytest.mark.parametrize("name", BY_PILLOW)
def test_an_operation_of_randaugment_agrees_with_pillow(name):
    strength, expected, within = BY_PILLOW[name]
    x = (images(5, 3, 256, 256).float() * 0.7 + 20).to(torch.uint8)
    got = augment.OPERATIONS[name](x.float(), torch.full((5,), strength)).clamp(0, 255)
    for one, image in zip(got, x, strict=True):
        assert (one - back(expected(pil(image)))).abs().max() <= within, name


def test_sharpness_agrees_with_pillow_inside_the_border():
    x = images(3)
    got = augment.OPERATIONS["sharpness"](x.float(), torch.full((3,), -0.5)).clamp(0, 255)
    for one, image in zip(got, x, strict=True):
        expected = back(ImageEnhance.Sharpness(pil(image)).enhance(0.55))
        assert (one - expected)[:, 1:-1, 1:-1].abs().max() <= 2


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_an_operation_treats_each_image_by_its_own_strength(name):
    x, strength = images(4).float(), torch.tensor([-0.9, -0.3, 0.3, 0.9])
    together = augment.OPERATIONS[name](x, strength)
    for i in range(4):
        single = augment.OPERATIONS[name](x[i : i + 1], strength[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], single)


@pytest.mark.parametrize(
    "name", ["rotate", "colour", "contrast", "brightness", "sharpness", "shear_x", "translate_y"]
)
def test_an_operation_of_no_strength_changes_nothing(name):
    x = images(4).float()
    changed = augment.OPERATIONS[name](x, torch.zeros(4))
    torch.testing.assert_close(changed, x, atol=1e-2, rtol=0)


def test_translation_moves_by_the_share_of_the_side():
    x = images(2, 1, 20, 20).float()
    right = augment.OPERATIONS["translate_x"](x, torch.full((2,), -10 / 20 / 0.45))
    torch.testing.assert_close(right[..., 10:], x[..., :10], atol=1e-2, rtol=0)
    assert right[..., :9].abs().max() < 1e-2


def test_rotation_turns_by_its_angle():
    x = images(1, 1, 21, 21).float()
    quarter = augment.OPERATIONS["rotate"](x, torch.tensor([3.0]))  # 90 degrees
    assert min((quarter - x.rot90(k, (2, 3))).abs().max() for k in (1, 3)) < 0.1


@pytest.mark.parametrize("name", augment.MIXTURES)
def test_mixtures_pair_images_and_labels(name):
    x = images(50, 3, 16, 16).float()
    y = torch.arange(50)
    mixed = augment.MIXTURES[name](x, y, generator())
    assert mixed.y.equal(y)
    assert sorted(mixed.y2.tolist()) == y.tolist()
    assert ((mixed.lam >= 0) & (mixed.lam <= 1)).all()
    assert len(mixed.lam.unique()) > 20
    for i, j, lam in zip(range(50), mixed.y2.tolist(), mixed.lam.tolist(), strict=True):
        if name == "mixup":
            torch.testing.assert_close(mixed.x[i], lam * x[i] + (1 - lam) * x[j])
        elif i != j:
            own = (mixed.x[i] == x[i]).all(0)
            assert (own | (mixed.x[i] == x[j]).all(0)).all()
            assert abs(float(own.float().mean()) - lam) < 0.02  # some pixels are alike by chance


def test_mixup_draws_its_shares_from_a_beta_distribution():
    x, y = torch.zeros(4000, 1, 4, 4), torch.zeros(4000, dtype=torch.long)
    lam = augment.mixup(x, y, generator(), alpha=0.2).lam
    assert abs(float(lam.mean()) - 0.5) < 0.02
    assert abs(float(lam.var()) - 1 / (4 * (2 * 0.2 + 1))) < 0.01  # of Beta(a, a)


def test_randaugment_is_two_operations_on_each_image_of_its_own():
    x = images(300)
    index, sign = torch.rand(2, 300, generator=generator(4))
    names = [list(augment.OPERATIONS)[int(14 * i)] for i in index]
    assert len(set(names)) == 14
    got = augment.randaugment(x, generator(4), operations=1, magnitude=0.5)
    for image, name, direction, after in zip(x, names, sign.tolist(), got, strict=True):
        strength = torch.tensor([-0.5 if direction < 0.5 else 0.5])
        expected = augment.OPERATIONS[name](image[None].float(), strength)[0]
        assert (after.float() - expected.clamp(0, 255)).abs().max() <= 0.51, name
    assert augment.randaugment(x, generator(4), operations=0).equal(x)
