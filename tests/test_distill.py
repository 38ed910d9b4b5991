import numpy as np
import pytest
import torch

from kdlib import UsageError, distill, models
from kdlib.data import Batch
from kdlib.models import Forward

N, LABELLED, K = 12, 5, 10


def network(name, width=1.0, seed=0):
    return models.build(name, classes=K, channels=1, width=width, seed=seed)


@pytest.fixture
def pair():
    x = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(LABELLED) % K, torch.arange(N))
    return network("resnet8", 0.5), network("resnet14", 1.0, 1).eval().requires_grad_(False), batch


def look(pair):
    student, teacher, batch = pair
    return models.observe(student, batch.x), models.observe(teacher, batch.x), batch


def made(name, pair, **options):
    student, teacher, _ = look(pair)
    return distill.build(name, student, teacher, **options)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def double(forward):
    return Forward(forward.logits.double(), {k: v.double() for k, v in forward.features.items()})


def cross_entropy(student, batch):
    p = softmax(student.logits.detach().numpy())
    return -np.mean([np.log(p[i, y]) for i, y in enumerate(batch.y.tolist())])


def reference_kd(student, teacher, batch, t=4.0, a=0.1, b=0.9):
    zs, zt = student.logits.detach().numpy(), teacher.logits.numpy()
    total = 0.0
    for i in range(N):
        ps, pt = softmax(zs[i : i + 1] / t)[0], softmax(zt[i : i + 1] / t)[0]
        total += sum(pt[k] * (np.log(pt[k]) - np.log(ps[k])) for k in range(K))
    return a * cross_entropy(student, batch) + b * t * t * total / N


def reference_at(student, teacher, batch, weight=1000.0):
    total = 0.0
    for layer in ("block1", "block2", "block3"):
        maps = []
        for f in (student.features[layer].detach().numpy(), teacher.features[layer].numpy()):
            q = (f**2).mean(1).reshape(N, -1)
            maps.append(q / np.sqrt((q**2).sum(1, keepdims=True)))
        total += ((maps[0] - maps[1]) ** 2).mean()
    return cross_entropy(student, batch) + weight * total


def reference_smooth(student, teacher, batch, e=0.1):
    p, total = softmax(student.logits.detach().numpy()), 0.0
    for i, y in enumerate(batch.y.tolist()):
        target = np.full(K, e / K)
        target[y] += 1 - e
        total -= (target * np.log(p[i])).sum()
    return total / LABELLED


REFERENCES = {
    "alone": lambda s, t, b: cross_entropy(s, b),
    "smooth": reference_smooth,
    "kd": reference_kd,
    "at": reference_at,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_loss_agrees_with_a_loop_written_from_the_paper(name, pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    loss = sum(made(name, pair)(student, teacher, batch).values())
    tolerance = 1e-5 if name != "kd" else 1e-4  # kd computes in float32 on purpose
    assert loss.item() == pytest.approx(REFERENCES[name](student, teacher, batch), rel=tolerance)


def test_fitnet_agrees_with_a_loop_written_from_the_paper(pair):
    student, teacher, batch = look(pair)
    method = made("fitnet", pair).eval()
    f, g = student.features["block2"].detach().numpy(), teacher.features["block2"].numpy()
    weight = method.regressor[0].weight.detach().numpy()[:, :, 0, 0]
    scale = 1 / np.sqrt(1 + method.regressor[1].eps)  # a fresh BatchNorm: mean 0, variance 1
    total = 0.0
    for i in range(N):
        for row in range(f.shape[2]):
            for column in range(f.shape[3]):
                r = np.maximum(weight @ f[i, :, row, column] * scale, 0)
                total += ((r - g[i, :, row, column]) ** 2).sum()
    wanted = cross_entropy(student, batch) + 100 * total / g.size
    assert sum(t.item() for t in method(student, teacher, batch).values()) == pytest.approx(
        wanted, rel=1e-5
    )


@pytest.mark.parametrize("name", distill.METHODS)
def test_finite_also_for_huge_logits(name, pair):
    student, teacher, batch = look(pair)
    method = made(name, pair)
    huge = (torch.rand(N, K) * 1000 - 500).requires_grad_()
    loss = sum(
        method(
            student._replace(logits=huge), teacher._replace(logits=-huge.detach()), batch
        ).values()
    )
    loss.backward()
    assert loss.isfinite()
    assert huge.grad.isfinite().all()


@pytest.mark.parametrize("name", distill.METHODS)
def test_the_gradient_reaches_the_student_and_the_adapters_and_never_the_teacher(name, pair):
    student, teacher, batch = pair
    seen, told, _ = look(pair)
    method = distill.build(name, seen, told)
    before = [t.clone() for t in teacher.state_dict().values()]
    sum(method(seen, told, batch).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(a.equal(b) for a, b in zip(before, teacher.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", distill.METHODS)
def test_finite_under_bfloat16_autocast(name, pair):
    student, teacher, batch = pair
    method = made(name, pair)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(models.observe(student, batch.x), models.observe(teacher, batch.x), batch)
    loss = sum(terms.values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", distill.METHODS)
def test_the_order_of_the_batch_is_irrelevant(name, pair):
    student, teacher, batch = look(pair)
    method = made(name, pair)
    order = torch.cat([torch.randperm(LABELLED), torch.randperm(N - LABELLED) + LABELLED])

    def turned(f):
        return Forward(f.logits[order], {k: v[order] for k, v in f.features.items()})

    other = Batch(batch.x[order], batch.y[order[:LABELLED]], batch.rows[order])
    a = sum(method(student, teacher, batch).values())
    b = sum(method(turned(student), turned(teacher), other).values())
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["kd", "at"])
def test_a_perfect_copy_is_the_minimum(name, pair):
    _, teacher, batch = pair
    told = models.observe(teacher, batch.x)
    terms = distill.build(name, told, told)(told, told, batch)
    assert terms[name].item() == pytest.approx(0, abs=1e-5)


def test_the_gradient_of_kd_hardly_depends_on_the_temperature(pair):
    student, teacher, batch = look(pair)
    small = Forward(student.logits.detach() * 0.1, {})
    told = Forward(teacher.logits * 0.1, {})

    def size(temperature):
        z = small.logits.clone().requires_grad_()
        method = distill.KD(small, told, temperature=temperature, label_weight=0.0)
        sum(method(Forward(z, {}), told, batch).values()).backward()
        return float(z.grad.norm())

    assert size(4.0) == pytest.approx(size(40.0), rel=0.05)


def test_methods_without_a_teacher_say_so():
    assert [name for name in distill.METHODS if not distill.needs_teacher(name)] == [
        "alone",
        "smooth",
    ]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("kdd", {}, "unknown method 'kdd'; one of: alone, smooth, kd"),
        ("kd", {"temprature": 2}, "unknown option 'temprature' of method 'kd'; known: temperature"),
        (
            "alone",
            {"temperature": 2},
            "unknown option 'temperature' of method 'alone'; known: none",
        ),
        ("kd", {"temperature": 0.0}, "temperature 0.0; allowed: a number above 0"),
        ("kd", {"temperature": "hot"}, "option temperature of kd is like 4.0, given 'hot'"),
        ("smooth", {"smoothing": 1.5}, "smoothing 1.5; allowed"),
        ("fitnet", {"layer": "block7"}, "unknown layer 'block7'"),
        (
            "fitnet",
            {"layer": "pool"},
            r"fitnet needs maps of equal height and width at pool; student \(32,\)",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(name, options, said, pair):
    with pytest.raises(UsageError, match=said):
        made(name, pair, **options)


def test_a_missing_teacher_is_said(pair):
    with pytest.raises(UsageError, match="method 'kd' needs a teacher"):
        distill.build("kd", look(pair)[0])


def test_every_method_cites_an_entry_of_the_bibliography():
    from pathlib import Path

    entries = (Path(__file__).parents[1] / "book/references.bib").read_text()
    for name, method in distill.METHODS.items():
        assert f"{{{method.cite}," in entries, name
