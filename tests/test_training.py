import pandas as pd
import pytest
import results as invented

from kdlib import UsageError
from kdlib.measure import training


def curve(run, layer, values, measure="silhouette"):
    rows = [(run, epoch, layer, measure, value) for epoch, value in values.items()]
    return pd.DataFrame(rows, columns=["run", "epoch", "layer", "measure", "value"])


@pytest.fixture
def trainings():
    """The baseline gains 0.5 in 10 epochs; distilled gains 1.0, evenly, at the same layer."""
    made = invented.make(seeds=1)
    runs = [f"students/resnet20-full/resnet8x0.5-{m}-2-0" for m in ("baseline", "kd")]
    parts = [curve(runs[0], "stem", {0: 0.0, 5: 0.25, 10: 0.5})]
    parts += [curve(runs[1], "stem", {0: 0.0, 5: 0.5, 10: 1.0})]
    return made, made._replace(training=pd.concat(parts)), runs


def test_the_same_mark_is_nine_tenths_of_what_baseline_gains(trainings):
    _, results, _ = trainings
    (row,) = training.epochs(results, "silhouette").to_dict("records")
    assert (row["method"], row["layer"], row["labels"], row["seed"]) == ("kd", "stem", "2", 0)
    assert (row["epochs"], row["baseline"]) == (pytest.approx(4.5), pytest.approx(9.0))
    assert row["difference"] == pytest.approx(-4.5)


def test_a_given_target_is_asked_of_both_and_never_reached_counts_as_the_last_epoch(trainings):
    _, results, _ = trainings
    (row,) = training.epochs(results, "silhouette", 0.75).to_dict("records")
    assert (row["epochs"], row["baseline"], row["difference"]) == (7.5, 10, -2.5)


def test_where_baseline_gains_nothing_both_are_there_from_the_beginning(trainings):
    _, results, runs = trainings
    worse = curve(runs[0], "stem", {0: 0.3, 5: 0.2, 10: 0.1})
    kd = curve(runs[1], "stem", {0: 0.3, 5: 0.5, 10: 1.0})
    (row,) = training.epochs(
        results._replace(training=pd.concat([worse, kd])), "silhouette"
    ).to_dict("records")
    assert (row["epochs"], row["baseline"], row["difference"]) == (0, 0, 0)


def test_a_student_without_its_partner_has_no_epochs_to_compare(trainings):
    _, results, runs = trainings
    only = results.training[results.training["run"] == runs[1]]
    assert training.epochs(results._replace(training=only), "silhouette").empty


def test_curves_list_every_epoch_of_every_seed_and_no_other_measure():
    made = invented.make(seeds=2)
    table = training.curves(made, "knn")
    assert len(table) == 2 * 2 * len(invented.LAYERS) * len(invented.EPOCHS)
    run = "students/resnet20-full/resnet8x0.5-kd-2-1"
    own = made.training[made.training["run"] == run]
    own = own[(own["layer"] == "block2") & (own["measure"] == "knn")]
    curve = table.query("method == 'kd' and seed == 1 and layer == 'block2'")
    assert curve[["epoch", "value"]].values.tolist() == own[["epoch", "value"]].values.tolist()
    with pytest.raises(UsageError, match=r"'loss'; .*within_share"):
        training.curves(made, "loss")


def test_a_study_without_a_film_has_nothing_followed():
    made = invented.make(seeds=1)
    made = made._replace(training=made.training.iloc[:0])
    assert training.curves(made, "silhouette").empty
    assert training.epochs(made, "silhouette").empty
