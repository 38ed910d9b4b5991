import pytest
from test_statistics import FULL, study

from kdlib.measure import depth


@pytest.mark.parametrize(
    ("profile", "target", "expected"),
    [
        ((0.4, 0.6, 0.8), 0.7, 1.5),
        ((0.4, 0.6, 0.8), 0.8, 2),
        ((0.4, 0.6, 0.8), 0.1, 0),
        ((0.4, 0.9, 0.2, 0.9), 0.65, 0.5),  # the first time counts
        ((0.4, 0.6, 0.8), 0.9, 3),  # never: one layer after the last
    ],
)
def test_the_depth_of_a_target_is_read_off_between_layers(profile, target, expected):
    assert depth.depth(profile, target) == pytest.approx(expected)


def test_layers_saved_by_hand():
    scores = {
        ("baseline", "2", 0, FULL): (0.2, 0.4, 0.6, 0.7, 0.7, 0.9),  # pool repeats block3
        ("kd", "2", 0, FULL): (0.3, 0.6, 0.8, 0.9, 0.9, 0.9),
        ("baseline", "2", 1, FULL): (0.2, 0.8, 0.6, 0.7, 0.7, 0.9),  # there before its own end
        ("kd", "2", 1, FULL): (0.3, 0.5, 0.6, 0.6, 0.6, 0.99),  # never: logits are no layer
        ("kd", "2", 2, FULL): (0.3, 0.5, 0.6, 0.6, 0.6, 0.99),  # no partner
    }
    table = depth.saved(study(scores)).set_index("seed")
    assert table["steps"].iloc[0] == ["stem", "block1", "block2", "block3"]
    assert table["difference"].to_dict() == pytest.approx({0: 3 - 1.5, 1: 0.5 / 0.6 - 4})
    assert table["reached"].to_dict() == {0: True, 1: False}


def test_a_pool_that_differs_is_a_step_of_its_own():
    scores = {
        ("baseline", "2", 0, FULL): (0.2, 0.4, 0.6, 0.7, 0.8, 0.9),
        ("kd", "2", 0, FULL): (0.3, 0.6, 0.8, 0.9, 0.9, 0.9),
    }
    row = depth.saved(study(scores)).iloc[0]
    assert row["difference"] == pytest.approx(4 - 2)
