"""The metric families of a training, in one table."""

from __future__ import annotations

from jobmeter_exporters.families import Family

FAMILIES: dict[str, Family] = {
    "training_tokens_total": Family(
        "Tokens that this rank trained on.", source="`tokens` of the steps", unit="tokens"
    ),
    "training_samples_total": Family(
        "Samples that this rank trained on.", source="`samples` of the steps", unit="samples"
    ),
    "training_step_duration_seconds": Family(
        "Time of a step, the wait for its data included, validation and checkpoints left out.",
        source="`step`, and `data` or `batches` before it",
        kind="histogram",
    ),
    "training_data_wait_seconds_total": Family(
        "Time in which the loop waited for data.", source="`data`, `batches`"
    ),
    "training_forward_seconds_total": Family("Time in the forward pass.", source="`forward`"),
    "training_backward_seconds_total": Family("Time in the backward pass.", source="`backward`"),
    "training_optimizer_seconds_total": Family("Time in the optimizer.", source="`optimizer`"),
    "training_checkpoint_duration_seconds": Family(
        "Time to write a checkpoint.", source="`checkpoint`", kind="histogram"
    ),
    "training_validation_duration_seconds": Family(
        "Time of a validation.", source="`validation`", kind="histogram"
    ),
    "training_loss": Family("Last loss.", source="`record(loss=)`"),
    "training_accuracy": Family("Last accuracy.", source="`record(accuracy=)`", unit="ratio"),
    "training_validation_loss": Family(
        "Loss of the last validation.", source="`record_validation(loss=)`"
    ),
    "training_validation_accuracy": Family(
        "Accuracy of the last validation.", source="`record_validation(accuracy=)`", unit="ratio"
    ),
    "training_learning_rate": Family("Learning rate.", source="`record(learning_rate=)`"),
    "training_gradient_norm": Family(
        "Norm of the gradient of the last step.", source="`record(gradient_norm=)`"
    ),
    "training_epoch": Family(
        "Epochs that have begun, or the fraction that is done.", source="`record(epoch=)`"
    ),
    "moe_expert_tokens_total": Family(
        "Tokens that an expert worked on.",
        ("layer", "expert"),
        source="`record_experts`, up to `most_expert_series` of them",
        unit="tokens",
    ),
    "moe_routed_tokens_total": Family(
        "Tokens that went to the experts of a layer.",
        ("layer",),
        source="`record_experts`, in place of the former where there are more experts",
        unit="tokens",
    ),
    "moe_expert_load_ratio": Family(
        "Load of an expert between two reads over the mean of its layer, 1 when even.",
        source="the same",
        kind="histogram",
    ),
    "moe_dropped_tokens_total": Family(
        "Tokens that an expert had no room for.",
        ("layer",),
        source="`record_dropped_tokens`",
        unit="tokens",
    ),
    "moe_router_loss": Family(
        "Load-balance loss of the router.", ("layer",), source="`record_router_loss`"
    ),
}
"""Each also has the label ``rank`` where the training has several."""
