import pytest

from kdlib import UsageError, distill, runs, studies


def test_the_quick_study_is_what_the_protocol_asks_for():
    study = studies.read("studies/quick.yaml")
    assert study.methods == ["alone", "smooth", "kd", "fitnet", "at"]
    assert study.labels_per_class == [2, 5, "all"]
    assert len(study.seeds) >= 3
    assert len(study.students) == len({run.name for run in study.students}) == 15 * len(study.seeds)
    assert set(study.drawn) == {"tsne", "ivis"}
    assert study.mapped[0] == study.teachers[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metods: [kd]", "unknown parameter 'metods'; known: name, dataset"),
        ("methods: kd", "parameter methods must be list, given 'kd'"),
        ("seeds: [-1]", "student: seed -1; allowed: 0 or more"),
        ("seeds: []", "seeds is empty"),
        ("labels_per_class: [0]", "labels_per_class 0"),
        ("student: {epoch: 3}", "student: unknown parameter 'epoch'"),
        ("maps: {seeds: [7]}", "maps: seeds 7 is not in the study's seeds"),
        ("seeds: [0, 0]", "allowed: each once"),
        ("student: {seed: 7}", "student: seed is not set here; the study sets it itself"),
        ("teacher: {device: cuda}", "teacher: device is not set here"),
        ("features: {networks: [teachers/x]}", "features: networks is not set here"),
        ("embeddings: {}", "embeddings is empty"),
        ("features: {sample: 0}", "sample 0; allowed: 1 or more"),
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


def test_a_study_file_that_is_no_text_is_said_in_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UsageError, match=r"mine.yaml: not YAML"):
        studies.read(tmp_path / "mine.yaml")


def test_a_missing_study_file_names_those_there_are():
    with pytest.raises(
        UsageError, match=r"no study file studies/quik.yaml; there: .*studies/quick"
    ):
        studies.read("studies/quik.yaml")
