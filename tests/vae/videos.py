"""Videos of any size, for tests of a law that holds for all of them."""

from hypothesis import strategies as st

ANY_VIDEO = {
    "frames": st.integers(0, 10).map(lambda k: 6 * k + 1),
    "chunk": st.integers(1, 11),
    "height": st.integers(1, 4),
    "width": st.integers(1, 4),
    "batch": st.integers(1, 2),
}
"""Frames, latent frames in a piece, height and width of a latent frame, and videos."""
