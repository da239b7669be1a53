"""Several machines: what each of them must have before it can work."""
