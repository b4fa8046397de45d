"""ROC of the statistic by which text tasks refuse photographs (`pgvision.tasks.trained_on`).

``python tests/benchmarks/bench_text_domain.py --photographs ../shared/data`` measures photographs
(every folder is a source) against rendered scenes: AUROC, and by source the share of photographs
refused and of drawings refused by mistake. Half of both are shrunk, half are JPEG-compressed, as
users' images are. ``--fit`` fits the weights first, on half of the sources and on other scenes,
and prints them; the report is then on the other half alone.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from pgvision.tasks import trained_on as domain
from recipes.scenes import render_scene

FIT_SOURCES = ("bccd_448", "coco_people", "css_panels", "hardhat", "objects_101", "portraits")
FIT_SEED, HELD_OUT_SEED = 3_000_000, 20_000_000


def used(image: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Shrink half of the images and compress half of them."""
    if dice.random() < 0.5:
        scale = dice.uniform(0.3, 1.0)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if dice.random() < 0.5:
        quality = int(dice.integers(30, 95))
        image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
    return image


def photographs(folder: Path, limit: int) -> dict[str, np.ndarray]:
    """Return ``(n, 49)`` features by source."""
    dice = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(file for file in source.rglob("*") if file.suffix in (".jpg", ".png"))
        chosen = [files[at] for at in dice.permutation(len(files))[:limit]]
        images = [image for file in chosen if (image := cv2.imread(str(file))) is not None]
        if images:
            rows = [domain.domain_features(used(image, dice)) for image in images]
            found[source.name] = np.array(rows)
    return found


def drawings(first_seed: int, count: int) -> np.ndarray:
    """Return ``(n, 49)`` features of rendered scenes."""
    dice = np.random.default_rng(1)
    scenes = (render_scene(first_seed + 13 * number).image for number in range(count))
    return np.array([domain.domain_features(used(image, dice)) for image in scenes])


def fit(photos: np.ndarray, drawn: np.ndarray, decay: float = 3e-4) -> tuple[float, np.ndarray]:
    """Fit a class-balanced logistic regression; return bias and weights of the raw features."""
    rows = np.concatenate([photos, drawn])
    sign = np.r_[np.ones(len(photos)), -np.ones(len(drawn))]
    share = np.r_[np.full(len(photos), 0.5 / len(photos)), np.full(len(drawn), 0.5 / len(drawn))]
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    scaled = (rows - mean) / deviation

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (scaled @ values[1:] + values[0])
        slope = -share * sign / (1 + np.exp(np.clip(margin, -50, 50)))
        gradient = np.r_[slope.sum(), scaled.T @ slope + 2 * decay * values[1:]]
        return float(
            (share * np.logaddexp(0, -margin)).sum() + decay * values[1:] @ values[1:]
        ), gradient

    found = minimize(loss, np.zeros(rows.shape[1] + 1), jac=True, options={"maxiter": 3000}).x
    weights = found[1:] / deviation
    return float(found[0] - mean @ weights), weights


def report(
    photos: dict[str, np.ndarray], drawn: np.ndarray, bias: float, weights: np.ndarray
) -> None:
    """Print AUROC and refusals."""
    scores = {name: rows @ weights + bias for name, rows in photos.items()}
    of_drawings = drawn @ weights + bias
    everything = np.concatenate(list(scores.values()))
    area = mannwhitneyu(everything, of_drawings).statistic / len(everything) / len(of_drawings)
    limit = np.log(domain._THRESHOLD / (1 - domain._THRESHOLD))
    print(f"AUROC {area:.4f}: {len(everything)} photographs, {len(of_drawings)} drawings")
    print(f"drawings refused by mistake: {np.mean(of_drawings > limit):.2%}")
    print(f"photographs refused: {np.mean(everything > limit):.2%}")
    for name, values in scores.items():
        print(f"  {name:20} {np.mean(values > limit):7.1%} of {len(values)}")
    for wrong in (0.005, 0.01, 0.02, 0.05):
        at = np.quantile(of_drawings, 1 - wrong)
        print(
            f"  at {wrong:.1%} of drawings refused: {np.mean(everything > at):.2%} of photographs"
        )


def main() -> None:
    """Measure, or fit and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, default=150, help="photographs of each source")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    photos = photographs(options.photographs, options.limit)
    bias, weights = domain._BIAS, np.array(domain._WEIGHTS)
    if options.fit:
        known = np.concatenate([photos[name] for name in FIT_SOURCES])
        bias, weights = fit(known, drawings(FIT_SEED, 2 * options.scenes))
        print("_BIAS: Final =", round(bias, 3))
        print("_WEIGHTS: Final = (", ", ".join(f"{value:.3g}" for value in weights), ")")
        photos = {name: rows for name, rows in photos.items() if name not in FIT_SOURCES}
    report(photos, drawings(HELD_OUT_SEED, options.scenes), bias, weights)


if __name__ == "__main__":
    main()
