"""The part of the computation that ranks do in lockstep, and differently from a single device."""
