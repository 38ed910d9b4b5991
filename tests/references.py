"""Each loss as a NumPy loop, written from the formula in its paper: what `test_distill` compares.

A reference takes the outputs of student and teacher, the batch, and the method, for its adapters'
weights; it returns the sum of all terms of the loss, of both stages.
"""

from itertools import pairwise

import numpy as np
import torch

from kdlib.models import Forward, before_relu

N, LABELLED, K = 12, 5, 10  # images, of which labelled, and classes
BLOCKS = ("block1", "block2", "block3")
RAW = tuple(before_relu(block) for block in BLOCKS)
REFERENCES = {}


def reference(*keys):
    """Register a function as the reference of these methods."""

    def register(function):
        REFERENCES.update(dict.fromkeys(keys, function))
        return function

    return register


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cross_entropy(student, batch):
    p = softmax(student.logits.detach().numpy())
    return -np.mean([np.log(p[i, y]) for i, y in enumerate(batch.y.tolist())])


def numbers(student, teacher, layer):
    """The outputs of both networks at a layer, as NumPy arrays."""
    pair = (f.logits if layer == "logits" else f.features[layer] for f in (student, teacher))
    return [x.detach().numpy() for x in pair]


def target_of(teacher, batch):
    known = batch.y.tolist()
    return known + teacher.logits[len(known) :].argmax(1).tolist()


def kl(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@reference("baseline")
def baseline(student, teacher, batch, method):
    return cross_entropy(student, batch)


@reference("smooth")
def smooth(student, teacher, batch, method, e=0.1):
    p, total = softmax(student.logits.detach().numpy()), 0.0
    for i, y in enumerate(batch.y.tolist()):
        target = np.full(K, e / K)
        target[y] += 1 - e
        total -= (target * np.log(p[i])).sum()
    return total / LABELLED


@reference("kd", "self", "random")
def kd(student, teacher, batch, method, t=4.0, a=0.1, b=0.9):
    zs, zt = student.logits.detach().numpy(), teacher.logits.numpy()
    total = 0.0
    for i in range(N):
        ps, pt = softmax(zs[i : i + 1] / t)[0], softmax(zt[i : i + 1] / t)[0]
        total += sum(pt[k] * (np.log(pt[k]) - np.log(ps[k])) for k in range(K))
    return a * cross_entropy(student, batch) + b * t * t * total / N


@reference("at")
def at(student, teacher, batch, method, weight=1000.0):
    total = 0.0
    for layer in ("block1", "block2", "block3"):
        maps = []
        for f in (student.features[layer].detach().numpy(), teacher.features[layer].numpy()):
            q = (f**2).mean(1).reshape(N, -1)
            maps.append(q / np.sqrt((q**2).sum(1, keepdims=True)))
        total += ((maps[0] - maps[1]) ** 2).mean()
    return cross_entropy(student, batch) + weight * total


@reference("logitstd")
def logitstd(student, teacher, batch, method, t=2.0, a=0.1, b=9.0):
    total = 0.0
    for zs, zt in zip(*numbers(student, teacher, "logits"), strict=True):
        qs, qt = (softmax((z - z.mean())[None] / z.std(ddof=1) / t)[0] for z in (zs, zt))
        total += kl(qt, qs)
    return a * cross_entropy(student, batch) + b * t * t * total / N


@reference("dkd")
def dkd(student, teacher, batch, method, t=4.0, a=1.0, b=2.0):
    zs, zt = numbers(student, teacher, "logits")
    total = 0.0
    for i, y in enumerate(target_of(teacher, batch)):
        ps, pt = softmax(zs[i : i + 1] / t)[0], softmax(zt[i : i + 1] / t)[0]
        target = kl([pt[y], 1 - pt[y]], [ps[y], 1 - ps[y]])
        others = [k for k in range(K) if k != y]
        total += a * target + b * kl(pt[others] / (1 - pt[y]), ps[others] / (1 - ps[y]))
    return cross_entropy(student, batch) + t * t * total / N


@reference("dist")
def dist(student, teacher, batch, method, t=4.0, weight=2.0):
    ps, pt = (softmax(z / t) for z in numbers(student, teacher, "logits"))
    images = np.mean([1 - np.corrcoef(ps[i], pt[i])[0, 1] for i in range(N)])
    classes = np.mean([1 - np.corrcoef(ps[:, k], pt[:, k])[0, 1] for k in range(K)])
    return cross_entropy(student, batch) + weight * t * t * (images + classes)


@reference("nkd")
def nkd(student, teacher, batch, method, t=1.0, g=1.5):
    zs, zt = numbers(student, teacher, "logits")
    total = 0.0
    for i, y in enumerate(target_of(teacher, batch)):
        others = [k for k in range(K) if k != y]
        total -= softmax(zt[i : i + 1])[0, y] * np.log(softmax(zs[i : i + 1])[0, y])
        ns, nt = (softmax(z[i : i + 1, others] / t)[0] for z in (zs, zt))
        total -= g * t * t * sum(a * np.log(b) for a, b in zip(nt, ns, strict=True))
    return cross_entropy(student, batch) + total / N


@reference("mlkd")
def mlkd(student, teacher, batch, method, a=0.1, b=0.9):
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


@reference("nst")
def nst(student, teacher, batch, method, weight=50.0):
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


@reference("fsp")
def fsp(student, teacher, batch, method, weight=50.0):
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


@reference("sp")
def sp(student, teacher, batch, method, weight=3000.0):
    rows = []
    for f in numbers(student, teacher, "block3"):
        g = np.array([[a.ravel() @ b.ravel() for b in f] for a in f])
        rows.append([row / np.sqrt((row**2).sum()) for row in g])
    frobenius = sum(((a - b) ** 2).sum() for a, b in zip(*rows, strict=True))
    return cross_entropy(student, batch) + weight * frobenius / N**2


def huber(x):
    return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5


@reference("rkd")
def rkd(student, teacher, batch, method, pairs=25.0, triples=50.0):
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


@reference("pkt")
def pkt(student, teacher, batch, method, weight=30000.0):
    ps, pt = [], []
    for h, p in zip(numbers(student, teacher, "pool"), (ps, pt), strict=True):
        for a in h:
            row = [(cosine(a, b) + 1) / 2 for b in h]
            p.extend(np.array(row) / sum(row))
    terms = [b * np.log((b + 1e-7) / (a + 1e-7)) for a, b in zip(ps, pt, strict=True)]
    return cross_entropy(student, batch) + weight * np.mean(terms)


@reference("cc")
def cc(student, teacher, batch, method, weight=100.0, gamma=0.4):
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


@reference("born_again")
def born_again(student, teacher, batch, method):
    return cross_entropy(student, batch) + imitation(*numbers(student, teacher, "logits"))


@reference("transfer")
def transfer(student, teacher, batch, method):
    return imitation(*numbers(student, teacher, "logits"))


@reference("noisy_student")
def noisy_student(student, teacher, batch, method):
    zs, zt = numbers(student, teacher, "logits")
    return cross_entropy(student, batch) + imitation(zs[LABELLED:], zt[LABELLED:])


@reference("pseudo")
def pseudo(student, teacher, batch, method):
    zs, zt = numbers(student, teacher, "logits")
    return -np.mean([np.log(softmax(z[None])[0, t.argmax()]) for z, t in zip(zs, zt, strict=True)])


@reference("shuffled")
def shuffled(student, teacher, batch, method):
    orders, moved = made_orders(), teacher.logits.clone()
    for i, y in enumerate(target_of(teacher, batch)):
        places = [k for k in range(K) if k != y]
        sources = [int(k) for k in orders[batch.rows[i] % 1009].argsort() if k != y]
        for place, source in zip(places, sources, strict=True):
            moved[i, place] = teacher.logits[i, source]
    return kd(student, teacher._replace(logits=moved), batch, method)


def made_orders():
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(K, generator=generator) for _ in range(1009)])


def weights_of(convolution):
    return convolution.weight.detach().numpy()


def convolution(weight, f):
    """A convolution of one image, 1x1 or 3x3 and padded, (c, h, w) -> (d, h, w), by hand."""
    size = weight.shape[2]
    padded = np.pad(f, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    out = np.zeros((len(weight), *f.shape[1:]))
    for row in range(f.shape[1]):
        for column in range(f.shape[2]):
            window = padded[:, row : row + size, column : column + size]
            out[:, row, column] = (weight * window).sum((1, 2, 3))
    return out


def transposed_convolution(weight, f):
    """The same, transposed, 3x3: each value is spread over the pixels around it."""
    out = np.zeros((weight.shape[1], f.shape[1] + 2, f.shape[2] + 2))
    for row in range(f.shape[1]):
        for column in range(f.shape[2]):
            for channel in range(len(f)):
                spread = weight[channel] * f[channel, row, column]
                out[:, row : row + 3, column : column + 3] += spread
    return out[:, 1:-1, 1:-1]


def fresh(norm, f):
    """An untrained BatchNorm: mean 0, variance 1."""
    return f / np.sqrt(1 + norm.eps)


@reference("fitnet")
def fitnet(student, teacher, batch, method, weight=100.0):
    errors = []
    for fs, ft in zip(*numbers(student, teacher, "block2"), strict=True):
        fs = fresh(method.regressor[1], convolution(weights_of(method.regressor[0]), fs))
        errors.append((np.maximum(fs, 0) - ft) ** 2)
    return cross_entropy(student, batch) + weight * np.mean(errors)


@reference("vid")
def vid(student, teacher, batch, method):
    total = 0.0
    for layer in BLOCKS:
        spread = method.spread[layer].detach().numpy()
        variance = np.log1p(np.exp(spread)) + 1e-5
        np.testing.assert_allclose(variance, 5, rtol=1e-6)
        errors = []
        for fs, ft in zip(*numbers(student, teacher, layer), strict=True):
            for step in (0, 2, 4):
                fs = convolution(weights_of(method.mean[layer][step]), np.maximum(fs, 0))
            errors.append(
                [(m - f) ** 2 / v + np.log(v) for m, f, v in zip(fs, ft, variance, strict=True)]
            )
        total += 0.5 * np.mean(errors)
    return cross_entropy(student, batch) + total


@reference("ickd")
def ickd(student, teacher, batch, method, weight=2.5):
    total = 0.0
    for fs, ft in zip(*numbers(student, teacher, "block3"), strict=True):
        fs = fresh(method.embed[1], convolution(weights_of(method.embed[0]), fs))
        rows = []
        for f in (fs, ft):
            g = np.array([[a.ravel() @ b.ravel() for b in f] for a in f])
            rows.append(np.array([row / max(np.sqrt((row**2).sum()), 1e-12) for row in g]))
        total += ((rows[0] - rows[1]) ** 2).sum() / len(ft)
    return cross_entropy(student, batch) + weight * total / N


def pooled(f, size):
    step = f.shape[1] // size
    return f.reshape(len(f), size, step, size, step).mean((2, 4))


@reference("reviewkd")
def reviewkd(student, teacher, batch, method, weight=0.6):
    total = 0.0
    for i in range(N):
        deeper = None
        for layer in ("pool", "block3", "block2", "block1"):
            fusion = method.fusion[layer]
            fs, ft = (
                f[i].reshape(len(f[i]), *(f.shape[2:] or (1, 1)))
                for f in numbers(student, teacher, layer)
            )
            x = fresh(fusion.reduce[1], convolution(weights_of(fusion.reduce[0]), fs))
            if deeper is not None:
                up = x.shape[1] // deeper.shape[1]
                deeper = deeper.repeat(up, 1).repeat(up, 2)
                bias = fusion.attend.bias.detach().numpy()
                both = np.concatenate([x, deeper])
                z = convolution(weights_of(fusion.attend), both) + bias[:, None, None]
                share = 1 / (1 + np.exp(-z))
                x = x * share[0] + deeper * share[1]
            deeper = x
            out = fresh(fusion.expand[1], convolution(weights_of(fusion.expand[0]), x))
            sizes = [ft.shape[1], *(p for p in (4, 2, 1) if p < ft.shape[1])]
            shares = [0.5**n for n in range(len(sizes))]
            for size, portion in zip(sizes, shares, strict=True):
                error = ((pooled(out, size) - pooled(ft, size)) ** 2).mean()
                total += portion / sum(shares) * error / N
    return cross_entropy(student, batch) + weight * total


@reference("ab")
def ab(student, teacher, batch, method, weight=0.003, m=1.0):
    total = 0.0
    for n, layer in enumerate(RAW):
        conv, norm = method.connect[n]
        for fs, ft in zip(*numbers(student, teacher, layer), strict=True):
            fs = fresh(norm, convolution(weights_of(conv), fs))
            for a, b in zip(fs.ravel(), ft.ravel(), strict=True):
                if b <= 0 and a > -m:
                    total += 2.0 ** (n - 2) * (a + m) ** 2
                if b > 0 and a <= m:
                    total += 2.0 ** (n - 2) * (a - m) ** 2
    return cross_entropy(student, batch) + weight * total / N


def convolved(steps, f, convolve=convolution):
    """3x3 convolutions of one image, each with a fresh BatchNorm and a leaky ReLU, by hand."""
    for conv, norm, _ in zip(steps[0::3], steps[1::3], steps[2::3], strict=True):
        f = fresh(norm, convolve(weights_of(conv), f))
        f = np.where(f > 0, f, 0.1 * f)
    return f


@reference("ft")
def ft(student, teacher, batch, method, weight=200.0):
    distances, errors = [], []
    for fs, ft in zip(*numbers(student, teacher, "block3"), strict=True):
        factor, words = convolved(method.encode, ft), convolved(method.translate, fs)
        errors.append((convolved(method.decode, factor, transposed_convolution) - ft) ** 2)
        units = [f.ravel() / np.sqrt((f**2).sum()) for f in (factor, words)]
        distances.append(np.abs(units[0] - units[1]))
    return cross_entropy(student, batch) + weight * np.mean(distances) + np.mean(errors)


@reference("ofd")
def ofd(student, teacher, batch, method, weight=0.001):
    total = 0.0
    for n, layer in enumerate(RAW):
        conv, norm = method.connect[n]
        student_maps, teacher_maps = numbers(student, teacher, layer)
        margin = []
        for channel in range(teacher_maps.shape[1]):
            negative = [x for x in teacher_maps[:, channel].ravel() if x < 0]
            margin.append(np.mean(negative) if negative else 0.0)
        for fs, ft in zip(student_maps, teacher_maps, strict=True):
            fs = fresh(norm, convolution(weights_of(conv), fs))
            for channel, m in enumerate(margin):
                for s, t in zip(fs[channel].ravel(), ft[channel].ravel(), strict=True):
                    t = max(t, m)
                    total += 0.0 if s <= t <= 0 else 2.0 ** (n - 2) * (s - t) ** 2
    return cross_entropy(student, batch) + weight * total / N


def first_memory(method, images=N):
    generator = torch.Generator().manual_seed(method.seed)
    vectors = torch.randn(2, images, 128, generator=generator).double().numpy()
    return vectors / np.sqrt((vectors**2).sum(2, keepdims=True))


def crd_views(student, teacher, method):
    views = []
    for embed, h in zip(method.embed, numbers(student, teacher, "pool"), strict=True):
        v = np.array([weights_of(embed) @ x + embed.bias.detach().numpy() for x in h])
        views.append(v / np.sqrt((v**2).sum(1, keepdims=True)))
    return views


@reference("crd")
def crd(student, teacher, batch, method, weight=0.8, t=0.07, rows=None, images=N):
    """`rows`: for each image itself and its negatives; default: all others."""
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


@reference("simkd")
def simkd(student, teacher, batch, method):
    errors = []
    for fs, ft in zip(*numbers(student, teacher, "block3"), strict=True):
        steps = list(method.projector)
        for conv, norm in zip(steps[0::3], steps[1::3], strict=True):
            fs = np.maximum(fresh(norm, convolution(weights_of(conv), fs)), 0)
        errors.append((fs - ft) ** 2)
    return np.mean(errors)


@reference("dml")
def dml(student, teacher, batch, method):
    peer = Forward(method.peer(batch.x.double()), {})
    zs, zp = numbers(student, peer, "logits")
    total = cross_entropy(student, batch) + cross_entropy(peer, batch)
    for p, q in zip(softmax(zs), softmax(zp), strict=True):
        total += (kl(p, q) + kl(q, p)) / N
    return total
