"""Several teachers of one student: the mean of their softened probabilities."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdlib import UsageError, data, distill, models, store, train
from kdlib.distill import schemes
from kdlib.plan import methods, runs, studies

ROOT = Path(__file__).parents[1]
TINY = {"train_images": 100}
A, B = "teachers/resnet20-full-0", "teachers/resnet14-full-0"


@pytest.fixture(scope="module")
def images():
    """32 images of 4 classes, 16 pixels wide, mirrored by their augmentation."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)
    y = torch.arange(32) % 4
    return data.Images("fake", x, y, x[:8], y[:8], tuple("abcd"), shift=0, flip=True)


def teacher(name="resnet8", seed=9, classes=4, **how):
    return models.build(name, classes=classes, width=0.5, seed=seed, size=16, **how)


def batches(images):
    return data.Batches(images, torch.arange(8), 8, 0)


def student(method="kd", **changes):
    return runs.Student(**{"method": method, "teacher": [A, B], "epochs": 1} | changes)


def trained(images, teachers, **changes):
    network = models.build("resnet8", classes=4, width=0.25, seed=1)
    return train.fit(network, batches(images), student(**changes), teacher=teachers)


def weights(network):
    return torch.cat([x.flatten().double() for x in network.state_dict().values()])


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("m", [2, 3])
def test_the_probabilities_are_the_mean_of_the_teachers(m, temperature):
    z = 20 * torch.randn(m, 50, 10, generator=torch.Generator().manual_seed(m)).double()
    mean = np.mean([softmax(each / temperature) for each in z.numpy()], axis=0)
    found = softmax(schemes.ensemble(z, temperature).numpy() / temperature)
    np.testing.assert_allclose(found, mean, rtol=1e-10)


def test_confident_teachers_that_disagree_give_finite_logits():
    z = torch.tensor([[[800.0, 0, 0]], [[0, 800.0, 0]]])
    found = schemes.ensemble(z, 1.0)
    assert found.isfinite().all()
    torch.testing.assert_close(found.softmax(1), torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_equal_teachers_give_the_bits_of_one(m):
    z = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert schemes.ensemble(torch.stack([z] * m), 4.0).equal(z)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("method", ["kd", "transfer", "pseudo", "shuffled", "kd+smooth"])
def test_a_student_of_two_equal_teachers_is_that_of_one(images, method, cached):
    one, two, other = (
        trained(images, teachers, method=method, cached_teacher=cached)
        for teachers in (teacher(), [teacher(), teacher()], [teacher(), teacher(seed=3)])
    )
    assert weights(two.network).equal(weights(one.network))
    assert two.history == one.history
    assert not weights(other.network).equal(weights(one.network))


def test_kd_compares_with_the_mean_at_its_own_temperature(images):
    teachers = [train._frozen(teacher(seed=seed), torch.device("cpu")) for seed in (1, 2)]
    batch = next(iter(batches(images)))
    network = models.build("resnet8", classes=4, width=0.25, seed=1)
    job = train.job(network, student(options={"temperature": 2.0}))
    trainer = train.Trainer(job, teachers, batches(images))
    ((_, outputs),) = train.Teachers(batches(images)).outputs([trainer], batch).values()
    with torch.no_grad():
        z = [t(batch.x).numpy() for t in teachers]
        ours = network.eval()(batch.x).numpy()
        found = trainer.loss(models.Forward(torch.from_numpy(ours), {}), outputs, batch)["kd"]
    p_t = (softmax(z[0] / 2) + softmax(z[1] / 2)) / 2
    divergence = (p_t * (np.log(p_t) - np.log(softmax(ours / 2)))).sum(1).mean()
    assert found.item() == pytest.approx(0.9 * 2**2 * divergence, rel=1e-4)


def test_each_teacher_has_its_own_normalisation_and_input_size(images):
    half = runs.CONSTANTS["half"]
    how = [
        {"preprocess": models.preprocess(images.mean, images.std, half, 3, 32)},
        {},
    ]
    teachers = [train._frozen(teacher(**each), torch.device("cpu")) for each in how]
    batch = next(iter(batches(images)))
    job = train.job(models.build("resnet8", classes=4, width=0.25, seed=1), student("transfer"))
    trainer = train.Trainer(job, teachers, batches(images))
    ((_, outputs),) = train.Teachers(batches(images)).outputs([trainer], batch).values()
    x = batch.x * images.std + images.mean  # in [0, 1]
    enlarged = torch.nn.functional.interpolate(
        (x - 0.5) / 0.5, size=32, mode="bilinear", antialias=True, align_corners=False
    )
    plain = train._frozen(teacher(), torch.device("cpu"))
    wanted = (plain(enlarged).softmax(1) + plain(batch.x).softmax(1)) / 2
    torch.testing.assert_close(outputs.logits.softmax(1), wanted, rtol=1e-3, atol=1e-5)


def test_teachers_of_unequal_classes_are_refused(images):
    with pytest.raises(UsageError, match="teachers of 4 and 5 classes; allowed: several of as"):
        trained(images, [teacher(), teacher(classes=5)])


@pytest.mark.parametrize("method", ["at", "kd+at", "sp", "born_again", "random", "simkd", "dkd"])
def test_a_method_of_one_teacher_is_refused_in_a_line(method):
    line = f"method '{method}' with several teachers; allowed: one teacher, or one of kd, transfer,"
    with pytest.raises(UsageError, match=line.replace("+", r"\+")) as error:
        student(method)
    assert "\n" not in str(error.value)


def test_a_method_of_one_teacher_is_refused_when_it_is_trained(images):
    network = models.build("resnet8", classes=4, width=0.25)
    with pytest.raises(UsageError, match="method 'at' with several teachers"):
        train.fit(
            network, batches(images), runs.Student(), method="at", teacher=[teacher(), teacher()]
        )


def test_the_run_names_its_teachers_and_is_compared_with_the_first():
    run = student()
    assert run.name == (
        "students/resnet20-full-0/resnet8x0.5-kd-2-0+epochs=1"
        "+teachers=resnet20-full-0_resnet14-full-0"
    )
    assert run.teacher_runs == [A, B]
    assert run.teacher_run == A
    facts = {"network": "resnet20", "regime": "full", "weights": "random"}
    record = run.record(facts)
    assert record["parameters"]["teacher"] == [A, B]
    assert record["facts"]["teacher"] == A
    assert "teachers=resnet20-full-0_resnet14-full-0" in record["facts"]["options"]
    assert student(teacher=[B, A]).name != run.name
    assert student(teacher=["resnet20", "resnet14"]).name == run.name
    assert student(teacher=[A]).name == student(teacher=A).name
    sides = student(students=[{}, {"method": "transfer"}])
    assert [each.teacher_runs for each in sides.each] == [[A, B], [A, B]]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], r"teacher \[\]; allowed: one or more, each once"),
        ([A, A], "each once"),
        ([A, "resnet20"], "each once"),
        ([A, 3], "teacher must be"),
        ([A, "runs/x"], "'runs/x' names no run"),
    ],
)
def test_teachers_that_cannot_be_are_said_in_one_line(given, line):
    with pytest.raises(UsageError, match=line) as error:
        student(teacher=given)
    assert "\n" not in str(error.value)


def test_the_table_says_which_methods_take_several_teachers():
    several = {key for key, facts in methods.METHODS.items() if facts.several}
    assert several == {"kd", "transfer", "pseudo", "shuffled"}
    for key in several:
        assert distill.CLASSES[key].facts.teacher
    methods.check_several("baseline")


NETWORKS = [{"network": "resnet20"}, {"network": "resnet14"}]


def test_a_list_of_teachers_in_a_study_has_students_of_each_and_an_ensemble_of_both():
    each = studies.Study(name="mine", teacher=NETWORKS)
    both = studies.Study(name="mine", teacher={"ensemble": NETWORKS})
    assert [run.name for run in each.teachers] == [run.name for run in both.teachers] == [A, B]
    taught = [
        [s.teacher_runs for s in study.students if s.method == "kd"] for study in (each, both)
    ]
    assert taught == [[[A], [B]], [[A, B]]]
    baselines = [s for s in both.students if s.method == "baseline"]
    assert [s.teacher_runs for s in baselines] == [[A]]
    assert {run.name for run in both.mapped} >= {A, B}


def test_an_ensemble_is_one_of_several_entries_and_its_lists_are_crossed():
    ensemble = {"ensemble": [{"seed": [0, 1]}, {"network": "resnet14"}]}
    study = studies.Study(name="mine", teacher=[{}, ensemble], methods=["kd"])
    other = "teachers/resnet20-full-1"
    assert [run.teacher_runs for run in study.students] == [[A], [A, B], [other, B]]
    assert {run.name for run in study.teachers} == {A, B, other}
    assert len(study.kernels) == 3


def test_teachers_of_few_labels_form_an_ensemble_per_budget_and_seed():
    member = {"labels_per_class": "same"}
    study = studies.Study(
        name="mine",
        teacher={"ensemble": [member, member | {"network": "resnet14"}]},
        methods=["kd"],
        seeds=[0, 1],
    )
    assert [run.teacher_runs for run in study.students] == [
        [f"teachers/resnet{n}-limited-2-{seed}" for n in (20, 14)] for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"teacher": {"ensemble": [{}]}}, "allowed: an ensemble of two teachers or more"),
        ({"teacher": {"ensemble": "resnet20"}}, "allowed: an ensemble of two teachers or more"),
        ({"teacher": {"ensemble": ["a", "b"]}}, "allowed: an ensemble of two teachers or more"),
        ({"teacher": {"ensemble": NETWORKS, "epochs": 2}}, "by itself"),
        ({"teacher": {"ensemble": [{}, {}]}}, "each once"),
        ({"teacher": {"ensemble": [{}, {"study": "x"}]}}, "teacher: study is not set here"),
        (
            {"teacher": {"ensemble": NETWORKS}, "methods": ["at"]},
            "student: method 'at' with several teachers",
        ),
    ],
)
def test_an_ensemble_that_cannot_be_is_said_in_one_line(given, line):
    with pytest.raises(UsageError, match=line) as error:
        studies.Study(name="mine", **given)
    assert "\n" not in str(error.value)


def test_by_hand_a_student_has_two_teachers_and_is_compared_with_the_first(tmp_path):
    results, names = str(tmp_path / "runs"), []
    for seed in (0, 1):
        given = {"network": "resnet8", "seed": seed, "epochs": 0, "results": results}
        papermill("teacher", tmp_path, given | TINY)
        names.append(f"teachers/resnet8-full-{seed}+epochs=0")
    given = {"teacher": names, "epochs": 1, "results": results, "cached_teacher": True}
    done = papermill("student", tmp_path, given | TINY)
    run = runs.Student(**given, **TINY)
    record = store.load_run(run.folder)
    assert record["parameters"]["teacher"] == names
    assert "teachers=" in record["facts"]["options"]
    assert all(f"teacher {name}: " in done for name in names)
    networks = [*names, run.name]
    papermill("features", tmp_path, {"networks": networks, "sample": 20, "results": results} | TINY)
    assert store.teacher_of(run.root, run.name) == names[0]


def papermill(notebook, folder, given):
    """Run a notebook, and return the outputs that it printed."""
    out = folder / f"{notebook}.ipynb"
    command = [Path(sys.executable).parent / "papermill", "--engine", "kdlib"]
    command += [ROOT / f"notebooks/{notebook}.ipynb", out, "-y", json.dumps(given)]
    done = subprocess.run(
        [*command, "--no-progress-bar", "--log-level", "ERROR"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out.read_text()


def test_the_pipeline_waits_for_every_teacher_of_an_ensemble(tmp_path):
    study = tmp_path / "two.yaml"
    study.write_text(
        "teacher: {ensemble: [{network: resnet8}, {network: resnet14}]}\n"
        "methods: [kd]\nruns_only: true\n"
    )
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--workflow-profile", "none"]
    command += ["--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "--cores", "1"]
    for name in ("notebooks", "kdlib"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [*command, "--config", f"study={study}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    start = next(i for i, line in enumerate(lines) if "rule student_" in line)
    inputs = next(line for line in lines[start:] if line.strip().startswith("input: "))
    for network in ("resnet8", "resnet14"):
        assert f"runs/two/digits/teachers/{network}-full-0/weights.safetensors" in inputs
