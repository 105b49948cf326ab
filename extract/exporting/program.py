"""A head and its backbones, loaded; and the torch module that is all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from data.common.errors import UserError
from data.format.programs import HeadProgram, NetworkOrder, Order
from extract.exporting.head_module import HeadModule
from extract.exporting.input_module import InputModule
from extract.model.backbone import Backbone, embed_normalised, library_versions
from extract.model.from_spec import backbone_of_spec


@dataclass(frozen=True)
class Program:
    """What is written in one form or another."""

    head: HeadProgram
    networks: tuple[Backbone, ...]  # frozen, on the CPU, in float32
    orders: tuple[NetworkOrder, ...]  # what they were made of, with the specs of their stores
    store_key: str
    versions: dict[str, str]  # of Icebox and of the libraries


def load_program(order: Order) -> Program:
    """Load the backbones of an order; a `UserError` says which cannot be had."""
    networks = []
    for one in order.networks:
        backbone = backbone_of_spec(one.spec, one.weights_file)
        if backbone.width != one.n_features:
            raise UserError(
                f"the backbone {backbone.name} gives {backbone.width} features, but the head takes "
                f"{one.n_features}; the head belongs to another backbone or pooling"
            )
        networks.append(backbone)
    versions = {**order.versions, **library_versions()}
    return Program(order.head, tuple(networks), order.networks, order.store_key, versions)


class Classifier(nn.Module):
    """From images to probabilities and labels.

    Shapes: ``forward`` takes uint8 (n, height, width, 3), RGB, of any one size; returns
    float32 (n, n_classes) and int64 (n,).
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(InputModule(one.preprocessing) for one in program.networks)
        self.backbones = nn.ModuleList(one.module for one in program.networks)
        self.head = HeadModule(program.head)
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer images."""
        vectors = [
            embed_normalised(backbone, to_input(images))
            for to_input, backbone in zip(self.inputs, self.backbones, strict=True)
        ]
        features = vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)
        found: tuple[torch.Tensor, torch.Tensor] = self.head(features)
        return found
