"""The perceptrons of examples/cells.yaml and examples/digits.yaml in PyTorch, on their whole data.

    python mlp.py CONFIG --weights FILE [--threads N] [--compile]
"""

import fnmatch
import glob

import pandas
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import steps


def read(data):
    """Features and targets: what the configuration says of cleaning, written by hand for these two files."""
    paths = sorted(glob.glob(data["source"]["uri"].removeprefix("file://")))
    frame = pandas.concat(map(pandas.read_csv, paths))
    features = [name for name in frame if any(fnmatch.fnmatch(name, glob) for glob in data["features"])]
    frame = frame[features + data["target"]]
    if data["clean"]["duplicates"] == "Drop":
        frame = frame.drop_duplicates()
    for predicate in data["clean"].get("require", []):
        assert predicate == "pixel_0_0 BETWEEN 0 AND 16", predicate
        frame = frame[frame["pixel_0_0"].between(0, 16) | frame["pixel_0_0"].isna()]
    frame = frame.dropna(subset=data["target"])
    x = frame[features].fillna(frame[features].median())
    y = frame[data["target"]]
    return standardized(x), (standardized(y) if data["transform"]["target"] == "Standardize" else y)


def standardized(frame):
    deviation = frame.std(ddof=0)
    return (frame - frame.mean()) / deviation.where(deviation > 0, 1.0)


class Mlp(nn.Module):
    def __init__(self, widths, dropout):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.dropout = dropout

    def forward(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
            if self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        return last(x)


def main():
    config, options = steps.asked()
    train, spec = config["train"], config["model"]["mlp"]
    assert spec["activation"] == "ReLU", spec
    x, y = read(config["data"])
    rows = len(x)
    x = torch.tensor(x.to_numpy(), dtype=torch.float32)
    if train["loss"] == "CrossEntropy":
        y = torch.tensor(y.to_numpy()[:, 0], dtype=torch.long)
        outputs, criterion = int(y.max()) + 1, F.cross_entropy
    else:
        y = torch.tensor(y.to_numpy(), dtype=torch.float32)
        outputs, criterion = y.shape[1], F.mse_loss
    model = Mlp([x.shape[1], *spec["hidden"], outputs], spec["dropout"])
    model.load_state_dict(load_file(options.weights))

    def batches():
        for _ in range(train["epochs"]):
            order = torch.randperm(rows)
            yield from zip(x[order].split(train["batchSize"]), y[order].split(train["batchSize"]))

    total = train["epochs"] * -(-rows // train["batchSize"])
    _, per_second = steps.run(lambda x, y: criterion(model(x), y), model, batches(), total, config, options)
    model.eval()
    with torch.no_grad():
        loss = criterion(model(x), y).item()
    steps.answer(stepsPerSecond=per_second, losses=[loss], samples=rows)


if __name__ == "__main__":
    main()
