"""Maps: their quality, their bits, their order, and the errors of wrong input."""

import inspect
import random
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdlib import UsageError, embed
from kdlib.embed import EMBEDDERS, TITLES, ivis
from kdlib.embed.prepare import prepare
from kdlib.measure.faithfulness import faithfulness

# jaxtyping's checker, where it is switched on, comes before kdlib's own
WRONG_TYPE = (UsageError, TypeError)
N = 300
FEW_STEPS = 400
METHODS = ("tsne", "ivis", "pca")  # the others need packages of their own
QUICK = {"engine": "package", "k": 5, "steps": 1}  # IVIS never runs less than 20 epochs


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:N]  # they come sorted by writer
    return x[order].astype(np.float32), y[order]


@pytest.fixture(scope="module")
def few(digits):
    return digits[0][:100]


@pytest.fixture(scope="module")
def maps(digits):
    """One map by each method, IVIS with few steps."""
    x, _ = digits
    return {
        "tsne": embed.embed(x, "tsne"),
        "ivis": embed.embed(x, "ivis", steps=FEW_STEPS),
        "pca": embed.embed(x, "pca"),
    }


@pytest.fixture(scope="module")
def quick(few):
    return embed.embed(few, "ivis", seed=7, **QUICK)


def rms(points):
    return np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean())


def test_methods_have_a_fixed_order_and_titles():
    assert list(EMBEDDERS) == list(TITLES)
    assert list(TITLES) == ["tsne", "ivis", "pca", "umap", "pacmap", "localmap"]


@pytest.mark.parametrize("method", EMBEDDERS)
def test_the_table_of_embedders_names_every_option_of_their_functions(method):
    embedder = EMBEDDERS[method]
    arguments = list(inspect.signature(embedder.function).parameters)
    common = ["layers", "starts", "seed", "workers", "progress"]
    coupled = ["adjacent", "coupling"] if embedder.couples else []
    assert arguments == common + coupled + list(embedder.options)


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_small_and_finite(method, maps):
    assert maps[method].shape == (N, 2)
    assert maps[method].dtype == np.float32
    assert np.isfinite(maps[method]).all()


def test_quality_on_digits_is_that_of_each_method(digits, maps):
    x, y = digits
    measures = {method: faithfulness(x, points, y) for method, points in maps.items()}
    assert measures["tsne"]["map_knn"] > 0.93
    assert measures["tsne"]["trustworthiness"] > 0.96
    assert measures["ivis"]["map_knn"] > 0.75
    assert measures["ivis"]["map_knn"] > measures["pca"]["map_knn"] + 0.1
    assert measures["ivis"]["trustworthiness"] > measures["pca"]["trustworthiness"] + 0.05


@pytest.mark.parametrize("method", EMBEDDERS)
def test_what_few_images_limit_has_the_function_s_default_where_there_are_many(method):
    embedder = EMBEDDERS[method]
    defaults = inspect.signature(embedder.function).parameters
    assert embedder.defaults(1000) == {name: defaults[name].default for name in embedder.sized}


def test_perplexity_and_k_fit_few_images_by_default(few):
    twenty = few[:20]
    np.testing.assert_array_equal(embed.embed(twenty), embed.embed(twenty, perplexity=5))
    cells = {("net", "layer"): twenty}
    (one,), (other,) = (
        embed.family(cells, "ivis", steps=20, **k).maps.values() for k in ({}, {"k": 9})
    )
    np.testing.assert_array_equal(one, other)
    assert len(embed.restarts(cells)) == 3


@pytest.mark.parametrize(
    ("method", "options", "most"),
    [("tsne", {"perplexity": 6}, 5), ("ivis", {"k": 10}, 9)],
)
def test_an_option_that_is_too_large_is_refused_before_anything_is_mapped(method, options, most):
    with pytest.raises(UsageError, match=rf"1 and {most} for n = 20 images; given"):
        embed.check(method, 20, options)
    embed.check(method, 20, dict.fromkeys(options, most))
    embed.check(method, 20, {})


def test_another_seed_is_another_ivis_map(few, quick):
    assert (embed.embed(few, "ivis", seed=8, **QUICK) != quick).any()


def test_the_ivis_package_does_not_touch_the_global_generators_or_depend_on_them(few, quick):
    random.seed(5)
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    assert (embed.embed(few, "ivis", seed=7, **QUICK) == quick).all()
    assert np.random.rand() == expected
    before = random.getstate()  # beartype draws from it when it checks a sequence: not above
    with ivis.global_seed(7):
        random.random()
    assert random.getstate() == before


def test_ivis_draws_rows_where_they_belong(digits, maps):
    y = digits[1]  # the fit shuffles: unless it unshuffles, classes would be scattered
    centres = np.stack([maps["ivis"][y == c].mean(0) for c in range(10)])
    spread = np.linalg.norm(maps["ivis"] - centres[y], axis=1).mean()
    assert spread < 0.6 * rms(maps["ivis"])


def test_ivis_tries_the_next_rate_when_the_loss_is_not_finite(few, quick):
    # quick was made at the first rate of the default
    again = embed.embed(few, "ivis", seed=7, rates=(1e30, 1e-2), **QUICK)
    assert (again == quick).all()
    with pytest.raises(UsageError, match=r"undefined numbers at every .* \(1e\+30,\)"):
        embed.embed(few, "ivis", rates=(1e30,), **QUICK)


def test_importing_kdlib_embed_does_not_import_tensorflow():
    code = "import kdlib.embed, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pca_is_the_projection_on_the_widest_directions(digits):
    x = digits[0].astype(float)
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (u * s)[:, :2]
    expected /= np.sqrt(((u * s)[:, :50] ** 2).mean())
    signs = np.sign(expected[np.abs(expected).argmax(0), [0, 1]])
    np.testing.assert_allclose(embed.embed(digits[0], "pca"), expected * signs, atol=1e-4)


@pytest.mark.parametrize("shape", [(200, 30), (200, 64), (40, 300)])
def test_preparation_keeps_all_distances_that_50_components_hold(shape):
    x = np.random.default_rng(0).normal(size=shape)
    layer = prepare(x)
    assert layer.shape == (len(x), min(50, *shape))
    assert layer.dtype == np.float32
    assert np.square(layer).mean() == pytest.approx(1, abs=1e-5)
    assert np.abs(layer.mean(0)).max() < 1e-5
    if min(shape) <= 50:  # nothing was dropped: distances are those of x, up to one scale
        a = np.linalg.norm(x[:, None] - x[None, :20], axis=2)
        b = np.linalg.norm(layer[:, None] - layer[None, :20], axis=2)
        np.testing.assert_allclose(b, a * b[0, 1] / a[0, 1], rtol=1e-4, atol=1e-3)


def test_preparation_ignores_scale_and_shift_and_rotation(digits):
    x = digits[0].astype(float)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(64, 64)))[0]
    for other in (1000 * x, x + 70, x @ turn):
        np.testing.assert_allclose(prepare(other), prepare(x), atol=1e-3)


def test_tsne_begins_at_the_start(digits):
    x, _ = digits
    options = {"early_exaggeration": 4, "iterations": 1}
    start = np.random.default_rng(1).normal(size=(N, 2))
    points = embed.embed(x, start=start, **options)
    # scale and place of the start do not matter
    again = embed.embed(x, start=64 * start, **options)
    np.testing.assert_allclose(again, points, atol=1e-3 * rms(points))
    own = embed.embed(x, **options)
    np.testing.assert_array_equal(embed.embed(x, start=prepare(x)[:, :2], **options), own)
    assert np.abs(own - points).max() > 0.1 * rms(points)


def test_options_reach_the_method(few):
    assert (embed.embed(few, perplexity=5) != embed.embed(few, perplexity=25)).any()
    assert (
        embed.embed(few, perplexity=9, iterations=10)
        != embed.embed(few, perplexity=9, iterations=20)
    ).any()
    assert (
        embed.embed(few, perplexity=9, early_exaggeration=4) != embed.embed(few, perplexity=9)
    ).any()


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_lie_together(method, few):
    x = np.repeat(few[:50], 2, axis=0)
    options = {"tsne": {"perplexity": 10}, "ivis": {"k": 5, "steps": 300}, "pca": {}}[method]
    points = embed.embed(x, method, **options)
    apart = np.linalg.norm(points[::2] - points[1::2], axis=1)
    assert np.isfinite(points).all()
    assert np.median(apart) < 0.1 * rms(points)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64"])
def test_any_kind_of_number_will_do(kind, few):
    points = embed.embed(few.astype(kind), "pca")  # pixels are whole numbers from 0 to 16
    np.testing.assert_allclose(points, embed.embed(few, "pca"), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_progress_rises_to_1_and_the_bits_are_the_same_twice(method, digits, maps):
    fractions = []
    options = {"steps": FEW_STEPS} if method == "ivis" else {}
    points = embed.embed(digits[0], method, progress=fractions.append, **options)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert fractions.count(1) == 1
    assert len(fractions) >= {"tsne": 2, "ivis": 3, "pca": 1}[method]
    assert (points == maps[method]).all()


def test_progress_counts_both_phases_of_tsne(digits):
    fractions = []
    embed.embed(digits[0], iterations=1000, progress=fractions.append)
    assert any(0 < fraction < 0.2 for fraction in fractions)  # the first 250 of 1250
    assert any(0.25 < fraction < 0.95 for fraction in fractions)
    assert fractions == sorted(fractions)


def test_unknown_names_are_refused_with_the_known_ones(few):
    with pytest.raises(UsageError, match=r"'umpa'; .*tsne, ivis, pca"):
        embed.embed(few, "umpa")
    with pytest.raises(
        UsageError, match=r"option of tsne 'perplex'; one of: perplexity, early_exag.*, iterations"
    ):
        embed.embed(few, perplex=3)
    with pytest.raises(UsageError, match="'epochs'; one of: engine, k, batch, steps"):
        embed.embed(few, "ivis", epochs=3)
    with pytest.raises(UsageError, match="'pca' has no options; given 'k'"):
        embed.embed(few, "pca", k=3)
    with pytest.raises(UsageError, match="option of tsne 'layer'"):
        embed.embed(few, layer=3)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("tsne", {"perplexity": 26}, "perplexity .* between 1 and 25 for n = 100 .*; given 26"),
        ("tsne", {"perplexity": np.nan}, "perplexity must be a number"),
        (
            "tsne",
            {"perplexity": 9, "early_exaggeration": 0.5},
            "early_exaggeration must be .* at least 1",
        ),
        (
            "tsne",
            {"perplexity": 9, "iterations": 0},
            "iterations must be a whole number between 1 and 100000; given 0",
        ),
        ("ivis", {"k": 100}, "k must be .* between 1 and 49 for n = 100 images; given 100"),
        ("ivis", {"batch": 0}, "batch must be .* at least 2; given 0"),
        ("ivis", {"steps": -5}, "steps must be .* between 1 and 10000000; given -5"),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(method, options, words, few):
    with pytest.raises(UsageError, match=words):
        embed.embed(few, method, **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("tsne", {"perplexity": "30"}),
        ("tsne", {"perplexity": 9, "iterations": True}),
        ("ivis", {"k": 2.5}),
    ],
)
def test_options_of_the_wrong_kind_are_refused(method, options, few):
    with pytest.raises(WRONG_TYPE, match=list(options)[-1]):
        embed.embed(few, method, **options)


@pytest.mark.parametrize("perplexity", [25, 24.5])
def test_the_largest_perplexity_allowed_works_without_a_warning(perplexity, few):
    assert np.isfinite(embed.embed(few, perplexity=perplexity, iterations=5)).all()


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, None, 2**32])
def test_a_seed_is_a_whole_number_from_0(seed, few):
    with pytest.raises(WRONG_TYPE):
        embed.embed(few, "pca", seed=seed)


def test_a_wrong_seed_is_named(few):
    with pytest.raises(UsageError, match=r"seed .* 0 .* 4294967295.* -1"):
        embed.embed(few, "pca", seed=-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(method, bad, few):
    x = few.copy()
    x[[4, 9], 3] = bad
    with pytest.raises(UsageError, match=r"features .*finite.* 2 .* 100 "):
        embed.embed(x, method)


def test_features_and_starts_of_no_use_are_refused(few):
    with pytest.raises(UsageError, match=r"features .* 100 "):
        embed.embed(np.full((100, 8), 0.1), "pca")
    with pytest.raises(UsageError, match=r"at least 2; given \(100, 1\)"):
        embed.embed(few[:, :1], "pca")
    with pytest.raises(UsageError, match=r"at least 2; given \(1, 64\)"):
        embed.embed(few[:1], "pca")
    for wrong in (few[:, 0], few.astype(str), few + 1j):
        with pytest.raises(WRONG_TYPE):
            embed.embed(wrong, "pca")


@pytest.mark.parametrize("method", METHODS)
def test_a_start_is_two_columns_of_n_rows(method, few):
    for wrong in (few[:, :3], few[:50, :2], few[:, 20]):
        with pytest.raises(WRONG_TYPE):
            embed.embed(few, method, start=wrong)
    with pytest.raises(UsageError, match="must differ"):
        embed.embed(few, method, start=np.ones((100, 2)))
