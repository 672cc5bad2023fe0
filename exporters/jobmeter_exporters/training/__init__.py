"""Metrics of a training loop, from inside it.

    monitor = TrainingMonitor()
    for batch in monitor.batches(loader):
        with monitor.step(samples=len(batch)):
            ...
            monitor.record(loss=loss)

Needs ``prometheus_client`` only. Callbacks for PyTorch Lightning and for the Trainer of Hugging
Face are in the modules ``lightning`` and ``huggingface``.
"""

from jobmeter_exporters.training.monitor import TrainingMonitor

__all__ = ["TrainingMonitor"]
