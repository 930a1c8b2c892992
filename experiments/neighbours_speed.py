"""How many images a second k nearest neighbours classifies, beside scikit-learn's brute force on the same work.

python -m experiments.neighbours_speed [--directory TFDS] [--train 50000] [--queries 10000] [--repeats 2] [--workdir DIR]

Each distance, ours and theirs in turn, so that both meet the same machine; the least time of the repeats counts. Compilation is
left out: a first call of each is not timed. Predictions of both are compared.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.run import guarded

K = 5
METRICS = {"l1": "manhattan", "l2": "euclidean"}


def measure(images, labels, queries, repeats: int) -> list[dict]:
    """A row a distance: seconds, images/s and the share of equal predictions.

    Args:
        images: uint8 `[examples, values]`, and
        labels: int32 `[examples]`, what is learnt.
        queries: uint8 `[queries, values]`, what is classified.
        repeats: of each timing.
    """
    from sklearn.neighbors import KNeighborsClassifier

    from cnn_jax.classic.neighbours import classify, nearest

    rows = []
    for distance, metric in METRICS.items():
        theirs = KNeighborsClassifier(K, algorithm="brute", metric=metric, n_jobs=-1)
        theirs.fit(images.astype(np.float32), labels)
        of_queries = queries.astype(np.float32)
        runs = {
            "cnn_jax": lambda count, distance=distance: classify(labels, nearest(images, queries[:count], K, distance)[0]),
            "scikit_learn": lambda count, theirs=theirs, of_queries=of_queries: theirs.predict(of_queries[:count]),
        }
        row, predictions = {"distance": distance}, {}
        seconds = {name: [] for name in runs}
        runs["cnn_jax"](len(queries))  # compiles
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                predictions[name] = run(len(queries))
                seconds[name].append(time.perf_counter() - start)
        for name, taken in seconds.items():
            row |= {f"{name}_seconds": min(taken), f"{name}_images_per_second": len(queries) / min(taken)}
        row["ratio"] = row["cnn_jax_images_per_second"] / row["scikit_learn_images_per_second"]
        row["equal_predictions"] = float(np.mean(predictions["cnn_jax"] == predictions["scikit_learn"]))
        rows.append(row)
        print(
            f"{distance}: {row['cnn_jax_images_per_second']:,.0f} images/s, scikit-learn {row['scikit_learn_images_per_second']:,.0f}, "
            f"ratio {row['ratio']:.1f}, {row['equal_predictions']:.2%} of predictions equal",
            flush=True,
        )
    return rows


def main(argv=None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.neighbours_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--directory", default="", help="where TFDS sets are prepared (default: TFDS's own)")
    parser.add_argument("--train", type=int, default=50_000, help="training images of Fashion-MNIST (default: 50000)")
    parser.add_argument("--queries", type=int, default=10_000, help="test images classified (default: 10000)")
    parser.add_argument("--repeats", type=int, default=2, help="of each timing; the least counts (default: 2)")
    parser.add_argument("--workdir", type=Path, default=Path("results/runs/neighbours_speed"), help="where speed.json is written")
    options = parser.parse_args(argv)

    def command():
        from cnn_jax.configuration import ClassicConfig, ImageDataConfig, model_config
        from cnn_jax.data.images import open_images
        from cnn_jax.reporting.records import environment

        if min(options.train, options.queries, options.repeats) < 1 or options.train < K:
            raise InputError(f"--train must be at least {K}, --queries and --repeats at least 1.")
        config = ClassicConfig(
            experiment="neighbours_speed",
            model=model_config("knn", k=K),
            data=ImageDataConfig(source="fashion_mnist", directory=options.directory, validation_share=0.0),
        )
        data = open_images(config.data)
        images, labels = data.splits["train"].arrays(range(min(options.train, len(data.splits["train"]))))
        queries, _ = data.splits["test"].arrays(range(min(options.queries, len(data.splits["test"]))))
        work = f"{len(images):,} training images, {len(queries):,} queries, {images[0].size} values, k={K}"
        print(work)
        rows = measure(images.reshape(len(images), -1), labels, queries.reshape(len(queries), -1), options.repeats)
        typed = f"python -m experiments.neighbours_speed --train {options.train} --queries {options.queries}"
        record = {"work": work, "rows": rows, "environment": environment(config, data.fingerprint, typed)}
        options.workdir.mkdir(parents=True, exist_ok=True)
        path = options.workdir / "speed.json"
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"written: {path}")

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
