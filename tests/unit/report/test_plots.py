"""Plots and slices as pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from anatobench.report.curves import PlainLogFormatter
from anatobench.report.plots import debiased_average, image, panel
from anatobench.report.slices import ORGAN_COLOURS, OVERLAY_OPACITY, border, colour_slice
from anatobench.tasks import RATIC


def test_organs_are_laid_over_the_window() -> None:
    hounsfield = np.array([[-150, 250], [50, 50]])
    organs = np.array([[0, 0], [0, 1]])
    rgb = colour_slice(hounsfield, organs, RATIC)
    np.testing.assert_allclose(rgb[0], [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(rgb[1, 0], 0.5)
    red = int(ORGAN_COLOURS[0][1:3], 16) / 255
    assert rgb[1, 1, 0] == pytest.approx((1 - OVERLAY_OPACITY) * 0.5 + OVERLAY_OPACITY * red)


def test_outlines_run_along_the_inside() -> None:
    organs = np.zeros((5, 5), np.uint8)
    organs[1:4, 1:4] = 1
    assert border(organs == 1).sum() == 8
    assert not border(np.ones((3, 3), bool)).any(), "the picture's edge is no border"
    rgb = colour_slice(np.full((5, 5), 50), None, RATIC, organs)
    assert rgb[2, 2, 0] == pytest.approx(0.5)
    assert rgb[1, 1, 0] == pytest.approx(int(ORGAN_COLOURS[0][1:3], 16) / 255)


def test_ticks_of_a_logarithmic_axis_have_one_format() -> None:
    figure, axes = plt.subplots()
    axes.set_yscale("log")
    ticks = PlainLogFormatter(minor_thresholds=(2, 0.5))
    ticks.set_axis(axes.yaxis)
    for highest, shown in ((3, ["0.6", "1", "2"]), (600, ["", "1", ""])):  # what Matplotlib leaves out stays out
        axes.set_ylim(0.5, highest)
        ticks.set_locs([])
        assert [ticks(value) for value in (0.6, 1, 2)] == shown
    plt.close(figure)


def test_averages_start_without_bias() -> None:
    np.testing.assert_allclose(debiased_average([3.0] * 5, 0.98), 3.0)
    np.testing.assert_allclose(debiased_average([1.0, 2.0], 0.5), [1.0, (0.5 * 0.5 * 1 + 0.5 * 2) / 0.75])


def test_a_picture_drawn_twice_has_the_same_bytes() -> None:
    """Also outside the plots' style: Matplotlib's own names of clip paths are drawn at random."""

    def drawn() -> str:
        with panel("a", "b", "c") as (figure, axes):
            axes.plot([0, 1], [1, 0])
        return image(figure, "a line")

    assert drawn() == drawn()
