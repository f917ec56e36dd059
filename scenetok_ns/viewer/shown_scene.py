"""The scene that the viewer shows: one of the data set, a token file, or one that was generated in the viewer.

Choices in the viewer's panel affect the viewer only: training and evaluation continue with their own scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from scenetok_ns.bridge.scene_views import SceneViews
from scenetok_ns.data.scenes import DataError, Scene
from scenetok_ns.data.sources.token_file import TokenSource
from scenetok_ns.models.flow.sampling import OnStep, no_report
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.scene_renderer import SceneRenderer
from scenetok_ns.viewer.encoding_progress import reported_encoding


class NotReadyError(Exception):
    """Raised if there is no scene to display yet; the message says why."""


@dataclass(frozen=True)
class Shown:
    """A scene to render."""

    tokens: SceneTokens
    version: str
    """Identifies the tokens and weights: other tokens or weights have another version."""
    networks: SceneTok
    """Networks to render it with."""


@dataclass(frozen=True)
class _Choice:
    """A scene of the data set, and the views of it that the model is given."""

    number: int
    given: tuple[int, ...]
    own_views: bool
    """Whether these views differ from those that the tools use."""


@dataclass(frozen=True, eq=False)
class Own:
    """Tokens from outside the data set: from a file, generated, or encoded from uploaded photographs."""

    tokens: SceneTokens
    views: SceneViews
    """Views to draw as frustums."""
    photographs: Scene | None
    """Photographs of the scene, in the world of its cameras; None: there are none to compare with."""
    number: int
    """Serial number, different for each call of `take`."""
    capture: Path | None
    """Folder of the capture whose photographs were encoded; None: the tokens have another origin."""


@dataclass(frozen=True)
class SceneState:
    """The displayed scene and its settings, to return to."""

    scene: Scene
    choice: _Choice
    own: Own | None


class ShownScene:
    """See the module. Methods that choose a scene raise an error if they fail, and then keep the displayed scene."""

    def __init__(self, renderer: SceneRenderer) -> None:
        self._renderer, self._scenes = renderer, renderer.scenes
        scene, choice = self._of_data_set(self._scenes.active)
        self.state = SceneState(scene, choice, None)
        """May be set to an earlier one."""
        self._encoded: tuple[tuple[_Choice, int], SceneTokens] | None = None
        self._taken = 0
        self.note = "press Generate: this model makes a scene from photographs"
        """Message while there is no scene."""
        self.on_encoding: OnStep = no_report
        """Receives the steps of an encoding; the last call reports its end."""

    # --- What is shown ---

    @property
    def names(self) -> list[str]:
        return self._scenes.keys

    @property
    def _scene(self) -> Scene:
        return self.state.scene

    @property
    def _choice(self) -> _Choice:
        return self.state.choice

    @property
    def number(self) -> int:
        return self._choice.number

    @property
    def title(self) -> str:
        """Name of the displayed scene."""
        own = self.state.own
        return self._scene.key if own is None else own.tokens.scene or own.views.scene.key

    @property
    def given(self) -> list[int]:
        """The views of the data set's scene that the model is given."""
        return list(self._choice.given)

    @property
    def num_frames(self) -> int:
        """Number of frames of the data set's scene."""
        return self._scene.num_frames

    @property
    def generates(self) -> bool:
        """Whether scenes are generated from photographs, not encoded."""
        stored = self._scenes.stored_tokens(self.number)
        return stored is None and self._renderer.generates

    @property
    def capture(self) -> Path | None:
        """The capture whose photographs are displayed as encoded, without refinement; None: there is none."""
        if (own := self.state.own) is not None:
            return own.capture
        encoded = self._renderer.encodes and not self.generates
        return self._scenes.data if encoded and self._scenes.source.is_capture else None

    @property
    def ready(self) -> bool:
        """Whether there are tokens, or photographs to encode."""
        return self.state.own is not None or not self.generates

    @property
    def is_encoded(self) -> bool:
        """Whether the tokens exist already: during training they are encoded again with the weights of every step."""
        return self.state.own is not None or (self._encoded is not None and self._encoded[0][0] == self._choice)

    @property
    def photographs(self) -> tuple[Scene, list[int]] | None:
        """Photographs of the displayed scene, and those that the model was given; None: there are none."""
        own = self.state.own
        if own is not None:
            return None if own.photographs is None else (own.photographs, own.views.indices.tolist())
        if self._scenes.stored_tokens(self.number) is not None:
            return None
        return self._scene, self.given

    def current(self, on_step: OnStep = no_report) -> Shown:
        """Return the tokens to render. Raises NotReadyError if a scene must be generated first.

        `on_step` receives the steps of encoding a scene that was not encoded before, as `on_encoding` does. An
        exception from it ends the encoding.
        """
        if (own := self.state.own) is not None:
            return Shown(own.tokens, f"own {own.number}", self._renderer.networks)
        if self.generates:
            raise NotReadyError(self.note)
        version = self._choice, self._renderer.weights.number
        if self._encoded is None or self._encoded[0] != version:
            if self.is_encoded:  # but with weights of an earlier training step
                self._encoded = version, self._encode()
            else:

                def report(done: int, total: int) -> None:
                    self.on_encoding(done, total)
                    on_step(done, total)

                with reported_encoding(self._renderer.scenetok.compressor, report):
                    self._encoded = version, self._encode()
        return Shown(self._encoded[1], str(version), self._renderer.networks)

    def pictures(self) -> SceneViews:
        """The views to be drawn as frustums."""
        if self.state.own is not None:
            return self.state.own.views
        return self.views_of(self._scene, torch.tensor(self._choice.given))

    def views_of(self, scene: Scene, indices: Int64[Tensor, " v"]) -> SceneViews:
        """Views of a scene at the model's size, for frustums."""
        return SceneViews(scene, indices, self._renderer.preset.data.image_size, self.number)

    # --- Choosing ---

    def show(self, number: int) -> None:
        """Display a scene of the data set with the views that the tools use."""
        self._take(*self._of_data_set(number))

    def show_named(self, name: str) -> None:
        """Display any scene of the split by its name."""
        self.show(self._scenes.number_of(name))

    def give(self, indices: Int64[Tensor, " v"]) -> None:
        """Give the model other views of the data set's scene."""
        wrong = [index for index in indices.tolist() if not 0 <= index < self.num_frames]
        if wrong or not len(indices):
            raise DataError(f"this scene has views 0 to {self.num_frames - 1}, got {wrong or 'none'}")
        if not self._renderer.encodes:
            raise DataError("other views would change nothing: this run has refined tokens")
        self._take(self._scene, _Choice(self.number, tuple(indices.tolist()), own_views=True))

    def give_spread(self, count: int) -> None:
        """Spread this many views over the scene; with the number that the tools use, they are the same views."""
        scene, usual = self._of_data_set(self.number)
        if count == len(usual.given):
            self._take(scene, usual)
        else:
            self.give(self._scenes.spread_views(self.number, count))

    def load(self, path: Path) -> None:
        """Display a token file."""
        source = TokenSource(path)
        self._renderer.scenetok.check_tokens(source.tokens)
        views = self.views_of(source.scene(source.key), source.fixed_views(0).context)
        self.take(source.tokens.to(self._renderer.device), views, None)

    def tokens(self, num_tokens: int | None) -> SceneTokens:
        """Return the first `num_tokens` tokens of the displayed scene; None: all of them."""
        tokens = self.current().tokens
        if num_tokens is not None and num_tokens < len(tokens.mean):
            tokens = tokens.subset(num_tokens)
        return tokens

    def take(
        self, tokens: SceneTokens, views: SceneViews, photographs: Scene | None, capture: Path | None = None
    ) -> None:
        """Display tokens from elsewhere, with the views to draw as frustums and the photographs to compare with; and
        the capture that they were encoded from, if there is one."""
        self._taken += 1
        self.state = SceneState(self._scene, self._choice, Own(tokens, views, photographs, self._taken, capture))

    def _take(self, scene: Scene, choice: _Choice) -> None:
        scene.load_images(choice.given[:1])  # a damaged scene is refused here
        self.state = SceneState(scene, choice, None)

    def _of_data_set(self, number: int) -> tuple[Scene, _Choice]:
        found = self._scenes.scene(number)
        return found.scene, _Choice(number, tuple(found.context.tolist()), own_views=False)

    def _encode(self) -> SceneTokens:
        if not self._choice.own_views:
            return self._renderer.tokens_of(self.number)
        views = self._scene.load_views(self._choice.given, self._renderer.scenetok.image_size)
        return self._renderer.tokens_from(views, self.number)
