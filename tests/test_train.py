import pytest
import torch

from kdlib import UsageError, data, distill, features, models, train
from kdlib.plan import runs


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def student(seed=0):
    return models.build("resnet8", classes=10, channels=1, width=0.5, seed=seed)


def teacher():
    return models.build("resnet8", classes=10, channels=1, seed=9)


def fit(digits, method="kd", seed=0, epochs=1, **options):
    network = student(seed)
    labelled = data.budget(digits.train_labels, 5, seed)
    run = runs.Student(method=method, seed=seed, epochs=epochs, labels_per_class=5)
    batches = data.Batches(digits, labelled, 64, seed, pool=method not in ("baseline", "smooth"))
    taught = None if method in ("baseline", "smooth") else teacher()
    return train.fit(network, batches, run, method=method, teacher=taught, **options)[:2]


def bits(network):
    return b"".join(t.numpy().tobytes() for t in network.state_dict().values())


def test_a_few_epochs_learn_and_history_tells_every_term(digits):
    network, history = fit(digits, "baseline", epochs=8)
    assert train.evaluate(network, digits).accuracy > 0.5  # chance: 0.1
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["labels"] < history[0]["labels"]
    assert set(fit(digits, "kd")[1][0]) == {
        *("generation", "stage", "epoch", "learning_rate", "labels", "kd")
    }


def test_without_a_first_stage_the_training_is_one_plain_loop(digits):
    network, taught = student().train(), teacher().eval()
    labelled = data.budget(digits.train_labels, 5, 0)
    batches = data.Batches(digits, labelled, 64, 0)
    how = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True, "fused": True}
    optimiser = torch.optim.SGD(network.parameters(), 0.1, **how)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.1, total_steps=2 * len(batches), pct_start=0.2
    )
    for batch in [*batches, *batches]:
        with torch.no_grad():
            told = models.observe(taught, batch.x, ())
        seen = models.observe(network, batch.x, ())
        terms = distill.KD(seen, told)(seen, told, batch)
        optimiser.zero_grad()
        (terms["labels"] + terms["kd"]).backward()
        optimiser.step()
        schedule.step()
    assert bits(fit(digits, "kd", epochs=2)[0]) == bits(network)


def test_a_first_stage_comes_before_the_main_one_and_history_shows_both(digits):
    _, history = fit(digits, "fitnet", stages=2, warm_up_epochs=2)
    stages = [(row["stage"], row["epoch"]) for row in history]
    assert stages == [("warm_up", 1), ("warm_up", 2), ("main", 1)]
    told = {"generation", "stage", "epoch", "learning_rate"}
    assert [set(row) - told for row in history] == [{"fitnet"}] * 2 + [{"labels", "kd"}]
    assert history[1]["fitnet"] < history[0]["fitnet"]


@pytest.mark.parametrize("method", ["baseline", "smooth", "kd", "fitnet", "at"])
def test_the_same_seed_gives_the_same_bits(digits, method):
    torch.manual_seed(1)
    first = bits(fit(digits, method)[0])
    torch.manual_seed(2)
    assert bits(fit(digits, method)[0]) == first
    assert bits(fit(digits, method, seed=1)[0]) != first


def test_the_teacher_is_bit_for_bit_what_it_was(digits):
    taught = teacher()
    before = bits(taught)
    run = runs.Student(epochs=1)
    batches = data.Batches(digits, data.budget(digits.train_labels, 2, 0), 64, 0)
    train.fit(student(), batches, run, method="at", teacher=taught)
    assert bits(taught) == before


def test_batchnorm_counts_one_step_per_batch(digits):
    network, _ = fit(digits, "fitnet", epochs=2)
    counts = {int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")}
    assert counts == {2 * 21}


def test_a_first_stage_that_does_not_look_at_the_student_does_not_touch_it(digits):
    network, _ = fit(digits, "ft", warm_up_epochs=2)
    counts = {int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")}
    assert counts == {21}


def test_a_combination_trains_both_stages(digits):
    options = {"at": {"weight": 500.0}, "ab": {"warm_up_epochs": 1}}
    _, history = fit(digits, "kd+at+ab", **options)
    told = [(row["stage"], *list(row)[4:]) for row in history]
    assert told == [("warm_up", "ab"), ("main", "labels", "kd", "at")]


def test_a_loss_that_is_no_number_stops_the_training(digits):
    broken = student()
    with torch.no_grad():
        broken.logits.weight.fill_(float("nan"))
    run = runs.Student(epochs=1, method="baseline")
    batches = data.Batches(digits, torch.arange(100), 64, 0, unlabelled=False)
    with pytest.raises(UsageError, match="alone: the loss is no number in epoch 1"):
        train.fit(broken, batches, run)


def test_the_score_is_a_plain_count(digits):
    network = student()
    score = train.evaluate(network, digits)
    with torch.no_grad():
        x = data.normalised(digits.test, digits.mean, digits.std)
        said = network.eval()(x).argmax(1)
    assert score.n == 500
    assert score.accuracy == pytest.approx((said == digits.test_labels).double().mean().item())
    assert score.predictions.equal(said)


def test_the_device_is_chosen_or_refused():
    assert train.use("cpu", 1).type == "cpu"
    assert train.use("auto", 1).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="unknown device 'gpu'; one of: auto, cpu, cuda"):
        train.use("gpu", 1)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="torch sees no GPU here"):
            train.use("cuda", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_learns_the_same_thing(digits):
    network, history = fit(digits.to("cuda"), "kd", epochs=8)
    assert train.evaluate(network, digits.to("cuda")).accuracy > 0.3
    assert history[-1]["kd"] < history[0]["kd"]


def test_features_are_means_over_positions_in_evaluation_mode(digits):
    network = student().train()
    before = bits(network)
    told = {"mean": digits.mean, "std": digits.std}
    seen = features.extract(network, digits.test[:70], batch_size=32, **told)
    x = data.normalised(digits.test[:70], digits.mean, digits.std)
    with torch.no_grad():
        whole = models.observe(network.eval(), x).features
    assert list(seen) == list(models.LAYERS)
    torch.testing.assert_close(seen["block1"], whole["block1"].mean((2, 3)))
    torch.testing.assert_close(seen["logits"], whole["logits"])
    assert bits(network) == before
    with pytest.raises(UsageError, match="unknown layer 'block9'"):
        features.extract(network, digits.test[:2], layers=["block9"], **told)


@pytest.mark.parametrize("epochs", range(1, 8))
def test_trainings_of_a_few_steps_have_a_schedule_too(digits, epochs):
    run = runs.Student(epochs=epochs, method="baseline", batch_size=2000)
    batches = data.Batches(digits, torch.arange(len(digits.train)), run.batch_size, 0)
    assert len(batches) == 1
    history = train.fit(student(), batches, run).history
    assert all(0 <= row["learning_rate"] <= run.learning_rate for row in history)


SIDE_BY_SIDE = [
    ("kd", 0.5, 0, {}),
    ("kd", 0.5, 7, {}),  # another initial network
    ("at", 1.0, 0, {"weight": 500.0}),  # another width
    ("baseline", 0.5, 0, {}),  # sees the labelled images only
    ("fitnet", 0.5, 0, {"stages": 2, "warm_up_epochs": 2}),  # is trained longer
    ("crd", 0.5, 0, {}),  # draws negatives while it trains
    ("dml", 0.5, 0, {}),  # has a peer instead of a teacher
    ("random", 0.5, 0, {}),  # has a teacher of its own
    ("noisy_student", 1.0, 0, {"generations": 2}),  # sees other views, becomes a teacher
    ("simkd", 0.5, 0, {}),  # ends as another network
]


def test_students_side_by_side_are_bit_for_bit_what_each_is_baseline(digits):
    def batches():
        return data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0)

    def job(method, width, seed, options, snapshots=()):
        network = models.build("resnet8", classes=10, channels=1, width=width, seed=seed)
        return train.TrainingJob(
            network, runs.Student(epochs=1, seed=0), method, options, snapshots=keep
        )

    kept = [job(*given, snapshots=(0, 1)) for given in SIDE_BY_SIDE]
    together = train.fit_many(kept, batches(), teacher())
    for given, side in zip(SIDE_BY_SIDE, together, strict=True):
        (by_itself,) = train.fit_many([job(*given)], batches(), teacher())
        assert bits(side.network) == bits(by_itself.network), given
        assert side.history == by_itself.history
        assert (set(side.snapshots), by_itself.snapshots) == (
            {0, 1},
            {},
        )  # to keep weights changes no bit


def test_weights_are_kept_after_the_passes_of_all_stages(digits):
    batches = data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0)
    options, run = {"stages": 2, "warm_up_epochs": 2}, runs.Student(epochs=1)
    job = train.TrainingJob(student(), run, "fitnet", options, snapshots=[3, 0, 2])
    ((network, history, kept),) = train.fit_many([job], batches, teacher())
    assert len(history) == 3
    counts = {n: int(w["stem.1.num_batches_tracked"]) for n, w in kept.items()}
    assert counts == {0: 0, 2: 2 * len(batches), 3: 3 * len(batches)}
    for passes, wanted in ((0, student()), (3, network)):
        assert b"".join(x.tobytes() for x in kept[passes].values()) == bits(wanted)


def test_what_is_kept_of_a_student_that_ends_with_another_head_is_the_student(digits):
    batches = data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0)
    job = train.TrainingJob(student(), runs.Student(epochs=1), "simkd", snapshots=[1])
    ((network, _, kept),) = train.fit_many([job], batches, teacher())
    plan = models.architecture(network)
    before = models.restore({"architecture": plan["student"]}, kept[1])
    for name in ("stem", "block1", "block2", "block3"):  # its own classifier is left out at the end
        assert bits(getattr(before, name)) == bits(getattr(network.student, name))
    with pytest.raises(UsageError, match="weights do not fit this network with its teacher's"):
        models.restore({"architecture": plan}, kept[1])


def test_students_side_by_side_ask_the_teacher_once_per_batch(digits):
    looks, taught = [], teacher()
    taught.register_forward_hook(lambda *_: looks.append(1))
    batches = data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0)
    run = runs.Student(epochs=1)
    jobs = [
        train.TrainingJob(student(i), run, method) for i, method in enumerate(("kd", "at", "kd"))
    ]
    train.fit_many(jobs, batches, taught)
    assert len(looks) == len(batches) + len(jobs)  # a first look each, to size the method


def test_without_the_pool_a_method_sees_labelled_images_only(digits):
    labelled = data.budget(digits.train_labels, 5, 0)
    run = runs.Student(epochs=1)
    ended = []
    for pool in (True, False):
        batches = data.Batches(digits, labelled, 64, 0, pool=pool)
        jobs = [train.TrainingJob(student(), run, "kd", unlabelled=False)]
        ended.append(bits(train.fit_many(jobs, batches, teacher())[0].network))
    assert ended[0] == ended[1]


def test_a_new_generation_begins_anew_taught_by_the_one_before(digits):
    options = {"generations": 2}
    network = teacher()
    trained = train.fit(
        network,
        data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0),
        runs.Student(epochs=2, seed=3),
        method="born_again",
        teacher=teacher(),
        **options,
    )
    told = [(row["generation"], row["epoch"]) for row in trained.history]
    assert told == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert trained.network is not network
    assert trained.history[2]["learning_rate"] == trained.history[0]["learning_rate"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("self", "self: the student must be of its teacher's own architecture; student 19,074"),
        ("noisy_student", "noisy_student: the student must be no smaller than its teacher"),
    ],
)
def test_a_student_of_the_wrong_size_is_refused(digits, method, said):
    with pytest.raises(UsageError, match=said):
        fit(digits, method)


def test_a_frozen_body_does_not_move_and_a_slow_one_moves_less(digits):
    labelled = data.budget(digits.train_labels, 5, 0)
    moved = []
    for rate in (0.0, 0.01, 1.0):
        batches = data.Batches(digits, labelled, 64, 0, unlabelled=False)
        network, first = student(), student()
        train.fit(network, batches, runs.Teacher(epochs=1), backbone_lr_factor=rate)
        pairs = list(zip(network.state_dict().items(), first.state_dict().values(), strict=True))
        change = {name: float((now - then).abs().max()) for (name, now), then in pairs if then.ndim}
        moved.append(max(value for name, value in change.items() if "logits" not in name))
        assert change["logits.weight"] > 0
    assert moved[0] == 0 < moved[1] < moved[2]


def test_simclr_learns_to_tell_images_apart_without_labels(digits):
    wrong = digits._replace(train_labels=torch.zeros_like(digits.train_labels))
    run = runs.Teacher(regime="pretrained", weights="simclr", labels_per_class=5, pretrain_epochs=4)
    networks = [student(), student()]
    histories = [
        train.pretrain(network, images, run)
        for network, images in zip(networks, (digits, wrong), strict=True)
    ]
    assert bits(networks[0]) == bits(networks[1])  # no label was looked at
    assert {row["stage"] for row in histories[0]} == {"simclr"}
    assert histories[0][-1]["simclr"] < 0.9 * histories[0][0]["simclr"]


def test_no_epochs_leave_a_network_as_it_begins_beside_others_that_are_trained(digits):
    batches = data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0)
    jobs = [train.TrainingJob(student(), runs.Student(epochs=n)) for n in (0, 1)]
    untrained, trained = train.fit_many(jobs, batches)
    assert bits(untrained.network) == bits(student())
    assert untrained.history == []
    assert len(trained.history) == 1


def test_a_pretrained_teacher_takes_the_weights_of_a_file(digits, tmp_path):
    import safetensors.numpy

    kept = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(models.weights(student(5)), kept)
    run = runs.Teacher(regime="pretrained", weights=str(kept), network="resnet8", epochs=0)
    network = student(0)
    assert train.pretrain(network, digits, run) == []
    assert bits(network) == bits(student(5))
    other = models.build("resnet8", classes=7, channels=1, width=0.5, seed=0)
    train.pretrain(other, digits, run)  # of other classes: its classifier begins anew
    fresh = models.build("resnet8", classes=7, channels=1, width=0.5, seed=0)
    assert other.logits.weight.equal(fresh.logits.weight)
    assert other.stem[0].weight.equal(network.stem[0].weight)
    with pytest.raises(UsageError, match="nowhere"):
        train.pretrain(network, digits, runs.Teacher(regime="pretrained", weights="nowhere"))


def test_bfloat16_teaches_what_float32_teaches_and_keeps_weights_in_float32(digits):
    labelled = data.budget(digits.train_labels, 5, 0)
    ended = {}
    for precision in runs.PRECISIONS:
        run = runs.Student(epochs=3, labels_per_class=5, precision=precision)
        batches, taught = data.Batches(digits, labelled, 64, 0), teacher()
        before = bits(taught)
        how = {"method": "kd+at", "teacher": taught}
        ended[precision] = train.fit(student(), batches, run, **how)
        assert bits(taught) == before
    one, other = (ended[name] for name in ("float32", "bfloat16"))
    assert bits(ended["auto"].network) == bits(one.network) != bits(other.network)
    assert {x.dtype for x in other.network.state_dict().values()} == {torch.float32, torch.int64}
    first, exact = other.history[0], one.history[0]
    for term in ("labels", "kd", "at"):
        assert first[term] == pytest.approx(exact[term], rel=0.1)
    scores = [train.evaluate(each.network, digits).accuracy for each in (one, other)]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)


def test_students_side_by_side_may_differ_in_precision(digits):
    def batches():
        return data.Batches(digits, data.budget(digits.train_labels, 5, 0), 64, 0)

    def job(precision):
        return train.TrainingJob(student(), runs.Student(epochs=1, precision=precision), "kd")

    names = ("float32", "bfloat16")
    together = train.fit_many([job(name) for name in names], batches(), teacher())
    for name, side in zip(names, together, strict=True):
        (baseline,) = train.fit_many([job(name)], batches(), teacher())
        assert bits(side.network) == bits(baseline.network)
