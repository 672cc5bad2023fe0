"""A small language model learns a rule, on every process of torchrun or srun: data parallel (DDP).

With --experts it is a mixture of experts, and says how the router divides the tokens. It runs on
GPUs where there are any, else on CPUs.
"""

import argparse
import math
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jobmeter_exporters.training import TrainingMonitor

VOCABULARY, SEQUENCE, WIDTH, LAYERS = 512, 64, 128, 2
ROOM = 1.25
"""How many tokens an expert takes, as a multiple of its even share; the others are dropped."""


class Experts(nn.Module):
    """Sends each token to one of several small networks."""

    def __init__(self, experts):
        super().__init__()
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(dense() for _ in range(experts))
        self.counts, self.dropped, self.router_loss = [], 0, None

    def forward(self, hidden):
        flat = hidden.reshape(-1, WIDTH)
        shares = self.router(flat).softmax(dim=-1)
        weight, chosen = shares.max(dim=-1)
        room = math.ceil(ROOM * len(flat) / len(self.experts))
        asked = torch.bincount(chosen, minlength=len(self.experts))
        mixed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            tokens = (chosen == number).nonzero().squeeze(dim=1)[:room]
            mixed[tokens] = weight[tokens, None] * expert(flat[tokens])
        self.counts = asked.clamp(max=room).tolist()
        self.dropped = len(flat) - sum(self.counts)
        self.router_loss = len(self.experts) * (asked / len(flat) * shares.mean(dim=0)).sum()
        return mixed.reshape(hidden.shape)


def dense():
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Model(nn.Module):
    """Predicts the next token from the one before."""

    def __init__(self, experts):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Experts(experts) if experts else dense() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens, wanted):
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        loss = nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), wanted.flatten())
        routers = [layer.router_loss for layer in self.layers if isinstance(layer, Experts)]
        return loss + 0.01 * sum(routers), loss


def batches(steps, size, device):
    """Yield tokens, and the tokens that follow them by the rule that is to be learned."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(steps):
        tokens = torch.randint(VOCABULARY, (size, SEQUENCE), generator=generator)
        yield tokens.to(device), ((3 * tokens + 1) % VOCABULARY).to(device)


def train(monitor, chosen, device):
    model = DistributedDataParallel(
        Model(chosen.experts).to(device),
        # An expert that gets no token has no gradient.
        find_unused_parameters=chosen.experts > 0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor.record(learning_rate=0.01)
    for tokens, wanted in monitor.batches(batches(chosen.steps, chosen.batch_size, device)):
        with monitor.step(tokens=tokens.numel(), samples=len(tokens)):
            optimizer.zero_grad()
            with monitor.forward():
                total, loss = model(tokens, wanted)
                if dist.get_rank() == chosen.slow_rank:
                    time.sleep(chosen.slow_s)
            with monitor.backward():
                total.backward()
            with monitor.optimizer():
                optimizer.step()
            monitor.record(loss=loss.detach())
        for number, layer in enumerate(model.module.layers if chosen.experts else ()):
            monitor.record_experts(layer.counts, layer=number)
            monitor.record_dropped_tokens(layer.dropped, layer=number)
            monitor.record_router_loss(layer.router_loss.item(), layer=number)
    return loss.item()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--batch-size", type=int, default=32, help="sequences of each process")
    arguments.add_argument("--experts", type=int, default=0, help="of each layer; 0 for none")
    arguments.add_argument(
        "--slow-rank", type=int, help="a rank to slow down, to see how that looks"
    )
    arguments.add_argument("--slow-s", type=float, default=0.1, help="seconds more for its steps")
    chosen = arguments.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    torch.manual_seed(7)
    with TrainingMonitor() as monitor:
        loss = train(monitor, chosen, device)
    if dist.get_rank() == 0:
        print(f"{chosen.steps} steps on each of {dist.get_world_size()} ranks, loss {loss:.4f}")
    # All are connected, and meet at the first: nobody leaves before the last has got here.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
