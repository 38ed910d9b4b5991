from itertools import pairwise

import numpy as np
import pytest
import torch

from kdlib import UsageError, data, distill, models, train
from kdlib.data import Batch
from kdlib.distill import answers, features, method, relations
from kdlib.models import Forward
from kdlib.plan import runs

N, LABELLED, K = 12, 5, 10
FIRST = ("baseline", "smooth", "kd", "fitnet", "at")
NEW = [name for name in distill.METHODS if name not in FIRST]
BLOCKS = ("block1", "block2", "block3")
RAW = tuple(f"{block}.raw" for block in BLOCKS)
TWO_STAGE = ("fsp", "ab", "ft")


def network(name, width=1.0, seed=0):
    return models.build(name, classes=K, channels=1, width=width, seed=seed)


@pytest.fixture
def pair(request):
    """A small student and its teacher; of one width where the method asks for that."""
    tested = getattr(request.node, "callspec", None)
    width = 1.0 if tested and tested.params.get("name") == "fsp" else 0.5
    x = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(LABELLED) % K, torch.arange(N))
    return (
        network("resnet8", width),
        network("resnet14", 1.0, 1).eval().requires_grad_(False),
        batch,
    )


def seen_by(network, x):
    return models.observe(network, x, (*models.LAYERS, *RAW))


def look(pair):
    student, teacher, batch = pair
    return seen_by(student, batch.x), seen_by(teacher, batch.x), batch


def made(name, pair, **options):
    student, teacher, _ = look(pair)
    method = distill.build(name, student, teacher, **options)
    method.setup(N, pair[0])
    return method


def both(method, student, teacher, batch):
    """The terms of the main stage, and those of a first one if there is one."""
    return method(student, teacher, batch) | (method.warm_up(student, teacher, batch) or {})


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


def numbers(student, teacher, layer):
    """What both networks say at a layer, as NumPy arrays."""
    pair = (f.logits if layer == "logits" else f.features[layer] for f in (student, teacher))
    return [x.detach().numpy() for x in pair]


def target_of(teacher, batch):
    known = batch.y.tolist()
    return known + teacher.logits[len(known) :].argmax(1).tolist()


def kl(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def reference_logitstd(student, teacher, batch, t=2.0, a=0.1, b=9.0):
    total = 0.0
    for zs, zt in zip(*numbers(student, teacher, "logits"), strict=True):
        qs, qt = (softmax((z - z.mean())[None] / z.std(ddof=1) / t)[0] for z in (zs, zt))
        total += kl(qt, qs)
    return a * cross_entropy(student, batch) + b * t * t * total / N


def reference_dkd(student, teacher, batch, t=4.0, a=1.0, b=2.0):
    zs, zt = numbers(student, teacher, "logits")
    total = 0.0
    for i, y in enumerate(target_of(teacher, batch)):
        ps, pt = softmax(zs[i : i + 1] / t)[0], softmax(zt[i : i + 1] / t)[0]
        target = kl([pt[y], 1 - pt[y]], [ps[y], 1 - ps[y]])
        others = [k for k in range(K) if k != y]
        total += a * target + b * kl(pt[others] / (1 - pt[y]), ps[others] / (1 - ps[y]))
    return cross_entropy(student, batch) + t * t * total / N


def reference_dist(student, teacher, batch, t=4.0, weight=2.0):
    ps, pt = (softmax(z / t) for z in numbers(student, teacher, "logits"))
    images = np.mean([1 - np.corrcoef(ps[i], pt[i])[0, 1] for i in range(N)])
    classes = np.mean([1 - np.corrcoef(ps[:, k], pt[:, k])[0, 1] for k in range(K)])
    return cross_entropy(student, batch) + weight * t * t * (images + classes)


def reference_nkd(student, teacher, batch, t=1.0, g=1.5):
    zs, zt = numbers(student, teacher, "logits")
    total = 0.0
    for i, y in enumerate(target_of(teacher, batch)):
        others = [k for k in range(K) if k != y]
        total -= softmax(zt[i : i + 1])[0, y] * np.log(softmax(zs[i : i + 1])[0, y])
        ns, nt = (softmax(z[i : i + 1, others] / t)[0] for z in (zs, zt))
        total -= g * t * t * sum(a * np.log(b) for a, b in zip(nt, ns, strict=True))
    return cross_entropy(student, batch) + total / N


def reference_mlkd(student, teacher, batch, a=0.1, b=0.9):
    total = 0.0
    for t in (2.0, 3.0, 4.0, 5.0, 6.0):
        p, q = (softmax(z / t) for z in numbers(student, teacher, "logits"))
        total += t * t * sum(kl(q[i], p[i]) for i in range(N)) / N
        for i in range(N):
            for j in range(N):
                total += (p[i] @ p[j] - q[i] @ q[j]) ** 2 / N
        for k in range(K):
            for m in range(K):
                apart = (p[:, k] @ p[:, m] - q[:, k] @ q[:, m]) ** 2 / K
                total += apart * (64 / 100 * K / N) ** 2
    return a * cross_entropy(student, batch) + b * total


def reference_nst(student, teacher, batch, weight=50.0):
    total = 0.0
    for layer in BLOCKS:
        for fs, ft in zip(*numbers(student, teacher, layer), strict=True):
            s, t = (
                [m.ravel() / max(np.sqrt((m**2).sum()), 1e-12) for m in maps] for maps in (fs, ft)
            )
            for sign, left, right in ((1, t, t), (1, s, s), (-2, s, t)):
                kernel = [[(a @ b) ** 2 for b in right] for a in left]
                total += sign * np.mean(kernel) / N
    return cross_entropy(student, batch) + weight * total


def reference_fsp(student, teacher, batch, weight=50.0):
    total = 0.0
    for a, b in pairwise(("stem", *BLOCKS)):
        flows = []
        for network in (0, 1):
            maps = [numbers(student, teacher, layer)[network] for layer in (a, b)]
            n, d, h, w = maps[1].shape
            step = maps[0].shape[2] // h
            maps[0] = maps[0].reshape(n, -1, h, step, w, step).max((3, 5))
            flow = np.zeros((n, maps[0].shape[1], d))
            for row in range(h):
                for column in range(w):
                    for i in range(n):
                        first, second = (f[i, :, row, column] for f in maps)
                        flow[i] += np.outer(first, second) / (h * w)
            flows.append(flow)
        total += ((flows[0] - flows[1]) ** 2).mean()
    return cross_entropy(student, batch) + weight * total


def reference_sp(student, teacher, batch, weight=3000.0):
    rows = []
    for f in numbers(student, teacher, "block3"):
        g = np.array([[a.ravel() @ b.ravel() for b in f] for a in f])
        rows.append([row / np.sqrt((row**2).sum()) for row in g])
    frobenius = sum(((a - b) ** 2).sum() for a, b in zip(*rows, strict=True))
    return cross_entropy(student, batch) + weight * frobenius / N**2


def huber(x):
    return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5


def reference_rkd(student, teacher, batch, pairs=25.0, triples=50.0):
    spaces = numbers(student, teacher, "pool")
    distances, angles = [], []
    for h in spaces:
        d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in h] for a in h])
        distances.append(d / d[d > 0].mean())
        angles.append(
            [
                cosine(h[j] - h[i], h[k] - h[i]) if i not in (j, k) else 0.0
                for i in range(N)
                for j in range(N)
                for k in range(N)
            ]
        )
    first = np.mean([huber(a - b) for a, b in zip(*(d.ravel() for d in distances), strict=True)])
    second = np.mean([huber(a - b) for a, b in zip(*angles, strict=True)])
    return cross_entropy(student, batch) + pairs * first + triples * second


def reference_pkt(student, teacher, batch, weight=30000.0):
    ps, pt = [], []
    for h, p in zip(numbers(student, teacher, "pool"), (ps, pt), strict=True):
        for a in h:
            row = [(cosine(a, b) + 1) / 2 for b in h]
            p.extend(np.array(row) / sum(row))
    terms = [b * np.log((b + 1e-7) / (a + 1e-7)) for a, b in zip(ps, pt, strict=True)]
    return cross_entropy(student, batch) + weight * np.mean(terms)


def reference_cc(student, teacher, batch, weight=100.0, gamma=0.4):
    total = 0.0
    hs, ht = numbers(student, teacher, "pool")
    for i in range(N):
        for j in range(N):
            kernels = []
            for h in (hs, ht):
                x = 2 * gamma * cosine(h[i], h[j])
                kernels.append(np.exp(-2 * gamma) * (1 + x + x**2 / 2))
            total += (kernels[0] - kernels[1]) ** 2
    return cross_entropy(student, batch) + weight * total / N**2


def imitation(zs, zt):
    """-sum_k p_t log p_s, mean over images."""
    p, q = softmax(zs), softmax(zt)
    return -np.mean(
        [sum(a * np.log(b) for a, b in zip(*row, strict=True)) for row in zip(q, p, strict=True)]
    )


def reference_born_again(student, teacher, batch):
    return cross_entropy(student, batch) + imitation(*numbers(student, teacher, "logits"))


def reference_transfer(student, teacher, batch):
    return imitation(*numbers(student, teacher, "logits"))


def reference_noisy_student(student, teacher, batch):
    zs, zt = numbers(student, teacher, "logits")
    return cross_entropy(student, batch) + imitation(zs[LABELLED:], zt[LABELLED:])


def reference_pseudo(student, teacher, batch):
    zs, zt = numbers(student, teacher, "logits")
    return -np.mean([np.log(softmax(z[None])[0, t.argmax()]) for z, t in zip(zs, zt, strict=True)])


def reference_shuffled(student, teacher, batch):
    orders, moved = made_orders(), teacher.logits.clone()
    for i, y in enumerate(target_of(teacher, batch)):
        drawn = [int(k) for k in orders[batch.rows[i] % 1009].argsort() if k != y]
        for place, source in zip([k for k in range(K) if k != y], drawn, strict=True):
            moved[i, place] = teacher.logits[i, source]
    return reference_kd(student, teacher._replace(logits=moved), batch)


def made_orders():
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(K, generator=generator) for _ in range(1009)])


REFERENCES = {
    "baseline": lambda s, t, b: cross_entropy(s, b),
    "smooth": reference_smooth,
    "kd": reference_kd,
    "at": reference_at,
    "logitstd": reference_logitstd,
    "dkd": reference_dkd,
    "dist": reference_dist,
    "nkd": reference_nkd,
    "mlkd": reference_mlkd,
    "nst": reference_nst,
    "fsp": reference_fsp,
    "sp": reference_sp,
    "rkd": reference_rkd,
    "pkt": reference_pkt,
    "cc": reference_cc,
    "born_again": reference_born_again,
    "transfer": reference_transfer,
    "noisy_student": reference_noisy_student,
    "self": reference_kd,
    "random": reference_kd,
    "pseudo": reference_pseudo,
    "shuffled": reference_shuffled,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_loss_agrees_with_a_loop_written_from_the_paper(name, pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    loss = sum(both(made(name, pair), student, teacher, batch).values())
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(REFERENCES[name](student, teacher, batch), rel=1e-5)


def weights_of(convolution):
    return convolution.weight.detach().numpy()


def pointwise(weight, f):
    """A 1x1 convolution of one image, (c, h, w) -> (d, h, w), by hand."""
    out = np.zeros((len(weight), *f.shape[1:]))
    for row in range(f.shape[1]):
        for column in range(f.shape[2]):
            out[:, row, column] = weight[:, :, 0, 0] @ f[:, row, column]
    return out


def fresh(norm, f):
    """What a BatchNorm that has seen nothing yet does: mean 0, variance 1."""
    return f / np.sqrt(1 + norm.eps)


def reference_vid(student, teacher, batch, method):
    total = 0.0
    for layer in BLOCKS:
        spread = method.spread[layer].detach().numpy()
        variance = np.log1p(np.exp(spread)) + 1e-5
        assert variance == pytest.approx(5)
        errors = []
        for fs, ft in zip(*numbers(student, teacher, layer), strict=True):
            for step in (0, 2, 4):
                fs = pointwise(weights_of(method.mean[layer][step]), np.maximum(fs, 0))
            errors.append(
                [(m - f) ** 2 / v + np.log(v) for m, f, v in zip(fs, ft, variance, strict=True)]
            )
        total += 0.5 * np.mean(errors)
    return cross_entropy(student, batch) + total


def reference_ickd(student, teacher, batch, method, weight=2.5):
    total = 0.0
    for fs, ft in zip(*numbers(student, teacher, "block3"), strict=True):
        fs = fresh(method.embed[1], pointwise(weights_of(method.embed[0]), fs))
        rows = []
        for f in (fs, ft):
            g = np.array([[a.ravel() @ b.ravel() for b in f] for a in f])
            rows.append(np.array([row / max(np.sqrt((row**2).sum()), 1e-12) for row in g]))
        total += ((rows[0] - rows[1]) ** 2).sum() / len(ft)
    return cross_entropy(student, batch) + weight * total / N


def pooled(f, size):
    step = f.shape[1] // size
    return f.reshape(len(f), size, step, size, step).mean((2, 4))


def reference_reviewkd(student, teacher, batch, method, weight=0.6):
    total = 0.0
    for i in range(N):
        deeper = None
        for layer in ("pool", "block3", "block2", "block1"):
            fusion = method.fusion[layer]
            fs, ft = (
                f[i].reshape(len(f[i]), *(f.shape[2:] or (1, 1)))
                for f in numbers(student, teacher, layer)
            )
            x = fresh(fusion.reduce[1], pointwise(weights_of(fusion.reduce[0]), fs))
            if deeper is not None:
                up = x.shape[1] // deeper.shape[1]
                deeper = deeper.repeat(up, 1).repeat(up, 2)
                bias = fusion.attend.bias.detach().numpy()
                both = np.concatenate([x, deeper])
                z = pointwise(weights_of(fusion.attend), both) + bias[:, None, None]
                share = 1 / (1 + np.exp(-z))
                x = x * share[0] + deeper * share[1]
            deeper = x
            kernel, padded = weights_of(fusion.expand[0]), np.pad(x, ((0, 0), (1, 1), (1, 1)))
            out = np.zeros_like(ft)
            for row in range(ft.shape[1]):
                for column in range(ft.shape[2]):
                    window = padded[:, row : row + 3, column : column + 3]
                    out[:, row, column] = (kernel * window).sum((1, 2, 3))
            out = fresh(fusion.expand[1], out)
            sizes = [ft.shape[1], *(p for p in (4, 2, 1) if p < ft.shape[1])]
            shares = [0.5**n for n in range(len(sizes))]
            for size, portion in zip(sizes, shares, strict=True):
                error = ((pooled(out, size) - pooled(ft, size)) ** 2).mean()
                total += portion / sum(shares) * error / N
    return cross_entropy(student, batch) + weight * total


def reference_ab(student, teacher, batch, method, weight=0.003, m=1.0):
    total = 0.0
    for n, layer in enumerate(RAW):
        conv, norm = method.connect[n]
        for fs, ft in zip(*numbers(student, teacher, layer), strict=True):
            fs = fresh(norm, pointwise(weights_of(conv), fs))
            for a, b in zip(fs.ravel(), ft.ravel(), strict=True):
                if b <= 0 and a > -m:
                    total += 2.0 ** (n - 2) * (a + m) ** 2
                if b > 0 and a <= m:
                    total += 2.0 ** (n - 2) * (a - m) ** 2
    return cross_entropy(student, batch) + weight * total / N


def convolved(steps, f, transposed=False):
    """3x3 convolutions of one image, each with a fresh BatchNorm and a leaky ReLU, by hand."""
    for conv, norm, _ in zip(steps[0::3], steps[1::3], steps[2::3], strict=True):
        weight = weights_of(conv)
        c, h, w = len(f), *f.shape[1:]
        out = np.zeros((weight.shape[1 if transposed else 0], h + 2, w + 2))
        padded = np.pad(f, ((0, 0), (1, 1), (1, 1)))
        for row in range(h):
            for column in range(w):
                if transposed:
                    for channel in range(c):
                        spread = weight[channel] * f[channel, row, column]
                        out[:, row : row + 3, column : column + 3] += spread
                else:
                    window = padded[:, row : row + 3, column : column + 3]
                    out[:, row + 1, column + 1] = (weight * window).sum((1, 2, 3))
        f = fresh(norm, out[:, 1:-1, 1:-1])
        f = np.where(f > 0, f, 0.1 * f)
    return f


def reference_ft(student, teacher, batch, method, weight=200.0):
    distances, errors = [], []
    for fs, ft in zip(*numbers(student, teacher, "block3"), strict=True):
        factor, words = convolved(method.encode, ft), convolved(method.translate, fs)
        errors.append((convolved(method.decode, factor, transposed=True) - ft) ** 2)
        units = [f.ravel() / np.sqrt((f**2).sum()) for f in (factor, words)]
        distances.append(np.abs(units[0] - units[1]))
    return cross_entropy(student, batch) + weight * np.mean(distances) + np.mean(errors)


def reference_ofd(student, teacher, batch, method, weight=0.001):
    total = 0.0
    for n, layer in enumerate(RAW):
        conv, norm = method.connect[n]
        student_maps, teacher_maps = numbers(student, teacher, layer)
        margin = []
        for channel in range(teacher_maps.shape[1]):
            negative = [x for x in teacher_maps[:, channel].ravel() if x < 0]
            margin.append(np.mean(negative) if negative else 0.0)
        for fs, ft in zip(student_maps, teacher_maps, strict=True):
            fs = fresh(norm, pointwise(weights_of(conv), fs))
            for channel, m in enumerate(margin):
                for s, t in zip(fs[channel].ravel(), ft[channel].ravel(), strict=True):
                    t = max(t, m)
                    total += 0.0 if s <= t <= 0 else 2.0 ** (n - 2) * (s - t) ** 2
    return cross_entropy(student, batch) + weight * total / N


def first_memory(method, images=N):
    generator = torch.Generator().manual_seed(method.seed)
    drawn = torch.randn(2, images, 128, generator=generator).double().numpy()
    return drawn / np.sqrt((drawn**2).sum(2, keepdims=True))


def crd_views(student, teacher, method):
    views = []
    for embed, h in zip(method.embed, numbers(student, teacher, "pool"), strict=True):
        v = np.array([weights_of(embed) @ x + embed.bias.detach().numpy() for x in h])
        views.append(v / np.sqrt((v**2).sum(1, keepdims=True)))
    return views


def reference_crd(student, teacher, batch, method, weight=0.8, t=0.07, rows=None, images=N):
    """`rows`: for each image itself and what it is told apart from; default: all others."""
    if rows is None:
        rows = [[i, *(j for j in range(N) if j != i)] for i in range(N)]
    memory, views, total = first_memory(method, images), crd_views(student, teacher, method), 0.0
    for mine, other in ((0, 1), (1, 0)):
        e = np.array(
            [[np.exp(views[mine][i] @ memory[other][j] / t) for j in rows[i]] for i in range(N)]
        )
        p, odds = e / (images * e.mean()), (len(rows[0]) - 1) / images
        for i in range(N):
            total -= np.log(p[i, 0] / (p[i, 0] + odds))
            total -= sum(np.log(1 - x / (x + odds)) for x in p[i, 1:])
    return cross_entropy(student, batch) + weight * total / N


def reference_simkd(student, teacher, batch, method):
    total = []
    for fs, ft in zip(*numbers(student, teacher, "block3"), strict=True):
        steps = list(method.projector)
        for conv, norm in zip(steps[0::3], steps[1::3], strict=True):
            weight = weights_of(conv)
            if weight.shape[2] == 1:
                out = pointwise(weight, fs)
            else:
                out, padded = (
                    np.zeros((len(weight), *fs.shape[1:])),
                    np.pad(fs, ((0, 0), (1, 1), (1, 1))),
                )
                for row in range(fs.shape[1]):
                    for column in range(fs.shape[2]):
                        window = padded[:, row : row + 3, column : column + 3]
                        out[:, row, column] = (weight * window).sum((1, 2, 3))
            fs = np.maximum(fresh(norm, out), 0)
        total.append((fs - ft) ** 2)
    return np.mean(total)


def reference_dml(student, teacher, batch, method):
    peer = Forward(method.peer(batch.x.double()), {})
    zs, zp = numbers(student, peer, "logits")
    total = cross_entropy(student, batch) + cross_entropy(peer, batch)
    for p, q in zip(softmax(zs), softmax(zp), strict=True):
        total += (kl(p, q) + kl(q, p)) / N
    return total


ADAPTED = {
    "vid": reference_vid,
    "ickd": reference_ickd,
    "reviewkd": reference_reviewkd,
    "ab": reference_ab,
    "ft": reference_ft,
    "ofd": reference_ofd,
    "crd": reference_crd,
    "simkd": reference_simkd,
    "dml": reference_dml,
}


@pytest.mark.parametrize("name", ADAPTED)
def test_a_loss_with_adapters_agrees_with_a_loop_written_from_the_paper(name, pair):
    student, teacher, batch = look(pair)
    student, teacher, batch = double(student), double(teacher), batch._replace(x=batch.x.double())
    method = made(name, pair).double().eval()
    loss = sum(both(method, student, teacher, batch).values())
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(ADAPTED[name](student, teacher, batch, method), rel=1e-5)


def test_every_method_has_a_reference():
    assert {*REFERENCES, *ADAPTED, "fitnet"} == set(distill.METHODS)


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


def test_fitnet_in_two_stages_learns_the_hint_and_then_the_answers(pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    one, two = made("fitnet", pair).double(), made("fitnet", pair, stages=2).double()
    assert one.warm_up(student, teacher, batch) is None
    hint = two.warm_up(student, teacher, batch)
    assert set(hint) == {"fitnet"}
    assert hint["fitnet"].equal(one(student, teacher, batch)["fitnet"])
    wanted = cross_entropy(student, batch)
    for zs, zt in zip(*numbers(student, teacher, "logits"), strict=True):
        wanted += 4 * kl(softmax(zt[None] / 3)[0], softmax(zs[None] / 3)[0]) / N
    assert sum(two(student, teacher, batch).values()).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", distill.METHODS)
def test_finite_also_for_huge_logits(name, pair):
    student, teacher, batch = look(pair)
    method = made(name, pair)
    draw = torch.rand(N, K, generator=torch.Generator().manual_seed(0))
    huge = (draw * 1000 - 500).requires_grad_()
    loss = sum(
        both(
            method, student._replace(logits=huge), teacher._replace(logits=-huge.detach()), batch
        ).values()
    )
    loss.backward()
    assert loss.isfinite()
    assert huge.grad is None if name == "simkd" else huge.grad.isfinite().all()


@pytest.mark.parametrize("name", distill.METHODS)
def test_the_gradient_reaches_the_student_and_the_adapters_and_never_the_teacher(name, pair):
    student, teacher, batch = pair
    seen, told, _ = look(pair)
    method = made(name, pair)
    before = [t.clone() for t in teacher.state_dict().values()]
    sum(both(method, seen, told, batch).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(a.equal(b) for a, b in zip(before, teacher.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", distill.METHODS)
def test_finite_under_bfloat16_autocast(name, pair):
    student, teacher, batch = pair
    method = made(name, pair)
    with torch.autocast("cpu", torch.bfloat16):
        terms = both(method, seen_by(student, batch.x), seen_by(teacher, batch.x), batch)
    loss = sum(terms.values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", distill.METHODS)
def test_the_order_of_the_batch_is_irrelevant(name, pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    order = torch.tensor([3, 0, 4, 1, 2, 9, 5, 11, 7, 10, 6, 8])  # labelled images stay first

    def turned(f):
        return Forward(f.logits[order], {k: v[order] for k, v in f.features.items()})

    batch = batch._replace(x=batch.x.double())
    other = Batch(batch.x[order], batch.y[order[:LABELLED]], batch.rows[order])
    a, b = (
        sum(both(made(name, pair).double(), *given).values())
        for given in ((student, teacher, batch), (turned(student), turned(teacher), other))
    )
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NEW if name not in ADAPTED])
def test_autocast_does_not_round_the_loss_of_features_that_were_not_rounded(name, pair):
    student, teacher, batch = look(pair)
    method = made(name, pair)
    plain = both(method, student, teacher, batch)[name]
    with torch.autocast("cpu", torch.bfloat16):
        assert both(method, student, teacher, batch)[name].equal(plain)


@pytest.mark.parametrize("name", distill.METHODS)
def test_finite_for_a_batch_that_holds_the_same_image_twice(name, pair):
    student, teacher, batch = pair
    x = batch.x[[0, 1, 2, 3, 4, 0, 0, 1]]
    method = made(name, pair)
    seen, told = seen_by(student, x), seen_by(teacher, x)
    sum(both(method, seen, told, Batch(x, batch.y, torch.arange(8))).values()).backward()
    norms = [p.grad.norm() for p in student.parameters() if p.grad is not None]
    assert all(norm < 1e4 for norm in norms)


@pytest.mark.parametrize("name", [n for n in distill.METHODS if n != "reviewkd"])
def test_finite_for_one_image_and_for_images_that_are_all_the_same(name, pair):
    student, teacher, batch = pair
    method = made(name, pair)  # reviewkd: BatchNorm of pooled features needs two images
    for x in (batch.x[:1], batch.x[:1].expand(4, -1, -1, -1)):
        seen, told = seen_by(student, x), seen_by(teacher, x)
        loss = sum(both(method, seen, told, Batch(x, batch.y[:1], batch.rows[: len(x)])).values())
        student.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


# Not these: cross-entropies (alone, smooth, nkd, pseudo), trained adapters in between (fitnet, vid,
# ickd, reviewkd, ab, ft, ofd, crd), and a teacher that is not copied but scrambled (shuffled).
COPIED = ["kd", "at", "logitstd", "dkd", "dist", "mlkd", "nst", "fsp", "sp", "rkd", "pkt", "cc"]


@pytest.mark.parametrize("name", COPIED)
def test_a_perfect_copy_is_the_minimum(name, pair):
    student, teacher, batch = pair
    told = double(seen_by(teacher, batch.x))
    method = distill.build(name, told, told)
    assert both(method, told, told, batch)[name].item() == pytest.approx(0, abs=1e-6)
    assert both(method, double(seen_by(student, batch.x)), told, batch)[name] > 1e-3


def test_a_perfect_copy_behind_the_adapter_is_the_minimum(pair):
    f = look(pair)[1].features["block1"].double()
    assert features.context(f, f) == 0
    assert method.squared(relations.channels(f), relations.channels(f)) == 0
    spread, copy = torch.zeros(f.shape[1]).double(), f.clone().requires_grad_()
    features.gaussian(copy, f, spread).backward()
    assert copy.grad.abs().max() == 0


def test_ab_is_content_where_every_neuron_is_on_its_side_by_the_margin(pair):
    f = look(pair)[1].features["block1.raw"].double()
    assert features.boundary(torch.where(f > 0, 1.0, -1.0).double(), f, 1.0) == 0
    assert features.boundary(torch.where(f > 0, 0.5, -0.5).double(), f, 1.0) == f[0].numel() / 4
    assert (features.unit(f) - features.unit(3 * f)).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_the_main_stage_of_fsp_and_ab_is_the_labels_baseline(name, pair):
    student, teacher, batch = look(pair)
    method = made(name, pair, warm_up_epochs=3)
    assert set(method(student, teacher, batch)) == {"labels"}
    assert set(method.warm_up(student, teacher, batch)) == {name}
    assert method.warm_up_epochs == 3


def test_ft_trains_its_paraphraser_first_and_then_leaves_it_baseline(pair):
    student, teacher, batch = look(pair)
    method = made("ft", pair)
    method.warm_up(distill.NO_TEACHER, teacher, batch)["paraphraser"].backward()
    first = {name for name, p in method.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in first} == {"encode", "decode"}
    method.zero_grad()
    before = {k: v.clone() for k, v in method.encode.state_dict().items()}
    sum(method(student, teacher, batch).values()).backward()
    assert all(v.equal(before[k]) for k, v in method.encode.state_dict().items())
    main = {name for name, p in method.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in main} == {"translate"}


def test_ofd_asks_nothing_of_a_perfect_copy_nor_of_what_is_negative_enough(pair):
    f = look(pair)[1].features["block1.raw"].double()
    told = f.maximum(features.margins(f))
    assert features.partial(f, told) == 0
    assert features.partial(torch.where(f > 0, f, f - 5), told) == 0
    assert features.partial(f + 1, told) > 1


def test_crd_draws_negatives_by_its_seed_and_agrees_with_a_loop_over_them(pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)

    def drawn(seed):
        method = made("crd", pair, seed=seed, negatives=7).double()
        method.setup(50, pair[0])
        return method

    rows = drawn(1).compared(batch.rows)
    assert rows.shape == (N, 8)
    assert rows[:, 0].equal(batch.rows)
    assert (rows[:, 1:] != batch.rows[:, None]).all()
    assert rows.min() >= 0
    assert rows.max() < 50
    assert drawn(1).compared(batch.rows).equal(rows)
    assert not drawn(2).compared(batch.rows).equal(rows)
    method = drawn(1)
    loss = sum(method(student, teacher, batch).values()).item()
    wanted = reference_crd(student, teacher, batch, method, rows=rows.tolist(), images=50)
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_crd_remembers_half_of_what_it_sees(pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    method = made("crd", pair).double()
    method.setup(20, pair[0])
    rows = torch.tensor([4, 7, 2, 9, 1, 7, 3, 19, 0, 5, 6, 8])  # 7 twice: with its label, and pool
    loss = sum(method(student, teacher, batch._replace(rows=rows)).values())
    wanted = first_memory(method, 20)
    for n, view in enumerate(crd_views(student, teacher, method)):
        for row in set(rows.tolist()):
            seen = view[[i for i in range(N) if rows[i] == row]].mean(0)
            moved = 0.5 * wanted[n, row] + 0.5 * seen
            wanted[n, row] = moved / np.sqrt((moved**2).sum())
    np.testing.assert_allclose(method.memory.numpy(), wanted, atol=1e-6)
    sum([loss, *method(student, teacher, batch._replace(rows=rows)).values()]).backward()
    assert not method.memory.requires_grad


def test_a_perfect_copy_of_the_other_classes_is_the_minimum_of_nkd(pair):
    _, teacher, batch = look(pair)
    target = method.targets(teacher, batch)
    z = teacher.logits.double().requires_grad_()
    answers.normalised_kd(z, z.detach(), target, 1.0)[1].sum().backward()
    assert z.grad.abs().max() < 1e-12


def test_kd_is_target_plus_non_target_knowledge_of_each_image(pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    target = method.targets(teacher, batch)
    tckd, nckd = answers.decoupled(student.logits, teacher.logits, target, 4.0)
    ps, pt = (softmax(z / 4) for z in numbers(student, teacher, "logits"))
    for i, y in enumerate(target.tolist()):
        whole = tckd[i] + (1 - pt[i, y]) * nckd[i]
        assert whole.item() == pytest.approx(kl(pt[i], ps[i]), rel=1e-9)


def own(name, student, teacher, batch):
    return distill.build(name, student, teacher)(student, teacher, batch)[name].item()


def test_logitstd_ignores_shift_and_scale_of_the_logits(pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    other = student._replace(logits=student.logits * 7.5 - 3)
    assert own("logitstd", other, teacher, batch) == pytest.approx(
        own("logitstd", student, teacher, batch), rel=1e-5
    )


def test_dist_ignores_affine_maps_of_the_probabilities(pair):
    student, teacher, _ = look(pair)
    p, q = (answers.softmax(f.logits.double(), 4.0) for f in (student, teacher))
    for a, b in ((p, q), (p.T, q.T)):
        torch.testing.assert_close(
            answers.correlation(0.3 * a + 0.05, b), answers.correlation(a, b)
        )
    torch.testing.assert_close(answers.correlation(p, 2 * p + 1), torch.ones(N).double())


def rotation(d):
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0]


@pytest.mark.parametrize(
    ("name", "layer", "scale"),
    [("rkd", "pool", 3.0), ("pkt", "pool", 3.0), ("cc", "pool", 3.0), ("sp", "block3", 3.0)],
)
def test_relations_ignore_rotation_and_scale_of_the_space(name, layer, scale, pair):
    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    f = student.features[layer]
    turned = scale * (f.flatten(1) @ rotation(f[0].numel())).reshape(f.shape)
    other = student._replace(features=student.features | {layer: turned})
    assert own(name, other, teacher, batch) == pytest.approx(
        own(name, student, teacher, batch), rel=1e-5
    )


def test_nst_ignores_a_rotation_of_the_pixels_of_both_networks(pair):
    def turned(forward):
        maps = {
            layer: (f.flatten(2) @ rotation(f[0, 0].numel())).reshape(f.shape)
            for layer, f in forward.features.items()
            if layer in BLOCKS
        }
        return forward._replace(features=forward.features | maps)

    student, teacher, batch = look(pair)
    student, teacher = double(student), double(teacher)
    assert own("nst", turned(student), turned(teacher), batch) == pytest.approx(
        own("nst", student, teacher, batch), rel=1e-5
    )


def test_rkd_feels_a_shear(pair):
    student, teacher, batch = look(pair)
    h = student.features["pool"] * torch.arange(1, 33) ** 2
    other = student._replace(features=student.features | {"pool": h})
    before, after = (own("rkd", s, teacher, batch) for s in (student, other))
    assert abs(after - before) > 1e-2 * before


def test_a_constant_row_has_no_correlation():
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 4.0]])
    assert answers.correlation(rows, rows).tolist() == pytest.approx([0, 1])


def test_the_target_is_the_label_or_what_the_teacher_says(pair):
    _, teacher, batch = look(pair)
    assert method.targets(teacher, batch).tolist() == target_of(teacher, batch)
    everything = batch._replace(y=torch.arange(N) % K)
    assert method.targets(teacher, everything).equal(everything.y)


def test_shuffled_keeps_the_target_and_all_numbers_and_moves_the_rest(pair):
    _, teacher, batch = look(pair)
    told, target = made("shuffled", pair).permuted(teacher, batch), method.targets(teacher, batch)
    p, q = (answers.softmax(z, 4.0)[torch.arange(N), target] for z in (teacher.logits, told))
    torch.testing.assert_close(p, q)
    assert told.sort(1).values.equal(teacher.logits.sort(1).values)
    moved = (told != teacher.logits).double().mean()
    assert 0.6 < moved < 0.95  # of 9 others one stays by chance


def test_shuffled_is_the_same_for_one_seed_and_one_image(pair):
    _, teacher, batch = look(pair)
    first = made("shuffled", pair, seed=4).permuted(teacher, batch)
    torch.manual_seed(99)
    again = made("shuffled", pair, seed=4)
    assert again.permuted(teacher, batch).equal(first)
    assert again.permuted(teacher, batch).equal(first)  # nor does it change from step to step
    last = teacher._replace(logits=teacher.logits[LABELLED:])
    baseline = Batch(batch.x[LABELLED:], batch.y[:0], batch.rows[LABELLED:])
    assert again.permuted(last, baseline).equal(first[LABELLED:])
    assert not made("shuffled", pair, seed=5).permuted(teacher, batch).equal(first)


@pytest.mark.parametrize("name", ["fitnet", *ADAPTED, "shuffled"])
def test_what_a_method_draws_is_drawn_by_its_seed(name, pair):
    def drawn(seed):
        kept = made(name, pair, seed=seed).state_dict()
        return [v for k, v in kept.items() if "weight" in k or k == "orders"]

    first, state = drawn(3), torch.get_rng_state()
    assert all(a.equal(b) for a, b in zip(first, drawn(3), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, drawn(4), strict=True))
    assert torch.get_rng_state().equal(state)


@pytest.fixture(scope="module")
def lesson():
    digits, teacher = data.load("digits"), network("resnet8", 0.5, 9)
    third = {"train": digits.train[::3], "train_labels": digits.train_labels[::3]}
    digits = digits._replace(**third)  # 7 steps an epoch instead of 21
    rows = data.budget(digits.train_labels, "all", 0)
    train.fit(teacher, data.Batches(digits, rows, 64, 0), runs.Teacher(epochs=2))
    return digits, teacher


@pytest.mark.parametrize("name", NEW)
def test_its_own_term_falls_within_three_epochs(name, lesson):
    digits, teacher = lesson
    run = runs.Student(method=name, labels_per_class=5, epochs=3)
    batches = data.Batches(digits, data.budget(digits.train_labels, 5, 0), run.batch_size, 0)
    as_large = name in ("fsp", "born_again", "self", "noisy_student")
    job = network("resnet8", 0.5 if as_large else 0.25)
    options = {"warm_up_epochs": 3} if name in TWO_STAGE else {}
    options |= {"generations": 1} if name in ("born_again", "noisy_student") else {}
    trained = train.fit(job, batches, run, method=name, teacher=teacher, **options)
    terms = (name, "labels") if name == "born_again" else (name,)  # a poor teacher denies labels
    own = [sum(row[term] for term in terms) for row in trained.history if name in row]
    assert isinstance(trained.network, models.Grafted) == (name == "simkd")
    assert len(own) == 3
    assert own[-1] < own[0]


def test_the_class_level_of_mlkd_is_the_papers_where_the_paper_measured_it():
    draw = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 64, 100, generator=draw).double().softmax(2)
    found = answers.levels(p.log() * 3, q.log() * 3, 3.0)[2]
    assert found.item() == pytest.approx(((p.T @ p - q.T @ q) ** 2).sum().item() / 100)


def test_the_class_level_of_mlkd_does_not_grow_with_the_batch(pair):
    student, teacher, _ = look(pair)
    once = answers.levels(student.logits, teacher.logits, 2.0)
    twice = answers.levels(*(f.logits.repeat(3, 1) for f in (student, teacher)), 2.0)
    assert twice[2].item() == pytest.approx(once[2].item(), rel=1e-5)


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
        "dml",
        "baseline",
        "smooth",
    ]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("kdd", {}, "unknown method 'kdd'; one of: kd, logitstd, dkd"),
        ("kd", {"temprature": 2}, "unknown option 'temprature' of method 'kd'; known: temperature"),
        (
            "baseline",
            {"temperature": 2},
            "unknown option 'temperature' of method 'alone'; known: none",
        ),
        ("kd", {"temperature": 0.0}, "temperature 0.0; allowed: a number above 0"),
        ("kd", {"temperature": "hot"}, "option temperature of kd is like 4.0, given 'hot'"),
        ("smooth", {"smoothing": 1.5}, "smoothing 1.5; allowed"),
        ("fitnet", {"layer": "block7"}, "unknown layer 'block7'"),
        ("fitnet", {"stages": 3}, "unknown number of stages 3; one of: 1, 2"),
        ("fitnet", {"stages": 2, "warm_up_epochs": -1}, "warm_up_epochs -1; allowed: 1 or more"),
        (
            "fitnet",
            {"layer": "pool"},
            r"fitnet needs maps of equal height and width at pool; student \(32,\)",
        ),
        *(
            (name, {"temperature": -1.0}, "temperature -1.0; allowed: a number above 0")
            for name in ("logitstd", "dkd", "dist", "nkd", "shuffled")
        ),
        ("transfer", {"temperature": 0.0}, "temperature 0.0; allowed: a number above 0"),
        ("born_again", {"generations": 0}, "generations 0; allowed: a number above 0"),
        ("noisy_student", {"generations": 0}, "generations 0; allowed: a number above 0"),
        ("noisy_student", {"dropout": 1.0}, "dropout 1.0; allowed: 0 or more and below 1"),
        ("simkd", {"reduction": 0}, "reduction 0; allowed: a number above 0"),
        (
            "fitnet",
            {"warm_up_epochs": 5},
            "warm_up_epochs 5 of fitnet; allowed: with stages=2 only",
        ),
        ("ab", {"margin": 0.0}, "margin 0.0; allowed: a number above 0"),
        ("ft", {"share": 0.0}, "share 0.0; allowed: a number above 0"),
        ("ft", {"warm_up_epochs": 0}, "warm_up_epochs 0; allowed: 1 or more"),
        ("crd", {"momentum": 1.0}, "momentum 1.0; allowed: 0 or more and below 1"),
        ("crd", {"negatives": 0}, "negatives 0; allowed: a number above 0"),
        ("cc", {"order": 0}, "order 0; allowed: a number above 0"),
        ("cc", {"order": 1.5}, "option order of cc is like 2, given 1.5"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(name, options, said, pair):
    with pytest.raises(UsageError, match=said):
        made(name, pair, **options)


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "vid", "reviewkd", "ab", "ofd"])
def test_maps_of_unequal_size_are_said(name, pair):
    student, teacher, _ = look(pair)
    maps = {x: f[:, :, 1:] if x == "block2" else f for x, f in teacher.features.items()}
    said = (
        rf"^{name} needs maps of equal height and width at block2; "
        r"student \(16, 4, 4\), teacher \(32, 3, 4\)$"
    )
    with pytest.raises(UsageError, match=said):
        distill.build(name, student, teacher._replace(features=maps))


def test_unequal_channels_are_said_by_fsp(pair):
    said = (
        r"^fsp needs equal channels at stem and block1; student \(8, 8, 8\) and \(8, 8, 8\), "
        r"teacher \(16, 8, 8\) and \(16, 8, 8\)$"
    )
    with pytest.raises(UsageError, match=said):
        made("fsp", pair)


def test_maps_of_unequal_size_are_said_by_ft(pair):
    student, teacher, _ = look(pair)
    maps = teacher.features | {"block3": teacher.features["block3"][:, :, 1:]}
    with pytest.raises(UsageError, match=r"^ft needs maps of equal height and width at block3"):
        distill.build("ft", student, teacher._replace(features=maps))


@pytest.mark.parametrize("name", ["ickd", "sp", "rkd", "pkt", "cc"])
def test_maps_of_unequal_size_can_be_compared_by_relations(name, pair):
    student, teacher, batch = look(pair)
    maps = {x: f[:, :, :1] if f.ndim == 4 else f for x, f in teacher.features.items()}
    other = teacher._replace(features=maps)
    assert distill.build(name, student, other)(student, other, batch)[name].isfinite()


@pytest.mark.parametrize(
    "name",
    [
        *("kd", "logitstd", "dkd", "dist", "nkd", "mlkd", "pseudo", "shuffled"),
        *("born_again", "transfer", "noisy_student", "self", "random"),
    ],
)
def test_other_classes_than_the_teacher_are_said(name, pair):
    student, teacher, _ = look(pair)
    said = (
        rf"^{name} needs as many classes in both networks at logits; "
        r"student \(10,\), teacher \(7,\)$"
    )
    with pytest.raises(UsageError, match=said):
        distill.build(name, student, teacher._replace(logits=teacher.logits[:, :7]))


@pytest.mark.parametrize("name", ["logitstd", "dkd", "nkd", "shuffled"])
def test_too_few_classes_are_said(name, pair):
    two = [f._replace(logits=f.logits[:, :2]) for f in look(pair)[:2]]
    said = rf"^{name} needs 3 classes or more at logits; student \(2,\), teacher \(2,\)$"
    with pytest.raises(UsageError, match=said):
        distill.build(name, *two)


def test_a_combination_is_the_sum_of_its_parts_with_the_labels_of_the_first(pair):
    student, teacher, batch = look(pair)
    options = {"at": {"weight": 500.0}, "vid": {}}
    whole = made("kd+at+vid", pair, seed=3, **options)
    terms = whole(student, teacher, batch)
    wanted = made("kd", pair)(student, teacher, batch)
    wanted |= {"at": made("at", pair, weight=500.0)(student, teacher, batch)["at"]}
    wanted |= {"vid": made("vid", pair, seed=3)(student, teacher, batch)["vid"]}
    assert list(terms) == ["labels", "kd", "at", "vid"]
    assert all(terms[name].equal(wanted[name]) for name in wanted)
    assert whole.layers == BLOCKS
    assert whole.warm_up_epochs == 0
    assert {name.split(".")[1] for name, _ in whole.named_parameters()} == {"vid"}
    swapped = made("at+kd", pair)(student, teacher, batch)
    assert swapped["labels"].item() == pytest.approx(10 * terms["labels"].item())


def test_a_combination_has_the_first_stages_of_its_parts(pair):
    student, teacher, batch = look(pair)
    fitnet = {"stages": 2, "warm_up_epochs": 4}
    whole = made("kd+ab+fitnet", pair, ab={"warm_up_epochs": 2}, fitnet=fitnet)
    assert whole.warm_up_epochs == 4
    assert whole.warm_up_student
    assert list(whole.warm_up(student, teacher, batch)) == ["ab", "fitnet"]
    parts = [made("kd", pair), made("fitnet", pair, stages=2)]
    wanted = sum(part(student, teacher, batch)["kd"] for part in parts)
    terms = whole(student, teacher, batch)
    assert list(terms) == ["labels", "kd"]
    torch.testing.assert_close(terms["kd"], wanted)
    assert not made("ft+kd", pair).warm_up_student
    made("kd+crd", pair)(student, teacher, batch)["crd"].backward()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("kd+att", {}, "unknown method 'att'; one of: kd, logitstd, dkd"),
        ("kd+", {}, "unknown method ''; one of: kd"),
        ("kd+at+kd", {}, r"method 'kd\+at\+kd' names a method twice"),
        (
            "kd+at",
            {"weight": 2.0},
            r"option 'weight' of method 'kd\+at', given 2.0; allowed: a dict",
        ),
        ("kd+at", {"at": 2.0}, r"option 'at' of method 'kd\+at', given 2.0; allowed: a dict"),
        ("kd+at", {"at": {"wait": 2.0}}, "unknown option 'wait' of method 'at'; known: weight"),
    ],
)
def test_what_cannot_be_combined_is_said_in_one_line(name, options, said, pair):
    with pytest.raises(UsageError, match=said):
        made(name, pair, **options)


def test_a_combination_needs_a_teacher_if_one_of_its_parts_does():
    assert distill.needs_teacher("alone+kd")
    assert not distill.needs_teacher("alone+smooth")


def test_a_missing_teacher_is_said(pair):
    with pytest.raises(UsageError, match="method 'kd' needs a teacher"):
        distill.build("kd", look(pair)[0])


def test_every_method_cites_an_entry_of_the_bibliography():
    from pathlib import Path

    entries = (Path(__file__).parents[1] / "book/references.bib").read_text()
    for name, kind in distill.METHODS.items():
        assert f"{{{kind.cite}," in entries, name


def test_the_table_is_in_the_order_of_the_families():
    families = [kind.family for kind in distill.METHODS.values()]
    assert list(dict.fromkeys(families)) == [
        "logits",
        "features",
        "relations",
        "ways",
        "controls",
    ]
    assert families == sorted(families, key=list(dict.fromkeys(families)).index)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("same_network", ["born_again", "self"]),
        ("untrained", ["random"]),
        ("strong", ["noisy_student"]),
    ],
)
def test_a_method_says_what_it_asks_of_the_training(what, names):
    assert [name for name, kind in distill.METHODS.items() if getattr(kind, what)] == names


@pytest.mark.parametrize("name", distill.METHODS)
def test_only_born_again_and_noisy_student_have_generations(name, pair):
    several = name in ("born_again", "noisy_student")
    assert made(name, pair).generations == (3 if several else 1)
    if several:
        assert made(name, pair, generations=2).generations == 2


@pytest.mark.parametrize("name", ["born_again", "transfer", "noisy_student"])
def test_a_perfect_copy_has_nothing_to_imitate(name, pair):
    _, teacher, batch = look(pair)
    z = teacher.logits.double().requires_grad_()
    terms = made(name, pair)(Forward(z, {}), Forward(z.detach(), {}), batch)
    terms[name].backward()
    assert z.grad.abs().max() < 1e-12


def test_transfer_looks_at_no_label(pair):
    student, teacher, batch = look(pair)
    method = made("transfer", pair)
    assert set(method(student, teacher, batch)) == {"transfer"}
    one, other = (method(student, teacher, batch._replace(y=y)) for y in (batch.y, batch.y[:0]))
    assert one["transfer"].equal(other["transfer"])


def test_two_peers_teach_each_other_and_neither_answers_for_the_other(pair):
    network, _, batch = pair
    method = made("dml", pair)
    ours, theirs = network.state_dict(), method.peer.state_dict()
    assert list(ours) == list(theirs)
    assert not ours["stem.0.weight"].equal(theirs["stem.0.weight"])
    terms = method(seen_by(network, batch.x), distill.NO_TEACHER, batch)
    (terms["labels"] + terms["dml"]).backward(retain_graph=True)
    assert all(p.grad is None for p in method.peer.parameters())
    before = [p.grad.clone() for p in network.parameters()]
    terms["peer"].backward()
    assert all(p.grad.equal(b) for p, b in zip(network.parameters(), before, strict=True))
    assert all(p.grad.abs().sum() > 0 for p in method.peer.parameters())


def test_a_peer_is_drawn_by_the_seed_of_the_method(pair):
    def peer(seed):
        return made("dml", pair, seed=seed).peer.state_dict()["stem.0.weight"]

    state = torch.get_rng_state()
    assert peer(3).equal(peer(3))
    assert not peer(3).equal(peer(4))
    assert torch.get_rng_state().equal(state)


def test_a_noisy_student_forgets_half_of_its_features_while_it_trains_and_then_none(pair):
    network, _, batch = pair
    given = []
    clean = seen_by(network.eval(), batch.x).logits
    method, state = made("noisy_student", pair), torch.get_rng_state()
    seen = network.logits.register_forward_pre_hook(lambda _, h: given.append(h[0]))
    assert seen_by(network, batch.x).logits.equal(clean)
    pool = seen_by(network.train(), batch.x).features["pool"]
    kept = given[-1] != 0
    assert kept[pool > 0].double().mean() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(given[-1][kept], 2 * pool[kept])
    network(batch.x)
    assert not given[-1].eq(0).equal(~kept)  # drawn anew
    assert torch.get_rng_state().equal(state)
    assert method.finalize(network, None) is network
    network(batch.x)
    assert given[-1].eq(0).equal(seen_by(network, batch.x).features["pool"].eq(0))
    seen.remove()


def test_a_noisy_student_without_a_pool_learns_the_labels_baseline(pair):
    student, teacher, batch = look(pair)
    terms = made("noisy_student", pair)(student, teacher, batch._replace(y=torch.arange(N) % K))
    assert terms["noisy_student"] == 0
    assert terms["labels"] > 0


def test_what_simkd_keeps_thinks_with_the_teachers_head(pair):
    network, teacher, batch = pair
    method = made("simkd", pair).eval()
    kept = method.finalize(network, teacher).eval()
    seen = seen_by(network.eval(), batch.x).features["block3"]
    wanted = teacher.logits(method.projector(seen).mean((2, 3)))
    torch.testing.assert_close(kept(batch.x), wanted)
    assert models.observe(kept, batch.x).logits.shape == (N, K)
    method.projector.register_forward_hook(lambda *_: teacher_maps(teacher, batch))
    copy = teacher.logits(method.projector(seen).mean((2, 3)))
    torch.testing.assert_close(copy, teacher(batch.x))


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_simkd_averages_the_larger_of_two_maps_down(pair, larger):
    student, teacher, batch = look(pair)
    said = {"student": student, "teacher": teacher}
    maps = {**said[larger].features}
    maps["block3"] = torch.randn(N, maps["block3"].shape[1], 4, 4)
    said[larger] = Forward(said[larger].logits, maps)
    method = distill.build("simkd", said["student"], said["teacher"]).eval()
    terms = method(said["student"], said["teacher"], batch)
    maps["block3"] = torch.nn.functional.avg_pool2d(maps["block3"], 2)
    assert terms["simkd"] == method(said["student"], said["teacher"], batch)["simkd"]
    network, before, _ = pair
    assert models.observe(method.finalize(network, before), batch.x).logits.shape == (N, K)


def teacher_maps(teacher, batch):
    return seen_by(teacher, batch.x).features["block3"]


@pytest.mark.parametrize("name", ["self", "random"])
def test_self_and_random_differ_from_kd_in_their_networks_only(name, pair):
    student, teacher, batch = look(pair)
    terms = made(name, pair, temperature=3.0)(student, teacher, batch)
    wanted = made("kd", pair, temperature=3.0)(student, teacher, batch)
    assert terms["labels"].equal(wanted["labels"])
    assert terms[name].equal(wanted["kd"])


def test_fsp_and_ab_need_no_teacher_once_their_first_stage_is_over(pair):
    said = {name: kind.main_teacher for name, kind in distill.METHODS.items()}
    assert [name for name, needed in said.items() if not needed] == ["fsp", "ab"]
    assert not made("ab+alone", pair).main_teacher
    assert made("ab+at", pair).main_teacher


def products_of_features(h):
    """Cosines of all angles from the vectors between images themselves: one product per triple."""
    apart = h[None] - h[:, None]
    length = torch.linalg.vector_norm(apart, dim=2)
    mean = length.sum() / (len(h) * (len(h) - 1))
    units = apart / torch.maximum(length, 1e-4 * mean)[:, :, None]
    return torch.bmm(units, units.transpose(1, 2))


def test_angles_and_their_gradient_are_those_of_products_of_features():
    draw = torch.Generator().manual_seed(0)
    ours = torch.randn(20, 7, generator=draw).double().requires_grad_()
    theirs = torch.randn(20, 9, generator=draw).double()
    found = relations._Turned.apply(relations.distances(ours), relations.distances(theirs))
    wanted = torch.nn.functional.smooth_l1_loss(
        products_of_features(ours), products_of_features(theirs), reduction="sum"
    )
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    (got,) = torch.autograd.grad(found, ours)
    (due,) = torch.autograd.grad(wanted, ours)
    torch.testing.assert_close(got, due, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["dml+kd", "transfer+at", "simkd+kd", "at+simkd", "kd+crd+dml"])
def test_ways_and_simkd_combine_with_other_methods(name, pair):
    network, teacher, batch = pair
    seen, told, _ = look(pair)
    method = made(name, pair)
    terms = method(seen, told, batch)
    assert {*name.split("+")} <= set(terms)
    assert ("labels" in terms) == (name.split("+")[0] not in ("transfer", "simkd"))
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())
    kept = method.finalize(network, teacher)
    assert isinstance(kept, models.Grafted) == ("simkd" in name)


@pytest.mark.parametrize("name", ["kd+born_again", "self+at", "noisy_student+kd", "at+random"])
def test_what_changes_the_networks_or_the_images_stands_baseline(name, pair):
    (baseline,) = {"born_again", "self", "noisy_student", "random"} & {*name.split("+")}
    with pytest.raises(
        UsageError, match=rf"^method '.*': {baseline} cannot be combined with others$"
    ):
        made(name, pair)
