"""Low-rank adapters: small trained additions to the weights of a frozen network (LoRA, Hu et al. 2021)."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
SEPARATOR = "/"
"""Stands for the dots of layer names, which names of parameters may not have."""


class LowRankAdapters(nn.Module):
    """For chosen linear layers of a network: weight W -> W + up @ down, with `down` and `up` of rank `rank`.

    At first they change nothing: `up` is zero. The network's parameters and state are left as they are; while
    `enabled`, its layers compute with the sum, also for other code that reads their weight. `merged` gives a copy whose
    weights are the sums.
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
        """A plain copy of the network whose weights hold the adapters."""
        layers = adapted_layers(network)
        copy = deepcopy(network, {id(self): self})
        for name, layer in adapted_layers(copy).items():
            layer.__class__ = nn.Linear
            del layer.__dict__["adapter"]
            layer.weight += self.addition(layers[name].__dict__["adapter"][1]).to(layer.weight)
        return copy.requires_grad_(False)


class _AdaptedLinear(nn.Linear):
    """A linear layer whose weight, when read, has its adapter in."""

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
    """The linear layers of attention and feed-forward in a network's blocks, by name, without those of conditions."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and ".blocks." in f".{name}" and "adaLN" not in name
    }
