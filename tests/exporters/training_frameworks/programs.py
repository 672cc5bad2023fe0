"""Trainings with the real packages, run by the Python of the environment that has them.

Each function prints as JSON what it expects of the last exposition that the monitor leaves.
"""

import itertools
import json
import sys

SAMPLES, FEATURES, BATCH = 22, 4, 4
"""The last batch of an epoch has two samples."""


def regression():
    import torch

    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
    return inputs, inputs.sum(dim=1, keepdim=True)


def lightning_module(package):
    import torch

    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(FEATURES, 1)
            self.losses = []

        def training_step(self, batch, batch_idx):
            inputs, wanted = batch
            loss = torch.nn.functional.mse_loss(self.layer(inputs), wanted)
            self.losses.append(float(loss.detach()))
            self.log("train_acc", 0.75)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 0.5)
            self.log("val_acc", 0.25)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.125)

    return Module()


def lightning(package, folder, stops_early=False, **options):
    import importlib

    import torch

    from jobmeter_exporters.training.lightning import lightning_callback

    package = importlib.import_module(package)
    data = torch.utils.data.TensorDataset(*regression())
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=2)
    module = lightning_module(package)
    if stops_early:
        # Lightning leaves the epoch then.
        module.on_train_batch_start = lambda batch, index: -1 if index == 4 else None
    callback = lightning_callback(**options)
    trainer = package.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        accumulate_grad_batches=2,
        callbacks=[callback],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, loader)
    return module, trainer


def in_lightning(package, folder):
    module, trainer = lightning(package, folder)
    # Six batches an epoch, two to a step; a validation and a checkpoint after each epoch.
    say(
        {
            "training_step_duration_seconds_count": 6,
            "training_samples_total": 2 * SAMPLES,
            "training_loss": module.losses[-1],
            "training_accuracy": 0.75,
            "training_learning_rate": 0.125,
            "training_epoch": 1,
            "training_validation_loss": 0.5,
            "training_validation_accuracy": 0.25,
            "training_validation_duration_seconds_count": 2,
            "training_checkpoint_duration_seconds_count": 2,
            **dict.fromkeys(PARTS, "some"),
            "training_tokens_total": None,
        }
    )
    assert "start" not in vars(trainer.profiler)  # it has its own method again


PARTS = (
    "training_data_wait_seconds_total",
    "training_forward_seconds_total",
    "training_backward_seconds_total",
    "training_optimizer_seconds_total",
)


def one_after_the_other(package, folder):
    """The counters of a process go on when a second training follows the first."""
    lightning(package, folder)
    lightning(package, folder)
    say(
        {"training_step_duration_seconds_count": 12, "training_samples_total": 4 * SAMPLES},
    )


def epochs_left_early(package, folder):
    """The batch at which an epoch is left is part of no step."""
    lightning(package, folder, stops_early=True)
    say({"training_step_duration_seconds_count": 4, "training_samples_total": 8 * BATCH})


def two_ranks(package, folder):
    """Lightning starts the processes itself."""
    import importlib
    import pickle

    import torch

    from jobmeter_exporters.training.lightning import lightning_callback

    package = importlib.import_module(package)
    data = torch.utils.data.TensorDataset(*regression())
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
    trainer = package.Trainer(
        max_steps=3,
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        callbacks=[pickle.loads(pickle.dumps(lightning_callback()))],  # as ddp_spawn does
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(lightning_module(package), loader)


def interrupted(package, folder):
    """Lightning turns SIGTERM into an exception of its own."""
    import os
    import signal

    stop = itertools.count()

    def samples(batch):
        if next(stop) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return len(batch[0])

    # The signal comes in the third step, at its first batch.
    say({"training_step_duration_seconds_count": 2, "training_samples_total": 4 * BATCH})
    lightning(package, folder, samples=samples)


def language_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
        )
    )


def hugging_face(folder, **options):
    import torch
    from transformers import Trainer, TrainingArguments

    from jobmeter_exporters.training.huggingface import huggingface_callback

    length = 8
    rows = torch.randint(0, 32, (SAMPLES, length), generator=torch.Generator().manual_seed(7))
    data = [{"input_ids": row, "labels": row} for row in rows]
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=2,
        learning_rate=0.125,
        lr_scheduler_type="constant",
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    trainer = Trainer(
        model=language_model(),
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=[huggingface_callback()],
        compute_metrics=lambda prediction: {"accuracy": 0.25},
    )
    trainer.train()
    return trainer, length


def in_hugging_face(folder):
    trainer, length = hugging_face(folder)
    history = trainer.state.log_history
    last = [entry for entry in history if "loss" in entry][-1]
    validation = [entry for entry in history if "eval_loss" in entry][-1]
    say(
        {
            "training_step_duration_seconds_count": 6,
            "training_samples_total": 2 * SAMPLES,
            "training_tokens_total": 2 * SAMPLES * length,
            "training_loss": last["loss"],
            "training_gradient_norm": last["grad_norm"],
            "training_learning_rate": 0.125,
            "training_epoch": 2,
            "training_validation_loss": validation["eval_loss"],
            "training_validation_accuracy": 0.25,
            "training_validation_duration_seconds_count": 2,
            "training_checkpoint_duration_seconds_count": 2,
            **dict.fromkeys(PARTS, "some"),
        }
    )
    assert not trainer.model._forward_pre_hooks


def experts_on_tensors():
    """Counts as a router has them: a tensor that is used again."""
    import torch

    from jobmeter_exporters.training import TrainingMonitor

    monitor = TrainingMonitor()
    counts = torch.zeros(4, dtype=torch.int32)
    loss = torch.tensor(0.0)
    for step in range(3):
        counts.zero_()
        counts += torch.tensor([1, 2, 3, step], dtype=torch.int32)
        weight = torch.tensor(2.0, requires_grad=True)
        loss = weight * step
        with monitor.step(samples=1):
            monitor.record_experts(counts, layer=3)
            monitor.record(loss=loss)
    assert monitor._totals.gauges[("training_loss", None)].grad_fn is None
    say(
        {
            "training_loss": 4.0,
            'moe_expert_tokens_total{expert="0",layer="3"}': 3,
            'moe_expert_tokens_total{expert="2",layer="3"}': 9,
            'moe_expert_tokens_total{expert="3",layer="3"}': 3,
        }
    )


def ranks_of_torchrun():
    """Started twice by torchrun; the rank is that of the process group."""
    import os

    import torch.distributed

    from jobmeter_exporters.training import TrainingMonitor

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    os.environ.pop("RANK")  # what the process group says counts
    monitor = TrainingMonitor()
    for _ in range(2 + rank):
        with monitor.step(samples=1):
            pass
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def say(expected):
    print(f"EXPECTED {json.dumps(expected)}", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
