import pytest

from kdlib import UsageError
from kdlib.plan import runs, studies


def test_the_quick_study_is_what_the_protocol_asks_for():
    study = studies.read("studies/quick.yaml")
    assert study.methods == ["baseline", "smooth", "kd", "fitnet", "at"]
    assert study.labels_per_class == [2, 5, "all"]
    assert len(study.seeds) >= 3
    assert len(study.students) == len({run.name for run in study.students}) == 15 * len(study.seeds)
    assert set(study.map_tables) == {"tsne", "ivis"}
    assert study.mapped[0] == study.teachers[0]


def names(**given):
    return [run.name for run in studies.Study(name="mine", **given).students]


def test_a_list_below_student_or_teacher_is_crossed_with_all_else():
    found = names(
        student={"width": [0.5, 1], "unlabelled": [True, False]}, methods=["baseline", "kd"]
    )
    where = "students/resnet20-full-0"
    assert found == [
        f"{where}/resnet8x0.5-baseline-2-0",
        f"{where}/resnet8x0.5-kd-2-0",
        f"{where}/resnet8x0.5-kd-2-0+unlabelled=False",  # the baseline never uses unlabelled images
        f"{where}/resnet8-baseline-2-0",
        f"{where}/resnet8-kd-2-0",
        f"{where}/resnet8-kd-2-0+unlabelled=False",
    ]


def test_maps_of_the_seeds_that_are_not_drawn_are_measured():
    study = studies.Study(
        name="mine",
        labels_per_class=[2, 5],
        seeds=[0, 1],
        student={"width": [0.5, 1]},
        maps={"labels_per_class": [2], "seeds": [0]},
        embeddings={"tsne": {"coupling": 0.2, "perplexity": 5}, "pca": None},
    )
    names = ["students/resnet20-full-0/resnet8x0.5-" + end for end in ("baseline-2-1", "kd-2-1")]
    assert study.measured == set(names)  # as drawn: of the first variant only
    looked = {block: study.measures_of(block) for block in study.blocks}
    assert {block: m.mapped for block, m in looked.items() if m.mapped} == {"2-1": names}
    assert looked["2-1"].embeddings == {"tsne": {"perplexity": 5}, "pca": {}}
    assert looked["2-0"].embeddings == {}
    assert studies.read("studies/smoke.yaml").measured == set()


def test_a_limited_teacher_has_the_labels_of_its_student():
    study = studies.Study(
        name="mine",
        teacher=[
            {},
            {"labels_per_class": "same"},
            {"labels_per_class": "same", "weights": "simclr"},
        ],
        labels_per_class=[2, "all"],
        seeds=[0, 1],
    )
    assert [run.name for run in study.teachers] == [
        "teachers/resnet20-full-0",
        "teachers/resnet20-limited-2-0",
        "teachers/resnet20-pretrained-2-0+weights=simclr",
        "teachers/resnet20-full-0+weights=simclr",  # as few as all labels
        "teachers/resnet20-limited-2-1",
        "teachers/resnet20-pretrained-2-1+weights=simclr",
    ]
    for student in study.students:
        teacher = next(run for run in study.teachers if run.name == student.teacher_run)
        assert teacher.regime == "full" or teacher.seed == student.seed
        assert teacher.labels_per_class in ("all", student.labels_per_class)
    assert sum(run.method == "baseline" for run in study.students) == 4
    assert {block: len(runs) for block, runs in study.blocks.items()} == {
        "teacher": 2,
        "2-0": 6,
        "2-1": 6,
        "all-0": 3,
        "all-1": 3,
    }


def test_networks_of_all_budgets_of_a_seed_may_share_a_kernel():
    grid = {"labels_per_class": [2, 5], "seeds": [0, 1]}
    by_budget = studies.Study(name="mine", teacher={"labels_per_class": "same"}, **grid)
    by_seed = studies.Study(
        name="mine", teacher={"labels_per_class": "same"}, kernels_by="seed", **grid
    )
    assert by_seed.runs == by_budget.runs
    assert by_seed.kernels.keys() == by_budget.kernels.keys()  # nothing is trained again
    assert {block: len(runs) for block, runs in by_seed.blocks.items()} == {
        "seed-0": 6,
        "seed-1": 6,
    }
    members = {run.name for runs in by_seed.blocks.values() for run in runs}
    assert members == {run.name for run in by_seed.runs}
    assert by_seed.features_of("seed-1").networks == [run.name for run in by_seed.blocks["seed-1"]]
    assert by_seed.measures_of("seed-1").mapped == sorted(
        by_seed.measured, key=by_seed.measures_of("seed-1").networks.index
    )


def test_a_method_may_have_parameters_of_its_own():
    at = {"method": "at", "width": 1.0, "options": {"weight": 9}}
    assert [name.split("/")[-1] for name in names(methods=["baseline", at])] == [
        "resnet8x0.5-baseline-2-0",
        "resnet8-at-2-0+weight=9",
    ]


def test_a_student_of_its_teachers_network_is_compared_with_that_network_baseline():
    assert [name.split("/")[-1] for name in names(methods=["baseline", "self"])] == [
        "resnet8x0.5-baseline-2-0",
        "resnet20-baseline-2-0",
        "resnet20-self-2-0",
    ]


def test_maps_are_compared_of_students_that_the_study_has():
    baseline = {"method": "baseline", "options": {}, "epochs": 3}
    study = studies.Study(name="mine", methods=[baseline, "at", "kd"], seeds=[4, 5])
    assert study.comparison.networks == [
        "teachers/resnet20-full-0",
        "students/resnet20-full-0/resnet8x0.5-baseline-2-4+epochs=3",
        "students/resnet20-full-0/resnet8x0.5-kd-2-4",
    ]
    trained = {run.name for run in (*study.teachers, *study.students)}
    assert set(study.comparison.networks) <= trained
    assert studies.Study(name="mine", methods=["baseline", "kd"], runs_only=True).comparison is None


def test_students_of_one_kernel_are_those_of_the_study():
    study = studies.Study(
        name="mine",
        methods=["baseline", "kd", "at", "sp"],
        student={"batch_size": [32, 64], "precision": ["float32", "bfloat16"], "width": [0.5, 1]},
        seeds=[0, 1],
        students_per_kernel=3,
    )
    each = [run for together in study.kernels.values() for run in together.each]
    assert sorted(run.name for run in each) == sorted(run.name for run in study.students)
    assert max(len(together.each) for together in study.kernels.values()) == 3
    for together in study.kernels.values():
        assert len({(run.batch_size, run.precision) for run in together.each}) == 1
        again = runs.Student(**together.settings(), students=together.students)
        names = [run.name for run in together.each]
        assert [run.name for run in again.each] == names


def test_the_coupling_of_maps_is_set_beside_their_options():
    study = studies.Study(name="mine", embeddings={"tsne": {"coupling": 0, "perplexity": 5}})
    maps = study.map_tables["tsne"]
    assert (maps.coupling, maps.options) == (0.0, {"perplexity": 5})
    assert study.map_tables["tsne"].name.endswith("+coupling=0.0+perplexity=5")


def test_the_comparison_is_of_baseline_and_kd_in_the_first_cell():
    study = studies.Study(name="mine", methods=["at", "baseline", "kd"], seeds=[3, 4])
    where = "students/resnet20-full-0/resnet8x0.5"
    names = ["teachers/resnet20-full-0", f"{where}-baseline-2-3", f"{where}-kd-2-3"]
    assert study.comparison.networks == names
    assert (
        studies.Study(name="mine", methods=["baseline", "at"])
        .comparison.networks[-1]
        .endswith("-at-2-0")
    )
    assert studies.Study(name="mine", runs_only=True).comparison is None
    assert studies.Study(name="mine", methods=["kd", "at"]).comparison is None


def test_a_film_follows_every_seed_and_draws_the_first():
    study = studies.Study(
        name="mine",
        methods=["baseline", "at", "kd"],
        labels_per_class=[2, 5],
        seeds=[0, 1],
        maps={"labels_per_class": [5], "seeds": [1]},
        film={"epochs": [0, 3], "methods": ["baseline", "kd"], "layers": ["stem"]},
        embeddings={"tsne": {"perplexity": 9}},
    )
    film = study.film_table
    where = "students/resnet20-full-0/resnet8x0.5"
    assert film.mapped == [f"{where}-baseline-5-1", f"{where}-kd-5-1"]
    assert film.networks == [*film.mapped, f"{where}-baseline-5-0", f"{where}-kd-5-0"]
    assert (film.layers, film.options) == (["stem"], {"perplexity": 9})
    snapshots = {run.name: run.snapshots for run in study.students if run.snapshots}
    assert snapshots == {name: [0, 3] for name in film.networks}
    each = [run for kernel in study.kernels.values() for run in kernel.each]
    assert {run.name: run.snapshots for run in each if run.snapshots} == snapshots


def test_without_a_film_or_without_layers_nothing_is_kept():
    for given in ({}, {"runs_only": True}):
        study = studies.Study(name="mine", **given)
        assert study.film_table is None
        assert not any(run.snapshots for run in study.students)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("film: {epochs: [0, 21]}", "film: snapshots 21; allowed: 0 to 20, the run's epochs"),
        ("film: {layers: [stem]}", "film: epochs is empty; a film needs at least one"),
        ("film: {epochs: [0], methods: [at]}", "film: method 'at'; allowed, as in the maps"),
        ("film: {epoch: [0]}", "film: unknown parameter 'epoch'; known: epochs, layers, methods"),
        ("metods: [kd]", "unknown parameter 'metods'; known: name, dataset"),
        ("methods: kd", "parameter methods must be list, given 'kd'"),
        ("seeds: [-1]", "student: seed -1; allowed: 0 or more"),
        ("seeds: []", "seeds is empty"),
        ("labels_per_class: [0]", "labels_per_class 0"),
        ("student: {epoch: 3}", "student: unknown parameter 'epoch'"),
        ("maps: {seeds: [7]}", "maps: seeds 7 is not in the study's seeds"),
        ("seeds: [0, 0]", "allowed: each once"),
        ("student: {seed: 7}", "student: seed is not set here; the study sets it itself"),
        ("student: {method: at}", "student: method is not set here"),
        ("{runs_only: true, film: {epochs: [0]}}", "film of a study with runs_only"),
        ("teacher: {device: cuda}", "teacher: device is not set here"),
        ("features: {networks: [teachers/x]}", "features: networks is not set here"),
        ("embeddings: {}", "embeddings is empty"),
        ("embeddings: {tsne: {coupling: [1]}}", "embeddings: tsne: parameter coupling must be"),
        ("features: {sample: 0}", "sample 0; allowed: 1 or more"),
        ("students_per_kernel: 0", "students_per_kernel 0; allowed: 1 or more"),
        ("checkpoint_minutes: -1", "checkpoint_minutes -1; allowed: 0 or more"),
        ("student: {checkpoint_minutes: 5}", "checkpoint_minutes is not set here; the study"),
        ("kernels_by: teacher", "kernels_by"),
        ("together: 3", "parameter 'together' is now called students_per_kernel"),
        ("layers: false", "parameter 'layers' is now called runs_only"),
        ("device: cuda", "unknown parameter 'device'"),
        ("teacher: {regime: full}", "teacher: parameter 'regime' is now called labels_per_class"),
        ("teacher: {labels_per_class: 3}", "teacher: labels_per_class 3; allowed: all, or same"),
        (
            "teacher: {labels_per_class: same, seed: 3}",
            "teacher: seed 3 with labels_per_class same; allowed: without, it has the seed of its",
        ),
        (
            "teacher: {ensemble: [{}, {labels_per_class: same, seed: 3, network: resnet8}]}",
            "teacher: seed 3 with labels_per_class same",
        ),
        ("results: 'a {b}'", "unknown parameter 'results'"),
        ("student: {results: 'a {b}'}", "student: results is not set here"),
        ("teacher: {results: 'a {b}'}", "teacher: results is not set here"),
        ("teacher: [{}, {sed: 1}]", "teacher: unknown parameter 'sed'"),
        ("teacher: [{}, {study: x}]", "teacher: study is not set here"),
        ("teacher: []", "teacher is empty"),
        ("methods: [{width: 1}]", "allowed: a name, or {method: kd, width: 1}"),
        ("student: {width: []}", "student: width is empty"),
        ("embeddings: {tsne: 3}", "parameter embeddings must be dictionary, given 3"),
        ("size: 2", "size 2; allowed: 4 or more"),
        ("{seeds: [0, 0], maps: {seeds: [0]}}", "allowed: each once"),
        ("a: [", "not YAML"),
        ("- kd", "not a list of names and values"),
    ],
)
def test_a_study_file_that_cannot_be_is_said_in_one_line_with_its_name(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        studies.read(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_minutes_between_checkpoints_are_a_studys_and_run_nothing_again():
    often, ten = (studies.Study(name="mine", checkpoint_minutes=m) for m in (0.5, 10))
    assert often.checkpoint_minutes == 0.5
    assert studies.Study(name="mine").checkpoint_minutes == ten.checkpoint_minutes == 10
    assert [run.name for run in often.runs] == [run.name for run in ten.runs]
    for one, other in zip(often.kernels.values(), ten.kernels.values(), strict=True):
        assert one.settings() == other.settings()
        assert one.record() == other.record()


def test_a_study_file_that_is_no_text_is_said_in_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UsageError, match=r"mine.yaml: not YAML"):
        studies.read(tmp_path / "mine.yaml")


def test_a_missing_study_file_names_those_there_are():
    with pytest.raises(UsageError, match=r"no study file studies/quik.yaml; .*studies/quick"):
        studies.read("studies/quik.yaml")


def test_a_study_on_a_gpu_is_of_other_runs_than_on_a_cpu():
    gpu, cpu = (studies.read("studies/smoke.yaml", device) for device in ("cuda", "cpu"))
    assert {run.precision for run in gpu.runs} == {"bfloat16"}
    assert not {run.name for run in gpu.runs} & {run.name for run in cpu.runs}
    assert set(gpu.comparison.networks) <= {run.name for run in gpu.runs}


def test_every_notebook_of_a_study_is_handed_the_same_images(tmp_path):
    archive = tmp_path / "birds.zip"
    archive.write_bytes(b"not looked into")
    study = studies.Study(name="mine", dataset=str(archive), size=16, train_images=5)
    parts = [*study.runs, *study.map_tables.values(), study.comparison]
    parts += [study.features_of("2-0"), study.measures_of("2-0")]
    assert {part.root for part in parts} == {study.root}
    assert study.source.hash in str(study.root)
    assert all("train_images" not in run.name for run in study.runs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("{}", "is empty"),
        ("# methods: [baseline, kd]", "is empty"),
        ("methods: [baseline, kd]\nmethods: [baseline, at]", "'methods' stands 2 times"),
        ("student: {epochs: 1, width: 1, epochs: 2}", "'epochs' stands 2 times"),
        ("maps: &a [*a]", "more than 100,000 values"),
        ("[" * 2000, "nested too deeply"),
        ("name: !!python/object/apply:os.system [false]", "not YAML"),
    ],
    ids=lambda text: text[:20] or "nothing",
)
def test_a_study_file_that_cannot_be_meant_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=f"mine.yaml: .*{said}") as refused:
        studies.read(file)
    assert "\n" not in str(refused.value)


def test_aliases_that_explode_are_refused_within_a_second(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join(['*a' + str(n - 1)] * 10)}]" for n in range(1, 12)]
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="more than 100,000 values"):
        studies.read(file)


def test_a_number_with_an_exponent_is_a_number_wherever_one_is_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "student: {weight_decay: [5e-4, 1e-3], epochs: 1e1, learning_rate: 1, width: 5e-1}\n"
        "methods: [baseline, {method: kd, options: {temperature: 2e0, weight: 5e-1}}]\n"
        "seeds: [1e0]\n"
    )
    student = studies.read(file).students[-1]
    assert (student.weight_decay, student.epochs, student.width, student.seed) == (1e-3, 10, 0.5, 1)
    assert student.options == {"temperature": 2, "weight": 0.5}
    again = runs.Student(options={"at": {"weight": "1e3"}}, epochs="1e1", weight_decay="5e-4")
    assert again.options == {"at": {"weight": 1000}}
    assert again.name.endswith("+at.weight=1000+epochs=10")
