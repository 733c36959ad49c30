"""Goldens and their changed forms, harmless or harmful, of photographs, renders and pages: what gate.py measures with."""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pictures import coded
from PIL import Image, ImageFilter
from scipy import ndimage

#: Photographs before parts of CROP pixels are taken from them.
SIZE, CROP = (576, 384), (384, 256)


@dataclass(frozen=True)
class Change:
    """A changed image beside its golden, both (H, W, 3) of 8 bits.

    Attributes:
        source: the photograph, scene or page.
        kind: ``photograph``, ``render`` or ``page``.
        name: of the change.
        harmful: whether a gate should find it.
    """

    source: str
    kind: str
    name: str
    harmful: bool
    golden: np.ndarray
    new: np.ndarray


def moved(image: Image.Image, x: float, y: float) -> Image.Image:
    return Image.fromarray(ndimage.shift(np.asarray(image), (y, x, 0), order=3 if x % 1 or y % 1 else 0, mode="nearest"))


def noisy(image: Image.Image, rng: np.random.Generator, sigma: float | None = None) -> Image.Image:
    pixels = np.asarray(image).astype(float)
    noise = rng.integers(-1, 2, pixels.shape) if sigma is None else rng.normal(0, sigma, pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def rounded(rng: np.random.Generator) -> dict[str, Callable[[Image.Image], Image.Image]]:
    return {
        "JPEG 95, 4:4:4": lambda image: coded(image, "JPEG", quality=95, subsampling=0),
        "JPEG 95, 4:2:0": lambda image: coded(image, "JPEG", quality=95, subsampling=2),
        "rounding, -1 to 1 of 255": lambda image: noisy(image, rng),
        "noise, sigma 1 of 255": lambda image: noisy(image, rng, 1),
    }


# photographs


def busiest(part: Image.Image, side: int) -> tuple[int, int]:
    """Corner of the square that has most contrast: an object rather than sky."""
    grey = np.asarray(part.convert("L")).astype(float)
    spread = ndimage.uniform_filter(grey**2, side) - ndimage.uniform_filter(grey, side) ** 2
    half = side // 2
    inner = spread[half + 4 : -half - 4, half + 4 : -half - 4]
    y, x = np.unravel_index(inner.argmax(), inner.shape)
    return int(y) + 4, int(x) + 4


def without_object(part: Image.Image, side: int) -> Image.Image:
    """A square filled from its border, as if what was there had not been drawn."""
    y, x = busiest(part, side)
    pixels = np.asarray(part).astype(float)
    t = np.linspace(0, 1, side)[:, None]
    rows, columns = pixels[y : y + side, [x - 1, x + side]], pixels[[y - 1, y + side], x : x + side]
    across = rows[:, None, 0] * (1 - t) + rows[:, None, 1] * t
    down = columns[None, 0] * (1 - t[:, None]) + columns[None, 1] * t[:, None]
    pixels[y : y + side, x : x + side] = (across + down) / 2
    return Image.fromarray(pixels.round().astype(np.uint8))


def recoloured(part: Image.Image, side: int) -> Image.Image:
    y, x = busiest(part, side)
    pixels = np.asarray(part).copy()
    pixels[y : y + side, x : x + side] = pixels[y : y + side, x : x + side, ::-1]
    return Image.fromarray(pixels)


def tinted(part: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(part) * np.array([1.1, 1, 0.9])).clip(0, 255).astype(np.uint8))


def banded(part: Image.Image, levels: int) -> Image.Image:
    return Image.fromarray((np.round(np.asarray(part) / 255 * (levels - 1)) / (levels - 1) * 255).astype(np.uint8))


DEGRADED = {
    "red +10 %, blue -10 %": tinted,
    "blur, sigma 1": lambda part: part.filter(ImageFilter.GaussianBlur(1)),
    "blur, sigma 2": lambda part: part.filter(ImageFilter.GaussianBlur(2)),
    "32 levels": lambda part: banded(part, 32),
    "16 levels": lambda part: banded(part, 16),
}
HARMFUL = {
    "object missing, 32 x 32": lambda part: without_object(part, 32),
    "object missing, 64 x 64": lambda part: without_object(part, 64),
    "red and blue swapped, 32 x 32": lambda part: recoloured(part, 32),
    "red and blue swapped, 64 x 64": lambda part: recoloured(part, 64),
    **DEGRADED,
}


def crops(image: Image.Image) -> list[Image.Image]:
    """Two parts of an image, which overlap in its middle, inside a margin of two pixels."""
    (width, height), (w, h) = SIZE, CROP
    return [image.crop((x, y, x + w, y + h)) for x, y in ((2, 2), (width - w - 2, height - h - 2))]


def of_photograph(path: Path, rng: np.random.Generator) -> Iterator[Change]:
    """Two parts, each with ten harmless and nine harmful changes; photographs are cut to 3 : 2."""
    image = Image.open(path).convert("RGB")
    image = image if image.width >= image.height else image.rotate(90, expand=True)
    height = min(image.height, image.width * 2 // 3)
    photograph = image.crop((0, 0, height * 3 // 2, height))
    whole = photograph.resize(SIZE, Image.Resampling.LANCZOS)
    goldens = crops(whole)
    found = {name: (False, [change(part) for part in goldens]) for name, change in rounded(rng).items()}
    for name in ("BICUBIC", "HAMMING"):
        found[f"resampled by {name.lower()}"] = (False, crops(photograph.resize(SIZE, Image.Resampling[name])))
    for x, y in ((1, 0), (0, 1), (1, 1), (0.5, 0.5)):
        found[f"moved by {x}, {y} pixels"] = (False, crops(moved(whole, x, y)))
    found |= {name: (True, [change(part) for part in goldens]) for name, change in HARMFUL.items()}
    for name, (harmful, parts) in found.items():
        for golden, part in zip(goldens, parts, strict=True):
            yield Change(path.stem, "photograph", name, harmful, np.asarray(golden), np.asarray(part))


# renders: spheres on a chequered floor, by one ray a sample


@dataclass
class Scene:
    """Spheres (x, y, z, radius) of colours in [0, 1], and what else may be wrong with a picture of them."""

    spheres: np.ndarray
    colours: np.ndarray
    chequers: float = 1.0
    shadows: bool = True


def random_scene(rng: np.random.Generator) -> Scene:
    places = [(x + rng.uniform(-0.3, 0.3), z + rng.uniform(-0.3, 0.3)) for x in (-2.4, -0.8, 0.8, 2.4) for z in (5, 6.8, 9)]
    radii = rng.uniform(0.3, 0.75, len(places))
    return Scene(np.array([(x, r - 1, z, r) for (x, z), r in zip(places, radii, strict=True)]), rng.uniform(0.1, 0.95, (12, 3)))


def render(scene: Scene, offsets: Sequence[tuple[float, float]], width: int = 320, height: int = 240) -> Image.Image:
    """The mean of one picture for each offset inside a pixel."""
    light = np.array([0.5, 0.8, -0.35]) / np.linalg.norm([0.5, 0.8, -0.35])
    total = np.zeros((height, width, 3))
    for dx, dy in offsets:
        x, y = np.meshgrid((np.arange(width) + dx - width / 2) / width, (height / 2 - np.arange(height) - dy) / width)
        rays = np.stack([x, y - 0.05, np.ones_like(x)], -1)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        floor = np.where(rays[..., 1] < 0, -1 / np.minimum(rays[..., 1], -1e-9), np.inf)
        nearest, which = hit(np.zeros(3), rays, scene.spheres)
        point = rays * np.minimum(nearest, np.where(floor < 60, floor, 60))[..., None]
        on_floor = (floor < nearest) & (floor < 60)
        normal = (point - scene.spheres[which, :3]) / scene.spheres[which, 3:]
        normal[on_floor] = (0, 1, 0)
        tiles = (np.floor(point[..., 0] * scene.chequers) + np.floor(point[..., 2] * scene.chequers)) % 2
        colour = np.where(on_floor[..., None], (0.35 + 0.4 * tiles)[..., None], scene.colours[which])
        lit = (normal @ light).clip(0)
        if scene.shadows:
            lit *= ~np.isfinite(hit(point + 1e-3 * normal, np.broadcast_to(light, rays.shape), scene.spheres)[0])
        sky = 0.55 + 0.4 * rays[..., 1:2] * np.array([0.4, 0.7, 1.0])
        total += np.where((on_floor | np.isfinite(nearest))[..., None], colour * (0.25 + 0.75 * lit)[..., None], sky)
    return Image.fromarray(((total / len(offsets)).clip(0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8))


def hit(start: np.ndarray, rays: np.ndarray, spheres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest sphere, infinite where there is none, and which it is."""
    distances = np.full((len(spheres), *rays.shape[:-1]), np.inf)
    for index, (*centre, radius) in enumerate(spheres):
        to = start - np.array(centre)
        b = (to * rays).sum(-1)
        inside = b**2 - (to * to).sum(-1) + radius**2
        distance = -b - np.sqrt(inside.clip(0))
        distances[index] = np.where((inside > 0) & (distance > 1e-6), distance, np.inf)
    return distances.min(0), distances.argmin(0)


def least_visible(scene: Scene) -> int:
    """The sphere of which fewest pixels show, but 200 at least: as many as 14 x 14."""
    shown = np.zeros(len(scene.spheres))
    golden = np.asarray(render(scene, [(0.5, 0.5)])).astype(int)
    for index in range(len(scene.spheres)):
        others = np.arange(len(scene.spheres)) != index
        without = render(Scene(scene.spheres[others], scene.colours[others]), [(0.5, 0.5)])
        shown[index] = (np.abs(golden - np.asarray(without)).max(-1) > 8).sum()
    return int(np.where(shown >= 200, shown, np.inf).argmin())


def of_render(seed: int) -> Iterator[Change]:
    """A scene with nine harmless and nine harmful changes."""
    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    grid = [((x + 0.5) / 4, (y + 0.5) / 4) for x in range(4) for y in range(4)]
    golden = render(scene, grid)
    shown = least_visible(scene)
    others = np.arange(len(scene.spheres)) != shown
    recoloured = scene.colours.copy()
    recoloured[shown] = recoloured[shown, ::-1] if np.ptp(recoloured[shown]) > 0.2 else 1 - recoloured[shown]
    found = {name: (False, change(golden)) for name, change in rounded(rng).items()}
    found |= {
        "random samples": (False, render(scene, [tuple(each) for each in rng.random((16, 2))])),
        "four samples": (False, render(scene, [(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)])),
        "camera moved by half a pixel": (False, render(scene, [(x + 0.5, y + 0.5) for x, y in grid])),
        "moved by 1, 1 pixels": (False, moved(golden, 1, 1)),
        "moved by 1, 0 pixels": (False, moved(golden, 1, 0)),
        "object missing": (True, render(Scene(scene.spheres[others], scene.colours[others]), grid)),
        "object of another colour": (True, render(Scene(scene.spheres, recoloured), grid)),
        "other texture": (True, render(Scene(scene.spheres, scene.colours, chequers=1.25), grid)),
        "no shadows": (True, render(Scene(scene.spheres, scene.colours, shadows=False), grid)),
    }
    found |= {name: (True, change(golden)) for name, change in DEGRADED.items()}
    for name, (harmful, image) in found.items():
        yield Change(f"scene {seed}", "render", name, harmful, np.asarray(golden), np.asarray(image))


# pages, by headless chromium

PAGE = """<!doctype html><meta charset=utf-8><style>
body {{ margin: 12px; font: {size}px/1.45 "DejaVu {family}"; color: {ink}; background: {paper} }}
body {{ position: relative; left: {left}px }}
h1 {{ font-size: 1.4em; margin: 0 0 8px }} p {{ margin: 6px 0 }} table {{ border-collapse: collapse; margin: 8px 0 }}
td, th {{ border: 1px solid #999; padding: 3px 9px }}
button {{ border: 0; border-radius: 4px; padding: 6px 14px; color: #fff; background: {button} }}
button {{ position: relative; top: {top}px }}
svg {{ vertical-align: middle; margin: 0 8px }}</style>
<h1>{title}</h1><p>{text}</p><table><tr><th>{heads[0]}<th>{heads[1]}<th>{heads[2]}</tr>{rows}</table>
<button>{label}</button><svg width=24 height=24>{icon}</svg><a href=#>{link}</a><p>{more}</p>"""


class Browser:
    """Screenshots by headless chromium, with other switches of its fonts as asked."""

    def __init__(self, *switches: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(switch)
        for switch in switches:
            options.add_argument(switch)
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_window_size(420, 520)

    def shoot(self, page: str) -> Image.Image:
        with tempfile.NamedTemporaryFile("w", suffix=".html") as file:
            file.write(page)
            file.flush()
            self.driver.get(f"file://{file.name}")
            return Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB").crop((0, 0, 400, 360))


def words(rng: np.random.Generator, vocabulary: Sequence[str], count: int) -> list[str]:
    return [str(word) for word in rng.choice(vocabulary, count)]


def of_page(seed: int, vocabulary: Sequence[str], browsers: dict[str, Browser]) -> Iterator[Change]:
    """A page with nine harmless and eight harmful changes."""
    rng = np.random.default_rng(seed)
    text, more = words(rng, vocabulary, 28), words(rng, vocabulary, 16)
    cells = rng.integers(10, 99, (3, 3))
    dark = seed % 3 == 2
    page = {
        "size": 13 + seed % 3, "family": ("Sans", "Serif", "Sans Mono")[seed % 3], "left": 0, "top": 0,
        "ink": "#ddd" if dark else "#222", "paper": "#202428" if dark else "#fff", "button": "#1565c0",
        "title": " ".join(words(rng, vocabulary, 3)).title(), "text": " ".join(text), "more": " ".join(more),
        "heads": words(rng, vocabulary, 3), "label": words(rng, vocabulary, 1)[0], "link": words(rng, vocabulary, 1)[0],
        "icon": '<circle cx=12 cy=12 r=9 fill="#e65100"/><path d="M7 12h10" stroke="#fff" stroke-width=3 />',
    }  # fmt: skip

    def table(values: np.ndarray) -> str:
        return "".join(f"<tr>{''.join(f'<td>{value}.{value % 7}' for value in row)}</tr>" for row in values)

    def shoot(browser: str = "", **changes: object) -> Image.Image:
        return browsers[browser].shoot(PAGE.format(**{**page, "rows": table(cells), **changes}))

    golden = shoot()
    word = int(rng.integers(5, 20))
    other = next(each for each in vocabulary if each != text[word] and len(each) == len(text[word]))
    digit = cells.copy()
    digit[1, 1] += 1 if digit[1, 1] % 10 < 9 else -1
    found = {name: (False, change(golden)) for name, change in rounded(rng).items()}
    found |= {name: (False, shoot(name)) for name in browsers if name}
    found |= {
        "text moved by half a pixel": (False, shoot(left=0.5)),
        "moved by 1, 0 pixels": (False, moved(golden, 1, 0)),
        "moved by 1, 1 pixels": (False, moved(golden, 1, 1)),
        "another word": (True, shoot(text=" ".join([*text[:word], other, *text[word + 1 :]]))),
        "another digit": (True, shoot(rows=table(digit))),
        "button moved by 6 pixels": (True, shoot(top=6)),
        "button of another colour": (True, shoot(button="#00796b")),
        "icon missing": (True, shoot(icon="")),
        "a row missing": (True, shoot(rows=table(cells[:2]))),
        "letters a pixel larger": (True, shoot(size=page["size"] + 1)),  # type: ignore[operator]
        "blur, sigma 1": (True, golden.filter(ImageFilter.GaussianBlur(1))),
    }
    for name, (harmful, image) in found.items():
        yield Change(f"page {seed}", "page", name, harmful, np.asarray(golden), np.asarray(image))


FONTS = {
    "no hinting": ("--font-render-hinting=none",),
    "no subpixel text": ("--disable-lcd-text", "--disable-font-subpixel-positioning"),
}


def of_pages(seeds: Sequence[int], folder: Path) -> Iterator[Change]:
    """A page for each seed, of words from the Markdown files in ``folder``; none where chromium is not installed."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return
    text = " ".join(path.read_text() for path in sorted(folder.glob("*.md")))
    vocabulary = sorted({word for word in text.split() if word.isalpha() and word.isascii() and 3 < len(word) < 11})
    browsers = {name: Browser(*switches) for name, switches in {"": (), **FONTS}.items()}
    try:
        for seed in seeds:
            yield from of_page(seed, vocabulary, browsers)
    finally:
        for browser in browsers.values():
            browser.driver.quit()
