"""Train one zoo teacher from random weights by its recipe: `python -m nexus_teacher_zoo.recipes train NAME`.

bf16 autocast with fp32 masters, AdamW, a warm-up and a cosine, clipped gradients. Data come from the capability pack's
train split through the public hook; the profile split is watched while training; the verify split is scored once.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from nexus_core.types import Category, Detection, ModelSource, SampleRequest, Split
from nexus_teacher_zoo.recipes.card import provenance, write_card
from nexus_teacher_zoo.recipes.copying import start_copying
from nexus_teacher_zoo.recipes.corpus import CorpusBatches, corpus_texts
from nexus_teacher_zoo.recipes.evaluate import score_teacher
from nexus_teacher_zoo.recipes.recipe import WEIGHTS, Recipe, Stage, load_recipe
from nexus_teacher_zoo.recipes.text import (
    Batch,
    TaskBatches,
    capability_of,
    task_texts,
    tokenizer_texts,
    train_tokenizer,
)


@dataclass(frozen=True, slots=True)
class Run:
    """Where and how long to train. `minutes` shortens the schedule to fit; without it a run repeats exactly.

    `polish` is (steps, learning rate) of a second round, which starts from the checkpoint in `out`, without curriculum.
    """

    out: Path
    minutes: float | None = None
    threads: int = 1
    device: str = "cpu"
    polish: tuple[int, float] | None = None


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The recipe's configuration with fresh weights drawn from its seed."""
    import torch
    import transformers

    config = getattr(transformers, recipe.config)(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **recipe.kwargs,
    )
    torch.manual_seed(recipe.seed)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=recipe.training.attention
    )
    if recipe.training.start == "copying":
        start_copying(model, recipe.seed)
    return model


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to `min_lr_fraction`."""
    spec = recipe.training
    floor = spec.min_lr_fraction
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return spec.lr * min(1.0, (step + 1) / spec.warmup) * cosine


def loss_of(model: Any, batch: Batch, device: str) -> Any:
    """Weighted next-token cross-entropy; plus the balance loss where the model is a mixture of experts."""
    import torch
    from torch.nn import functional

    ids, weights = batch.ids.to(device), batch.weights.to(device)
    # The balance loss is asked for here and not in the saved config, where it would burden every later forward pass.
    router = {"output_router_logits": True} if hasattr(model.config, "router_aux_loss_coef") else {}
    with torch.autocast(device, dtype=torch.bfloat16):
        output = model(input_ids=ids, use_cache=False, **router)
    logits = output.logits[:, :-1].float()
    token_loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    loss = (token_loss * weights).sum() / weights.sum()
    balance = getattr(output, "aux_loss", None)
    return loss if balance is None else loss + model.config.router_aux_loss_coef * balance


def optimiser_of(model: Any, recipe: Recipe) -> Any:
    """AdamW; norms and biases do not decay."""
    import torch

    spec = recipe.training
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=(0.9, spec.beta2), fused=True)


class Stream:
    """Batches of the stage that the run has reached."""

    def __init__(self, source: TaskBatches | CorpusBatches, stages: tuple[Stage, ...]) -> None:
        self.source = source
        self.stages = (*stages, Stage()) if not stages or stages[-1].until < 1.0 else stages
        self.current: Stage | None = None
        self.batches: Iterator[Batch] = iter(())

    def next(self, progress: float) -> Batch:
        stage = next((s for s in self.stages if progress < s.until), self.stages[-1])
        if stage != self.current:
            self.current, self.batches = stage, self.source.batches(stage)
        return next(self.batches)


def fit(recipe: Recipe, run: Run, model: Any, tokenizer: Any, stream: Stream) -> tuple[Any, int, float]:
    """Train; returns the model, the steps taken and the minutes that they took."""
    import torch

    model = model.to(run.device).train()
    spec, optimiser, began, losses = recipe.training, optimiser_of(model, recipe), time.monotonic(), []
    click.echo(f"{recipe.name}: {sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    step = 0
    while step < spec.steps:
        elapsed = (time.monotonic() - began) / 60
        progress = max(step / spec.steps, elapsed / run.minutes if run.minutes else 0.0)
        if progress >= 1.0:
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step, progress)
        loss = loss_of(model, stream.next(progress), run.device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
        optimiser.step()
        losses.append(float(loss.detach()))
        step += 1
        if step % spec.log_every == 0:
            seconds = time.monotonic() - began
            recent = sum(losses[-spec.log_every :]) / spec.log_every
            click.echo(f"step {step}/{spec.steps} loss {recent:.4f} {step / seconds:.2f} steps/s {seconds:.0f} s")
        if step % spec.eval_every == 0 and recipe.capability:
            watch(model, tokenizer, recipe)
    return model.eval(), step, (time.monotonic() - began) / 60


def watch(model: Any, tokenizer: Any, recipe: Recipe) -> None:
    """Greedy exact score on the profile split, while training. The verify split is never looked at here."""
    from nexus_core.hf import HFTeacher

    metric = capability_of(str(recipe.capability))
    detection = Detection(Category.TRANSFORMERS, model.config.model_type, 1.0, "in training")
    teacher = HFTeacher(ModelSource(Path()), detection, model, tokenizer)
    result = score_teacher(teacher, metric, SampleRequest(Split.PROFILE, n=recipe.training.eval_samples))
    model.requires_grad_(True).train()  # a teacher is frozen
    click.echo(f"profile {metric.metric} {result.value:.3f} (n={result.n})")


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the checkpoint beside `out`, then swap it in: `out` is always a whole checkpoint or absent."""
    import shutil

    import torch

    draft, old = out.with_name(f".{out.name}.{os.getpid()}"), out.with_name(f".{out.name}.old.{os.getpid()}")
    draft.mkdir(parents=True)
    model.generation_config.do_sample = False
    model.to("cpu", torch.bfloat16).save_pretrained(draft)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(draft, save_jinja_files=False)
    for file in draft.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def train(recipe: Recipe, run: Run) -> None:
    """Tokenizer, model, training, checkpoint, card."""
    import torch

    torch.set_num_threads(run.threads)
    random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    if run.polish:
        polish(recipe, run, made_before(run, *run.polish))
        return
    source: TaskBatches | CorpusBatches
    if recipe.capability:
        metric = capability_of(recipe.capability)
        tokenizer = train_tokenizer(recipe.tokenizer, task_texts(metric, recipe))
        source = TaskBatches(metric, tokenizer, recipe)
    else:
        tokenizer = train_tokenizer(recipe.tokenizer, tokenizer_texts(recipe, corpus_texts(held_out=False)))
        source = CorpusBatches(tokenizer, recipe)
    model = build_model(recipe, tokenizer)
    model, steps, minutes = fit(recipe, run, model, tokenizer, Stream(source, recipe.training.stages))
    if source.skipped:
        click.echo(f"{source.skipped} samples were longer than {recipe.training.max_tokens} tokens and were left out")
    save(model, tokenizer, run.out)
    made = provenance(recipe, steps, minutes, run.minutes)
    if recipe.training.polish_steps:
        polish(recipe, replace(run, polish=(recipe.training.polish_steps, recipe.training.polish_lr)), made)
    else:
        click.echo(write_card(recipe, run.out, made))


def made_before(run: Run, steps: int, lr: float) -> dict[str, Any]:
    """How the checkpoint in `run.out` was made, from its card, and that a second round was asked for."""
    from nexus_teacher_zoo.cards import read_card

    made: dict[str, Any] | None = (read_card(run.out) or {}).get("made_by")
    if made is None:
        raise click.UsageError(f"{run.out} holds no checkpoint to polish; train it first")
    limit = "" if run.minutes is None else f" --minutes {run.minutes:g}"
    return {**made, "command": f"{made['command']}; then the same with --polish {steps} --lr {lr:g}{limit}"}


def polish(recipe: Recipe, run: Run, before: dict[str, Any]) -> None:
    """A second round on other samples: from the checkpoint in `out`, over all strata, down a cosine of its own."""
    import torch
    import transformers

    assert run.polish is not None
    steps, lr = run.polish
    recipe = replace(recipe, seed=recipe.seed + 1, training=replace(recipe.training, steps=steps, lr=lr, stages=()))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        run.out, dtype=torch.float32, attn_implementation=recipe.training.attention
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.out)
    source = TaskBatches(capability_of(str(recipe.capability)), tokenizer, recipe)
    model, taken, minutes = fit(recipe, run, model, tokenizer, Stream(source, ()))
    save(model, tokenizer, run.out)
    made = {
        **before,
        "polish_seed": recipe.seed,
        "steps": before["steps"] + taken,
        "training_minutes": round(before["training_minutes"] + minutes, 1),
    }
    click.echo(write_card(recipe, run.out, made))


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Where the checkpoint goes (default: the zoo's weights).")
@click.option("--steps", type=int, help="Instead of the recipe's number.")
@click.option("--minutes", type=float, help="Shorten the schedule to this time.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--polish", type=int, help="Instead: so many more steps from the checkpoint that is there.")
@click.option("--lr", type=float, default=1.5e-3, show_default=True, help="The learning rate of --polish.")
def main(name: str, out: Path | None, steps: int | None, polish: int | None, lr: float, **how: Any) -> None:
    """Train the zoo teacher NAME (or the recipe at a .yaml path)."""
    recipe = load_recipe(name)
    if steps:
        recipe = replace(recipe, training=replace(recipe.training, steps=steps))
    train(recipe, Run(out or WEIGHTS / recipe.name, **how, polish=(polish, lr) if polish else None))


if __name__ == "__main__":
    main()
