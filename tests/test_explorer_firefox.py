"""The explorer in Firefox: what hands do on its maps, with mouse, wheel, fingers and keys."""

import json

import numpy as np
import pytest
import results as invented

from kdlib.report import explorer

READY = """new Promise((done) => {
  const look = () => document.querySelector(".kd-explorer[data-ready=true][data-moving=false]")
    ? requestAnimationFrame(() => setTimeout(done)) : setTimeout(look, 20);
  look();
})"""
BOX = """JSON.stringify(document.querySelector(".kd-left canvas").getBoundingClientRect())"""
KEYS = {"Enter": "\\uE007", "ArrowDown": "\\uE015", "ArrowRight": "\\uE014", "Escape": "\\uE00C"}
KEYS = {name: json.loads(f'"{code}"') for name, code in KEYS.items()}


@pytest.fixture(scope="module")
def results():
    return invented.make(seeds=1, labels=("2",))


class Hand:
    """Somebody at the explorer in Firefox."""

    def __init__(self, browser, address, results):
        self.browser, self.results = browser, results
        browser.open(address)
        self.settle()
        browser.evaluate("document.querySelector('.kd-left canvas').scrollIntoView()")
        self.box = json.loads(browser.evaluate(BOX))

    def settle(self):
        self.browser.evaluate(READY)

    def text(self, part):
        self.settle()
        return self.browser.evaluate(f"document.querySelector('.kd-{part}').innerText")

    @property
    def points(self):
        maps = self.results.maps.query(
            "run.str.contains('baseline-2-0') and layer == 'block2' and embedding == 'tsne'"
        )
        return explorer.quantise(maps.sort_values("image")[["x", "y"]].to_numpy()) / 32767

    def at(self, point, zoom=(1, 0, 0)):
        """Where a point of the left map stands on the screen, for a factor and a middle."""
        factor, *middle = zoom
        x, y = 0.465 * self.box["width"] * factor * np.subtract(point, middle)
        half = self.box["width"] / 2
        return {"x": round(self.box["x"] + half + x), "y": round(self.box["y"] + half - y)}

    def move(self, *places):
        moves = [{"type": "pointerMove", **place} for place in places]
        self.browser.act("pointer", *moves, pointerType="mouse")

    def pointed(self, point, zoom=(1, 0, 0)):
        """The number of the image that the mouse finds at a point of the map."""
        place = self.at(point, zoom)
        self.move({"x": place["x"] + 9, "y": place["y"] + 9}, place)
        return int(self.text("tip").split("image ")[1].split()[0])

    def double_click(self, place):
        """Two clicks and what follows them, which a busy machine is too slow for by itself."""
        press = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        self.browser.act(
            "pointer", {"type": "pointerMove", **place}, *press * 2, pointerType="mouse"
        )
        self.browser.evaluate(
            "document.querySelector('.kd-left canvas').dispatchEvent(new MouseEvent('dblclick'))"
        )

    def pinch(self, *spreads):
        """Two fingers, so many pixels from the middle of the left map."""
        middle = self.at((0, 0))
        fingers = []
        for sign in (-1, 1):
            at = [{"x": middle["x"] + sign * d, "y": middle["y"]} for d in spreads]
            moves = [{"type": "pointerMove", **place} for place in at]
            down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
            actions = [moves[0], down, *moves[1:], up]
            finger = {"type": "pointer", "id": f"finger {sign}", "actions": actions}
            fingers.append(finger | {"parameters": {"pointerType": "touch"}})
        self.browser.ask("input.performActions", context=self.browser.tab, actions=fingers)

    def button(self, words):
        self.browser.evaluate(
            f"[...document.querySelectorAll('button')].find((e) => e.textContent === '{words}')"
            ".click()"
        )

    @property
    def zoomed(self):
        self.settle()
        return self.browser.evaluate(
            "document.querySelectorAll('.kd-zoom button:last-child:not([hidden])').length"
        )


@pytest.fixture
def hand(firefox, address, results):
    yield Hand(firefox, address, results)
    logs = [event["params"] for event in firefox.events if event["method"].startswith("log")]
    assert [log["text"] for log in logs if log["level"] == "error"] == []
    firefox.ask("input.releaseActions", context=firefox.tab)


def middle(points):
    return int(np.linalg.norm(points, axis=1).argmin())


def test_the_wheel_zooms_about_the_pointer_and_a_double_click_shows_all(hand):
    points = hand.points
    image = middle(points)
    assert hand.pointed(points[image]) == image
    place = hand.at(points[image])
    hand.browser.act("wheel", {"type": "scroll", **place, "deltaX": 0, "deltaY": -300})
    assert hand.zoomed == 2
    factor = float(np.exp(0.002 * 300))
    assert hand.pointed(points[image], (factor, *(points[image] * (1 - 1 / factor)))) == image
    hand.double_click(place)
    assert hand.zoomed == 0
    assert hand.text("count").startswith("Drag")  # the two clicks selected nothing


def test_a_box_selects_and_its_images_are_brought_into_the_frames(hand):
    points = hand.points
    half = 0.5
    corners = [hand.at((-half, half)), hand.at((0, 0)), hand.at((half, -half))]
    moves = [{"type": "pointerMove", **corner} for corner in corners]
    down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
    hand.browser.act("pointer", moves[0], down, *moves[1:], up, pointerType="mouse")
    inside = np.flatnonzero((np.abs(points) < half).all(axis=1))
    assert int(hand.text("count").split()[0]) == pytest.approx(len(inside), abs=1)
    hand.button("Zoom to the selection")
    assert hand.zoomed == 2


def test_keys_go_through_layers_and_images_and_zoom(hand):
    hand.browser.evaluate("document.querySelector('.kd-left canvas').focus()")
    hand.browser.press(KEYS["ArrowRight"])
    assert "block3: baseline" in hand.text("summary")
    hand.browser.press(*[KEYS["ArrowDown"]] * 3, KEYS["Enter"])
    assert "image 2" in hand.text("tip")
    assert hand.text("count").startswith("1 of 120")
    hand.browser.press("+")
    assert hand.zoomed == 2
    hand.browser.press("0", KEYS["Escape"])
    assert hand.zoomed == 0
    assert hand.text("count").startswith("Drag")


def test_two_fingers_zoom_and_select_nothing(hand):
    hand.pinch(30, 40, 60)
    assert hand.zoomed == 2
    points = hand.points
    image = middle(points)
    assert hand.pointed(points[image], (2, 0, 0)) == image
    assert hand.text("count").startswith("Drag")
