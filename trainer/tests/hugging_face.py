#!/usr/bin/env python3
"""Compares our transformers with Hugging Face's, and our adapters with its peft's: scripts/test-hugging-face runs this.

    hugging_face.py make DIR     # small random models of theirs, in DIR/theirs
    hugging_face.py check DIR    # loads those of ours in DIR/ours, and the adapters in DIR/adapters, and compares

Between them, the tests of trainer/src/model/transformer/tests/hugging_face.rs compare the former here, and publish the latter.
Each folder holds tokens and the logits that its own side computes, in logits.json; one of ours texts and their tokens too, in
encoded.json.
"""

import json
import pathlib
import sys

import peft
import torch
from transformers import (
    AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast,
)
from transformers.utils import logging

VOCABULARY = 99
# Of the largest logit: a few hundred products in 32-bit floats per layer, added in another order, are off by a tenth.
TOLERANCE = 1e-4


def theirs():
    """Models by name, and the size of the files that they are saved in. Weights are large enough for every part to count."""
    gpt2 = dict(vocab_size=VOCABULARY, n_positions=40, n_embd=24, n_layer=3, n_head=4, initializer_range=0.3)
    llama = dict(
        vocab_size=VOCABULARY, max_position_embeddings=40, hidden_size=24, intermediate_size=52, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, initializer_range=0.3, rms_norm_eps=1e-5,
    )
    scaling = dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16,
    )
    yield "gpt2", GPT2LMHeadModel(GPT2Config(**gpt2)), "1GB"
    yield "gpt2-untied", GPT2LMHeadModel(GPT2Config(**gpt2, n_inner=50, tie_word_embeddings=False)), "1GB"
    yield "llama", LlamaForCausalLM(LlamaConfig(**llama)), "1GB"
    yield "llama-shards", LlamaForCausalLM(LlamaConfig(**llama, rope_theta=500.0)), "20KB"
    yield "llama-tied", LlamaForCausalLM(LlamaConfig(**llama, tie_word_embeddings=True)), "1GB"
    yield "llama-scaled", LlamaForCausalLM(
        LlamaConfig(**llama, rope_scaling=scaling, attention_bias=True, mlp_bias=True)
    ), "1GB"


def logits(model, tokens):
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.float()


def make(root):
    torch.manual_seed(5)
    for name, model, shard in theirs():
        for parameter in model.parameters():
            # Gains and biases that are 1 and 0 would hide that they are exchanged.
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, 0.5, 0.5)
        folder = root / "theirs" / name
        model.save_pretrained(folder, safe_serialization=True, max_shard_size=shard)
        tokens = torch.randint(0, VOCABULARY, (2, 33)).tolist()
        computed = {"tokens": tokens, "logits": logits(model, tokens).tolist()}
        (folder / "logits.json").write_text(json.dumps(computed))
        print(folder)


def is_alike(folder, model, complete=True):
    """Whether a model computes the logits that lie in a folder."""
    computed = json.loads((folder / "logits.json").read_text())
    expected = torch.tensor(computed["logits"])
    error = (logits(model, computed["tokens"]) - expected).abs().max().item()
    largest = expected.abs().max().item()
    fits = complete and error <= TOLERANCE * largest
    where = f"{folder.parent.name}/{folder.name}"
    print(f"{'ok   ' if fits else 'WRONG'} {where}: logits up to {largest:.4g}, off by {error:.2g}")
    return fits


def encodes_alike(folder, end):
    """Whether a folder's tokenizer makes the tokens of texts that lie in it, and ends one with that token."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    texts = json.loads((folder / "encoded.json").read_text())
    differing = [text for text, tokens in texts if tokenizer(text)["input_ids"] != tokens]
    fits = texts and not differing and end == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if not fits:
        print(f"WRONG tokenizer of {folder.parent.name}/{folder.name}: {differing}, ends with {end}")
    return fits


def check(root):
    wrong = 0
    for folder in sorted((root / "ours").iterdir()):
        # What the weights are in by the config.json is what they are in.
        dtype = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype
        if dtype != (torch.bfloat16 if folder.name.endswith("-bf16") else torch.float32):
            sys.exit(f"{folder} is loaded in {dtype}")
        # Both sides compute in 32 bits.
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        # Of tied embeddings one end is not in the file.
        missing = set(info["missing_keys"]) - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
        complete = not missing and not info["unexpected_keys"]
        wrong += not is_alike(folder, model, complete)
        wrong += not encodes_alike(folder, model.config.eos_token_id)
        if not complete:
            print(f"      {info}")
    for folder in sorted((root / "adapters").iterdir()):
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
        wrong += not is_alike(folder, model)
        wrong += not encodes_alike(folder, model.config.eos_token_id)
    if wrong:
        sys.exit(f"{wrong} models or tokenizers differ")


if __name__ == "__main__":
    logging.disable_progress_bar()
    # A context that is shorter than the original one of scaled positions is warned of, and computed.
    logging.set_verbosity_error()
    commands = {"make": make, "check": check}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](pathlib.Path(sys.argv[2]))
