"""Sound artefacts, which the hostile cases are copies of."""

import json

import numpy as np
from hostile_cases import CONF


def make_base(base):
    """A policy, a checkpointed run, an evaluation, a memory, a table, a film: what the cases break."""
    from generated_run import GeneratedRun
    from tiny_model import experience
    from toy_world import PointSuite

    from vla_cl.config.compose import compose
    from vla_cl.interfaces import Method
    from vla_cl.memory.encodings import codec
    from vla_cl.memory.record import pack
    from vla_cl.memory.store import TrajectoryStore
    from vla_cl.models.vla import VlaModel, policy_config
    from vla_cl.run import checkpoint
    from vla_cl.run.checkpoint import Progress

    base.mkdir()
    spec = PointSuite().spec
    sizes = {"image_size": 16, "chunk_size": 4, "n_action_steps": 2, "hidden_size": 32, "vision_channels": [8, 8, 8]}
    config = policy_config("nano_vla", sizes, spec, "cpu")
    numbers = {"mean": np.zeros(2), "std": np.ones(2), "min": -np.ones(2), "max": np.ones(2)}
    model = VlaModel.new(config, {"observation.state": numbers, "action": numbers}, 0, render_profile="plain")
    model.save(base / "policy")
    GeneratedRun(name="run", tasks=("point/red", "point/green"), success=((1.0, None), (0.5, 1.0))).write(base / "run")
    settings = compose(
        ["suite=point", "plugins=[toy_world]", "method=er", "stream=points", "policy=tiny"], folders=[CONF]
    )
    (base / "run" / "config.yaml").write_text(json.dumps(settings))
    method = Method()
    for done in (1, 2):
        checkpoint.save(base / "run" / "checkpoints", model, method, Progress(done, done * 10, 1.0, 1.0))
    store = TrajectoryStore(base / "memory")
    import torch

    batch = {
        "observation.image": torch.zeros((4, 3, 16, 16), dtype=torch.uint8),
        "action": torch.zeros((4, 2, 2)),
        "index": torch.arange(4),
        "task": ["go"] * 4,
    }
    for name in ("raw", "jpeg", "h264"):
        store.append(f"{experience().name}-{name}", pack(batch, {"action": np.zeros((4, 2))}, codec(name)))
    return base
