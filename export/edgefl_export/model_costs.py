"""Count what training a model would cost, from its graphs alone: what `edgefl plan --model` asks for."""

from __future__ import annotations

from edgefl.bundle.manifest import Cost
from edgefl.plan.models import ModelDescription
from edgefl_export.compose import Composer
from edgefl_export.costs import Counter
from edgefl_export.exporter import knob_variants, training_programs
from edgefl_export.graphs.block import TRANSPOSED
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.lowering import called_graphs, lower_graphs
from edgefl_export.progress import shown_progress
from edgefl_export.settings import make_network

__all__ = ["model_costs"]


def model_costs(description: ModelDescription) -> dict[str, Cost]:
    """Return the costs of the training programs, `train/E/KNOB`, that a bundle of this model would have.

    The weights are random, since no cost depends on them; nothing is fetched and nothing is written.

    Raises:
        BadInputError: If the model cannot be exported like that.
    """
    settings = {
        "model": description.name,
        "pretrained": False,
        "weights": None,
        "img_size": description.image_size,
        "classes": description.classes,
        "mlp_dim": description.mlp_dim,
        "accumulator_heads": description.accumulator_heads,
        "parallel_adapters": description.parallel_adapters,
        "replace": True,
        "init": "small",
        "seed": 0,
    }
    network, exits = make_network(settings, description.exits)
    programs = training_programs(Composer(Catalog(network)), exits, description.batch)
    with shown_progress() as progress:
        graphs = lower_graphs(network, called_graphs(programs), progress)
    adapter = {name: tuple(tensor.shape) for name, tensor in network.adapter().items()}
    frozen = {
        name: tuple(reversed(tensor.shape)) if name.endswith(TRANSPOSED) else tuple(tensor.shape)
        for name, tensor in network.backbone.frozen().items()
    }
    counter = Counter(graphs, frozen | adapter, adapter)
    variants = knob_variants(exits, description.batch).items()
    costs = {name: counter.variant_cost(v, programs[v.program]) for name, v in variants if v.program in programs}
    return costs | {name: counter.cost(program) for name, program in programs.items() if name.endswith("/lean")}
