"""Check an exported model on the devices that it was made for, if this machine has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune.compression.ir.readback import read_weights
from autotune.compression.targets import TARGETS, check_stored
from autotune.errors import CompressionError
from autotune.models.runtime.compile import core as openvino_core
from autotune.models.runtime.compile import last_line, xml_path


def describe_devices(targets: Sequence[str]) -> list[str]:
    """Say for each target whether this machine has it, as a sentence."""
    present = {device.partition(".")[0]: device for device in openvino_core().available_devices}
    return [
        f"target {name} ({openvino_core().get_property(present[name], 'FULL_DEVICE_NAME')}): the exported model is "
        "compiled on it"
        if name in present
        else f"target {name} is not on this machine: settings and stored weights follow its rules; nothing runs on it"
        for name in targets
    ]


def check_on_targets(folder: Path, targets: Sequence[str]) -> dict[str, object]:
    """Read a model's IR back, check its weights against the rules of devices, and compile it where they are present.

    Args:
        folder: of the exported model.
        targets: names of the devices.

    Returns:
        ``devices``, ``weights`` (how many are stored in each way) and ``compiled`` (device -> its full name, None
        where it is not present), for ``autotune.json``.

    Raises:
        CompressionError: a constant breaks a rule, or a device that is present cannot compile the model.
    """
    core = openvino_core()
    model = core.read_model(xml_path(folder))
    weights = check_stored(read_weights(model), targets)
    present = {device.partition(".")[0]: device for device in core.available_devices}
    compiled: dict[str, str | None] = dict.fromkeys(targets)
    for name in targets:
        if name in present:
            try:
                core.compile_model(model, present[name], dict(TARGETS[name].compile_config))
            except RuntimeError as error:
                raise CompressionError(f"the model cannot be compiled for {name}: {last_line(error)}") from error
            compiled[name] = str(core.get_property(present[name], "FULL_DEVICE_NAME"))
    return {"devices": list(targets), "weights": weights, "compiled": compiled}
