"""The examples in docstrings that need no results."""

import doctest
import sys

import pytest

from kdlib.measure import depth
from kdlib.report.charts import gallery
from kdlib.report.findings import words


@pytest.mark.parametrize("function", [depth.depth, words.interval, gallery.floor])
def test_the_example_gives_what_it_says(function):
    names = vars(sys.modules[function.__module__])
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs=names)
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
