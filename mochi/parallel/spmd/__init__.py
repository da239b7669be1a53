"""What every rank computes differently from a single device, in lockstep with the others."""
