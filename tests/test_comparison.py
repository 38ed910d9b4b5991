import pytest
import results as invented

from kdlib import UsageError
from kdlib.measure import comparison


def test_procedures_compare_maps_with_the_mean_of_independent_ones():
    table = comparison.procedures(invented.make(n=20)).set_index(["procedure", "layer"])
    assert table.loc[("coupled", "block2"), "displacement"] == 0.2
    assert table.loc[("coupled", "block2"), "displacement_turned"] == pytest.approx(0.14)
    assert table.loc[("ivis", "pool"), "rise"] == pytest.approx(-0.05 - 0.02 / 4)
    assert table.loc[("coupled", "stem"), "rise"] == pytest.approx(-0.02 / 4)
    assert table["spread"].to_numpy() == pytest.approx(0.06)
    assert set(table.index.get_level_values("procedure")).isdisjoint({"original space", "again 1"})
    assert list(dict.fromkeys(table.index.get_level_values("layer"))) == list(invented.LAYERS)


def test_the_change_of_a_neighbourhood_is_counted_image_by_image():
    results = invented.make(seeds=1)
    baseline, kd = (
        f"students/resnet20-full/resnet8x0.5-{method}-2-0" for method in ("baseline", "kd")
    )
    table = results.neighbours.sample(frac=1, random_state=0)  # in any order of rows
    change = comparison.change(table, (baseline, "block1"), (kd, "block2"))
    by_cell = dict(list(table.groupby(["run", "layer", "image"])["neighbour"]))
    for image in range(len(results.labels)):
        near = [set(by_cell[baseline, "block1", image]), set(by_cell[kd, "block2", image])]
        assert change[image] == pytest.approx(1 - len(near[0] & near[1]) / 10)
    assert 0 < change.mean() < 1
    assert (comparison.change(table, (kd, "stem"), (kd, "stem")) == 0).all()
    with pytest.raises(UsageError, match=r"'kd'; .*teachers/"):
        comparison.change(table, ("kd", "stem"), (kd, "stem"))
    with pytest.raises(UsageError, match=r"-kd-2-0 'block9'; .*stem"):
        comparison.change(table, (kd, "stem"), (kd, "block9"))


def test_the_floor_of_a_layer_is_a_mean_over_networks_in_the_order_of_layers():
    results = invented.make(n=20)
    floors = comparison.noise_floors(results)
    own = results.faithfulness.query("measure == 'noise_floor' and embedding == 'tsne'")
    values = own[own["layer"] == "block1"]["value"]
    row = floors.set_index(["embedding", "layer"]).loc[("tsne", "block1")]
    assert row["mean"] == pytest.approx(values.mean())
    assert (row["low"], row["high"], row["runs"]) == (values.min(), values.max(), len(values))
    assert list(floors["layer"])[:6] == list(invented.LAYERS)
