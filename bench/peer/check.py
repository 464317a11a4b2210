"""Compares gpt.py with transformers' GPT-2: of the same weights and tokens the loss must be the same, and steps lower it.

    python check.py
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel

CONTEXT, BATCH, STEPS = 16, 4, 8


def main():
    torch.manual_seed(5)
    # Weights are large enough for every part to count.
    theirs = GPT2LMHeadModel(GPT2Config(
        vocab_size=257, n_positions=CONTEXT, n_embd=24, n_layer=2, n_head=3, initializer_range=0.3, bos_token_id=256,
        eos_token_id=256,
    )).eval()
    for parameter in theirs.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    text = "the quick brown fox jumps over the lazy dog " * 20
    tokens = torch.tensor([*text.rstrip().encode(), 256])
    sequences = tokens.unfold(0, CONTEXT + 1, CONTEXT)
    order = torch.randperm(len(sequences), dtype=torch.int32)
    batch = sequences[order[:BATCH].long()]
    with torch.no_grad():
        logits = theirs(batch[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        theirs.save_pretrained(folder)
        (folder / "document.txt").write_text(text)
        (folder / "order").write_bytes(order.numpy().tobytes())
        (folder / "configuration.json").write_text(json.dumps({
            "data": {
                "source": {"uri": f"file://{folder}/*.txt"},
                "text": {"tokenizer": {"bytes": {}}, "documents": {"endAt": "File"}},
            },
            "model": {"transformer": {
                "layers": 2, "width": 24, "heads": 3, "context": CONTEXT, "feedForward": 96, "normEpsilon": 1e-5,
            }},
            "train": {
                "optimizer": {"adamW": {
                    "learningRate": 0.01, "weightDecay": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8,
                }},
                "weightDecayOn": "Matrices", "schedule": {"constant": {"warmupSteps": 0}},
                "batchSize": BATCH, "steps": STEPS, "precision": "F32",
            },
        }))
        said = subprocess.run(
            [sys.executable, pathlib.Path(__file__).with_name("gpt.py"), folder / "configuration.json",
             "--weights", folder / "model.safetensors", "--order", folder / "order", "--warm-up", "1"],
            check=True, stdout=subprocess.PIPE,
        ).stdout
    ours = json.loads(said)
    first, *_, last = ours["losses"]
    assert ours["samples"] == len(sequences) and len(ours["losses"]) == STEPS, ours
    assert abs(first - loss) < 1e-4 * loss, f"gpt.py has a loss of {first}, and transformers of {loss}"
    assert last < first, f"{STEPS} steps do not lower the loss: {ours['losses']}"
    print(f"gpt.py: a loss of {first:.6f}, as transformers' {loss:.6f}, and of {last:.6f} after {STEPS} steps")


if __name__ == "__main__":
    main()
