"""A tiny training in a framework, with our callback, on every rank that a launcher has started.

    frameworks.py lightning|huggingface STEPS BATCH TOKENS

Each rank trains STEPS steps of BATCH samples of TOKENS tokens.
"""

import os
import sys
import tempfile

WORDS = 32
RANKS_PER_NODE = 2


def rows(steps, batch, length):
    import torch

    most_ranks = 8
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, WORDS, (steps * batch * most_ranks, length), generator=generator)


def lightning(steps, batch, length):
    import torch
    from lightning.pytorch import LightningModule, Trainer

    from jobmeter_exporters.training.lightning import lightning_callback

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(WORDS, 8)
            self.head = torch.nn.Linear(8, WORDS)

        def training_step(self, batch, batch_idx):
            tokens = batch["input_ids"]
            hidden = self.head(self.embedding(tokens))
            return torch.nn.functional.cross_entropy(hidden.flatten(0, 1), tokens.flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = [{"input_ids": row} for row in rows(steps, batch, length)]
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=RANKS_PER_NODE,
        num_nodes=int(os.environ["SLURM_JOB_NUM_NODES"]),
        strategy="ddp",
        callbacks=[lightning_callback()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=batch))
    return trainer.global_rank, trainer.world_size


def huggingface(steps, batch, length):
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from jobmeter_exporters.training.huggingface import huggingface_callback

    data = [{"input_ids": row, "labels": row} for row in rows(steps, batch, length)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=batch,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=WORDS,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=length,
            )
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=data, callbacks=[huggingface_callback()]
        )
        trainer.train()
    return arguments.process_index, arguments.world_size


def main(framework, *numbers):
    rank, world_size = globals()[framework](*map(int, numbers))
    print(f"{framework}: rank {rank} of {world_size} has trained", flush=True)
    import torch.distributed as dist

    if dist.is_initialized():
        # The first rank has the store that the others use until they end.
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
