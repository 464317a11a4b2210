"""The preparation of bench/src/train/csv.rs in Polars and in pandas: from a CSV to 32-bit floats in three splits.

    python prepare.py polars|pandas CSV

Drops duplicates, rows that fail a predicate, and rows without `score` or `label`; splits; fits on the training split;
fills what is missing by mean and most frequent value, standardizes numbers, and one-hot encodes text.
"""

import json
import re
import sys
import time

import numpy

NUMBERS = ["age", "income", "height", "weight", "balance", "visits", "tenure", "score"]
TEXTS = ["city", "plan"]
TARGET = "label"
SHARES = [0.8, 0.9]


def with_polars(path):
    import polars as pl

    begun = time.perf_counter()
    frame = (
        pl.scan_csv(path)
        .unique(maintain_order=False)
        .filter(
            pl.col("age").is_null() | pl.col("age").is_between(0, 120),
            pl.col("income").is_null() | (pl.col("income") >= 0),
        )
        .drop_nulls(["score", TARGET])
        .collect(engine="streaming")
    )
    parts = numpy.digitize(numpy.random.default_rng(7).random(len(frame)), SHARES)
    train = frame.filter(pl.Series(parts == 0))
    moments = train.select(
        *(pl.col(name).mean().alias(f"{name}_mean") for name in NUMBERS),
        *(pl.col(name).std(ddof=0).alias(f"{name}_std") for name in NUMBERS),
    ).row(0, named=True)
    categories = {name: train[name].drop_nulls().unique().sort().to_list() for name in TEXTS}
    frequent = {name: train[name].drop_nulls().mode()[0] for name in TEXTS}
    converted = frame.select(
        *(
            ((pl.col(name).fill_null(moments[f"{name}_mean"]) - moments[f"{name}_mean"]) / moments[f"{name}_std"])
            .cast(pl.Float32)
            for name in NUMBERS
        ),
        *(
            (pl.col(name).fill_null(frequent[name]) == category).cast(pl.Float32).alias(f"{name}={category}")
            for name in TEXTS
            for category in categories[name]
        ),
        pl.col(TARGET).cast(pl.Float32),
    )
    splits = [converted.filter(pl.Series(parts == part)).to_numpy() for part in range(3)]
    return splits, time.perf_counter() - begun


def with_pandas(path):
    import pandas

    begun = time.perf_counter()
    frame = pandas.read_csv(path, engine="pyarrow").drop_duplicates()
    frame = frame[frame["age"].isna() | frame["age"].between(0, 120)]
    frame = frame[frame["income"].isna() | (frame["income"] >= 0)]
    frame = frame.dropna(subset=["score", TARGET])
    parts = numpy.digitize(numpy.random.default_rng(7).random(len(frame)), SHARES)
    train = frame[parts == 0]
    mean, deviation = train[NUMBERS].mean(), train[NUMBERS].std(ddof=0)
    frequent = {name: train[name].mode()[0] for name in TEXTS}
    categories = {name: sorted(train[name].dropna().unique()) for name in TEXTS}
    numbers = ((frame[NUMBERS].fillna(mean) - mean) / deviation).astype("float32")
    texts = frame[TEXTS].fillna(frequent)
    texts = texts.apply(lambda column: pandas.Categorical(column, categories[column.name]))
    converted = pandas.concat([numbers, pandas.get_dummies(texts, dtype="float32"), frame[TARGET].astype("float32")], axis=1)
    splits = [converted[parts == part].to_numpy() for part in range(3)]
    return splits, time.perf_counter() - begun


def main():
    library, path = sys.argv[1:]
    splits, seconds = {"polars": with_polars, "pandas": with_pandas}[library](path)
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1]) / 1024
    print(json.dumps({"seconds": seconds, "rows": sum(map(len, splits)), "peakMib": peak}))


if __name__ == "__main__":
    main()
