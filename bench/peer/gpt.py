"""A language model of GPT-2's kind in PyTorch.

    python gpt.py CONFIG --weights FILE --order FILE [--threads N] [--compile] [--warm-up STEPS] [--device cuda]
"""

import contextlib
import functools
import glob
import itertools
import os
import re

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import steps

END_OF_TEXT = "<|endoftext|>"
# The most bytes of a document; the trainer cuts a longer one in two.
LONGEST = 4 << 20


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x):
        batch, length, width = x.shape
        heads = (batch, length, self.heads, width // self.heads)
        query, key, value = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).split(width, dim=2))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, width, units):
        super().__init__()
        self.c_fc = nn.Linear(width, units)
        self.c_proj = nn.Linear(units, width)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, spec):
        super().__init__()
        width, epsilon = spec["width"], spec["normEpsilon"]
        self.ln_1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, spec["heads"])
        self.ln_2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = FeedForward(width, spec["feedForward"])

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, spec, vocabulary):
        super().__init__()
        width = spec["width"]
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(spec["context"], width)
        self.h = nn.ModuleList(Block(spec) for _ in range(spec["layers"]))
        self.ln_f = nn.LayerNorm(width, eps=spec["normEpsilon"])

    def forward(self, tokens, targets):
        """The mean loss."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def load(self, path):
        """Takes over weights by the names and in the layout of Hugging Face, whose linear layers are [input, output]."""
        weights = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                given = weights.pop(name)
                if ".c_" in name and given.dim() == 2:
                    given = given.T
                # The rows that the vocabulary is padded with stay 0.
                parameter.zero_()[tuple(map(slice, given.shape))] = given
        assert not weights, f"unknown weights: {list(weights)}"


def read(data):
    """All tokens, and the size of the vocabulary. Each file is a document, without blank lines around it, and ends with a
    token of its own."""
    assert data["text"]["documents"]["endAt"] == "File", "documents end elsewhere than at the ends of files"
    paths = sorted(glob.glob(data["source"]["uri"].removeprefix("file://")))
    assert all(os.path.getsize(path) <= LONGEST for path in paths), "the trainer cuts a file in two"
    texts = [open(path, encoding="utf-8-sig", newline="").read().rstrip() for path in paths]
    documents = [re.sub(r"\A\s*\n", "", text) for text in texts if text]
    tokenizer = data["text"]["tokenizer"]
    if "bytes" in tokenizer:
        encoded, end, vocabulary = (list(document.encode()) for document in documents), 256, 257
    else:
        tokenizer = Tokenizer.from_file(tokenizer["file"]["uri"].removeprefix("file://"))
        # Copies of a document are encoded once.
        encode = functools.cache(lambda document: tokenizer.encode(document, add_special_tokens=False).ids)
        encoded = map(encode, documents)
        end, vocabulary = tokenizer.token_to_id(END_OF_TEXT), tokenizer.get_vocab_size()
    return torch.tensor([token for document in encoded for token in [*document, end]]), vocabulary


def main():
    config, options = steps.asked()
    train, spec = config["train"], config["model"]["transformer"]
    on_gpu = options.device == "cuda"
    tokens, vocabulary = read(config["data"])
    # Each with the token after it, as the trainer's: the last token is the first of the next.
    sequences = tokens.unfold(0, spec["context"] + 1, spec["context"]).to(options.device)
    if on_gpu:
        vocabulary = -(-vocabulary // 64) * 64
    model = Gpt(spec, vocabulary)
    model.load(options.weights)
    model.to(options.device)

    size = train["batchSize"]
    total = train.get("steps") or train["epochs"] * -(-len(sequences) // size)

    # [epochs, samples]
    order = torch.from_file(options.order, size=os.path.getsize(options.order) // 4, dtype=torch.int32)
    order = order.view(-1, len(sequences)).long().to(options.device)

    def batches():
        for batch in itertools.islice((batch for epoch in order for batch in sequences[epoch].split(size)), total):
            yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous()

    precision = {
        "F32": contextlib.nullcontext,
        "Mixed": lambda: torch.autocast(options.device, torch.bfloat16),
    }[train["precision"]]

    def loss_of(tokens, targets):
        with precision():
            return model(tokens, targets)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else contextlib.nullcontext():
        losses, per_second = steps.run(loss_of, model, batches(), total, config, options)
    steps.answer(stepsPerSecond=per_second, losses=losses, samples=len(sequences))


if __name__ == "__main__":
    main()
