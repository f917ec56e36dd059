"""Low-rank adapters: small trained additions to the weights of a frozen network (LoRA, Hu et al. 2021)."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
SEPARATOR = "/"
"""Replaces the dots of layer names, which names of parameters may not contain."""


class LowRankAdapters(nn.Module):
    """Add low-rank matrices to the linear layers of attention and feed-forward: weight W -> W + up @ down.

    At first they change nothing, because `up` is zero. The network's own parameters and state stay the same. While
    `enabled` is set, `layer.weight` is the sum, also for other code that reads it. `merged` returns a copy of the
    network whose weights are the sums.
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LowRankAdapters: expected a rank of at least 1, got {rank}")
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        self.enabled = False
        for name, layer in adapted_layers(network).items():
            key = name.replace(".", SEPARATOR)
            self.down[key] = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
            self.up[key] = nn.Parameter(torch.zeros(layer.out_features, rank))
            layer.__class__ = _AdaptedLinear
            layer.__dict__["adapter"] = (self, key)  # not as a submodule: it would join the network's state

    def addition(self, key: str) -> Float[Tensor, "out in"]:
        return self.up[key] @ self.down[key]

    @torch.no_grad()
    def merged(self, network: Network) -> Network:
        """Return a copy of the network with plain layers, whose weights include the adapters."""
        layers = adapted_layers(network)
        copy = deepcopy(network, {id(self): self})
        for name, layer in adapted_layers(copy).items():
            layer.__class__ = nn.Linear
            del layer.__dict__["adapter"]
            layer.weight += self.addition(layers[name].__dict__["adapter"][1]).to(layer.weight)
        return copy.requires_grad_(False)


class _AdaptedLinear(nn.Linear):
    """A linear layer whose `weight` includes its adapter while adapters are enabled."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        own = cast(Tensor, self._parameters["weight"])
        adapters, key = self.__dict__["adapter"]
        return own + adapters.addition(key).to(own.dtype) if adapters.enabled else own


def adapters_in_use(layer: nn.Module) -> tuple[Tensor, ...]:
    """Return the tensors that a layer adds to its own weight: `up` and `down` while its adapters are enabled."""
    adapters, key = layer.__dict__.get("adapter", (None, ""))
    return (adapters.up[key], adapters.down[key]) if adapters is not None and adapters.enabled else ()


def adapted_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of attention and feed-forward in a network's blocks, by name, without adaLN layers."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and ".blocks." in f".{name}" and "adaLN" not in name
    }
