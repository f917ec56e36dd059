"""Entry points of the dataparsers.

Nerfstudio imports this module while its own import is only half done (data/datamanagers/base_datamanager.py loads all
dataparser plugins). Therefore this module must not import a trainer, a pipeline, a datamanager or a model of
Nerfstudio.
"""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig

re10k_data = DataParserSpecification(
    config=Re10kDataParserConfig(), description="RealEstate10K or ACID in the chunks of pixelSplat and SceneTok"
)
dl3dv_data = DataParserSpecification(
    config=Dl3dvDataParserConfig(), description="DL3DV, or folders of scenes with transforms.json"
)
tokens_data = DataParserSpecification(
    config=TokensDataParserConfig(), description="A file of scene tokens (scenetok encode), without photographs"
)
photograph_data = DataParserSpecification(
    config=PhotographDataParserConfig(), description="One photograph and a camera path, for the scenegen methods"
)
