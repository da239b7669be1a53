"""The VAE socket of an AsymmVAE that runs on the ranks of a group, each with a strip of the picture."""

from collections.abc import Callable

import comfy.model_management as mm
from torch import Tensor

from ....mochi.checkpoint import Checkpoint
from ....mochi.parallel.owner.client import RemoteVAE
from ....mochi.parallel.protocol import Event, FramesDecoded, LoadVAE, PieceEncoded
from ....mochi.parallel.settings import ParallelSettings
from ....mochi.vae import Decoder, Encoder
from ..progress import progress
from ..sockets.vae import AsymmVAE, MochiVAE, vae_dtype
from .group import follow, groups
from .patcher import RemotePatcher


class RemoteAsymmVAE(AsymmVAE):
    """Decoder and encoder as the host sees them: names and shapes, on the meta device."""

    def __init__(self, decoder: Decoder | None, encoder: Encoder | None, remote: RemoteVAE):
        super().__init__(decoder, encoder)
        self.remote = remote
        self.expected_bytes = sum(p.nbytes for p in self.parameters())

    def decode(self, z: Tensor, chunk: int = 0) -> Tensor:
        """As in AsymmVAE, on the CPU, where strips are joined: a GPU of this process is rank 0's."""
        return super().decode(z.cpu(), chunk)

    def decode_into(self, z: Tensor, take: Callable[[Tensor], None], chunk: int = 0) -> None:
        """As in AsymmVAE. The ranks take as many latent frames at a time as they are."""
        report = progress()

        def hear(event: Event) -> None:
            if isinstance(told := event.payload, FramesDecoded):
                take(told.frames)
                report(told.done, told.total)

        follow(self.remote.decode(z.cpu()), hear)

    def encode(self, video: Tensor) -> Tensor:
        report = progress()

        def hear(event: Event) -> None:
            if isinstance(told := event.payload, PieceEncoded):
                report(told.done, told.total)

        return follow(self.remote.encode(video.cpu()), hear)


def load_remote_vae(
    decoder_file: Checkpoint | None, encoder_file: Checkpoint | None, dtype: str, settings: ParallelSettings
) -> MochiVAE:
    """A VAE like `load_vae`'s, over the ranks of the group that the settings ask for. Nothing is loaded yet.

    Raises MochiError where the devices cannot be, CheckpointError like `load_vae`.
    """
    manager = groups.manager_for(settings)
    computed = vae_dtype(dtype, manager.device_type if manager.is_elsewhere else "")
    decoder = None if decoder_file is None else decoder_file.plan("decoder", weight_dtype=computed).model
    encoder = None if encoder_file is None else encoder_file.plan("encoder", weight_dtype=computed).model
    decoder_path, encoder_path = (
        None if file is None else file.path.absolute() for file in (decoder_file, encoder_file)
    )
    remote = RemoteVAE(manager, LoadVAE(decoder_path, encoder_path, computed))
    model = RemoteAsymmVAE(decoder, encoder, remote)
    groups.introduce(model, remote, next(path.name for path in (decoder_path, encoder_path) if path is not None))
    patcher = RemotePatcher(model, mm.vae_device(), mm.vae_offload_device())
    return MochiVAE(patcher, computed, ranks=len(manager.devices))
