"""The VAE's part of the service of a rank: a strip of each frame."""

from functools import partial

from torch import Tensor

from ...device_memory import memory_used, trim_heap
from ...errors import Cancelled
from ...frames import to_pictures
from ...transfer import Outgoing
from ...vae import Decoder, Encoder
from .. import protocol
from ..spmd.collectives import Traffic
from ..spmd.vae import StripRanks, decode_strips, encode_strip, plan_strips
from .loop import Context


class Strips:
    """Decodes and encodes this rank's strips, in lockstep with the other ranks."""

    def __init__(self, context: Context):
        self._context = context
        self._ranks = StripRanks(context.timeout, context.machines)

    @property
    def traffic(self) -> Traffic:
        """What went to other ranks so far."""
        return self._ranks.traffic

    def decode(self, decoder: Decoder, request: protocol.Decode) -> None:
        """Sends each strip of this rank in an event. Raises Cancelled."""
        context, z = self._context, request.z
        total, height, width = z.shape[2:]
        chunk = plan_strips(height, width, context.size).chunk
        strips = decode_strips(decoder, z, self._ranks, chunk)

        def tell(first: int, strip: Tensor) -> None:
            done, memory = min(first + chunk, total), memory_used(context.device)
            context.emit(protocol.StripDecoded(done, total, first, strip, memory))

        with Outgoing(context.device) as outgoing:
            for first in range(0, total, chunk):
                strip = next(strips, None)  # a rank without a strip takes part, to hear of a cancel with the others
                if strip is not None:
                    outgoing.send(
                        partial(tell, first), to_pictures(strip, as_bytes=True) if request.as_bytes else strip
                    )
                if context.cancelled():
                    raise Cancelled
        trim_heap()

    def encode(self, encoder: Encoder, request: protocol.Encode) -> Tensor | None:
        """Returns this rank's strip, if it has one."""

        def report(done: int, total: int) -> None:
            self._context.emit(protocol.PieceEncoded(done, total))

        strip = encode_strip(encoder, request.video, self._ranks, report)
        trim_heap()
        return None if strip is None else strip.cpu()
