"""SceneTok and SceneGen as a Nerfstudio method.

This file imports nothing heavy: Nerfstudio loads our entry points while it is still importing itself, and
``scenetok_ns.models`` has to work without Nerfstudio.
"""

__version__ = "0.2.0"
