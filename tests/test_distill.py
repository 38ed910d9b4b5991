from collections import OrderedDict

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from references import (
    BLOCKS,
    LABELLED,
    RAW,
    REFERENCES,
    K,
    N,
    crd_views,
    cross_entropy,
    first_memory,
    kl,
    numbers,
    softmax,
    target_of,
)
from references import crd as reference_crd

from kdlib import UsageError, data, distill, models, train
from kdlib.data import Batch
from kdlib.distill import features as feature_methods
from kdlib.distill import logits, method, relations
from kdlib.models import Forward
from kdlib.plan import runs
from kdlib.plan.methods import METHODS


def network(name, width=1.0, seed=0):
    return models.build(name, classes=K, channels=1, width=width, seed=seed)


def default(name):
    """A method at its defaults, for two networks of one size."""
    same = network("resnet8")
    forward = models.observe(same.eval(), torch.zeros(2, 1, 8, 8), (*models.LAYERS, *RAW))
    built = distill.build(name, forward, forward)
    built.setup(2, same)
    return built


DEFAULTS = {name: default(name) for name in METHODS}
# With trained adapters between student and teacher, or a peer.
ADAPTED = [name for name, built in DEFAULTS.items() if list(built.parameters())]
TWO_STAGE = [name for name, built in DEFAULTS.items() if built.warm_up_epochs]


@pytest.fixture(scope="module")
def teacher():
    return network("resnet14", 1.0, 1).eval().requires_grad_(False)


@pytest.fixture
def pair(request, teacher):
    """A small student, its teacher and a batch; of one width where the method asks for that."""
    tested = getattr(request.node, "callspec", None)
    width = 1.0 if tested and tested.params.get("name") == "fsp" else 0.5
    x = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(LABELLED) % K, torch.arange(N))
    return network("resnet8", width), teacher, batch


def observe(network, x):
    return models.observe(network, x, (*models.LAYERS, *RAW))


def outputs(pair):
    student, teacher, batch = pair
    return observe(student, batch.x), observe(teacher, batch.x), batch


def build(name, pair, **options):
    student, teacher, _ = outputs(pair)
    built = distill.build(name, student, teacher, **options)
    built.setup(N, pair[0])
    return built


def both(built, student, teacher, batch):
    """The terms of the main stage, and those of a first one if there is one."""
    return built(student, teacher, batch) | built.warm_up(student, teacher, batch)


def double(forward):
    return Forward(forward.logits.double(), {k: v.double() for k, v in forward.features.items()})


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_agrees_with_a_loop_written_from_the_paper(name, pair):
    student, teacher, batch = outputs(pair)
    student, teacher, batch = double(student), double(teacher), batch._replace(x=batch.x.double())
    built = build(name, pair).double().eval()
    loss = sum(both(built, student, teacher, batch).values())
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(REFERENCES[name](student, teacher, batch, built), rel=1e-5)


def test_shapes_are_checked_in_these_tests():
    with pytest.raises(TypeCheckError):
        feature_methods.attention(torch.zeros(2, 3))  # no map
    with pytest.raises(TypeCheckError):
        logits.softened(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    with pytest.raises(TypeCheckError):
        method.squared(torch.zeros(2, 3), torch.zeros(2, 1))  # would be broadcast


def test_fitnet_in_two_stages_trains_the_hint_and_then_kd(pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    one, two = build("fitnet", pair).double(), build("fitnet", pair, stages=2).double()
    assert one.warm_up(student, teacher, batch) == {}
    hint = two.warm_up(student, teacher, batch)
    assert set(hint) == {"fitnet"}
    assert hint["fitnet"].equal(one(student, teacher, batch)["fitnet"])
    wanted = cross_entropy(student, batch)
    for zs, zt in zip(*numbers(student, teacher, "logits"), strict=True):
        wanted += 4 * kl(softmax(zt[None] / 3)[0], softmax(zs[None] / 3)[0]) / N
    assert sum(two(student, teacher, batch).values()).item() == pytest.approx(wanted, rel=1e-5)


# Not these: the gradient leaves out what the loss takes as a constant, of crd the memory that each
# batch changes, of dml the other network's probabilities.
CONSTANT = ("crd", "dml")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CONSTANT])
def test_the_gradient_is_the_slope_of_the_loss(name, pair):
    student, teacher, batch = outputs(pair)
    student, teacher, batch = double(student), double(teacher), batch._replace(x=batch.x.double())
    built = build(name, pair).double().eval()
    generator = torch.Generator().manual_seed(0)

    def random():  # features without zeros and ties, where some losses have a kink
        shapes = {
            "logits": student.logits.shape,
            **{k: v.shape for k, v in student.features.items()},
        }
        return {k: torch.randn(shape, generator=generator).double() for k, shape in shapes.items()}

    ours, way = {k: v.requires_grad_() for k, v in random().items()}, random()

    def loss(step):
        moved = {k: v + step * way[k] for k, v in ours.items()}
        features = {k: moved[k] for k in student.features}
        return sum(both(built, Forward(moved["logits"], features), teacher, batch).values())

    gradients = torch.autograd.grad(loss(0.0), [*ours.values()], allow_unused=True)
    due = sum((g * w).sum() for g, w in zip(gradients, way.values(), strict=True) if g is not None)
    with torch.no_grad():
        slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close(due, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_finite_also_for_huge_logits(name, pair):
    student, teacher, batch = outputs(pair)
    built = build(name, pair)
    uniform = torch.rand(N, K, generator=torch.Generator().manual_seed(0))
    huge = (uniform * 1000 - 500).requires_grad_()
    ours, theirs = student._replace(logits=huge), teacher._replace(logits=-huge.detach())
    loss = sum(both(built, ours, theirs, batch).values())
    loss.backward()
    assert loss.isfinite()
    assert huge.grad is None if name == "simkd" else huge.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_reaches_the_student_and_the_adapters_and_never_the_teacher(name, pair):
    student, teacher, _ = pair
    built = build(name, pair)
    before = [t.clone() for t in teacher.state_dict().values()]
    sum(both(built, *outputs(pair)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(a.equal(b) for a, b in zip(before, teacher.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_finite_under_bfloat16_autocast(name, pair):
    built = build(name, pair)
    with torch.autocast("cpu", torch.bfloat16):
        terms = both(built, *outputs(pair))
    loss = sum(terms.values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in pair[0].parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_batch_is_irrelevant(name, pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    order = torch.tensor([3, 0, 4, 1, 2, 9, 5, 11, 7, 10, 6, 8])  # labelled images stay first

    def reordered(f):
        return Forward(f.logits[order], {k: v[order] for k, v in f.features.items()})

    batch = batch._replace(x=batch.x.double())
    other = Batch(batch.x[order], batch.y[order[:LABELLED]], batch.rows[order])
    first = sum(both(build(name, pair).double(), student, teacher, batch).values())
    ours, theirs = reordered(student), reordered(teacher)
    second = sum(both(build(name, pair).double(), ours, theirs, other).values())
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


FLAT = [name for name in METHODS if name not in (*ADAPTED, "baseline", "smooth")]


@pytest.mark.parametrize("name", FLAT)
def test_autocast_does_not_round_the_loss_of_features_that_were_not_rounded(name, pair):
    student, teacher, batch = outputs(pair)
    built = build(name, pair)
    plain = both(built, student, teacher, batch)[name]
    with torch.autocast("cpu", torch.bfloat16):
        assert both(built, student, teacher, batch)[name].equal(plain)


@pytest.mark.parametrize("name", METHODS)
def test_finite_for_a_batch_that_holds_the_same_image_twice(name, pair):
    student, teacher, batch = pair
    x = batch.x[[0, 1, 2, 3, 4, 0, 0, 1]]
    built = build(name, pair)
    twice = Batch(x, batch.y, torch.arange(8))
    sum(both(built, observe(student, x), observe(teacher, x), twice).values()).backward()
    norms = [p.grad.norm() for p in student.parameters() if p.grad is not None]
    assert all(norm < 1e4 for norm in norms)


@pytest.mark.parametrize("name", [n for n in METHODS if n != "reviewkd"])
def test_finite_for_one_image_and_for_images_that_are_all_the_same(name, pair):
    student, teacher, batch = pair
    built = build(name, pair)  # reviewkd: BatchNorm of pooled features needs two images
    for x in (batch.x[:1], batch.x[:1].expand(4, -1, -1, -1)):
        same = Batch(x, batch.y[:1], batch.rows[: len(x)])
        loss = sum(both(built, observe(student, x), observe(teacher, x), same).values())
        student.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


# Not these: cross-entropies (baseline, smooth, nkd, pseudo), trained adapters in between (ADAPTED),
# and a teacher that is not copied but permuted (shuffled).
COPIED = ["kd", "at", "logitstd", "dkd", "dist", "mlkd", "nst", "fsp", "sp", "rkd", "pkt", "cc"]


@pytest.mark.parametrize("name", COPIED)
def test_a_perfect_copy_is_the_minimum(name, pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    built = distill.build(name, teacher, teacher)
    assert both(built, teacher, teacher, batch)[name].item() == pytest.approx(0, abs=1e-6)
    assert both(built, student, teacher, batch)[name] > 1e-3


def test_a_perfect_copy_behind_the_adapter_is_the_minimum(pair):
    f = outputs(pair)[1].features["block1"].double()
    assert feature_methods.context(f, f) == 0
    assert method.squared(relations.channels(f), relations.channels(f)) == 0
    spread, copy = torch.zeros(f.shape[1]).double(), f.clone().requires_grad_()
    feature_methods.gaussian(copy, f, spread).backward()
    assert copy.grad.abs().max() == 0


def test_ab_is_zero_where_every_value_is_on_its_side_by_the_margin(pair):
    f = outputs(pair)[1].features[models.before_relu("block1")].double()
    assert feature_methods.boundary(torch.where(f > 0, 1.0, -1.0).double(), f, 1.0) == 0
    half = torch.where(f > 0, 0.5, -0.5).double()
    assert feature_methods.boundary(half, f, 1.0) == f[0].numel() / 4
    assert (feature_methods.unit(f) - feature_methods.unit(3 * f)).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_the_main_stage_of_fsp_and_ab_is_the_labels_alone(name, pair):
    student, teacher, batch = outputs(pair)
    built = build(name, pair, warm_up_epochs=3)
    assert set(built(student, teacher, batch)) == {"labels"}
    assert set(built.warm_up(student, teacher, batch)) == {name}
    assert built.warm_up_epochs == 3


def test_ft_trains_its_paraphraser_first_and_then_freezes_it(pair):
    student, teacher, batch = outputs(pair)
    built = build("ft", pair)
    built.warm_up(distill.NO_TEACHER, teacher, batch)["paraphraser"].backward()
    first = {name for name, p in built.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in first} == {"encode", "decode"}
    built.zero_grad()
    before = {k: v.clone() for k, v in built.encode.state_dict().items()}
    sum(built(student, teacher, batch).values()).backward()
    assert all(v.equal(before[k]) for k, v in built.encode.state_dict().items())
    main = {name for name, p in built.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in main} == {"translate"}


def test_ofd_is_zero_for_a_perfect_copy_and_where_values_are_negative_enough(pair):
    f = outputs(pair)[1].features[models.before_relu("block1")].double()
    teacher = f.maximum(feature_methods.margins(f))
    assert feature_methods.partial(f, teacher) == 0
    assert feature_methods.partial(torch.where(f > 0, f, f - 5), teacher) == 0
    assert feature_methods.partial(f + 1, teacher) > 1


def test_crd_samples_negatives_by_its_seed_and_agrees_with_a_loop_over_them(pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)

    def crd(seed):
        built = build("crd", pair, seed=seed, negatives=7).double()
        built.setup(50, pair[0])
        return built

    rows = crd(1).compared(batch.rows)
    assert rows.shape == (N, 8)
    assert rows[:, 0].equal(batch.rows)
    assert (rows[:, 1:] != batch.rows[:, None]).all()
    assert rows.min() >= 0
    assert rows.max() < 50
    assert crd(1).compared(batch.rows).equal(rows)
    assert not crd(2).compared(batch.rows).equal(rows)
    built = crd(1)
    loss = sum(built(student, teacher, batch).values()).item()
    wanted = reference_crd(student, teacher, batch, built, rows=rows.tolist(), images=50)
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_the_memory_of_crd_moves_half_way_to_the_new_views(pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    built = build("crd", pair).double()
    built.setup(20, pair[0])
    rows = torch.tensor([4, 7, 2, 9, 1, 7, 3, 19, 0, 5, 6, 8])  # 7 twice: with and without label
    loss = sum(built(student, teacher, batch._replace(rows=rows)).values())
    wanted = first_memory(built, 20)
    for n, view in enumerate(crd_views(student, teacher, built)):
        for row in set(rows.tolist()):
            mean = view[[i for i in range(N) if rows[i] == row]].mean(0)
            moved = 0.5 * wanted[n, row] + 0.5 * mean
            wanted[n, row] = moved / np.sqrt((moved**2).sum())
    np.testing.assert_allclose(built.memory.numpy(), wanted, atol=1e-6)
    sum([loss, *built(student, teacher, batch._replace(rows=rows)).values()]).backward()
    assert not built.memory.requires_grad


def test_a_perfect_copy_of_the_other_classes_is_the_minimum_of_nkd(pair):
    _, teacher, batch = outputs(pair)
    target = method.targets(teacher, batch)
    z = teacher.logits.double().requires_grad_()
    logits.normalised_kd(z, z.detach(), target, 1.0)[1].sum().backward()
    assert z.grad.abs().max() < 1e-12


def test_kd_is_target_plus_non_target_knowledge_of_each_image(pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    target = method.targets(teacher, batch)
    tckd, nckd = logits.decoupled(student.logits, teacher.logits, target, 4.0)
    ps, pt = (softmax(z / 4) for z in numbers(student, teacher, "logits"))
    for i, y in enumerate(target.tolist()):
        whole = tckd[i] + (1 - pt[i, y]) * nckd[i]
        assert whole.item() == pytest.approx(kl(pt[i], ps[i]), rel=1e-9)


def own(name, student, teacher, batch):
    return distill.build(name, student, teacher)(student, teacher, batch)[name].item()


def test_logitstd_ignores_shift_and_scale_of_the_logits(pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    other = student._replace(logits=student.logits * 7.5 - 3)
    assert own("logitstd", other, teacher, batch) == pytest.approx(
        own("logitstd", student, teacher, batch), rel=1e-5
    )


def test_dist_ignores_affine_maps_of_the_probabilities(pair):
    student, teacher, _ = outputs(pair)
    p, q = (logits.softmax(f.logits.double(), 4.0) for f in (student, teacher))
    for a, b in ((p, q), (p.T, q.T)):
        torch.testing.assert_close(logits.correlation(0.3 * a + 0.05, b), logits.correlation(a, b))
    torch.testing.assert_close(logits.correlation(p, 2 * p + 1), torch.ones(N).double())


def rotation(d):
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0]


@pytest.mark.parametrize(
    ("name", "layer"), [("rkd", "pool"), ("pkt", "pool"), ("cc", "pool"), ("sp", "block3")]
)
def test_relations_ignore_rotation_and_scale_of_the_space(name, layer, pair):
    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    f = student.features[layer]
    rotated = 3 * (f.flatten(1) @ rotation(f[0].numel())).reshape(f.shape)
    other = student._replace(features=student.features | {layer: rotated})
    assert own(name, other, teacher, batch) == pytest.approx(
        own(name, student, teacher, batch), rel=1e-5
    )


def test_nst_ignores_a_rotation_of_the_pixels_of_both_networks(pair):
    def rotated(forward):
        maps = {
            layer: (f.flatten(2) @ rotation(f[0, 0].numel())).reshape(f.shape)
            for layer, f in forward.features.items()
            if layer in BLOCKS
        }
        return forward._replace(features=forward.features | maps)

    student, teacher, batch = outputs(pair)
    student, teacher = double(student), double(teacher)
    assert own("nst", rotated(student), rotated(teacher), batch) == pytest.approx(
        own("nst", student, teacher, batch), rel=1e-5
    )


def test_a_shear_changes_rkd(pair):
    student, teacher, batch = outputs(pair)
    h = student.features["pool"] * torch.arange(1, 33) ** 2
    other = student._replace(features=student.features | {"pool": h})
    before, after = (own("rkd", s, teacher, batch) for s in (student, other))
    assert abs(after - before) > 1e-2 * before


def test_a_constant_row_has_no_correlation():
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 4.0]])
    assert logits.correlation(rows, rows).tolist() == pytest.approx([0, 1])


def test_the_target_is_the_label_or_the_teachers_top_class(pair):
    _, teacher, batch = outputs(pair)
    assert method.targets(teacher, batch).tolist() == target_of(teacher, batch)
    everything = batch._replace(y=torch.arange(N) % K)
    assert method.targets(teacher, everything).equal(everything.y)


def test_shuffled_keeps_the_target_and_all_numbers_and_moves_the_rest(pair):
    _, teacher, batch = outputs(pair)
    target = method.targets(teacher, batch)
    permuted = build("shuffled", pair).permuted(teacher, batch)
    p, q = (logits.softmax(z, 4.0)[torch.arange(N), target] for z in (teacher.logits, permuted))
    torch.testing.assert_close(p, q)
    assert permuted.sort(1).values.equal(teacher.logits.sort(1).values)
    moved = (permuted != teacher.logits).double().mean()
    assert 0.6 < moved < 0.95  # of 9 others, 1 stays by chance


def test_shuffled_is_the_same_for_one_seed_and_one_image(pair):
    _, teacher, batch = outputs(pair)
    first = build("shuffled", pair, seed=4).permuted(teacher, batch)
    torch.manual_seed(99)
    again = build("shuffled", pair, seed=4)
    assert again.permuted(teacher, batch).equal(first)
    assert again.permuted(teacher, batch).equal(first)  # nor does it change from step to step
    last = teacher._replace(logits=teacher.logits[LABELLED:])
    rest = Batch(batch.x[LABELLED:], batch.y[:0], batch.rows[LABELLED:])
    assert again.permuted(last, rest).equal(first[LABELLED:])
    assert not build("shuffled", pair, seed=5).permuted(teacher, batch).equal(first)


@pytest.mark.parametrize("name", [*ADAPTED, "shuffled"])
def test_the_seed_decides_all_random_numbers_of_a_method(name, pair):
    def random(seed):
        state = build(name, pair, seed=seed).state_dict()
        return [v for k, v in state.items() if "weight" in k or k == "orders"]

    first, state = random(3), torch.get_rng_state()
    assert all(a.equal(b) for a, b in zip(first, random(3), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, random(4), strict=True))
    assert torch.get_rng_state().equal(state)


@pytest.fixture(scope="module")
def digits():
    """A sixth of them: 4 steps an epoch instead of 21."""
    images = data.load("digits")
    return images._replace(train=images.train[::6], train_labels=images.train_labels[::6])


@pytest.fixture(scope="module")
def trained_teacher(digits):
    network_ = network("resnet8", 0.5, 9)
    rows = data.budget(digits.train_labels, "all", 0)
    train.fit(network_, data.Batches(digits, rows, 64, 0), runs.Teacher(epochs=2))
    return network_


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("baseline", "smooth")])
def test_its_own_term_falls_within_a_few_epochs(name, digits, trained_teacher):
    first_stage_only = name in ("fsp", "ab")
    epochs = 6 if name == "crd" else 3  # its memory starts at random
    main = 0 if first_stage_only else epochs
    run = runs.Student(method=name, labels_per_class=5, epochs=main)
    batches = data.Batches(digits, data.budget(digits.train_labels, 5, 0), run.batch_size, 0)
    as_large = name in ("fsp", "born_again", "self", "noisy_student")
    options = {"warm_up_epochs": epochs if first_stage_only else 1} if name in TWO_STAGE else {}
    if name in ("born_again", "noisy_student"):
        options["generations"] = 1
    student = network("resnet8", 0.5 if as_large else 0.25)
    trained = train.fit(student, batches, run, method=name, teacher=trained_teacher, **options)
    terms = (name, "labels") if name == "born_again" else (name,)  # a poor teacher denies labels
    own = [sum(row[term] for term in terms) for row in trained.history if name in row]
    assert isinstance(trained.network, models.Grafted) == (name == "simkd")
    assert len(own) == epochs
    assert own[-1] < own[0]


def test_the_class_level_of_mlkd_is_the_papers_at_the_papers_sizes():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 64, 100, generator=generator).double().softmax(2)
    level = logits.levels(p.log() * 3, q.log() * 3, 3.0)[2]
    assert level.item() == pytest.approx(((p.T @ p - q.T @ q) ** 2).sum().item() / 100)


def test_the_class_level_of_mlkd_does_not_grow_with_the_batch(pair):
    student, teacher, _ = outputs(pair)
    once = logits.levels(student.logits, teacher.logits, 2.0)
    thrice = logits.levels(*(f.logits.repeat(3, 1) for f in (student, teacher)), 2.0)
    assert thrice[2].item() == pytest.approx(once[2].item(), rel=1e-5)


def test_the_gradient_of_kd_hardly_depends_on_the_temperature(pair):
    student, teacher, batch = outputs(pair)
    small = Forward(student.logits.detach() * 0.1, {})
    targets = Forward(teacher.logits * 0.1, {})

    def size(temperature):
        z = small.logits.clone().requires_grad_()
        built = distill.logits.KD(small, targets, temperature=temperature, label_weight=0.0)
        sum(built(Forward(z, {}), targets, batch).values()).backward()
        return float(z.grad.norm())

    assert size(4.0) == pytest.approx(size(40.0), rel=0.05)


# What a message has to name, after the method and the options that cause it.
REFUSED = [
    ("kdd", {}, "kdd"),
    ("kd", {"temprature": 2}, "temprature"),
    ("baseline", {"temperature": 2}, "temperature"),
    ("kd", {"temperature": 0.0}, "temperature"),
    ("kd", {"temperature": "hot"}, "hot"),
    ("smooth", {"smoothing": 1.5}, "smoothing"),
    ("fitnet", {"layer": "block7"}, "block7"),
    ("fitnet", {"stages": 3}, "stages"),
    ("fitnet", {"stages": 2, "warm_up_epochs": -1}, "warm_up_epochs"),
    ("fitnet", {"warm_up_epochs": 5}, "stages=2"),
    ("fitnet", {"layer": "pool"}, "pool"),
    *((n, {"temperature": -1.0}, "temperature") for n in ("logitstd", "dkd", "dist", "nkd")),
    ("shuffled", {"temperature": -1.0}, "temperature"),
    ("transfer", {"temperature": 0.0}, "temperature"),
    ("born_again", {"generations": 0}, "generations"),
    ("noisy_student", {"generations": 0}, "generations"),
    ("noisy_student", {"dropout": 1.0}, "dropout"),
    ("simkd", {"reduction": 0}, "reduction"),
    ("ab", {"margin": 0.0}, "margin"),
    ("ft", {"share": 0.0}, "share"),
    ("ft", {"warm_up_epochs": 0}, "warm_up_epochs"),
    ("crd", {"momentum": 1.0}, "momentum"),
    ("crd", {"negatives": 0}, "negatives"),
    ("cc", {"order": 0}, "order"),
    ("cc", {"order": 1.5}, "order"),
    ("kd+att", {}, "att"),
    ("kd+", {}, "''"),
    ("kd+at+kd", {}, "twice"),
    ("kd+at", {"weight": 2.0}, "weight"),
    ("kd+at", {"at": 2.0}, "'at'"),
    ("kd+at", {"at": {"wait": 2.0}}, "wait"),
]


@pytest.mark.parametrize(("name", "options", "cause"), REFUSED)
def test_unknown_and_impossible_options_are_refused(name, options, cause, pair):
    with pytest.raises(UsageError) as error:
        build(name, pair, **options)
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


def refused(name, student, teacher, *words):
    """The method cannot be built for these outputs, and the message names its words."""
    with pytest.raises(UsageError) as error:
        distill.build(name, student, teacher)
    assert all(word in str(error.value) for word in (name, *words))


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "vid", "reviewkd", "ab", "ofd"])
def test_maps_of_unequal_size_are_refused(name, pair):
    student, teacher, _ = outputs(pair)
    maps = {x: f[:, :, 1:] if x == "block2" else f for x, f in teacher.features.items()}
    refused(name, student, teacher._replace(features=maps), "block2", "(16, 4, 4)", "(32, 3, 4)")


def test_unequal_channels_are_refused_by_fsp(pair):
    student, teacher, _ = outputs(pair)
    refused("fsp", student, teacher, "stem", "block1", "(8, 8, 8)", "(16, 8, 8)")


def test_maps_of_unequal_size_are_refused_by_ft(pair):
    student, teacher, _ = outputs(pair)
    maps = teacher.features | {"block3": teacher.features["block3"][:, :, 1:]}
    refused("ft", student, teacher._replace(features=maps), "block3")


@pytest.mark.parametrize("name", ["ickd", "sp", "rkd", "pkt", "cc"])
def test_maps_of_unequal_size_can_be_compared_by_relations(name, pair):
    student, teacher, batch = outputs(pair)
    maps = {x: f[:, :, :1] if f.ndim == 4 else f for x, f in teacher.features.items()}
    other = teacher._replace(features=maps)
    assert distill.build(name, student, other)(student, other, batch)[name].isfinite()


LOGITS = [name for name, facts in METHODS.items() if facts.family == "logits"]
SCHEMES = ["born_again", "transfer", "noisy_student", "self"]


@pytest.mark.parametrize("name", [*LOGITS, *SCHEMES, "pseudo", "shuffled", "random"])
def test_other_classes_than_the_teachers_are_refused(name, pair):
    student, teacher, _ = outputs(pair)
    refused(name, student, teacher._replace(logits=teacher.logits[:, :7]), "(10,)", "(7,)")


@pytest.mark.parametrize("name", ["logitstd", "dkd", "nkd", "shuffled"])
def test_too_few_classes_are_refused(name, pair):
    two = [f._replace(logits=f.logits[:, :2]) for f in outputs(pair)[:2]]
    refused(name, *two, "3 classes", "(2,)")


def test_refusals_are_the_methods_that_cannot_be_built_with_their_reasons(pair):
    reasons = distill.refusals(*outputs(pair)[:2])
    assert list(reasons) == ["fsp"]
    assert "stem" in reasons["fsp"]


def test_a_missing_teacher_is_refused(pair):
    refused("kd", outputs(pair)[0], distill.NO_TEACHER, "teacher")


def test_a_combination_is_the_sum_of_its_parts_with_the_labels_of_the_first(pair):
    student, teacher, batch = outputs(pair)
    options = {"at": {"weight": 500.0}, "vid": {}}
    whole = build("kd+at+vid", pair, seed=3, **options)
    terms = whole(student, teacher, batch)
    wanted = build("kd", pair)(student, teacher, batch)
    wanted |= {"at": build("at", pair, weight=500.0)(student, teacher, batch)["at"]}
    wanted |= {"vid": build("vid", pair, seed=3)(student, teacher, batch)["vid"]}
    assert list(terms) == ["labels", "kd", "at", "vid"]
    assert all(terms[name].equal(wanted[name]) for name in wanted)
    assert whole.layers == BLOCKS
    assert whole.warm_up_epochs == 0
    assert {name.split(".")[1] for name, _ in whole.named_parameters()} == {"vid"}
    swapped = build("at+kd", pair)(student, teacher, batch)
    assert swapped["labels"].item() == pytest.approx(10 * terms["labels"].item())


def test_a_combination_has_the_first_stages_of_its_parts(pair):
    student, teacher, batch = outputs(pair)
    fitnet = {"stages": 2, "warm_up_epochs": 4}
    whole = build("kd+ab+fitnet", pair, ab={"warm_up_epochs": 2}, fitnet=fitnet)
    assert whole.warm_up_epochs == 4
    assert whole.warm_up_student
    assert list(whole.warm_up(student, teacher, batch)) == ["ab", "fitnet"]
    parts = [build("kd", pair), build("fitnet", pair, stages=2)]
    wanted = sum(part(student, teacher, batch)["kd"] for part in parts)
    terms = whole(student, teacher, batch)
    assert list(terms) == ["labels", "kd"]
    torch.testing.assert_close(terms["kd"], wanted)
    assert not build("ft+kd", pair).warm_up_student
    build("kd+crd", pair)(student, teacher, batch)["crd"].backward()


def test_a_combination_has_the_facts_of_its_parts(pair):
    whole = build("baseline+smooth", pair).facts
    assert not whole.teacher
    assert not whole.unlabelled
    assert build("baseline+at", pair).facts.teacher


@pytest.mark.parametrize("name", METHODS)
def test_only_born_again_and_noisy_student_have_generations(name, pair):
    several = name in ("born_again", "noisy_student")
    assert build(name, pair).generations == (3 if several else 1)
    if several:
        assert build(name, pair, generations=2).generations == 2


@pytest.mark.parametrize("name", ["born_again", "transfer", "noisy_student"])
def test_a_perfect_copy_has_nothing_to_imitate(name, pair):
    _, teacher, batch = outputs(pair)
    z = teacher.logits.double().requires_grad_()
    terms = build(name, pair)(Forward(z, {}), Forward(z.detach(), {}), batch)
    terms[name].backward()
    assert z.grad.abs().max() < 1e-12


def test_transfer_uses_no_label(pair):
    student, teacher, batch = outputs(pair)
    built = build("transfer", pair)
    terms = built(student, teacher, batch)
    assert set(terms) == {"transfer"}
    unlabelled = built(student, teacher, batch._replace(y=batch.y[:0]))
    assert unlabelled["transfer"].equal(terms["transfer"])


def test_each_of_two_peers_gets_gradients_from_its_own_loss_only(pair):
    network, _, batch = pair
    built = build("dml", pair)
    ours, theirs = network.state_dict(), built.peer.state_dict()
    assert list(ours) == list(theirs)
    assert not ours["stem.0.weight"].equal(theirs["stem.0.weight"])
    terms = built(observe(network, batch.x), distill.NO_TEACHER, batch)
    (terms["labels"] + terms["dml"]).backward(retain_graph=True)
    assert all(p.grad is None for p in built.peer.parameters())
    before = [p.grad.clone() for p in network.parameters()]
    terms["peer"].backward()
    assert all(p.grad.equal(b) for p, b in zip(network.parameters(), before, strict=True))
    assert all(p.grad.abs().sum() > 0 for p in built.peer.parameters())


def test_a_peer_is_initialised_by_the_seed_of_the_method(pair):
    def peer(seed):
        return build("dml", pair, seed=seed).peer.state_dict()["stem.0.weight"]

    state = torch.get_rng_state()
    assert peer(3).equal(peer(3))
    assert not peer(3).equal(peer(4))
    assert torch.get_rng_state().equal(state)


def test_a_noisy_student_drops_half_of_its_features_in_training_and_then_none(pair):
    network, _, batch = pair
    inputs = []  # of the classifier
    clean = observe(network.eval(), batch.x).logits
    built, state = build("noisy_student", pair), torch.get_rng_state()
    hook = network.logits.register_forward_pre_hook(lambda _, h: inputs.append(h[0]))
    assert observe(network, batch.x).logits.equal(clean)
    pool = observe(network.train(), batch.x).features["pool"]
    mask = inputs[-1] != 0
    assert mask[pool > 0].double().mean() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(inputs[-1][mask], 2 * pool[mask])
    network(batch.x)
    assert not inputs[-1].eq(0).equal(~mask)  # another mask at each step
    assert torch.get_rng_state().equal(state)
    assert built.finalize(network, None) is network
    network(batch.x)
    assert inputs[-1].eq(0).equal(observe(network, batch.x).features["pool"].eq(0))
    hook.remove()


def test_a_noisy_student_without_unlabelled_images_is_trained_on_labels_alone(pair):
    student, teacher, batch = outputs(pair)
    labelled = batch._replace(y=torch.arange(N) % K)
    terms = build("noisy_student", pair)(student, teacher, labelled)
    assert terms["noisy_student"] == 0
    assert terms["labels"] > 0


def test_simkd_ends_with_the_teachers_classifier_on_projected_features(pair):
    network, teacher, batch = pair
    built = build("simkd", pair).eval()
    final = built.finalize(network, teacher).eval()
    maps = observe(network.eval(), batch.x).features["block3"]
    wanted = teacher.logits(built.projector(maps).mean((2, 3)))
    torch.testing.assert_close(final(batch.x), wanted)
    assert models.observe(final, batch.x).logits.shape == (N, K)
    perfect = observe(teacher, batch.x).features["block3"]
    built.projector.register_forward_hook(lambda *_: perfect)
    copy = teacher.logits(built.projector(maps).mean((2, 3)))
    torch.testing.assert_close(copy, teacher(batch.x))


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_simkd_averages_the_larger_of_two_maps_down(pair, larger):
    student, teacher, batch = outputs(pair)
    both = {"student": student, "teacher": teacher}
    maps = {**both[larger].features}
    maps["block3"] = torch.randn(N, maps["block3"].shape[1], 4, 4)
    both[larger] = Forward(both[larger].logits, maps)
    built = distill.build("simkd", both["student"], both["teacher"]).eval()
    terms = built(both["student"], both["teacher"], batch)
    maps["block3"] = torch.nn.functional.avg_pool2d(maps["block3"], 2)
    assert terms["simkd"] == built(both["student"], both["teacher"], batch)["simkd"]
    network, before, _ = pair
    assert models.observe(built.finalize(network, before), batch.x).logits.shape == (N, K)


def test_simkd_needs_a_linear_classifier_of_the_last_blocks_channels(pair):
    student, teacher, _ = outputs(pair)
    wider = {**teacher.features, "pool": torch.rand(N, 99)}
    with pytest.raises(UsageError, match=r"simkd.* 99 .* 64 "):
        distill.build("simkd", student, Forward(teacher.logits, wider))
    network, before, _ = pair
    other = torch.nn.Sequential(OrderedDict(before.named_children()))
    other.logits = torch.nn.Sequential(other.logits)
    with pytest.raises(UsageError, match=r"Sequential.*Linear"):
        build("simkd", pair).finalize(network, other)


@pytest.mark.parametrize("name", ["self", "random"])
def test_self_and_random_differ_from_kd_in_their_networks_only(name, pair):
    student, teacher, batch = outputs(pair)
    terms = build(name, pair, temperature=3.0)(student, teacher, batch)
    wanted = build("kd", pair, temperature=3.0)(student, teacher, batch)
    assert terms["labels"].equal(wanted["labels"])
    assert terms[name].equal(wanted["kd"])


def test_fsp_and_ab_need_no_teacher_after_their_first_stage(pair):
    needed = {name: distill.CLASSES[name].main_teacher for name in METHODS}
    assert [name for name, main in needed.items() if not main] == ["fsp", "ab"]
    assert not build("ab+baseline", pair).main_teacher
    assert build("ab+at", pair).main_teacher


def products_of_features(h):
    """Cosines of all angles from the vectors between images themselves: one product per triple."""
    apart = h[None] - h[:, None]
    length = torch.linalg.vector_norm(apart, dim=2)
    mean = length.sum() / (len(h) * (len(h) - 1))
    units = apart / torch.maximum(length, 1e-4 * mean)[:, :, None]
    return torch.bmm(units, units.transpose(1, 2))


def test_angles_and_their_gradient_are_those_of_products_of_features():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(20, 7, generator=generator).double().requires_grad_()
    theirs = torch.randn(20, 9, generator=generator).double()
    total = relations.AngleDifference.apply(relations.distances(ours), relations.distances(theirs))
    wanted = torch.nn.functional.smooth_l1_loss(
        products_of_features(ours), products_of_features(theirs), reduction="sum"
    )
    assert total.item() == pytest.approx(wanted.item(), rel=1e-9)
    (gradient,) = torch.autograd.grad(total, ours)
    (due,) = torch.autograd.grad(wanted, ours)
    torch.testing.assert_close(gradient, due, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["dml+kd", "transfer+at", "simkd+kd", "at+simkd", "kd+crd+dml"])
def test_schemes_and_simkd_combine_with_other_methods(name, pair):
    network, teacher, _ = pair
    built = build(name, pair)
    terms = built(*outputs(pair))
    assert {*name.split("+")} <= set(terms)
    assert ("labels" in terms) == (name.split("+")[0] not in ("transfer", "simkd"))
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in built.parameters())
    final = built.finalize(network, teacher)
    assert isinstance(final, models.Grafted) == ("simkd" in name)


@pytest.mark.parametrize("name", ["kd+born_again", "self+at", "noisy_student+kd", "at+random"])
def test_a_method_that_decides_the_networks_or_the_images_is_not_combined(name, pair):
    with pytest.raises(UsageError):
        build(name, pair)
