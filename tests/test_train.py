import contextlib
import itertools

import pytest
import safetensors.numpy
import torch

from kdlib import UsageError, data, distill, features, models, train
from kdlib.plan import runs


@pytest.fixture(scope="module")
def digits():
    """A third of them: 7 steps an epoch instead of 21."""
    images = data.load("digits")
    return images._replace(train=images.train[::3], train_labels=images.train_labels[::3])


STEPS = 7


def student(seed=0, width=0.5, classes=10):
    return models.build("resnet8", classes=classes, channels=1, width=width, seed=seed)


def teacher():
    return student(9, 1.0)


def batches(digits, seed=0, **options):
    return data.Batches(digits, data.budget(digits.train_labels, 5, seed), 64, seed, **options)


def fit(digits, method="kd", seed=0, epochs=1, **options):
    run = runs.Student(method=method, seed=seed, epochs=epochs, labels_per_class=5)
    needed = method not in ("baseline", "smooth")
    return train.fit(
        student(seed),
        batches(digits, seed, unlabelled=needed),
        run,
        method=method,
        teacher=teacher() if needed else None,
        **options,
    )


def bits(network):
    return b"".join(t.numpy().tobytes() for t in network.state_dict().values())


def steps_of_batchnorm(network):
    return {int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")}


def test_a_few_epochs_learn_and_the_history_has_every_term(digits):
    network, history, _ = fit(digits, "baseline", epochs=15)
    assert train.evaluate(network, digits).accuracy > 0.5  # chance: 0.1
    assert [row["epoch"] for row in history] == list(range(1, 16))
    assert history[-1]["labels"] < history[0]["labels"]
    assert list(fit(digits, "kd").history[0]) == [
        *("generation", "stage", "epoch", "learning_rate", "labels", "kd")
    ]


def test_without_a_first_stage_the_training_is_one_plain_loop(digits):
    network, frozen = student().train(), teacher().eval()
    loader = batches(digits)
    optimiser = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.1, total_steps=2 * len(loader), pct_start=0.2
    )
    for batch in [*loader, *loader]:
        with torch.no_grad():
            theirs = models.observe(frozen, batch.x, ())
        ours = models.observe(network, batch.x, ())
        terms = distill.logits.KD(ours, theirs)(ours, theirs, batch)
        optimiser.zero_grad()
        (terms["labels"] + terms["kd"]).backward()
        optimiser.step()
        schedule.step()
    assert bits(fit(digits, "kd", epochs=2).network) == bits(network)


def test_a_run_is_trained_by_its_own_method_unless_another_is_given(digits):
    def terms(run, **given):
        batch = batches(digits, unlabelled=False)
        history = train.fit(student(), batch, run, teacher=teacher(), **given).history
        return {k: v for k, v in history[0].items() if k in ("labels", "kd", "at")}

    run = runs.Student(method="kd", options={"temperature": 2.0}, epochs=1)
    own = terms(run)
    assert own == terms(run, method="kd", temperature=2.0)
    assert own != terms(run, temperature=3.0)
    assert terms(run, temperature=3.0) == terms(run, method="kd", temperature=3.0)
    assert set(terms(run, method="at")) == {"labels", "at"}
    assert set(terms(runs.Teacher(epochs=1))) == {"labels"}


def test_a_first_stage_comes_before_the_main_one_and_the_history_has_both(digits):
    history = fit(digits, "fitnet", stages=2, warm_up_epochs=2).history
    stages = [(row["stage"], row["epoch"]) for row in history]
    assert stages == [("warm_up", 1), ("warm_up", 2), ("main", 1)]
    progress = {"generation", "stage", "epoch", "learning_rate"}
    assert [set(row) - progress for row in history] == [{"fitnet"}] * 2 + [{"labels", "kd"}]
    assert history[1]["fitnet"] < history[0]["fitnet"]


@pytest.mark.parametrize("method", ["baseline", "smooth", "kd", "fitnet", "at"])
def test_the_same_seed_gives_the_same_bits(digits, method):
    torch.manual_seed(1)
    first = bits(fit(digits, method).network)
    torch.manual_seed(2)
    assert bits(fit(digits, method).network) == first
    assert bits(fit(digits, method, seed=1).network) != first


def test_the_teacher_is_bit_for_bit_what_it_was(digits):
    frozen = teacher()
    before = bits(frozen)
    train.fit(student(), batches(digits), runs.Student(epochs=1), method="at", teacher=frozen)
    assert bits(frozen) == before


def test_batchnorm_counts_one_step_per_batch(digits):
    assert steps_of_batchnorm(fit(digits, "fitnet", epochs=2).network) == {2 * STEPS}


def test_a_first_stage_without_the_student_does_not_change_it(digits):
    assert steps_of_batchnorm(fit(digits, "ft", warm_up_epochs=2).network) == {STEPS}


def test_a_combination_trains_both_stages(digits):
    options = {"at": {"weight": 500.0}, "ab": {"warm_up_epochs": 1}}
    history = fit(digits, "kd+at+ab", **options).history
    terms = [(row["stage"], *list(row)[4:]) for row in history]
    assert terms == [("warm_up", "ab"), ("main", "labels", "kd", "at")]


def test_a_loss_that_is_not_finite_stops_the_training(digits):
    broken = student()
    with torch.no_grad():
        broken.logits.weight.fill_(float("nan"))
    run = runs.Student(epochs=1, method="baseline")
    with pytest.raises(UsageError, match=r"baseline.* epoch 1"):
        train.fit(broken, batches(digits, unlabelled=False), run)


def test_the_score_is_a_plain_count(digits):
    network = student()
    score = train.evaluate(network, digits)
    with torch.no_grad():
        x = data.normalised(digits.test, digits.mean, digits.std)
        predictions = network.eval()(x).argmax(1)
    assert score.n == 500
    correct = (predictions == digits.test_labels).double()
    assert score.accuracy == pytest.approx(correct.mean().item())
    assert score.predictions.equal(predictions)


def test_the_score_on_training_images_is_of_their_true_labels(digits):
    network = student()
    score = train.evaluate(network, digits, "train")
    with torch.no_grad():
        x = data.normalised(digits.train, digits.mean, digits.std)
        probabilities = network.eval()(x).softmax(1)
    confidence, predictions = probabilities.max(1)
    assert score.n == len(digits.train)
    correct = (predictions == digits.train_labels).double()
    assert score.accuracy == pytest.approx(correct.mean().item())
    assert score.confidence == pytest.approx(confidence.mean().item(), abs=1e-5)
    with pytest.raises(UsageError, match="split 'all'"):
        train.evaluate(network, digits, "all")


def test_what_computes_leaves_nothing_behind_in_torch(digits):
    cudnn, during, threads = torch.backends.cudnn, [], torch.get_num_threads()
    network, few, run = student(), digits.test[:4], runs.Student(method="baseline", epochs=1)
    network.register_forward_pre_hook(lambda *_: during.append(cudnn.deterministic))
    own = {"mean": digits.mean, "std": digits.std}
    computations = [
        lambda: train.choose_device("cpu", threads),
        lambda: train.fit(network, batches(digits), run),
        lambda: train.fit(network, batches(digits), run, method="no such"),
        lambda: train.predict(network, few, **own),
        lambda: features.extract(network, few, layers=["logits"], **own),
        lambda: features.fit(network, few, layers=["block1"], **own),
    ]
    try:
        for compute, before in itertools.product(computations, (False, True)):
            cudnn.deterministic = before
            with contextlib.suppress(UsageError):
                compute()
            assert cudnn.deterministic is before
    finally:
        cudnn.deterministic = False
    assert len(during) >= 8
    assert all(during)


def test_the_device_is_chosen_or_refused():
    assert train.choose_device("cpu", 1).type == "cpu"
    assert train.choose_device("auto", 1).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="gpu"):
        train.choose_device("gpu", 1)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="cuda"):
            train.choose_device("cuda", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_learns_the_same_thing(digits):
    network, history, _ = fit(digits.to("cuda"), "kd", epochs=15)
    assert train.evaluate(network, digits.to("cuda")).accuracy > 0.3
    assert history[-1]["kd"] < history[0]["kd"]


@pytest.mark.parametrize("epochs", range(1, 8))
def test_trainings_of_a_few_steps_have_a_schedule_too(digits, epochs):
    run = runs.Student(epochs=epochs, method="baseline", batch_size=2000)
    whole = data.Batches(digits, torch.arange(len(digits.train)), run.batch_size, 0)
    assert len(whole) == 1
    history = train.fit(student(), whole, run).history
    assert all(0 <= row["learning_rate"] <= run.learning_rate for row in history)


SIDE_BY_SIDE = [
    ("kd", 0.5, 0, {}),
    ("kd", 0.5, 7, {}),  # another initial network
    ("at", 1.0, 0, {"weight": 500.0}),  # another width
    ("baseline", 0.5, 0, {}),  # trained on the labelled images only
    ("fitnet", 0.5, 0, {"stages": 2, "warm_up_epochs": 2}),  # is trained longer
    ("crd", 0.5, 0, {}),  # draws negatives while it is trained
    ("dml", 0.5, 0, {}),  # has a peer instead of a teacher
    ("random", 0.5, 0, {}),  # has a teacher of its own
    ("noisy_student", 1.0, 0, {"generations": 2}),  # uses strong augmentation, becomes a teacher
    ("simkd", 0.5, 0, {}),  # ends as another network
]


def test_students_side_by_side_are_bit_for_bit_what_each_is_alone(digits):
    def job(method, width, seed, options, snapshots=()):
        run = runs.Student(epochs=1, seed=0)
        return train.TrainingJob(student(seed, width), run, method, options, snapshots=snapshots)

    jobs = [job(*case, snapshots=(0, 1)) for case in SIDE_BY_SIDE]
    together = train.fit_many(jobs, batches(digits), teacher())
    for case, side in zip(SIDE_BY_SIDE, together, strict=True):
        (alone,) = train.fit_many([job(*case)], batches(digits), teacher())
        assert bits(side.network) == bits(alone.network), case
        assert side.history == alone.history
        assert set(side.snapshots) == {0, 1}  # they change no bit
        assert alone.snapshots == {}


def test_snapshots_count_the_epochs_of_all_stages(digits):
    options, run = {"stages": 2, "warm_up_epochs": 2}, runs.Student(epochs=1)
    job = train.TrainingJob(student(), run, "fitnet", options, snapshots=[3, 0, 2])
    ((network, history, snapshots),) = train.fit_many([job], batches(digits), teacher())
    assert len(history) == 3
    counts = {n: int(w["stem.1.num_batches_tracked"]) for n, w in snapshots.items()}
    assert counts == {0: 0, 2: 2 * STEPS, 3: 3 * STEPS}
    for epoch, wanted in ((0, student()), (3, network)):
        assert b"".join(x.tobytes() for x in snapshots[epoch].values()) == bits(wanted)


def test_snapshots_of_a_student_that_ends_with_another_head_are_of_the_student(digits):
    job = train.TrainingJob(student(), runs.Student(epochs=1), "simkd", snapshots=[1])
    ((network, _, snapshots),) = train.fit_many([job], batches(digits), teacher())
    plan = models.architecture(network)
    before = models.restore({"architecture": plan["student"]}, snapshots[1])
    for name in ("stem", "block1", "block2", "block3"):  # its own classifier is not in the result
        assert bits(getattr(before, name)) == bits(getattr(network.student, name))
    with pytest.raises(UsageError):
        models.restore({"architecture": plan}, snapshots[1])


def test_students_side_by_side_share_one_forward_pass_of_the_teacher_per_batch(digits):
    calls, frozen = [], teacher()
    frozen.register_forward_hook(lambda *_: calls.append(1))
    run = runs.Student(epochs=1)
    methods = ("kd", "at", "kd", "sp")
    jobs = [train.TrainingJob(student(i), run, method) for i, method in enumerate(methods)]
    train.fit_many(jobs, batches(digits), frozen)
    assert len(calls) == STEPS + len(jobs)  # one each to size the method


def test_without_unlabelled_images_a_method_uses_the_labelled_ones_only(digits):
    weights = []
    for unlabelled in (True, False):
        job = train.TrainingJob(student(), runs.Student(epochs=1), "kd", unlabelled=False)
        loader = batches(digits, unlabelled=unlabelled)
        weights.append(bits(train.fit_many([job], loader, teacher())[0].network))
    assert weights[0] == weights[1]


def test_a_new_generation_starts_again_with_the_last_one_as_its_teacher(digits):
    network, run = teacher(), runs.Student(epochs=2, seed=3)
    trained = train.fit(
        network, batches(digits), run, method="born_again", teacher=teacher(), generations=2
    )
    epochs = [(row["generation"], row["epoch"]) for row in trained.history]
    assert epochs == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert trained.network is not network
    assert trained.history[2]["learning_rate"] == trained.history[0]["learning_rate"]


@pytest.mark.parametrize("method", ["self", "born_again", "noisy_student"])
def test_a_student_of_the_wrong_size_is_refused(digits, method):
    with pytest.raises(UsageError, match=rf"{method}.*19,074"):  # its parameters
        fit(digits, method)


def test_a_frozen_backbone_does_not_change_and_a_slow_one_changes_less(digits):
    changes = []
    for factor in (0.0, 0.01, 1.0):
        network, first = student(), student().state_dict()
        loader = batches(digits, unlabelled=False)
        train.fit(network, loader, runs.Teacher(epochs=1, backbone_lr_factor=factor))
        assert not network.logits.weight.equal(first["logits.weight"])
        if factor == 0:
            backbone = [x for x in network.state_dict() if "logits" not in x]
            assert all(network.state_dict()[x].equal(first[x]) for x in backbone)
        weight = network.state_dict()["stem.0.weight"]
        changes.append(float((weight - first["stem.0.weight"]).abs().max()))
    assert changes[0] == 0 < changes[1] < changes[2]


def test_simclr_tells_images_apart_without_labels(digits):
    wrong = digits._replace(train_labels=torch.zeros_like(digits.train_labels))
    run = runs.Teacher(weights="simclr", labels_per_class=5, pretrain_epochs=6)
    networks = [student(), student()]
    history = train.pretrain(networks[0], digits, run)
    train.pretrain(networks[1], wrong, run)
    assert bits(networks[0]) == bits(networks[1])  # no label was used
    assert {row["stage"] for row in history} == {"simclr"}
    assert history[-1]["simclr"] < 0.9 * history[0]["simclr"]


def test_no_epochs_leave_a_network_as_it_is_beside_others_that_are_trained(digits):
    jobs = [train.TrainingJob(student(), runs.Student(epochs=n), "baseline") for n in (0, 1)]
    untrained, trained = train.fit_many(jobs, batches(digits))
    assert bits(untrained.network) == bits(student())
    assert untrained.history == []
    assert len(trained.history) == 1


def test_a_student_of_no_epochs_ends_with_its_teachers_head_where_the_method_says_so(digits):
    assert isinstance(fit(digits, "simkd", epochs=0).network, models.Grafted)


def test_a_pretrained_teacher_takes_the_weights_of_a_file(digits, tmp_path):
    file = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(models.weights(student(5)), file)
    run = runs.Teacher(weights=str(file), network="resnet8", epochs=0)
    network = student(0)
    assert train.pretrain(network, digits, run) == []
    assert bits(network) == bits(student(5))
    other, fresh = student(classes=7), student(classes=7)
    train.pretrain(other, digits, run)  # of other classes: its classifier is initialised again
    assert other.logits.weight.equal(fresh.logits.weight)
    assert other.stem[0].weight.equal(network.stem[0].weight)
    with pytest.raises(UsageError, match="nowhere"):
        train.pretrain(network, digits, runs.Teacher(weights="nowhere"))


def test_bfloat16_trains_as_float32_does_and_keeps_weights_in_float32(digits):
    results = {}
    for precision in ("float32", "bfloat16", "auto"):
        run = runs.Student(epochs=6, labels_per_class=5, precision=precision)
        frozen = teacher()
        before = bits(frozen)
        results[precision] = train.fit(
            student(), batches(digits), run, method="kd+at", teacher=frozen
        )
        assert bits(frozen) == before
    full, half = results["float32"], results["bfloat16"]
    assert bits(results["auto"].network) == bits(full.network) != bits(half.network)
    assert {x.dtype for x in half.network.state_dict().values()} == {torch.float32, torch.int64}
    for term in ("labels", "kd", "at"):
        assert half.history[0][term] == pytest.approx(full.history[0][term], rel=0.1)
    scores = [train.evaluate(result.network, digits).accuracy for result in (full, half)]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)


def test_students_side_by_side_may_differ_in_precision(digits):
    def job(precision):
        return train.TrainingJob(student(), runs.Student(epochs=1, precision=precision), "kd")

    names = ("float32", "bfloat16")
    together = train.fit_many([job(name) for name in names], batches(digits), teacher())
    for name, side in zip(names, together, strict=True):
        (alone,) = train.fit_many([job(name)], batches(digits), teacher())
        assert bits(side.network) == bits(alone.network)
