"""Train the tiny language model: seeded, on one processor thread, in about twenty-five minutes.

    python -m models.tiny_lm.train

writes tiny_lm.safetensors, heldout.txt and training.json into this folder (`-o DIR`: elsewhere).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch's own documentation uses)
from safetensors.torch import save_model

from models.corpus import addresses, byte_tokens, heldout_excerpts, split, token_blocks
from models.tiny_lm.model import TinyLM


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome."""

    seed: int = 0
    steps: int = 3000
    batch: int = 8
    context: int = 512
    warmup: int = 100
    peak_rate: float = 3e-3
    final_rate: float = 1e-4
    weight_decay: float = 0.1

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, then half a cosine."""
        if step < self.warmup:
            return self.peak_rate * (step + 1) / self.warmup
        turn = (step - self.warmup) / max(1, self.steps - self.warmup)
        return (
            self.final_rate
            + (self.peak_rate - self.final_rate) * (1 + math.cos(math.pi * turn)) / 2
        )


def train(recipe: Recipe, text: str, on_step: Callable[[int, float, TinyLM], None]) -> TinyLM:
    """Train on random windows of the text; `on_step(step, loss in nats, model)` watches."""
    torch.manual_seed(recipe.seed)
    model = TinyLM()
    data = torch.from_numpy(byte_tokens(text))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=True,
    )
    window = torch.arange(recipe.context + 1)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        starts = torch.randint(len(data) - recipe.context, (recipe.batch, 1))
        tokens = data[starts + window]
        # Matrix products in bfloat16 make a step 1.6 times as fast; weights and loss stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        on_step(step + 1, loss.item(), model)
    return model.eval()


@torch.no_grad()
def perplexity(model: TinyLM, text: str, context: int) -> float:
    """Perplexity per byte over whole blocks that do not overlap; a block's first byte is given."""
    total, count = 0.0, 0
    for block in torch.from_numpy(token_blocks(byte_tokens(text), context)).split(8):
        logits = model(block[:, :-1])
        total += F.cross_entropy(
            logits.flatten(0, 1), block[:, 1:].flatten(), reduction="sum"
        ).item()
        count += block[:, 1:].numel()
    return math.exp(total / count)


def main() -> None:
    """Train, measure, and write weights, held-out text and figures."""
    parser = argparse.ArgumentParser(prog="python -m models.tiny_lm.train", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    recipe = Recipe(steps=options.steps)
    training, held = split(addresses())
    heldout = heldout_excerpts(held)
    (options.output / "heldout.txt").write_text(heldout, encoding="utf-8")
    weights = options.output / "tiny_lm.safetensors"
    start = time.perf_counter()

    def watch(step: int, loss: float, model: TinyLM) -> None:
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        if step % 500 == 0:
            save_model(model, str(weights))
            print(
                f"held-out perplexity {perplexity(model, heldout, recipe.context):.3f}", flush=True
            )

    model = train(recipe, "\n\n".join(training.values()), watch)
    save_model(model, str(weights))
    figures = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_bytes": sum(len(byte_tokens(text)) for text in training.values()),
        "heldout_addresses": list(held),
        "heldout_bytes": len(byte_tokens(heldout)),
        "heldout_perplexity_per_byte": round(perplexity(model, heldout, recipe.context), 4),
    }
    (options.output / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
