"""One explorer on a page of its own over file://, and somebody at it, with the network cut."""

import base64
import contextlib
import io
import json
import shutil

import numpy as np
from conftest import AT, cut_off
from ipywidgets.embed import dependency_state, embed_data
from PIL import Image

from kdlib.report import explorer, sphinx

BASELINE, KD = (AT.replace("-at-", f"-{method}-") for method in ("baseline", "kd"))
TEACHER = "teachers/resnet20-full-0"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A figure</title>
<meta name="viewport" content="width=device-width"></head><body><main><h1>A figure</h1>
<p>Look at <a class="kd-set" data-set="epoch=8&layer=block3&shade=change&selected=3,5">this</a>,
or <a class="kd-set" data-set="selected=&right={at}&embedding=ivis&measure=probe&left={baseline}">
that</a>.</p>
<div class="kd-figure" data-model="{model}" aria-busy="true"></div></main>
<script type="{state}">{data}</script><script src="widget-host.js"></script></body></html>"""


def write(folder, widget):
    """Write a page that shows one figure and nothing else, without a book around it."""
    shutil.copy(explorer.STATIC / "widget-host.js", folder)
    state = dependency_state([widget], drop_defaults=False)
    data = embed_data([widget], state=state)["manager_state"]
    (folder / "data").mkdir()
    for model in data["state"].values():
        sphinx._slim(model, folder / "data")
    text = PAGE.format(
        model=widget.model_id,
        state="application/vnd.jupyter.widget-state+json",
        data=json.dumps(data).replace("</", "<\\/"),
        at=AT,
        baseline=BASELINE,
    )
    (folder / "index.html").write_text(text)
    return (folder / "index.html").as_uri()


class Reader:
    """Somebody at the figure: what is on the page, and hands to touch it with."""

    def __init__(self, context, address):
        self.page, self.refused, self.errors = cut_off(context)
        self.browser = context.new_cdp_session(self.page)
        self.browser.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.page.goto(address)
        self.figure = self.page.locator(".kd-explorer[data-ready=true]")
        self.figure.wait_for()
        self.settle()

    @property
    def cpu(self):
        """Seconds that the page itself has computed, whoever else was busy meanwhile."""
        metrics = self.browser.send("Performance.getMetrics")["metrics"]
        return {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"]

    def settle(self):
        self.page.wait_for_selector(".kd-explorer[data-moving=false]")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def label(self, text):
        return self.figure.get_by_label(text, exact=True)

    def button(self, name):
        return self.figure.get_by_role("button", name=name)

    def text(self, part):
        return self.figure.locator(f".kd-{part}").first.inner_text()

    @property
    def layer(self):
        return self.label("Layer").get_attribute("aria-valuetext")

    @property
    def epoch(self):
        return self.label("Epochs").get_attribute("aria-valuetext")

    def canvas(self, side):
        return self.figure.locator(f".kd-panel.kd-{side} canvas")

    def pixels(self, side):
        """A map as it is painted, rows of red, green, blue."""
        text = self.canvas(side).evaluate("c => c.toDataURL()").split(",")[1]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)

    def ink(self, side):
        """How many pixels of a map are far from its paper, in any colour."""
        pixels = self.pixels(side)
        return int((np.abs(pixels - pixels[0, 0]).max(axis=2) > 60).sum())

    def colours(self, side):
        return len(np.unique(self.pixels(side).reshape(-1, 3), axis=0))

    def map(self, side, results, **view):
        """The coordinates of a map as the page has them, from -1 to 1, computed from the store."""
        choice = {
            "layer": "block2",
            "embedding": "tsne",
            **view,
            "run": {"left": BASELINE, "right": KD}[side],
        }
        maps = results.maps
        for column, value in choice.items():
            maps = maps[maps[column] == value]
        return explorer.quantise(maps.sort_values("image")[["x", "y"]].to_numpy()) / 32767

    def place(self, side, image, results, *, zoom=(1, 0, 0), **view):
        """Where an image stands on the screen; zoom has a factor and the middle, from -1 to 1."""
        return self.at(side, self.map(side, results, **view)[image], zoom)

    def at(self, side, point, zoom=(1, 0, 0)):
        """Where a point of a map stands on the screen."""
        box, (factor, *middle) = self.canvas(side).bounding_box(), zoom
        x, y = 0.465 * box["width"] * factor * np.subtract(point, middle) + box["width"] / 2
        return box["x"] + x, box["y"] + box["width"] - y

    def pointed(self, side, point, zoom=(1, 0, 0)):
        """The number of the image that a pointer at a point of the map finds."""
        self.canvas(side).scroll_into_view_if_needed()
        x, y = self.at(side, point, zoom)
        self.page.mouse.move(x + 9, y + 9)
        self.page.mouse.move(x, y)
        return int(self.text("tip").split("image ")[1].split()[0])

    @property
    def zoomed(self):
        """Which of the maps are not shown whole, once what was asked for is painted."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        button = ".kd-zoom button:last-child:not([hidden])"
        return [s for s in ("left", "right") if self.figure.locator(f".kd-{s} {button}").count()]

    def drag(self, side, *corners):
        self.canvas(side).scroll_into_view_if_needed()
        box = self.canvas(side).bounding_box()
        for number, (x, y) in enumerate(corners):
            self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["width"], steps=4)
            if not number:
                self.page.mouse.down()
        self.page.mouse.up()

    def count(self):
        return self.text("count")


@contextlib.contextmanager
def opening(chromium, address):
    """A function that opens the page, or another one, every request elsewhere refused."""
    contexts = []

    def open_page(address=address, *, view="", scheme="light", width=1200, motion="reduce"):
        size = {"width": width, "height": 1000}
        context = chromium.new_context(
            viewport=size, color_scheme=scheme, reduced_motion=motion, has_touch=width < 500
        )
        contexts.append(context)
        return Reader(context, address + view)

    yield open_page
    for context in contexts:
        context.close()
