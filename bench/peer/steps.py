"""What the peers' trainings share: what they are asked for, their optimizer and learning rate, and how steps are timed."""

import argparse
import json
import math
import time

import torch


def asked():
    """The run's configuration, which is the very file that the trainer reads, and how it is to be computed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=argparse.FileType())
    parser.add_argument("--weights", required=True, help="the safetensors to start from")
    parser.add_argument("--order", help="the samples of each epoch in the order in which they are taken")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--warm-up", type=int, default=0, help="steps before those that are timed")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high" if options.device == "cuda" else "highest")
    torch.manual_seed(42)
    return json.load(options.config), options


def optimizer_of(parameters, train):
    (kind, spec), = train["optimizer"].items()
    rule = {"adam": torch.optim.Adam, "adamW": torch.optim.AdamW}[kind]
    decays = {"All": lambda parameter: True, "Matrices": lambda parameter: parameter.dim() >= 2}[train["weightDecayOn"]]
    groups = [
        {"params": [parameter for parameter in parameters if decays(parameter)], "weight_decay": spec["weightDecay"]},
        {"params": [parameter for parameter in parameters if not decays(parameter)], "weight_decay": 0.0},
    ]
    return rule(
        [group for group in groups if group["params"]], lr=spec["learningRate"], betas=(spec["beta1"], spec["beta2"]),
        eps=spec["epsilon"], fused=True,
    )


def scheduler_of(optimizer, train, total):
    """The schedule, or None where the learning rate stays as it is."""
    (kind, spec), = train["schedule"].items()
    warm_up, base = spec["warmupSteps"], optimizer.defaults["lr"]
    if kind == "constant" and not warm_up:
        return None

    def factor(step):
        if step < warm_up:
            return (step + 1) / warm_up
        if kind == "constant":
            return 1.0
        least = spec["minimum"] / base
        return least + (1 - least) * (1 + math.cos(math.pi * (step - warm_up) / max(total - warm_up, 1))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def run(loss_of, model, batches, total, config, options):
    """Takes a step for each of `total` batches; answers the losses and the steps per second after the warm-up."""
    train, parameters = config["train"], list(model.parameters())
    optimizer = optimizer_of(parameters, train)
    scheduler = scheduler_of(optimizer, train, total)
    clip = (train.get("gradientClip") or {}).get("norm")
    if options.compile:
        loss_of = torch.compile(loss_of)
    losses = []
    begun = time.perf_counter()
    for step, batch in enumerate(batches):
        if step == options.warm_up:
            synchronize(options)
            begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*batch)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.detach())
    synchronize(options)
    seconds = time.perf_counter() - begun
    return torch.stack(losses).tolist(), (total - options.warm_up) / seconds


def synchronize(options):
    if options.device == "cuda":
        torch.cuda.synchronize()


def answer(**figures):
    print(json.dumps(figures))
